// The stages of a session, fetched again while one is at work; when it ends, the page is fetched anew.
import { $, again, fill, getJson, tell } from "/static/app.js";

const place = $("#stages");
let shown = "";

again(2, async () => {
  if (!place.dataset.open) return false;
  const told = await getJson(`/stages/${place.dataset.run}/part`);
  if (!told.open) {
    location.reload();
    return false;
  }
  if (told.stages !== shown) {
    shown = told.stages;
    fill(place, told.stages);
    tell("The stages have changed");
  }
  return true;
});
