// A row of a file, asked for whenever the row, the model or the columns change.
import { $, all, fill, getText, showError } from "/static/app.js";

const form = $("#look");
const address = $("#data").dataset.address;
let asking = null;
let timer = 0;

function query() {
  const query = new URLSearchParams();
  for (const control of form.elements) if (control.name && control.value.trim()) query.set(control.name, control.value.trim());
  return query;
}

async function look() {
  asking?.abort();
  asking = new AbortController();
  const asked = query();
  history.replaceState(null, "", `?${asked}`);
  const use = new URLSearchParams([...asked].filter(([name]) => name !== "row"));
  use.set("data", address);
  $("#use").href = `/train?${use}`;
  asked.set("address", address);
  try {
    fill($("#rows"), await getText(`/data-rows?${asked}`, asking.signal));
  } catch (error) {
    if (error.name !== "AbortError") showError($("#rows"), error);
  }
}

function go(to) {
  $("#row").value = String(Math.max(1, to));
  look();
}

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(look, 400);
});
form.addEventListener("submit", (event) => event.preventDefault());
$("#earlier").addEventListener("click", () => go(Number($("#row").value) - 1));
$("#later").addEventListener("click", () => go(Number($("#row").value) + 1));
for (const button of all("[data-row]")) {
  button.addEventListener("click", () => {
    go(Number(button.dataset.row));
    $("#rows").scrollIntoView();
  });
}
look();
