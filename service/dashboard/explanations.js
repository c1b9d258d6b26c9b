// What moves the predictions: running importances of the features, and one prediction explained.

import { post } from "./api.js";
import { $, help, make, makeSvg, percent, say, short } from "./dom.js";

const TITLE = "What moves the predictions";
const WIDTH = 120;
const HEIGHT = 10;
/** Number of features with a bar of their own in the explanation of a prediction. */
const MOST = 8;

/** Draw the features with the greatest running importance; nothing before the first ones. */
export function drawImportances({ task, importances }) {
  const place = $("importances");
  place.hidden = importances.length === 0;
  if (place.hidden) return;
  if (place.firstChild === null) {
    place.append(
      make("h2", { id: "importances-title", textContent: TITLE }),
      help(TITLE, "A feature with a long bar decides much; one without a bar could be left out. Up or down does not count here: explain one prediction to see the direction."),
      make("p", { className: "about" }),
      make("ul", { className: "bars" }),
    );
  }
  const about =
    task === "classification"
      ? "How much each feature moved the log odds of the predicted class lately, on average. "
      : "How much each feature moved the prediction lately, on average. ";
  const bars = importances.slice(0, 10).map(({ feature, importance, share }) => {
    const most = importances[0].importance || 1;
    const bar = make("meter", { value: importance, max: most, ariaLabel: `Importance of ${feature}` });
    const value = make("data", { value: String(importance), textContent: percent(share) });
    return make("li", {}, make("span", { textContent: feature, title: feature }), bar, value);
  });
  say(place.querySelector(".about"), `${about}Some samples are explained, at first every 64th; the share is of all features.`);
  place.querySelector(".bars").replaceChildren(...bars);
}

/** Return a bar to the right for a contribution that raises the output, to the left for one that lowers it. */
function bar(value, most) {
  const length = most > 0 ? (Math.abs(value) / most) * (WIDTH / 2) : 0;
  const x = value < 0 ? WIDTH / 2 - length : WIDTH / 2;
  return makeSvg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" },
    makeSvg("rect", { x: x.toFixed(2), y: 0, width: length.toFixed(2), height: HEIGHT, class: value < 0 ? "less" : "more" }),
    makeSvg("line", { x1: WIDTH / 2, x2: WIDTH / 2, y1: 0, y2: HEIGHT }),
  );
}

function row(name, value, most) {
  const text = `${value > 0 ? "+" : value < 0 ? "−" : ""}${short(Math.abs(value))}`;
  const data = make("data", { value: String(value), textContent: text });
  return make("li", {}, make("span", { textContent: name, title: name }), bar(value, most), data);
}

/** Explain the prediction for a sample; nothing for a model with an input shape, or before the first label. */
export async function explained(model, x) {
  const answer = await post(`models/${model}/explain`, `{"x": ${x}}`);
  const { prediction, label, output, baseline, contributions } = answer;
  if (prediction === null || Array.isArray(contributions)) return [];
  const sorted = Object.entries(contributions).filter(([, value]) => value !== 0).sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  if (sorted.length === 0) return [];
  const most = Math.abs(sorted[0][1]);
  const rest = sorted.slice(MOST).reduce((sum, [, value]) => sum + value, 0);
  const rows = sorted.slice(0, MOST).map(([name, value]) => row(name, value, most));
  if (sorted.length > MOST) rows.push(row(`${sorted.length - MOST} others`, rest, Math.max(most, Math.abs(rest))));
  const what = label === undefined ? "Prediction" : `Log odds of ${label}`;
  return [
    make("h3", { textContent: "What moved it" }),
    make("p", { className: "note", textContent: `${what}: ${short(output)}. With no feature known: ${short(baseline)}.` }),
    make("ul", { className: "bars moved" }, ...rows),
  ];
}
