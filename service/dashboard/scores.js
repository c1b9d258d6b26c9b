// Scores, mixture of experts, throughput and latency.

import { LineChart, fromZero, shares } from "./charts.js";
import { $, compact, make, percent, say, seconds, short, show, whole } from "./dom.js";

const LINES = [
  { name: "last 1,000", colour: "--accent", width: 2.5 },
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
const steps = { x: "samples learned", xFormat: compact };

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
        about: "Prequential: each sample is predicted before it is learned.",
        lines: [
          { name: "majority class", colour: "--plain" },
          { name: "last label", colour: "--second" },
        ],
        range: shares,
      },
      loss: {
        title: "Log loss",
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
        about: "Prequential: each sample is predicted before it is learned. Lower is better.",
        lines: [
          { name: "running mean", colour: "--plain" },
          { name: "last target", colour: "--second" },
        ],
        range: fromZero,
      },
      loss: {
        title: "Root mean squared error",
        about: "Large errors have a larger weight. Lower is better.",
        lines: [{ name: "running mean", colour: "--plain" }],
        range: fromZero,
      },
    },
  },
};

export class Scores {
  constructor(task) {
    this.task = TASKS[task];
    const { charts, format } = this.task;
    const chart = (id, options, show) =>
      new LineChart($(id), { ...steps, ...options, format: show, series: [...LINES, ...(options.lines ?? [])] });
    this.score = chart("score", charts.score, format);
    this.loss = chart("loss", charts.loss, short);
    this.mixture = new LineChart($("mixture"), {
      ...steps,
      title: "Mixture of experts",
      about: "Share of each kind of experts in the prediction.",
      format: percent,
      series: [],
      range: shares,
    });
    this.rate = new LineChart($("rate"), {
      title: "Throughput",
      about: "Samples per second, learned and predicted.",
      x: "since the page was opened",
      xFormat: (x) => `${Math.round(x)} s`,
      format: compact,
      series: [
        { name: "learned", colour: "--accent", width: 2.5 },
        { name: "predicted", colour: "--second" },
      ],
      range: fromZero,
    });
    this.begin = performance.now();
    this.before = null;
  }

  /** Draw the history from before the page was opened. */
  recall(moments) {
    for (const moment of moments) {
      this.drawScores(moment);
      this.drawMixture(moment);
    }
  }

  update(shown) {
    this.drawScores(shown);
    this.drawMixture(shown);
    this.drawExperts(shown);
    this.drawRate(shown);
    this.drawLatency(shown);
    this.before = shown;
  }

  drawScores({ step, scores, baselines }) {
    const { score, loss, plain, format, better } = this.task;
    const { cumulative, window } = scores;
    const has = scores.n > 0;
    const pick = (values, name) => (has ? values[name] : null);
    const base = baselines.n > 0 ? baselines.window : null;
    this.score.add(step, [
      pick(window, score),
      pick(cumulative, score),
      base?.[plain][score] ?? null,
      base?.last[score] ?? null,
    ]);
    this.loss.add(step, [pick(window, loss), pick(cumulative, loss), base?.[plain][loss] ?? null]);
    say($("tile-score-name"), `${this.task.charts.score.title}, last ${whole(Math.max(window.n, 1))}`);
    show($("tile-score"), pick(window, score), has ? format(window[score]) : "–");
    say($("tile-score-note"), has && base ? better(window[score], base[plain][score]) : "");
  }

  drawMixture({ step, shares: found }) {
    const names = Object.keys(found);
    if (names.join() !== this.mixture.series.map(({ name }) => name).join()) {
      this.mixture.clear(names.map((name) => ({ name, colour: KINDS[name] ?? "--plain", width: 2 })));
    }
    this.mixture.add(step, Object.values(found));
  }

  /** Tell what leads the mixture, and list all experts, those with the greatest share first. */
  drawExperts({ mixture, leading }) {
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
  drawLatency({ latency }) {
    const old = this.before?.latency;
    if (!latency) {
      say($("tile-latency"), "–");
      say($("tile-latency-note"), "needs a key for all models");
      return;
    }
    this.window = [...(this.window ?? []), latency.learn].slice(-10);
    const recent = latency.learn.map((count, i) => count - this.window[0][i]);
    const counts = old && recent.at(-1) > 0 ? recent : latency.learn;
    const [half, most] = [0.5, 0.99].map((share) => quantile(latency.seconds, counts, share));
    show($("tile-latency"), half, half === null ? "–" : seconds(half));
    say($("tile-latency-note"), half === null ? "no requests to /learn" : `median of /learn; 99th percentile ${seconds(most)}`);
  }
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

/** Draw the confusion matrix. */
export function drawConfusion(confusion) {
  $("confusion").hidden = confusion === null;
  if (confusion === null) return;
  const { labels, counts, other } = confusion;
  const text = (label) => (typeof label === "string" ? label : JSON.stringify(label));
  const head = labels.map((label) => make("th", { scope: "col", textContent: text(label) }));
  const most = counts.map((row) => Math.max(row.reduce((a, b) => a + b, 0), 1));
  const rows = counts.map((row, i) => {
    const cells = row.map((count, j) => {
      const cell = make("td", { textContent: whole(count), className: i === j ? "right" : "wrong" });
      cell.style.setProperty("--share", Math.sqrt(count / most[i]).toFixed(3));
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row", textContent: text(labels[i]) }), ...cells);
  });
  $("confusion-table").replaceChildren(
    make("caption", { className: "hidden", textContent: "Predictions by true and predicted class" }),
    make("thead", {}, make("tr", {}, make("td", {}), ...head)),
    make("tbody", {}, ...rows),
  );
  say($("confusion-note"), other > 0 ? `${whole(other)} more predictions of other classes.` : "");
}
