// The same message to each model that is ticked; the answers come piece by piece, as text and never as markup.
import { $, all, element, post, showError } from "/static/app.js";

const talk = $("#talk");
const columns = all(".talk:not([data-missing])");
const turns = new Map(columns.map((column) => [column, []]));
let stopping = null;

const system = () => ($("#system").value.trim() ? [{ role: "system", content: $("#system").value.trim() }] : []);

/** A place for an answer: its thought, dimmed and to be folded, its text, and its calls. */
function answerPlace() {
  const place = element("div", "", "turn");
  const thought = element("details", "", "thought");
  thought.hidden = true;
  thought.append(element("summary", "Thought"), element("div"));
  place.append(thought, element("div", "loading the model …", "text"), element("div", "", "calls"));
  return place;
}

/** Show the pieces of an answer as they come in. Returns the whole turn, once there is one. */
async function shown(response, turn, place) {
  const thought = $(".thought", turn);
  const text = $(".text", turn);
  let whole = null;
  for await (const told of lines(response)) {
    if (told.error) throw Object.assign(new Error(told.error.message), { told: told.error });
    if (told.opened) text.textContent = "…";
    if (told.thought !== undefined) {
      if (thought.hidden) text.textContent = "";
      thought.hidden = false;
      thought.open = true;
      thought.lastChild.textContent += told.thought;
    }
    if (told.text !== undefined) {
      if (!text.dataset.begun) text.textContent = "";
      text.dataset.begun = "yes";
      thought.open = false;
      text.textContent += told.text;
    }
    if (told.turn) whole = told;
    place.scrollTop = place.scrollHeight;
  }
  return whole;
}

/** The calls of an answer, each with a place for its result; the last result that is given goes on with the talk. */
function showCalls(column, turn, calls) {
  const results = calls.map(() => null);
  calls.forEach((call, number) => {
    const form = element("form", "", "call");
    form.append(element("code", `${call.function.name}(${JSON.stringify(call.function.arguments)})`));
    const input = element("input");
    input.setAttribute("aria-label", `Result of ${call.function.name}`);
    input.placeholder = "its result; Enter sends it";
    form.append(input);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!input.value.trim() || stopping) return;
      input.readOnly = true;
      results[number] = { role: "tool", name: call.function.name, content: input.value.trim() };
      if (results.includes(null)) return;
      turns.get(column).push(...results);
      ask([column]);
    });
    $(".calls", turn).append(form);
  });
}

async function answer(column, signal) {
  const place = $(".turns", column);
  const said = turns.get(column);
  const turn = answerPlace();
  const text = $(".text", turn);
  place.append(turn);
  place.scrollTop = place.scrollHeight;
  const began = performance.now();
  let whole = null;
  try {
    const { run, model } = talk.dataset;
    const settings = { limit: Number($("#limit").value) || 1, tools: $("#tools").value, think: $("#think").checked };
    const response = await post("/chat/answer", { column: column.dataset.column, run, model, turns: [...system(), ...said], ...settings }, signal);
    whole = await shown(response, turn, place);
    const calls = whole?.turn.tool_calls ?? [];
    if (!text.dataset.begun) text.textContent = "";
    if (whole && !whole.closed) text.textContent = "(the thought did not end: allow a longer answer)";
    else if (whole && !whole.turn.content && !calls.length) text.textContent = "(the model ended at once)";
    showCalls(column, turn, calls);
    turn.title = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (error.name === "AbortError") turn.append(element("span", " (stopped)", "small"));
    else showError(turn, error);
  }
  said.push(whole?.turn ?? { role: "assistant", content: text.textContent });
}

/** Ask these columns, all at once. */
async function ask(asked) {
  stopping = new AbortController();
  $("#stop").hidden = false;
  await Promise.all(asked.map((column) => answer(column, stopping.signal)));
  stopping = null;
  $("#stop").hidden = true;
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

$("#ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("#message").value.trim();
  const asked = columns.filter((column) => $(".ask", column).checked);
  if (!text || !asked.length || stopping) return;
  $("#message").value = "";
  for (const column of asked) {
    turns.get(column).push({ role: "user", content: text });
    $(".turns", column).append(element("p", text, "turn user"));
  }
  await ask(asked);
  $("#message").focus();
});
$("#message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("#ask").requestSubmit();
  }
});
$("#stop").addEventListener("click", () => stopping?.abort());
$("#new").addEventListener("click", () => {
  stopping?.abort();
  for (const column of columns) {
    turns.set(column, []);
    $(".turns", column).replaceChildren();
  }
});
$("#run").addEventListener("change", () => $("#settings").submit());
