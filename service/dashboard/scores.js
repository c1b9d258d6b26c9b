// Scores, mixture of experts, throughput and latency.

import { LineChart, around, fromZero, shares } from "./charts.js";
import { $, compact, make, makeSvg, percent, say, seconds, short, show, whole } from "./dom.js";

const LINES = [
  { name: "last 1,000", colour: "--accent", width: 2.5 },
  { name: "last 100", colour: "--m2", width: 1 },
  { name: "since the start", colour: "--accent", dash: true },
];
/** Colours of the kinds of experts. */
const KINDS = {
  "fast networks": "--m3",
  networks: "--m0",
  "slow networks": "--m1",
  "linear models": "--m5",
  neighbours: "--m4",
  bins: "--m6",
  stack: "--m2",
};
const life = { x: "samples learned", xFormat: compact, life: true };
/** Ticks at whole seconds. */
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400, 172_800, 864_000];
const since = { x: "since the page was opened", xFormat: (x) => `${Math.round(x)} s`, incrs: SECONDS };

const TASKS = {
  classification: {
    score: "Accuracy",
    loss: "LogLoss",
    plain: "majority",
    format: percent,
    better: (own, other) => `${own >= other ? "+" : "−"}${Math.abs(100 * (own - other)).toFixed(1)} points vs. majority class`,
    charts: {
      score: {
        title: "Accuracy",
        help: "The share of samples whose class was predicted right, before the sample was learned. It should be above both grey and orange lines, which need no features. A dip of the thin line is a change in the data.",
        about: "Prequential: each sample is predicted before it is learned.",
        lines: [
          { name: "majority class", colour: "--plain" },
          { name: "last label", colour: "--second" },
        ],
        range: shares,
      },
      loss: {
        title: "Log loss",
        help: "How surprised the model was by the true class: 0 is certain and right, 0.69 is a coin toss between two classes. If it rises while the accuracy stays, the model is too sure of itself.",
        about: "Negative log probability of the true class, in nats. Lower is better.",
        lines: [{ name: "class frequencies", colour: "--plain" }],
        range: fromZero,
      },
    },
  },
  regression: {
    score: "MAE",
    loss: "RMSE",
    plain: "mean",
    format: short,
    better: (own, other) => (other > 0 ? `${percent(own / other)} of the error of the running mean` : ""),
    charts: {
      score: {
        title: "Mean absolute error",
        help: "How far predictions are from the targets on average, in units of the target. It should be below both grey and orange lines, which need no features. A peak of the thin line is a change in the data.",
        about: "Prequential: each sample is predicted before it is learned. Lower is better.",
        lines: [
          { name: "running mean", colour: "--plain" },
          { name: "last target", colour: "--second" },
        ],
        range: fromZero,
      },
      loss: {
        title: "Root mean squared error",
        help: "The same as the mean absolute error, but a large error counts more than many small ones. If it is far above it, a few samples are predicted very badly.",
        about: "Large errors have a larger weight. Lower is better.",
        lines: [{ name: "running mean", colour: "--plain" }],
        range: fromZero,
      },
    },
  },
};

const COVERAGE = {
  title: "Coverage of the intervals",
  help: "The share of targets that were in the interval predicted for them. It should be close to the grey line. Above it the intervals are wider than necessary, below it they promise too much.",
  about: "Share of targets in their 90% interval, each predicted before its sample was learned.",
  range: around,
};
const WIDTH = {
  title: "Width of the intervals",
  help: "How wide the 90% intervals are on average, in units of the target. Narrow intervals with the right coverage say much. A peak means that the model has become uncertain.",
  about: "Mean width of the 90% intervals. Lower is better, if the coverage is right.",
  range: fromZero,
};
const TIMES = {
  title: "Server response times",
  help: "The median time from a request to its answer in the last ten seconds, over all models of this server, not of the selected model alone. A stream has no time of its own, because it lasts as long as its client sends: a part of it, from its arrival to its answers, is counted in its place.",
  about: "Median of the last ten seconds, of /learn and /predict of all models.",
};

export class Scores {
  /** @param task of the model */
  constructor(task) {
    this.task = TASKS[task];
    const { charts, format } = this.task;
    const chart = (id, options, show) =>
      new LineChart($(id), { ...life, ...options, format: show, series: [...LINES, ...(options.lines ?? [])] });
    this.score = chart("score", charts.score, format);
    this.loss = chart("loss", charts.loss, short);
    this.mixture = new LineChart($("mixture"), {
      ...life,
      title: "Mixture of experts",
      help: "The prediction is a weighted mean of several models, the experts. Those that predicted well recently have more weight. A sudden change of the weights means that the data has changed.",
      about: "Share of each kind of experts in the prediction.",
      format: percent,
      series: [],
      range: shares,
    });
    this.rate = new LineChart($("rate"), {
      title: "Throughput",
      help: "How many samples the model learned, and how many it predicted, in each second since this page was opened. Zero means that no samples arrive.",
      about: "Samples per second, learned and predicted.",
      ...since,
      format: compact,
      series: [
        { name: "learned", colour: "--accent", width: 2.5 },
        { name: "predicted", colour: "--second" },
      ],
      range: fromZero,
    });
    this.coverage = chart("coverage", COVERAGE, percent);
    this.coverage.clear([...LINES.slice(0, 2), { name: "aim", colour: "--plain" }]);
    this.width = chart("width", WIDTH, short);
    this.width.clear(LINES.slice(0, 2));
    this.times = new LineChart($("times"), {
      ...TIMES,
      ...since,
      format: seconds,
      series: [
        { name: "single requests", colour: "--accent", width: 2.5 },
        { name: "parts of streams", colour: "--second" },
      ],
      range: fromZero,
    });
    this.began = Date.now() / 1000;
    this.last = { step: null, time: null }; // when the latest sample was learned
    this.windows = [];
    this.begin = performance.now();
    this.before = null;
  }

  /** The charts that show the life of the model. */
  get lives() {
    return [this.score, this.loss, this.mixture, this.coverage, this.width];
  }

  /** Draw the life of the model before the page was opened. */
  recall({ step: steps, time: times, n, scores, baselines, intervals, experts }) {
    const { score, loss, plain } = this.task;
    const squared = this.task === TASKS.regression;
    const over = (values, least, root) => windows(values, n, least, root && squared);
    const columns = [
      [
        over(scores[score], 1000),
        over(scores[score], 100),
        over(scores[score], Infinity),
        over(baselines[plain][score], 1000),
        over(baselines.last[score], 1000),
      ],
      [
        over(scores[loss], 1000, true),
        over(scores[loss], 100, true),
        over(scores[loss], Infinity, true),
        over(baselines[plain][loss], 1000, true),
      ],
    ];
    this.last = { step: steps.at(-1) ?? null, time: times.at(-1) ?? null };
    [this.score, this.loss].forEach((chart, i) => chart.set(steps, times, columns[i]));
    this.recallMixture(experts);
    if (intervals !== null) this.recallIntervals(steps, times, intervals);
  }

  recallMixture({ step: steps, time: times, shares: found }) {
    this.nameKinds(Object.keys(found));
    this.mixture.set(steps, times, Object.values(found));
  }

  recallIntervals(steps, times, { n, level, coverage, width }) {
    const over = (values) => [1000, 100].map((least) => windows(values, n, least, false));
    this.coverage.set(steps, times, [...over(coverage), steps.map(() => level)]);
    this.width.set(steps, times, over(width));
  }

  /** Draw the last 1,000 predictions of another model, too; without its history, of none. */
  compare(name, history) {
    const squared = this.task === TASKS.regression;
    const line = (values, root) => ({ values: windows(values, history.n, 1000, root), step: history.step, time: history.time });
    const named = { name: `${name}, last 1,000`, colour: "--m4", width: 2 };
    const { score, loss } = this.task;
    this.score.compare(history && { ...named, ...line(history.scores[score], false) });
    this.loss.compare(history && { ...named, ...line(history.scores[loss], squared) });
  }

  forgetMarks() {
    for (const chart of [...this.lives, this.rate, this.times]) chart.marks = [];
  }

  /** Draw a mark in all charts; one that happens now is at the right end of those of the open page. */
  mark(mark, live) {
    for (const chart of this.lives) chart.mark(mark);
    const seconds = live ? (performance.now() - this.begin) / 1000 : mark.time - this.began;
    for (const chart of [this.rate, this.times]) chart.mark({ kind: mark.kind, step: seconds });
  }

  /** Choose the axis of the charts of the model's life: "step" or "time". */
  by(axis) {
    for (const chart of this.lives) chart.by(axis);
  }

  update(shown) {
    if (shown.step !== this.last.step) this.last = { step: shown.step, time: Date.now() / 1000 };
    this.drawScores(shown);
    this.drawMixture(shown);
    this.drawExperts(shown);
    this.drawIntervals(shown);
    this.drawRate(shown);
    this.drawTimes(shown);
    this.before = shown;
  }

  drawScores({ step, scores, recent, baselines }) {
    const { score, loss, plain, format, better } = this.task;
    const { cumulative, window } = scores;
    const has = scores.n > 0;
    const pick = (values, name) => (has ? values[name] : null);
    const base = baselines.n > 0 ? baselines.window : null;
    this.score.add(step, [
      pick(window, score),
      recent[score],
      pick(cumulative, score),
      base?.[plain][score] ?? null,
      base?.last[score] ?? null,
    ], this.last.time);
    this.loss.add(step, [
      pick(window, loss),
      recent[loss],
      pick(cumulative, loss),
      base?.[plain][loss] ?? null,
    ], this.last.time);
    say($("tile-score-name"), `${this.task.charts.score.title}, last ${whole(Math.max(window.n, 1))}`);
    show($("tile-score"), pick(window, score), has ? format(window[score]) : "–");
    say($("tile-score-note"), has && base ? better(window[score], base[plain][score]) : "");
  }

  drawMixture({ step, shares: found }) {
    this.nameKinds(Object.keys(found));
    this.mixture.add(step, Object.values(found), this.last.time);
  }

  nameKinds(names) {
    if (names.join() === this.mixture.series.map(({ name }) => name).join()) return;
    this.mixture.clear(names.map((name) => ({ name, colour: KINDS[name] ?? "--plain", width: 2 })));
  }

  drawIntervals({ step, scores: { intervals = null } }) {
    $("coverage").hidden = $("width").hidden = intervals === null;
    if (intervals === null) return;
    const { level, window, recent } = intervals;
    this.coverage.add(step, [window.coverage, recent.coverage, level], this.last.time);
    this.width.add(step, [window.width, recent.width], this.last.time);
  }

  /** Tell what leads the mixture, and list all experts, those with the greatest share first. */
  drawExperts({ mixture, leading }) {
    $("experts").classList.toggle("single", leading === null);
    say(this.mixture.about, leading ?? "A single network predicts.");
    const experts = [...mixture].sort((one, other) => other.weight - one.weight);
    const list = $("expert-list");
    while (list.children.length > experts.length) list.lastChild.remove();
    experts.forEach(({ expert, weight }, i) => {
      const row = list.children[i] ?? list.appendChild(make("tr", {}, make("th", { scope: "row" }), make("td")));
      say(row.firstChild, expert);
      show(row.lastChild, weight, percent(weight));
    });
  }

  drawRate(shown) {
    const { before } = this;
    if (before === null || shown.time <= before.time) return;
    const span = shown.time - before.time;
    const rate = (name) => Math.max(shown[name] - before[name], 0) / span;
    this.rate.add((performance.now() - this.begin) / 1000, [rate("step"), rate("predicted")]);
  }

  /** Show quantiles of the latest response times; without new requests, of all since the start of the server. */
  drawTimes({ latency }) {
    $("times").hidden = !latency;
    if (!latency) {
      say($("tile-latency"), "–");
      say($("tile-latency-note"), "needs a key for all models");
      return;
    }
    const { seconds: bounds, learn, predict, learn_streams: learnt, predict_streams: predicted } = latency;
    const sums = (one, other) => one.map((count, i) => count + other[i]);
    this.windows = [...this.windows, { learn, predict, single: sums(learn, predict), stream: sums(learnt, predicted) }].slice(-10);
    const now = this.windows.at(-1);
    const recent = (name) => now[name].map((count, i) => count - this.windows[0][name][i]);
    const median = (name) => quantile(bounds, recent(name), 0.5);
    this.times.add((performance.now() - this.begin) / 1000, [median("single"), median("stream")]);
    const route = learn.at(-1) > 0 ? "learn" : "predict";
    const counts = recent(route).at(-1) > 0 ? recent(route) : latency[route];
    const [half, most] = [0.5, 0.99].map((share) => quantile(bounds, counts, share));
    show($("tile-latency"), half, half === null ? "–" : seconds(half));
    say($("tile-latency-note"), half === null ? "all models: no single requests" : `all models: median of /${route}, 99th percentile ${seconds(most)}`);
  }
}

/**
 * Return at each point the mean over the latest points that have at least a number of predictions together.
 * @param counts number of predictions of each point; @param root whether the values are roots of means of squares
 */
function windows(values, counts, least, root) {
  let [sum, total, first] = [0, 0, 0];
  const part = (i) => (values[i] === null ? 0 : counts[i] * (root ? values[i] ** 2 : values[i]));
  return values.map((_, i) => {
    sum += part(i);
    total += values[i] === null ? 0 : counts[i];
    while (first < i && total - counts[first] >= least) {
      sum -= part(first);
      total -= values[first] === null ? 0 : counts[first];
      first++;
    }
    if (total === 0) return null;
    const mean = Math.max(sum / total, 0);
    return root ? Math.sqrt(mean) : mean;
  });
}

/** Interpolate a quantile in cumulative counts by upper bound. */
function quantile(bounds, counts, share) {
  const total = counts.at(-1);
  if (!total) return null;
  const rank = share * total;
  const i = counts.findIndex((count) => count >= rank);
  const low = i > 0 ? bounds[i - 1] : 0;
  if (bounds[i] === null) return low;
  const below = i > 0 ? counts[i - 1] : 0;
  return low + ((bounds[i] - low) * (rank - below)) / Math.max(counts[i] - below, 1);
}

/** Draw predictions against targets, with the same scale on both axes. */
export function drawPairs(pairs) {
  $("pairs").hidden = !pairs?.length;
  if (!pairs?.length) return;
  const low = Math.min(...pairs.flat());
  const high = Math.max(...pairs.flat());
  const at = (value) => (high > low ? 2 + (96 * (value - low)) / (high - low) : 50);
  const dots = pairs.map(([y, prediction]) => makeSvg("circle", { cx: at(y).toFixed(1), cy: (100 - at(prediction)).toFixed(1), r: 0.9 }));
  $("pairs-plot").replaceChildren(makeSvg("line", { x1: 2, y1: 98, x2: 98, y2: 2 }), ...dots);
  say($("pairs-note"), `Targets to the right, predictions upwards, both from ${short(low)} to ${short(high)}.`);
}

/** Return a long label without its middle: classes often differ at the end. */
const shortened = (text) => (text.length > 28 ? `${text.slice(0, 16)}…${text.slice(-10)}` : text);

/** Draw the confusion matrix. */
export function drawConfusion(confusion) {
  $("confusion").hidden = confusion === null;
  if (confusion === null) return;
  const { labels, counts, other } = confusion;
  const text = (label) => (typeof label === "string" ? label : JSON.stringify(label));
  $("confusion").classList.toggle("wide", labels.length > 6);
  const named = (scope, label) => make("th", { scope, textContent: shortened(text(label)), title: text(label) });
  const head = labels.map((label) => named("col", label));
  const most = counts.map((row) => Math.max(row.reduce((a, b) => a + b, 0), 1));
  const rows = counts.map((row, i) => {
    const cells = row.map((count, j) => {
      const cell = make("td", { textContent: whole(count), className: i === j ? "right" : "wrong" });
      cell.style.setProperty("--share", Math.sqrt(count / most[i]).toFixed(3));
      return cell;
    });
    return make("tr", {}, named("row", labels[i]), ...cells);
  });
  $("confusion-table").replaceChildren(
    make("caption", { className: "hidden", textContent: "Predictions by true and predicted class" }),
    make("thead", {}, make("tr", {}, make("td", {}), ...head)),
    make("tbody", {}, ...rows),
  );
  say($("confusion-note"), other > 0 ? `${whole(other)} more predictions of other classes.` : "");
}
