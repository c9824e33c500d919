// What every screen uses: asking the server, telling errors, asking again and again, keys, theme.

export const $ = (selector, from = document) => from.querySelector(selector);
export const all = (selector, from = document) => [...from.querySelectorAll(selector)];

/** An element with text, never with markup. */
export function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const offline = $("#offline");
const said = $("#said");
let toldAt = 0;

/** Tell it to a screen reader, at most every ten seconds unless it is urgent. */
export function tell(text, urgent = false) {
  const now = Date.now();
  if (!urgent && now - toldAt < 10000) return;
  toldAt = now;
  said.textContent = text;
}

/** What the server says, as JSON or as text. An error that it tells is thrown, with its parts. */
async function answered(response) {
  if (response.ok) return response;
  if (response.status === 401) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  let told = { message: `The server answered ${response.status}.`, code: "", fix: "" };
  try {
    told = (await response.json()).error ?? told;
  } catch {
    // it is no JSON: the number must do
  }
  const error = new Error(told.message);
  error.told = told;
  throw error;
}

async function asked(address, options) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    offline.hidden = false;
    const error = new Error("No connection to the server.");
    error.told = { message: error.message, code: "", fix: "Is `backprop ui` running? Training goes on without it." };
    throw error;
  }
  offline.hidden = true;
  return answered(response);
}

export const getJson = async (address) => (await asked(address)).json();
export const getText = async (address, signal) => (await asked(address, { headers: { Accept: "text/plain" }, signal })).text();

export async function post(address, body = {}, signal = undefined) {
  return asked(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}
export const postJson = async (address, body, signal) => (await post(address, body, signal)).json();

/** Show an error where it belongs: code, message, and what helps. */
export function showError(place, error) {
  const told = error.told ?? { message: error.message, code: "", fix: "" };
  const box = element("div", "", "note bad");
  box.setAttribute("role", "alert");
  box.append(element("p", `✗ ${told.code ? `${told.code}: ` : ""}${told.message}`));
  if (told.where) box.append(element("p", `Where: ${told.where}`, "small"));
  if (told.fix) box.append(element("p", `What helps: ${told.fix}`));
  if (told.job) {
    const link = element("a", "Look at what runs");
    link.href = `/jobs/${told.job}`;
    box.append(link);
  }
  place.replaceChildren(box);
}

/** Put server-made markup in: it is escaped there, and scripts in it do not run. */
export function fill(place, markup) {
  const made = document.createElement("template");
  made.innerHTML = markup;
  place.replaceChildren(made.content);
}

/** Call `work` each `seconds`, more seldom while the page is hidden, until it returns false. Errors of the network
 * do not end it. */
export function again(seconds, work) {
  let timer = 0;
  const round = async () => {
    clearTimeout(timer);
    let goesOn = true;
    try {
      goesOn = await work();
    } catch (error) {
      if (!error.told) console.error(error);
    }
    if (goesOn !== false) timer = setTimeout(round, 1000 * (document.hidden ? Math.max(15, seconds) : seconds));
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && timer) round();
  });
  round();
}

/** The values of a form: what is empty is left out; controls with data-top stand beside the settings. */
export function valuesOf(form, submitter = null) {
  const body = { settings: {} };
  for (const control of form.elements) {
    if (!control.name || control.type === "submit") continue;
    const value = control.type === "checkbox" ? control.checked : control.value.trim();
    const own = control.dataset.top || control.name === "data" || control.name === "note";
    if (own) body[control.name] = value;
    else if (value !== "" && value !== false) body.settings[control.name] = String(value);
  }
  if (submitter?.name) body[submitter.name] = true;
  return body;
}

/** Where an error beside a control is told. */
function problemPlace(near) {
  let place = near.parentElement.querySelector(":scope > .problem");
  if (!place) {
    place = element("div", "", "problem");
    near.after(place);
  }
  return place;
}

async function send(address, body, near) {
  near.disabled = true;
  try {
    const told = await postJson(address, body);
    if (told.location) location.assign(told.location);
    near.dispatchEvent(new CustomEvent("posted", { bubbles: true, detail: told }));
    return told;
  } catch (error) {
    const place = problemPlace(near);
    showError(place, error);
    if (error.told?.code === "STATE_DEVICE_BUSY" && near.dataset.queue) {
      const later = element("button", "Begin when that one ends");
      later.type = "button";
      later.addEventListener("click", () => send(address, { ...body, queue: true }, near));
      place.append(later);
    }
  } finally {
    near.disabled = false;
  }
  return null;
}

/** How the page reads a data file now, for what is asked of it. */
function readingNow() {
  const form = $("#look");
  const read = { address: $("#data")?.dataset.address };
  for (const control of form?.elements ?? []) if (control.name && control.name !== "row" && control.value.trim()) read[control.name] = control.value.trim();
  return read;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.copy !== undefined) copy(button, button.dataset.copy);
  if (button.dataset.post) {
    const body = { ...(button.dataset.body ? JSON.parse(button.dataset.body) : {}) };
    if (button.dataset.read) Object.assign(body, readingNow());
    if (button.dataset.model) body.model = button.dataset.model;
    send(button.dataset.post, body, button);
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-form]");
  if (!form) return;
  event.preventDefault();
  const button = event.submitter ?? $("button", form);
  button.dataset.queue = form.dataset.queue ?? "";
  send(form.dataset.form, valuesOf(form, event.submitter), button).then((told) => {
    if (told && !told.location) tell("Kept.", true);
  });
});

export async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "✓ Copied";
  } catch {
    button.textContent = "Select it and copy by hand";
  }
  setTimeout(() => (button.textContent = before), 2000);
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Theme: light, dark, or that of the system; the server reads the cookie, so that nothing flashes.
$("#theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.cookie = `bp-theme=${root.dataset.theme}; path=/; max-age=31536000; SameSite=Strict`;
  document.dispatchEvent(new Event("themed"));
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themed")));

// Keys.
const places = { r: "/runs", d: "/data", t: "/train", c: "/chat", m: "/models", s: "/system" };
let afterG = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  if (afterG && places[event.key]) location.assign(places[event.key]);
  afterG = event.key === "g";
  if (event.key === "?") $("#keys").showModal();
  if (event.key === "/" && $("#find")) {
    event.preventDefault();
    $("#find").closest("details")?.setAttribute("open", "");
    $("#find").focus();
  }
});
