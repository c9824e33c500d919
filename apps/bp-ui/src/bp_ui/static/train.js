// The form: every change asks what would happen, and puts the reason beside each value.
import { $, all, copy, fill, postJson, showError, valuesOf } from "/static/app.js";

const form = $("#train");
const address = form.dataset.address;
const problem = $("#problem");
let asking = null;
let timer = 0;

function mark(field, reason, value) {
  const control = $("input, select", field);
  const set = control.value.trim() !== "";
  $(".back", field)?.toggleAttribute("hidden", !set);
  const place = $(".reason", field);
  if (!place || set) {
    if (place) place.textContent = "";
    return;
  }
  if (value !== undefined && value !== null && control.tagName === "INPUT" && control.name !== "model") control.placeholder = String(value) || "none";
  const shown = control.tagName === "SELECT" && value != null && !control.options[0].text.startsWith(String(value)) ? `${value}: ` : "";
  // That it is the default says less than what it is for.
  const says = reason && reason !== "as set" && !reason.endsWith("the default");
  place.textContent = says ? `${shown}${reason}.` : "";
}

/** Errors of single settings stand beside them. */
function blame(error) {
  const message = error.told?.message ?? "";
  for (const field of all(".field[data-field]")) {
    const wrong = new RegExp(`(^|; )${field.dataset.field} is `).test(message);
    field.classList.toggle("wrong", wrong);
    if (wrong) $(".reason", field).textContent = message.split("; ").find((part) => part.startsWith(`${field.dataset.field} is `)) ?? message;
  }
}

/** What the form says; of stages the data is a list. */
function chosen() {
  const body = valuesOf(form);
  return $("#stages") ? { ...body, data: all("[name=data]", form).map((control) => control.value) } : body;
}

async function plan() {
  asking?.abort();
  asking = new AbortController();
  try {
    $("#command").textContent = (await postJson(`${address}/command`, chosen(), asking.signal)).command;
    const found = await postJson(`${address}/plan`, chosen(), asking.signal);
    for (const field of all(".field[data-field]")) {
      field.classList.remove("wrong");
      mark(field, found.recipe.why[field.dataset.field], found.recipe[field.dataset.field]);
    }
    fill($("#plan"), found.facts);
    fill($("#row"), found.row);
    problem.replaceChildren();
    $("#start").disabled = false;
  } catch (error) {
    if (error.name === "AbortError") return;
    blame(error);
    showError(problem, error);
    $("#start").disabled = true;
  }
}

form.addEventListener("input", (event) => {
  if (event.target.id === "find") return;
  clearTimeout(timer);
  timer = setTimeout(plan, 350);
});
form.addEventListener("click", (event) => {
  if (!event.target.classList.contains("back")) return;
  $("input, select", event.target.closest(".field")).value = "";
  plan();
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const start = $("#start");
  start.disabled = true;
  try {
    location.assign((await postJson(address, { ...chosen(), queue: start.dataset.queue === "yes" })).location);
  } catch (error) {
    showError(problem, error);
    start.disabled = false;
    if (error.told?.code === "STATE_DEVICE_BUSY") {
      start.dataset.queue = "yes";
      start.textContent = "Start when that one ends";
    }
  }
});
/** One stage more, or one less. */
$("#add")?.addEventListener("click", () => {
  const stages = all("#stages li");
  const more = stages.at(-1).cloneNode(true);
  const number = stages.length + 1;
  $("label", more).textContent = `Data of stage ${number}`;
  $("label", more).htmlFor = $("select", more).id = `f-data-${number}`;
  $("#stages").append(more);
  $("#drop").hidden = false;
  $("select", more).focus();
  plan();
});
$("#drop")?.addEventListener("click", () => {
  all("#stages li").at(-1).remove();
  $("#drop").hidden = all("#stages li").length < 2;
  plan();
});
$("#copy").addEventListener("click", (event) => copy(event.target, $("#command").textContent));
$("#find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const field of all("#all .field[data-field]")) field.hidden = !field.textContent.toLowerCase().includes(wanted) && !field.dataset.field.includes(wanted);
  for (const group of all("#all fieldset")) group.hidden = all(".field", group).every((field) => field.hidden);
});
plan();
