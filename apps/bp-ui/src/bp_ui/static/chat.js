// The same message to each model that is ticked; the answers come piece by piece, as text and never as markup.
import { $, all, element, post, showError } from "/static/app.js";

const talk = $("#talk");
const columns = all(".talk:not([data-missing])");
const turns = new Map(columns.map((column) => [column, []]));
let stopping = null;

const system = () => ($("#system").value.trim() ? [{ role: "system", content: $("#system").value.trim() }] : []);

async function answer(column, text, signal) {
  const place = $(".turns", column);
  const said = turns.get(column);
  said.push({ role: "user", content: text });
  place.append(element("p", text, "turn user"));
  const turn = element("p", "loading the model …", "turn");
  place.append(turn);
  place.scrollTop = place.scrollHeight;
  let made = "";
  const began = performance.now();
  try {
    const response = await post("/chat/answer", { column: column.dataset.column, run: talk.dataset.run, model: talk.dataset.model, turns: [...system(), ...said], limit: Number($("#limit").value) || 1 }, signal);
    for await (const told of lines(response)) {
      if (told.error) throw Object.assign(new Error(told.error.message), { told: told.error });
      if (told.opened) turn.textContent = "…";
      if (told.text === undefined) continue;
      made += told.text;
      turn.textContent = made;
      place.scrollTop = place.scrollHeight;
    }
    if (!made) turn.textContent = "(the model ended at once)";
    turn.title = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (error.name === "AbortError") turn.append(element("span", " (stopped)", "small"));
    else showError(turn, error);
  }
  said.push({ role: "assistant", content: made });
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
  stopping = new AbortController();
  $("#stop").hidden = false;
  await Promise.all(asked.map((column) => answer(column, text, stopping.signal)));
  stopping = null;
  $("#stop").hidden = true;
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
