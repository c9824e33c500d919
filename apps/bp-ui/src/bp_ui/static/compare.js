// The curves of two runs over each other, by step, tokens or time.
import { $, getJson } from "/static/app.js";
import { Curve } from "/static/curve.js";

const both = $("#both");

async function rowsOf(run) {
  let rows = [];
  let cursor = 0;
  let told;
  do {
    told = await getJson(`/runs/${run}/events?after=${cursor}`);
    for (const row of told.rows) if (row[0] === "b") rows = rows.filter((one) => one[1] <= row[1]); else if (row[0] === "s") rows.push(row);
    cursor = told.cursor;
  } while (told.more);
  return rows;
}

/** [x, loss] of each step. */
function points(rows, by) {
  let sum = 0;
  return rows.map((row) => {
    sum += by === "tokens" ? row[6] ?? 0 : row[5] ?? 0;
    return [by === "step" ? row[1] : sum, row[2]];
  });
}

if (both) {
  const [a, b] = await Promise.all([rowsOf(both.dataset.a), rowsOf(both.dataset.b)]);
  const names = both.dataset.names.split(" │ ");
  const curve = new Curve($("#chart"), [{ label: names[0], colour: "curve" }, { label: `${names[1]} `, colour: "curve-3" }], 320);
  const draw = () => {
    const by = $("#by").value;
    const [left, right] = [points(a, by), points(b, by)].map((one) => new Map(one));
    const xs = [...new Set([...left.keys(), ...right.keys()])].sort((one, other) => one - other);
    curve.xLabel = by;
    curve.data = [xs, xs.map((x) => left.get(x) ?? null), xs.map((x) => right.get(x) ?? null)];
    curve.draw();
  };
  $("#by").addEventListener("change", draw);
  draw();
}
