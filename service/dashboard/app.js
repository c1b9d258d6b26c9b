// The page: model selection, connection state, API key, and drawing.

import { Refusal, get, key, listen, pause } from "./api.js";
import { drawCluster } from "./cluster.js";
import { $, clock, compact, counted, make, say, show, whole } from "./dom.js";
import { drawImportances } from "./explanations.js";
import { drawLayers } from "./layers.js";
import { Operator } from "./operate.js";
import { Overview } from "./overview.js";
import { Scores, drawConfusion, drawPairs } from "./scores.js";
import { Shadows } from "./shadows.js";

const POLL = 1000;
const DRAW = 100; // ms between two redraws
const EVENTS = 50;
const STATES = {
  connecting: "Connecting",
  live: "Live",
  lost: "Connection lost: reconnecting",
  key: "API key required",
  none: "No model",
};

let asked = null; // name in the address; null for the first model
let model = null; // that is shown
let scores = null; // of the selected model
let anew = false; // whether the next poll draws the life of the model again, with all its marks
let stop = new AbortController();
let drawing = null;
let told = { step: 0, latest: null, counts: [] };
const operator = new Operator(() => model, askForKey);
const overview = new Overview(select, askForKey);
const shadows = new Shadows(() => model, askForKey);

function setState(state) {
  $("status").dataset.state = state;
  say($("status"), STATES[state]);
}

function askForKey(refusal) {
  $("show-key").hidden = false;
  $("key-form").hidden = false;
  $("show-key").setAttribute("aria-expanded", "true");
  say($("key-problem"), key.get() ? refusal.message : "");
}

/** Hide everything: there is no key, or it was refused. */
function lockOut(refusal) {
  setState("key");
  for (const id of ["pick", "shown", "empty", "missing", "overview"]) $(id).hidden = true;
  askForKey(refusal);
  $("key").focus();
}

/** List all models; return the name of the one to show, null without it. */
async function chooseModel() {
  const { models } = await get("models");
  const names = models.map(({ name }) => name);
  const present = names.includes(asked ?? model);
  const chosen = present ? (asked ?? model) : asked === null ? (names[0] ?? null) : null;
  const options = names.map((name) => make("option", { value: name, textContent: name }));
  const before = [...$("model").options].map(({ value }) => value);
  if (before.join("\n") !== names.join("\n")) $("model").replaceChildren(...options);
  $("model").value = chosen ?? "";
  $("pick").hidden = names.length === 0;
  return chosen;
}

/** Say that there is no such model, or none at all, and show the list. */
async function drawMissing() {
  setState("none");
  $("shown").hidden = $("empty").hidden = true;
  say($("about-model"), "");
  const text = asked === null ? "Create one to begin." : `There is no model “${asked}” that your key covers. Choose one from the list, or create it.`;
  say($("missing-title"), asked === null ? "No models" : "No such model");
  say($("missing-text"), key.get() ? text : text.replace(" that your key covers", ""));
  $("missing").hidden = false;
  await overview.update(null);
}

/** Show how to send a first sample in place of the charts; what can be reverted stays. */
function drawEmpty(shown) {
  $("shown").hidden = false;
  $("empty").hidden = shown.step > 0;
  $("shown").classList.toggle("untrained", shown.step === 0);
  if (shown.step > 0) return;
  const headers = key.get() ? ' -H "Authorization: Bearer $KEY"' : "";
  const y = shown.task === "regression" ? "19.5" : '"open"';
  const shape = shown.input_shape;
  const x = shape === null ? '{"temperature": 21.5, "city": "Lund"}' : "X";
  const features = shape === null ? "Features and classes come from the data." : `X stands for nested lists of numbers of the shape [${shape.join(", ")}].`;
  say($("empty-about"), `Send a first sample from a terminal. ${features}`);
  const path = model === "default" ? "learn" : `models/${model}/learn`;
  const address = new URL(path, location.href).href; // a proxy may serve a sub-path
  say(
    $("curl-learn"),
    `curl -s ${address} -H 'Content-Type: application/json'${headers} \\\n     -d '{"x": ${x}, "y": ${y}}'`,
  );
  say(
    $("curl-stream"),
    `curl -sN ${address} -X POST -H 'Content-Type: application/x-ndjson'${headers} \\\n     -T . <samples.ndjson`,
  );
}

/** Draw the features with strings or words, those with the most values first. */
function drawFields({ count, values, largest }) {
  $("fields").hidden = count === 0;
  show($("field-count"), values, `${whole(values)} values`);
  const list = $("field-list");
  if (list.dataset.fields === JSON.stringify(largest)) return;
  list.dataset.fields = JSON.stringify(largest);
  const rows = largest.map(({ name, values: known }) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: whole(known) })),
  );
  if (count > largest.length) {
    const more = make("th", { scope: "row", className: "more", textContent: `and ${whole(count - largest.length)} more` });
    rows.push(make("tr", {}, more, make("td")));
  }
  list.replaceChildren(...rows);
}

function drawNames({ classes, features, fields, ignored_features: ignored, input_shape: shape, task }) {
  const fill = (id, { count, latest }) => {
    const list = $(`${id}-list`);
    const names = [...latest].reverse().map((name) => (typeof name === "string" ? name : JSON.stringify(name)));
    show($(`${id}-count`), count, whole(count));
    if (list.dataset.names === JSON.stringify(names)) return;
    list.dataset.names = JSON.stringify(names);
    const shown = names.slice(0, 40).map((name) => make("li", { textContent: name }));
    if (count > 40) shown.push(make("li", { className: "more", textContent: `and ${whole(count - 40)} more` }));
    list.replaceChildren(...shown);
  };
  fill("class", classes);
  fill("feature", features);
  const nested = shape === null ? "Latest first." : `A sample is nested lists of numbers of the shape [${shape.join(", ")}].`;
  say($("names-note"), ignored ? `${whole(ignored)} values ignored: no column left.` : nested);
  $("feature-list").previousElementSibling.hidden = $("feature-list").hidden = shape !== null;
  drawFields(fields);
  $("class-list").previousElementSibling.hidden = $("class-list").hidden = task === "regression";
}

function drawNumbers(shown) {
  if (told.state === "rebuilding" && shown.state === "ready") anew = true; // without the unlearned samples
  told.state = shown.state;
  told.step = shown.step;
  show($("tile-step"), shown.step, whole(shown.step));
  say($("tile-step-note"), counted(shown.predicted, "prediction"));
  show($("tile-pending"), shown.pending, whole(shown.pending));
  say($("tile-queue"), `predictions; ${counted(shown.queue, "request")} in the queue`);
  const { state: found, upgrade } = shown;
  const share = upgrade?.events ? ` ${Math.floor((100 * upgrade.done) / upgrade.events)}%` : "";
  const state = upgrade ? ` · upgrading${share}` : found === "ready" ? "" : ` · ${found}`;
  say(
    $("about-model"),
    `${shown.task}, ${compact(shown.parameters)} parameters, ${shown.engine} on ${shown.device}${state}`,
  );
}

/** Draw the state from the event stream, at most ten times a second. */
function drawTold() {
  drawing = null;
  const now = performance.now();
  told.counts = told.counts.filter(({ time }) => now - time < 3000);
  const span = Math.max(now - Math.max(told.since ?? now, now - 3000), 250) / 1000;
  const rate = told.counts.reduce((sum, { count }) => sum + count, 0) / span;
  show($("tile-rate"), rate, `${compact(rate)}/s`);
  show($("tile-step"), told.step, whole(told.step));
  if (told.latest?.prediction !== undefined && told.latest.prediction !== null) {
    const { y, prediction } = told.latest;
    const text = (value) => (typeof value === "number" ? compact(value) : String(value));
    say($("tile-latest"), y === prediction ? `latest: ${text(y)}, predicted` : `latest: ${text(y)}, predicted ${text(prediction)}`);
  }
}

function soon() {
  drawing ??= setTimeout(() => requestAnimationFrame(drawTold), DRAW);
}

const SAID = {
  drift: ({ step }) => `Drift at step ${whole(step)}`,
  action: ({ step, action }) => `Action after a drift, ${action}, at step ${whole(step)}`,
  unlearning: ({ step, events }) => `${counted(events, "event")} unlearned at step ${whole(step)}`,
  import: ({ step }) => `Imported at step ${whole(step)}`,
  checkpoint: ({ step }) => `Checkpoint at step ${whole(step)}`,
  rollback: ({ step }) => `Rolled back to step ${whole(step)}`,
  promotion: ({ step, shadow, champion }) => `Shadow ${shadow} promoted at ${champion ? "its " : ""}step ${whole(step)}`,
  upgrade: ({ step }) => `Upgraded to the latest generation of the learner at step ${whole(step)}`,
};

/** List a mark, and draw it in the charts; its time is in seconds since 1970. */
function addMark(mark, live) {
  const whose = mark.champion && mark.kind !== "promotion" ? ` of the former champion ${mark.champion}` : "";
  const text = `${SAID[mark.kind](mark)}${whose}`;
  const iso = new Date(1000 * mark.time).toISOString();
  const entry = make("li", { className: mark.kind }, make("time", { dateTime: iso, textContent: clock(iso) }), ` ${text}`);
  scores?.mark(mark, live);
  $("event-list").prepend(entry);
  while ($("event-list").children.length > EVENTS) $("event-list").lastChild.remove();
  $("no-events").hidden = true;
  if (live) say($("announce"), text);
}

/**
 * Show an event of the stream. A mark is drawn at once, and the next poll reads all marks again: those that it
 * reads now may be older than this one.
 */
function heard(kind, data) {
  if (kind === "learn") {
    told.step = data.step;
    told.latest = data.latest;
    told.counts.push({ time: performance.now(), count: data.count });
    soon();
  } else if (kind in SAID) {
    addMark({ ...data, kind, time: Date.parse(data.time) / 1000 }, true);
    anew = true;
  }
}

/** Read the history of the model that is chosen to compare with, if the choice or this model has changed. */
async function compare() {
  const [of, name] = [scores, $("compare").value];
  const row = overview.rows.find((each) => each.name === name);
  const state = JSON.stringify([name, row]);
  if (of === null || of.compared === state) return;
  const history = row ? await get(`models/${name}/history`) : null;
  if (of !== scores || name !== $("compare").value) return; // another choice since: the next poll reads it
  of.compared = state;
  of.compare(name, history);
}

/** Offer the other models of the same task for a comparison. */
function offer(rows) {
  const task = rows.find(({ name }) => name === model)?.task;
  const names = ["", ...rows.filter((each) => each.task === task && each.name !== model).map(({ name }) => name)];
  const before = [...$("compare").options].map(({ value }) => value);
  if (before.length === names.length && before.join("\n") === names.join("\n")) return;
  const chosen = $("compare").value;
  $("compare").replaceChildren(...names.map((name) => make("option", { value: name, textContent: name || "no other model" })));
  $("compare").value = names.includes(chosen) ? chosen : "";
}

/** Poll once a second for what the event stream does not contain. */
async function poll(signal) {
  let round = 0;
  let clustered = true; // until the server says that it is not
  while (!signal.aborted) {
    try {
      if (clustered && round % 5 === 0) clustered = await drawCluster();
      if (round % 5 === 0) {
        await overview.update(model);
        await shadows.update();
        offer(overview.rows);
      }
      if (round++ % 5 === 0 && (await chooseModel()) !== model && !signal.aborted) {
        start(asked);
        return;
      }
      const again = anew || scores?.name !== model;
      anew = false; // an event from here on draws it once more
      let [shown, history] = [await get(`models/${model}/dashboard`), null];
      if (again) {
        if (shown.state === "rebuilding") told.state = shown.state; // it may be ready before the history is read
        history = await get(`models/${model}/history`);
        shown = await get(`models/${model}/dashboard`);
      }
      if (signal.aborted) return;
      draw(shown, history);
      await compare();
    } catch (error) {
      if (signal.aborted) return;
      anew = true;
      if (error instanceof Refusal && error.wantsKey) {
        lockOut(error);
        return;
      }
      if (error instanceof Refusal && error.status === 404) {
        start(asked);
        return;
      }
    }
    soon();
    await pause(POLL);
  }
}

function draw(shown, history) {
  if (history !== null) {
    if (scores?.name === model) scores.forgetMarks();
    else scores = Object.assign(new Scores(shown.task), { name: model });
    $("event-list").replaceChildren();
    scores.recall(history);
    scores.by(axis());
    for (const mark of history.marks) addMark(mark, false);
    operator.list(history.marks);
  }
  drawEmpty(shown);
  drawNumbers(shown);
  scores.update(shown);
  drawLayers(shown.layers);
  drawImportances(shown);
  drawConfusion(shown.confusion);
  drawPairs(shown.pairs);
  drawNames(shown);
  operator.suggest(shown);
}

/** Return the name in the address; null without one. */
function named() {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text) || null;
  } catch {
    return text; // not the address of a model
  }
}

/** Show a model, and name it in the address; null stands for the first. */
function select(name) {
  if (name === named()) start(name);
  else location.hash = name === null ? "" : encodeURIComponent(name); // `hashchange` follows
}

/** Show another model; null stands for the first. */
async function start(name) {
  stop.abort();
  stop = new AbortController();
  const { signal } = stop;
  [asked, model, scores] = [name, name, null];
  told = { step: 0, latest: null, counts: [], since: performance.now() };
  $("event-list").replaceChildren();
  $("no-events").hidden = false;
  for (const id of ["tile-latest", "checkpoint-said", "predict-answer", "announce"]) say($(id), "");
  $("predict-x").value = $("compare").value = "";
  setState("connecting");
  for (let found = null; ; ) {
    try {
      found = await chooseModel();
      if (signal.aborted) return;
      if (found !== null) {
        model = found;
        break;
      }
      await drawMissing();
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.wantsKey) {
        lockOut(error);
        return;
      }
      setState("lost");
    }
    await pause(POLL);
    if (signal.aborted) return;
  }
  $("missing").hidden = true;
  const on = {
    event: (kind, data) => signal.aborted || heard(kind, data),
    state: (state) => {
      if (signal.aborted) return;
      setState(state);
      if (state === "live") anew = true; // for the marks before
    },
    refused: (error) => error.wantsKey && lockOut(error),
  };
  listen(`events?model=${model}`, on, signal);
  poll(signal);
}

const axis = () => document.querySelector("[name=axis]:checked").value;
for (const choice of document.getElementsByName("axis")) {
  choice.addEventListener("change", () => scores?.by(axis()));
}
$("model").addEventListener("change", () => select($("model").value));
addEventListener("hashchange", () => start(named()));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the model
  ($("shown").hidden ? $("main") : $("shown")).focus();
});
$("show-key").addEventListener("click", () => {
  const hidden = $("key-form").toggleAttribute("hidden");
  $("show-key").setAttribute("aria-expanded", String(!hidden));
  if (!hidden) $("key").focus();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[!-~]+$/.test(given)) {
    say($("key-problem"), "A key contains ASCII characters only.");
    return;
  }
  key.set(given);
  $("key").value = "";
  $("key-form").hidden = true;
  $("show-key").setAttribute("aria-expanded", "false");
  start(asked);
});
$("fallback").hidden = true;
$("status").hidden = false;
if (key.get()) $("show-key").hidden = false;
start(named());
