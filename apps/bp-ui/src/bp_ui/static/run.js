// A run, live: its events are asked for from a place in its log on, so that reloading costs nothing and loses nothing.
import { $, again, duration, element, getJson, tell } from "/static/app.js";
import { Curve, smoothed } from "/static/curve.js";

const head = $("#run");
const run = head.dataset.run;
const active = ["running", "paused", "pausing", "stopping"];
const words = { running: ["●", "info", "Training"], paused: ["Ⅱ", "warn", "Paused"], pausing: ["Ⅱ", "warn", "Pausing"], stopping: ["■", "warn", "Stopping"], finished: ["✓", "ok", "Finished"], failed: ["✗", "bad", "Failed"], interrupted: ["■", "warn", "Interrupted"] };
const state = { cursor: 0, status: head.dataset.status, steps: Number(head.dataset.steps) || 0, step: 0, points: [], evaluations: [], notes: [], sitting: [], seconds: 0 };
const loss = new Curve($("#loss"), [{ label: "training", colour: "curve" }, { label: "evaluation", colour: "curve-2", points: true }], 300);
let rate = null;
let norm = null;

function forget() {
  Object.assign(state, { points: [], evaluations: [], notes: [], sitting: [], step: 0 });
}

/** Take an event in; the letters are explained in feed.py. */
function take(row) {
  const [kind, step] = row;
  if (kind === "b") {
    state.steps = row[2];
    state.step = step;
    state.sitting = [];
    for (const name of ["points", "evaluations"]) state[name] = state[name].filter((one) => one[1] <= step);
  } else if (kind === "s") {
    state.points.push(row);
    state.sitting = [...state.sitting.slice(-49), row[5] ?? 0];
    state.step = step;
  } else if (kind === "e") {
    state.evaluations = [...state.evaluations.filter((one) => one[1] !== step), row];
  } else if (kind === "p") {
    state.notes.push([step, "Paused", null, `Paused after step ${step}: ${row[2]}.`]);
  } else if (kind === "c") {
    state.notes.push([step, "Continued", null, `Going on after step ${step}.`]);
  } else if (kind === "n") {
    state.notes.push(row.slice(1));
  }
}

const number = (value, digits = 4) => (value == null ? "–" : String(Number(Number(value).toPrecision(digits))));
const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);

function curves() {
  const evaluated = new Map(state.evaluations.map((row) => [row[1], row[2]]));
  const byStep = new Map(state.points.map((row) => [row[1], row]));
  const steps = [...new Set([...byStep.keys(), ...evaluated.keys()])].sort((a, b) => a - b);
  const of = (index) => steps.map((step) => byStep.get(step)?.[index] ?? null);
  const weight = Number($("#smooth").value);
  loss.set([steps, smoothed(of(2), weight), steps.map((step) => evaluated.get(step) ?? null)]);
  rate?.set([steps, of(3)]);
  norm?.set([steps, of(4)]);
}

function facts() {
  const last = state.points.at(-1);
  const best = Math.min(...state.evaluations.filter((row) => row[1] > 0 && row[2] != null).map((row) => row[2]));
  $("#f-eval").textContent = Number.isFinite(best) ? number(best) : "–";
  if (!last) return;
  const speeds = state.points.slice(-20);
  const seconds = speeds.reduce((sum, row) => sum + (row[5] ?? 0), 0);
  const tokens = speeds.reduce((sum, row) => sum + (row[6] ?? 0), 0);
  $("#f-loss").textContent = number(last[2]);
  $("#f-rate").textContent = Number(last[3]).toExponential(1);
  $("#f-norm").textContent = number(last[4], 3);
  $("#f-speed").textContent = seconds ? Math.round(tokens / seconds) : "–";
  $("#f-memory").textContent = last[7] ? `${gib(last[7])}${last[8] ? ` / ${gib(last[8])}` : ""} GiB` : "–";
  $("#f-heat").textContent = last[9] == null ? "not told" : `${Math.round(last[9])} °C`;
  $("#summary").textContent = `Loss from ${number(state.points[0][2])} at step ${state.points[0][1]} to ${number(last[2])} at step ${last[1]}${Number.isFinite(best) ? `; best evaluation ${number(best)}` : ""}. The arrow keys move along the curve; drag to zoom.`;
}

function where() {
  const bar = $("#progress");
  bar.max = Math.max(1, state.steps);
  bar.value = state.step;
  const gone = state.points.reduce((sum, row) => sum + (row[5] ?? 0), 0);
  const mean = state.sitting.length ? state.sitting.reduce((sum, one) => sum + one, 0) / state.sitting.length : 0;
  const left = mean && state.status === "running" ? ` · about ${duration(mean * (state.steps - state.step))} left` : "";
  $("#where").textContent = `${state.step} of ${state.steps} steps · ${duration(gone)} of training${left} · page up to date`;
  document.title = `${active.includes(state.status) ? `${Math.round((100 * state.step) / Math.max(1, state.steps))} % ` : `${words[state.status][0]} `}${$("h1").textContent} · Backpropagate`;
}

function notes() {
  const list = $("#notes");
  list.replaceChildren(...state.notes.map(([step, kind, time, text]) => {
    const bad = ["Failed"].includes(kind);
    const item = element("li", `${bad ? "✗ " : kind === "Warned" || kind === "MemoryShrunk" || kind === "Paused" ? "▲ " : ""}${text}`, bad ? "bad-text" : "");
    if (time) item.prepend(element("span", `${new Date(time * 1000).toLocaleTimeString()} `, "small num"));
    return item;
  }));
}

function table() {
  const evaluated = new Map(state.evaluations.map((row) => [row[1], row[2]]));
  const every = Math.max(1, Math.ceil(state.points.length / 200));
  const rows = state.points.filter((row, index) => index % every === 0 || evaluated.has(row[1]) || index === state.points.length - 1);
  $("#numbers tbody").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    for (const value of [row[1], number(row[2]), number(evaluated.get(row[1])), Number(row[3]).toExponential(2), number(row[4], 3)]) line.append(element("td", String(value), "num"));
    return line;
  }));
}

function show(status) {
  const was = state.status;
  state.status = status;
  const [sign, kind, word] = words[status] ?? words.failed;
  const tag = element("span", `${sign} ${word}`, `tag ${kind}`);
  tag.dataset.status = status;
  $("#tag").replaceChildren(tag);
  $("#pause").hidden = status !== "running";
  $("#continue").hidden = !["paused", "pausing"].includes(status);
  $("#stop").hidden = !["running", "paused", "pausing"].includes(status);
  $("#resume").hidden = active.includes(status) || status === "finished" || Boolean(head.dataset.resuming);
  if (was !== status) {
    tell(`${word}, step ${state.step} of ${state.steps}`, true);
    const ended = active.includes(was) && !active.includes(status);
    if (ended && $("#tell").checked && Notification.permission === "granted") new Notification(`${$("h1").textContent}: ${word}`);
    // What the server says of a run that began again, or ended, is on the page, too.
    if (active.includes(was) !== active.includes(status)) setTimeout(() => location.reload(), 800);
  }
}

$("#smooth").addEventListener("input", curves);
$("#log").addEventListener("change", (event) => {
  loss.log = event.target.checked;
  loss.draw();
  curves();
});
$("#whole").addEventListener("click", () => loss.whole());
$("#more").addEventListener("toggle", () => {
  rate ??= new Curve($("#rate"), [{ label: "learning rate", colour: "curve-3" }], 180);
  norm ??= new Curve($("#norm"), [{ label: "gradient norm", colour: "curve-4" }], 180);
  curves();
});
$("#tell").addEventListener("change", (event) => event.target.checked && Notification.requestPermission());
document.addEventListener("posted", () => round());
document.addEventListener("themed", curves);

async function round() {
  let told;
  do {
    told = await getJson(`/runs/${run}/events?after=${state.cursor}`);
    if (told.reset) forget();
    told.rows.forEach(take);
    state.cursor = told.cursor;
    if (told.rows.length || told.reset) {
      curves();
      facts();
      notes();
      table();
    }
  } while (told.more);
  show(told.status);
  where();
  tell(`Step ${state.step} of ${state.steps}`);
}

again(1, round);
