// A chart of uPlot in the page's colours, with the arrow keys to read it.
const uPlot = window.uPlot;

const whole = [1, 2, 5].flatMap((digit) => [...Array(10).keys()].map((power) => digit * 10 ** power)).sort((a, b) => a - b);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** `series`: [{label, colour, points}]; `data`: x, then one array for each. */
export class Curve {
  constructor(place, series, height, onKeys = true) {
    this.place = place;
    this.series = series;
    this.height = height;
    this.data = [[], ...series.map(() => [])];
    this.log = false;
    place.tabIndex = 0;
    new ResizeObserver(() => this.resize()).observe(place);
    document.addEventListener("themed", () => this.draw());
    if (onKeys) place.addEventListener("keydown", (event) => this.key(event));
    this.draw();
  }

  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") }, font: "12px system-ui" };
    const options = {
      width: Math.max(200, this.place.clientWidth),
      height: this.height,
      scales: { x: { time: false }, y: { distr: this.log ? 3 : 1 } },
      axes: [{ ...axis, incrs: whole }, { ...axis, size: 56 }],
      cursor: { drag: { x: true, y: false } },
      series: [{ label: this.xLabel ?? "step" }, ...this.series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        width: 1.5,
        spanGaps: true,
        points: { show: Boolean(one.points), size: 7, fill: colour("surface") },
        value: (_, value) => (value == null ? "–" : Number(value).toPrecision(4)),
      }))],
    };
    this.plot = new uPlot(options, this.data, this.place);
  }

  set(data) {
    this.data = data;
    const zoomed = this.zoomed();
    this.plot.setData(data, !zoomed);
  }

  zoomed() {
    const { min, max } = this.plot.scales.x;
    const xs = this.plot.data[0];
    return xs.length > 1 && min != null && (min > xs[0] || max < xs[xs.length - 1]);
  }

  whole() {
    this.plot.setData(this.data, true);
  }

  resize() {
    const width = this.place.clientWidth;
    if (width > 0 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.height });
  }

  key(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const xs = this.data[0];
    if (!way || !xs.length) return;
    event.preventDefault();
    this.at = Math.min(xs.length - 1, Math.max(0, (this.at ?? xs.length) + way));
    this.plot.setCursor({ left: this.plot.valToPos(xs[this.at], "x"), top: this.plot.height / 3 });
  }
}

/** Exponential smoothing without a drag at the start; 0 leaves the values as they are. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let share = 1;
  return values.map((value) => {
    if (value == null) return value;
    mean = weight * mean + (1 - weight) * value;
    share *= weight;
    return mean / (1 - share);
  });
}
