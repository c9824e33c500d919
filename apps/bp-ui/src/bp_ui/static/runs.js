// The list of runs is fetched again while it is looked at; what is ticked or has the focus stays.
import { $, again, all, fill, getText } from "/static/app.js";

const list = $("#list");
const compare = $("#compare");
let picked = [];
let shown = list.innerHTML;

function address() {
  const form = $("#filter");
  const query = new URLSearchParams(location.search);
  if (form) for (const [name, value] of new FormData(form)) value ? query.set(name, value) : query.delete(name);
  return `/runs/list?${query}`;
}

async function refresh() {
  const markup = await getText(address());
  if (markup === shown) return;
  shown = markup;
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("[data-run]")?.dataset.run : null;
  fill(list, markup);
  for (const box of all(".pick", list)) box.checked = picked.includes(box.value);
  if (focused) $(`[data-run="${focused}"] a`, list)?.focus();
}

list.addEventListener("change", (event) => {
  if (!event.target.classList.contains("pick")) return;
  picked = picked.filter((one) => one !== event.target.value);
  if (event.target.checked) picked = [...picked, event.target.value].slice(-2);
  for (const box of all(".pick", list)) box.checked = picked.includes(box.value);
  compare.disabled = picked.length !== 2;
});
list.addEventListener("posted", refresh);
compare.addEventListener("click", () => location.assign(`/compare?a=${picked[0]}&b=${picked[1]}`));
$("#filter")?.addEventListener("input", refresh);
$("#filter")?.addEventListener("submit", (event) => event.preventDefault());
again(2, async () => {
  await refresh();
});
