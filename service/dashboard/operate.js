// Actions: prediction, checkpoint, rollback.

import { Refusal, get, post } from "./api.js";
import { explained } from "./explanations.js";
import { $, clock, compact, make, percent, say, short, whole } from "./dom.js";

const explain = (error) => (error instanceof Refusal ? error.message : "The server does not respond.");

export class Operator {
  /** @param model returns the name of the selected model; @param wanted is called when a key is refused */
  constructor(model, wanted) {
    this.model = model;
    this.wanted = wanted;
    this.target = null;
    this.champions = new Map(); // of checkpoints of a former champion, by name
    this.means = null;
    this.level = null; // of the intervals of the model
    $("predict-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.predict();
    });
    $("fill-latest").addEventListener("click", () => this.fillLatest());
    $("fill-means").addEventListener("click", () => this.fill(this.means));
    $("take").addEventListener("click", () => this.take());
    $("rollback").addEventListener("close", () => this.rollBack());
  }

  async predict() {
    const place = $("predict-answer");
    const x = $("predict-x").value; // sent as typed: parsed and serialized again, 1e999 would become null
    try {
      JSON.parse(x);
    } catch (error) {
      place.replaceChildren(make("p", { className: "problem", textContent: `Invalid JSON: ${error.message}` }));
      return;
    }
    try {
      const model = this.model();
      const interval = this.level === null ? "" : `, "interval": ${this.level}`;
      const answer = await post("predict", `{"x": ${x}, "model": ${JSON.stringify(model)}${interval}}`);
      const { evidence } = await post(`models/${model}/evidence`, `{"x": ${x}}`);
      place.replaceChildren(...this.answered(answer), ...(await explained(model, x)), ...this.explained(evidence));
    } catch (error) {
      place.replaceChildren(make("p", { className: "problem", textContent: explain(error) }));
    }
  }

  answered({ step, prediction, probabilities, interval }) {
    if (prediction === null) return [make("p", { textContent: "No prediction: the model has learned no label." })];
    const said = typeof prediction === "number" && !probabilities ? short(prediction) : String(prediction);
    const value = make("data", { value: JSON.stringify(prediction), textContent: said });
    const about = make("span", { className: "note", textContent: ` after ${whole(step)} samples` });
    const best = Object.entries(probabilities ?? {}).sort(([, a], [, b]) => b - a).slice(0, 5);
    const bars = best.map(([label, share]) => {
      const bar = make("meter", { value: share, max: 1, ariaLabel: `Probability of ${label}` });
      return make("li", {}, make("span", { textContent: label }), bar, make("span", { textContent: percent(share) }));
    });
    const parts = [make("p", { className: "answer" }, value, about)];
    if (interval) {
      const text = `With a probability of ${short(100 * this.level)}% the target is between ${short(interval[0])} and ${short(interval[1])}.`;
      parts.push(make("p", { className: "interval", textContent: text }));
    }
    if (bars.length) parts.push(make("ul", { className: "bars" }, ...bars));
    return parts;
  }

  /** Return a table of the strings and words with the strongest evidence; nothing without any. */
  explained(evidence) {
    if (evidence.length === 0) return [];
    const heads = ["Feature", "Value", "Speaks for", "Strength", "Samples"];
    const head = make("tr", {}, ...heads.map((textContent) => make("th", { scope: "col", textContent })));
    const rows = evidence.slice(0, 8).map(({ feature, value, label, strength, samples }) => {
      const target = label === null ? (strength < 0 ? "less" : "more") : String(label);
      const cells = [value, target, short(Math.abs(strength)), compact(samples)];
      const name = make("th", { scope: "row", textContent: feature });
      return make("tr", {}, name, ...cells.map((textContent) => make("td", { textContent })));
    });
    const table = make("table", { className: "evidence" }, make("thead", {}, head), make("tbody", {}, ...rows));
    const scrolled = { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "Strongest evidence" };
    return [make("h3", { textContent: "Strongest evidence" }), make("div", scrolled, table)];
  }

  /** Keep what a sample to try is made of, and suggest the means unless the field has a text. */
  suggest({ means, scores }) {
    this.means = means;
    this.level = scores.intervals?.level ?? null;
    $("fill-means").disabled = means === null;
    if ($("predict-x").value === "" && means !== null && Object.keys(means).length) this.fill(means);
  }

  fill(sample) {
    $("predict-x").value = JSON.stringify(sample, null, 1).replace(/\n */g, " ");
    say($("fill-said"), "");
  }

  /** Fill in the sample that was learned last, which only a key with the scope admin may see. */
  async fillLatest() {
    try {
      const { x, step } = await get(`models/${this.model()}/sample`);
      if (x !== null) this.fill(x);
      say($("fill-said"), x === null ? "The log does not have the latest sample." : `The sample of step ${whole(step)}.`);
    } catch (error) {
      say($("fill-said"), explain(error));
      if (error instanceof Refusal && error.wantsKey) this.wanted(error);
    }
  }

  /** List the checkpoints; `marks` of the history tell those of a former champion. */
  async list(marks = null) {
    const model = this.model();
    if (marks !== null) this.champions = new Map(marks.filter(({ champion }) => champion).map((each) => [each.checkpoint, each.champion]));
    try {
      const { checkpoints } = await get(`models/${model}/checkpoints`);
      if (model !== this.model()) return;
      $("checkpoint-list").replaceChildren(...checkpoints.map((kept) => this.row(kept)));
      $("checkpoint-table").hidden = checkpoints.length === 0;
      say($("no-checkpoints"), checkpoints.length ? "" : "No checkpoints.");
    } catch (error) {
      if (!(error instanceof Refusal && error.wantsKey)) return; // the next mark asks again
      $("checkpoint-list").replaceChildren();
      $("checkpoint-table").hidden = true;
      say($("no-checkpoints"), "The list needs a key with the scope admin.");
    }
  }

  row(kept) {
    const champion = this.champions.get(kept.checkpoint);
    const step = make("th", { scope: "row", textContent: whole(kept.step) });
    if (champion) step.append(make("span", { className: "note", textContent: ` of ${champion}` }));
    const button = make("button", { type: "button", className: "quiet", textContent: "Roll back" });
    button.setAttribute("aria-label", `Roll back to step ${kept.step}, created ${clock(kept.time)}`);
    button.addEventListener("click", () => this.ask(kept));
    return make(
      "tr",
      {},
      step,
      make("td", {}, make("time", { dateTime: kept.time, textContent: clock(kept.time) })),
      make("td", { textContent: `${compact(kept.bytes)}B` }),
      // Since a rollback or an unlearning, later checkpoints are no part of the history of the model.
      make("td", {}, kept.current ? button : make("span", { className: "note", textContent: "of an earlier branch" })),
    );
  }

  async take() {
    $("take").disabled = true;
    say($("checkpoint-said"), "Creating checkpoint …");
    try {
      const kept = await post(`models/${this.model()}/checkpoints`);
      say($("checkpoint-said"), `Checkpoint created at step ${whole(kept.step)}.`);
      await this.list();
    } catch (error) {
      this.refused(error);
    }
    $("take").disabled = false;
  }

  ask(kept) {
    this.target = kept;
    const champion = this.champions.get(kept.checkpoint);
    const where = `step ${whole(kept.step)}${champion ? ` of its former champion “${champion}”` : ""}`;
    say(
      $("rollback-text"),
      `The model “${this.model()}” returns exactly to ${where}. Later samples stay in the log, but are ` +
        "no longer part of the model.",
    );
    $("rollback").returnValue = "cancel";
    $("rollback").showModal();
  }

  async rollBack() {
    if ($("rollback").returnValue !== "go") return;
    say($("checkpoint-said"), "Rolling back …");
    try {
      const { step } = await post(`models/${this.model()}/rollback`, { checkpoint: this.target.checkpoint });
      say($("checkpoint-said"), `Rolled back to step ${whole(step)}.`);
      await this.list();
    } catch (error) {
      this.refused(error);
    }
  }

  refused(error) {
    say($("checkpoint-said"), explain(error));
    if (error instanceof Refusal && error.wantsKey) this.wanted(error);
  }
}
