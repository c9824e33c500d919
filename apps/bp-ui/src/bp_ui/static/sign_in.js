// The one-time code stands behind the # of the address, which is sent to nobody; it is cleared before it is used.
import { $, postJson, showError } from "/static/app.js";

const next = new URLSearchParams(location.search).get("next") ?? "/";

async function enter(body) {
  try {
    location.replace((await postJson("/sign-in", { ...body, next })).location);
  } catch (error) {
    showError($("#problem"), error);
  }
}

const code = location.hash.slice(1);
history.replaceState(null, "", location.pathname + location.search);
if (code && $("#code")) enter({ code });
$("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(Object.fromEntries(new FormData(event.target)));
});
