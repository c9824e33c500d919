import { $, copy, element, getJson, showError } from "/static/app.js";

const place = $("#backends");
try {
  const found = await getJson("/system/backends");
  const rows = Object.entries(found).map(([name, one]) => {
    const line = document.createElement("tr");
    const memory = one.total ? `, ${(one.free / 1e9).toFixed(1)} of ${(one.total / 1e9).toFixed(1)} GB free` : "";
    line.append(element("td", name), element("td", one.available ? `✓ ${one.device}${memory}` : `not here: ${one.reason}`));
    return line;
  });
  const table = element("table", "", "named");
  const body = document.createElement("tbody");
  body.append(...rows);
  table.append(body);
  place.replaceChildren(table);
} catch (error) {
  showError(place, error);
}
$("#diagnostics").addEventListener("click", async (event) => {
  const button = event.target;
  const told = await getJson("/system/diagnostics");
  copy(button, JSON.stringify({ ...told, backends: place.innerText }, null, 2));
});
