// Unevenness of the input columns of each layer, before and after preconditioning.

import { $, make, makeSvg, short, show, whole } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 84;
const AIR = 6;

/** Return the title of a layer. */
function called(name, i, count) {
  if (name === "inputs") return "Raw features";
  return i === count - 1 ? "Output layer" : `Layer ${i}`;
}

function line(sizes, low, high, kind) {
  const last = Math.max(sizes.length - 1, 1);
  const points = sizes.map((size, i) => {
    const x = AIR + ((WIDTH - 2 * AIR) * i) / last;
    const y = AIR + (HEIGHT - 2 * AIR) * (1 - (Math.log10(size) - low) / (high - low));
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  if (points.length === 1) points.push(points[0].replace(/^[^,]+/, WIDTH - AIR));
  return makeSvg("polyline", { points: points.join(" "), class: kind });
}

/** Draw the mean squares of all columns, sorted, on a log scale. */
function profile({ sizes_before: before, sizes_after: after }) {
  const all = [1, ...before, ...after].filter((size) => size > 0).map(Math.log10);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const air = Math.max(0.5 - (most - least), 0) / 2; // an even layer is a line in the middle
  const [low, high] = [least - air, most + air];
  const one = AIR + (HEIGHT - 2 * AIR) * (1 - (0 - low) / (high - low));
  return makeSvg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" },
    makeSvg("line", { x1: 0, x2: WIDTH, y1: one.toFixed(1), y2: one.toFixed(1), class: "one" }),
    line(before, low, high, "before"),
    line(after, low, high, "after"),
  );
}

function item(layer, i, count) {
  const { name, columns, silent, mean, variance, before, after } = layer;
  const numbers = [make("span", { className: "before" }), make("span", { className: "after" })];
  show(numbers[0], before, short(before));
  show(numbers[1], after, short(after));
  const gain = before / after;
  const facts = [
    ["Inputs", `${whole(columns)}${silent ? `, ${whole(silent)} constant` : ""}`],
    ["Means", mean.length ? `${short(mean[0])} … ${short(mean[2])}` : "–"],
    ["Variances", variance.length ? `${short(variance[0])} … ${short(variance[2])}` : "–"],
  ];
  return make(
    "li",
    {},
    make("h3", {}, called(name, i, count), " ", make("span", { className: "count", textContent: name === "inputs" ? "standardized" : name })),
    profile(layer),
    make(
      "p",
      { className: "unevenness" },
      "Unevenness ", numbers[0], make("span", { textContent: " → ", ariaLabel: "becomes" }), numbers[1],
      ...(gain > 1.05 ? [make("span", { className: "gain", textContent: `${short(gain)} times more even` })] : []),
    ),
    make("dl", {}, ...facts.map(([term, text]) => make("div", {}, make("dt", { textContent: term }), make("dd", { textContent: text })))),
  );
}

export function drawLayers(layers) {
  $("layer-list").replaceChildren(...layers.map((layer, i) => item(layer, i, layers.length)));
}
