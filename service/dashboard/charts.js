// Line charts by uPlot, with a legend of the latest values and a table of all values.

import { day, help, hours, make, makeSvg, show, whole } from "./dom.js";

const MOST = 1500;
const ROWS = 12;

/** Colours of marks by kind. */
const MARKS = { drift: "--second", action: "--m2", rollback: "--bad", unlearning: "--bad", checkpoint: "--plain", upgrade: "--good", import: "--good", promotion: "--good" };

/** Return the current value of a CSS variable; the theme may change while the page is open. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const dark = matchMedia("(prefers-color-scheme: dark)");

export class LineChart {
  /**
   * @param section the card to fill; its id gives the title's
   * @param options {title, about, help, x: name of the axis, xFormat, incrs: distances of its ticks, format,
   *   series: [{name, colour, dash, width}], range, life: whether points have a time, too}
   */
  constructor(section, options) {
    this.options = options;
    this.axis = "step";
    this.marks = [];
    this.other = null; // see `compare`
    this.format = options.format;
    this.title = make("h2", { id: `${section.id}-title`, textContent: options.title });
    this.about = make("p", { className: "about", textContent: options.about });
    this.plot = make("div", { className: "plot" });
    // Without the library of the charts, the values are in the legends and the tables.
    if (typeof uPlot === "undefined") this.plot.append(make("p", { className: "missing", textContent: "The chart did not load: see the table." }));
    else this.plot.ariaHidden = "true";
    this.legend = make("ul", { className: "legend", ariaLabel: `${options.title}: latest values` });
    this.body = make("tbody");
    this.head = make("tr");
    this.details = make(
      "details",
      {},
      make("summary", { textContent: "As a table" }),
      make(
        "div",
        { className: "scroll", tabIndex: 0, role: "group", ariaLabel: `${options.title}, as a table` },
        make("table", {}, make("thead", {}, this.head), this.body),
      ),
    );
    this.details.addEventListener("toggle", () => this.fillTable());
    section.replaceChildren(this.title, ...(options.help ? [help(options.title, options.help)] : []), this.about, this.plot, this.legend, this.details);
    new ResizeObserver(() => this.resize()).observe(this.plot);
    dark.addEventListener("change", () => this.chart?.redraw());
    this.clear(options.series);
  }

  /** Clear the chart, and set its series. */
  clear(series = this.series) {
    this.series = series;
    this.data = [[], ...series.map(() => [])];
    this.times = [];
    this.name();
  }

  /** The lines of the chart: its series, and that of the other model. */
  get lines() {
    return this.other === null ? this.series : [...this.series, this.other];
  }

  /** Write the names of the lines in the legend and in the table; the chart is built anew. */
  name() {
    this.values = this.lines.map(({ colour: name, dash }) => {
      const line = makeSvg("line", { x1: 1, x2: 19, y1: 5, y2: 5, ...(dash && { "stroke-dasharray": "4 3" }) });
      line.style.stroke = `var(${name})`;
      return { swatch: makeSvg("svg", { viewBox: "0 0 20 10", "aria-hidden": "true" }, line), value: make("span") };
    });
    this.legend.replaceChildren(
      ...this.lines.map(({ name }, i) => make("li", {}, this.values[i].swatch, `${name} `, this.values[i].value)),
    );
    this.head.replaceChildren(
      ...[this.options.x, ...this.lines.map(({ name }) => name)].map((text) =>
        make("th", { scope: "col", textContent: text }),
      ),
    );
    this.chart?.destroy();
    this.chart = null;
  }

  /**
   * Draw a line of another model at its own points, too.
   * @param other {name, colour, width, step, time, values}, or null without another model
   */
  compare(other) {
    const before = this.other;
    this.other = other;
    if (before?.name !== other?.name) this.name();
    this.tell();
    if (this.details.open) this.fillTable();
    this.draw();
  }

  /** Set all points. */
  set(xs, times, columns) {
    this.data = [[...xs], ...columns];
    this.times = [...times];
    this.tell();
    this.draw();
  }

  /** Add a point, and remove those at or after its x: a rollback may have left them. Its time is in seconds since 1970. */
  add(x, values, time = null) {
    const xs = this.data[0];
    let keep = xs.length;
    while (keep > 0 && xs[keep - 1] >= x) keep--;
    for (const column of [...this.data, this.times]) column.length = keep;
    xs.push(x);
    this.times.push(time);
    values.forEach((value, i) => this.data[i + 1].push(value));
    if (xs.length > MOST) {
      const stays = (_, i) => i % 2 === 1 || i > MOST / 2;
      this.data = this.data.map((column) => column.filter(stays));
      this.times = this.times.filter(stays);
    }
    this.tell();
    if (this.details.open) this.fillTable();
    this.draw();
  }

  /** Add a mark: a vertical line. One of a former champion has its name, and a step that is not of this model. */
  mark(mark) {
    this.marks.push(mark);
    this.chart?.setData(this.drawn); // the axis may become longer
  }

  /** Return the place of a mark on the axis; null if it has none in the life of this model. */
  place({ step, time, champion }) {
    if (this.axis === "time") return time;
    if (champion === undefined) return step;
    return this.data[0][this.times.findLastIndex((each) => each <= time)] ?? null;
  }

  /**
   * Return the range of the axis: that of the points, with marks before the first step and after the last time. By steps it
   * ends with this model, by time with the later one of the two models.
   */
  reach(low, high) {
    if (low === null || !this.options.life) return [low, high];
    const places = this.marks.filter(({ champion }) => champion === undefined).map((each) => this.place(each));
    const end = this.data[0].at(-1);
    if (this.axis === "step") return [Math.min(low, ...places), this.other !== null && end > low ? end : high];
    const ends = [this.times, this.other?.time ?? []].flatMap((each) => (each.length ? [each[0], each.at(-1)] : []));
    const [first, last] = [Math.min(...ends), Math.max(...ends, ...places)];
    return last > first ? [first, last] : [first - 30, first + 30];
  }

  /** Choose the axis: "step" or "time". */
  by(axis) {
    this.axis = axis;
    this.chart?.destroy();
    this.chart = null;
    this.draw();
  }

  /** The places of the points on the axis. */
  get places() {
    return this.axis === "time" ? this.times : this.data[0];
  }

  /** The points of all lines; a line has no value at the points of another model. */
  get drawn() {
    const own = [this.places, ...this.data.slice(1)];
    return this.other === null ? own : uPlot.join([own, [this.other[this.axis], this.other.values]]);
  }

  /** Return the value of the other model at a place of the axis; null before its first step and after its last one. */
  otherAt(place) {
    const at = this.other[this.axis];
    if (this.axis === "step" && place > at.at(-1)) return null;
    return this.other.values[at.findLastIndex((each) => each <= place)] ?? null;
  }

  /** Return the values of all lines at a point of this model. */
  row(index) {
    const own = this.data.slice(1).map((column) => column[index] ?? null);
    return this.other === null ? own : [...own, this.otherAt(this.places[index])];
  }

  drawMarks(u) {
    for (const mark of this.marks) {
      const place = this.place(mark);
      const x = place === null ? NaN : u.valToPos(place, "x", true);
      if (!(x >= u.bbox.left && x <= u.bbox.left + u.bbox.width)) continue;
      u.ctx.save();
      u.ctx.strokeStyle = colour(MARKS[mark.kind] ?? "--plain");
      u.ctx.lineWidth = devicePixelRatio;
      u.ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
      u.ctx.restore();
    }
  }

  /** Show the values at a place of the axis in the legend; without one, the latest of each line. */
  tell(place = null) {
    const index = place === null ? this.places.length - 1 : this.places.findLastIndex((each) => each <= place);
    const found = this.data.slice(1).map((column) => column[index] ?? null);
    if (this.other !== null) found.push(place === null ? (this.other.values.at(-1) ?? null) : this.otherAt(place));
    this.values.forEach(({ value }, i) => show(value, found[i], found[i] === null ? "–" : this.format(found[i])));
  }

  fillTable() {
    const rows = this.data[0].slice(-ROWS).map((x, i, shown) => {
      const at = this.data[0].length - shown.length + i;
      const cells = this.row(at);
      return make(
        "tr",
        {},
        make("th", { scope: "row", textContent: this.options.life ? whole(x) : this.options.xFormat(x) }),
        ...cells.map((value) => make("td", { textContent: value === null ? "–" : this.format(value) })),
      );
    });
    this.body.replaceChildren(...rows.reverse());
  }

  draw() {
    if (typeof uPlot === "undefined") return;
    if (this.chart === null && this.plot.clientWidth > 0) this.chart = this.build();
    else this.chart?.setData(this.drawn);
  }

  resize() {
    if (this.chart === null) this.draw();
    else this.chart.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight });
  }

  build() {
    const axis = { stroke: () => colour("--faint"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
    const font = "12px system-ui, sans-serif";
    const timed = this.axis === "time";
    const steps = (_, ticks) => distinct(ticks, this.options.xFormat);
    const below = timed ? { values: times, space: 80, size: 46 } : { values: steps, space: 56, size: 32, incrs: this.options.incrs };
    return new uPlot(
      {
        width: this.plot.clientWidth,
        height: this.plot.clientHeight,
        padding: [8, timed ? 36 : 12, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false, points: { size: 7 } },
        scales: { x: { time: timed, range: (_, low, high) => this.reach(low, high) }, y: { range: this.options.range } },
        axes: [
          { ...axis, font, grid: { show: false }, ...below },
          { ...axis, font, size: 52, values: (_, ticks) => distinct(ticks, this.format) },
        ],
        series: [
          {},
          ...this.lines.map(({ name, colour: variable, dash, width }) => ({
            label: name,
            stroke: () => colour(variable),
            width: width ?? 1.5,
            paths: timed ? uPlot.paths.stepped({ align: 1 }) : undefined, // a score stays until the next sample
            dash: dash ? [5, 4] : undefined,
            points: { show: (u, i) => u.data[i].filter((value) => (value ?? null) !== null).length < 2, size: 6, fill: () => colour(variable) },
          })),
        ],
        hooks: { drawAxes: [(u) => this.drawMarks(u)], setCursor: [(u) => this.tell(u.data[0][u.cursor.idx])] },
      },
      this.drawn,
      this.plot,
    );
  }
}

/** Return the labels of ticks, each once: two that are written in the same way would repeat. */
function distinct(ticks, format) {
  const texts = ticks.map((tick) => format(tick).replace(/\.0+(?=%|$)/, ""));
  return texts.map((text, i) => (texts.indexOf(text) === i ? text : ""));
}

/** Return the labels of times in seconds: the first one and each new day with the date below. */
function times(_, ticks, axis, space, step) {
  let before = null;
  return ticks.map((tick) => {
    const date = new Date(1000 * tick);
    const [today, text] = [day(date), hours(date, step)];
    if (step >= 86_400) return today;
    const known = today === before;
    before = today;
    return known ? text : `${text}\n${today}`;
  });
}

/** Range of shares: that of the data with a margin, within 0 and 1. */
export function shares(_, low, high) {
  if (low === null) return [0, 1];
  const air = Math.max(0.05, 0.08 * (high - low));
  return [Math.max(0, low - air), Math.min(1, high + air)];
}

/** Range of shares near an aim: that of the data with a margin. */
export function around(_, low, high) {
  if (low === null) return [0, 1];
  const air = Math.max(0.02, 0.15 * (high - low));
  return [Math.max(0, low - air), Math.min(1, high + air)];
}

/** Range from 0. */
export function fromZero(_, low, high) {
  return [0, high > 0 ? 1.1 * high : 1];
}

