// Shadows of the selected model: comparison, creation, promotion, deletion.

import { Refusal, get, post, remove } from "./api.js";
import { $, counted, help, make, makeSvg, percent, say, short, whole } from "./dom.js";

const MEANING =
  "A shadow learns the samples of this model with another specification, and answers nothing. Both predict each sample " +
  "before they learn it. The bar is the interval of the difference of their losses; left of the line the shadow is " +
  "better. The interval holds at all times together: you may decide as soon as it leaves the line.";
const HEADS = ["Shadow", "Verdict", "Difference of losses", "Its score", "This model", "Samples", ""];

const explain = (error) => (error instanceof Refusal ? error.message : "The server does not respond.");

const signed = (value) => short(value).replace("-", "−");

/** Return the interval of a difference, on an axis around 0. */
function bar({ difference, low, high }) {
  const widest = Math.max(-low, high);
  const at = (value) => 75 + (70 * value) / widest;
  const text = `Interval from ${signed(low)} to ${signed(high)}`;
  const left = at(low);
  return makeSvg(
    "svg",
    { class: "interval", viewBox: "0 0 150 22", role: "img", "aria-label": text },
    makeSvg("title", {}, text),
    makeSvg("rect", { x: left, y: 7, width: Math.max(at(high) - left, 1), height: 8, rx: 3 }),
    makeSvg("line", { x1: 75, y1: 1, x2: 75, y2: 21 }),
    makeSvg("circle", { cx: at(difference), cy: 11, r: 4 }),
  );
}

function scores(found) {
  const [[, first], [name, second]] = Object.entries(found);
  if (first === null) return "–";
  return name === "LogLoss" ? `${percent(first)}, ${short(second)} nats` : `MAE ${short(first)}`;
}

export class Shadows {
  /** @param model returns the name of the selected model; @param wanted is called when a key is refused */
  constructor(model, wanted) {
    this.model = model;
    this.wanted = wanted;
    this.shown = "";
    this.of = null; // the model whose shadows are shown
    this.list = make("tbody");
    this.table = make("table", { hidden: true }, this.head(), this.list);
    this.none = make("p", { className: "note" });
    this.said = make("p", { className: "note", role: "status" });
    const open = make("button", { type: "button", className: "quiet", textContent: "Create shadow" });
    open.addEventListener("click", () => this.ask());
    $("shadows").append(
      make("h2", { id: "shadows-title", textContent: "Shadows" }),
      help("Shadows", MEANING),
      make("p", { className: "row" }, open),
      this.said,
      this.none,
      make("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "List of shadows" }, this.table),
      this.dialog(),
    );
  }

  head() {
    const cells = HEADS.map((textContent) => make("th", { scope: "col", textContent }));
    cells.at(-1).append(make("span", { className: "hidden", textContent: "Actions" }));
    return make("thead", {}, make("tr", {}, ...cells));
  }

  dialog() {
    this.name = make("input", { id: "shadow-name", required: true, autocomplete: "off", spellcheck: false });
    this.spec = make("textarea", { id: "shadow-spec", rows: 3, spellcheck: false, placeholder: '{"hidden": [200, 200]}' });
    this.problem = make("p", { className: "problem", role: "alert" });
    const cancel = make("button", { type: "button", className: "quiet", textContent: "Cancel" });
    const form = make(
      "form",
      {},
      make("h2", { id: "shadow-title", textContent: "Create shadow" }),
      make("p", {}, make("label", { htmlFor: "shadow-name", textContent: "Name" }), " ", this.name),
      make("p", {}, make("label", { htmlFor: "shadow-spec", textContent: "Parameters (JSON)" }), this.spec),
      this.problem,
      make("p", { className: "row end" }, cancel, make("button", { type: "submit", textContent: "Create" })),
    );
    this.create = make("dialog", { "aria-labelledby": "shadow-title" }, form);
    cancel.addEventListener("click", () => this.create.close());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.add();
    });
    return this.create;
  }

  ask() {
    [this.name.value, this.spec.value] = ["", ""];
    say(this.problem, "");
    this.create.showModal();
  }

  async add() {
    const model = this.model();
    try {
      const spec = JSON.parse(this.spec.value || "{}");
      const { task, spec: own } = await get(`models/${model}`).then((found) => ({ ...found, task: found.spec.task }));
      const shape = own.input_shape === null ? {} : { input_shape: own.input_shape };
      await post(`models/${model}/shadows`, { name: this.name.value.trim(), task, ...shape, ...spec });
      this.create.close();
      await this.update();
    } catch (error) {
      say(this.problem, error instanceof SyntaxError ? `Invalid JSON: ${error.message}` : explain(error));
      if (error instanceof Refusal && error.wantsKey) this.wanted(error);
    }
  }

  /** Read the shadows of the selected model, and draw them. */
  async update() {
    const model = this.model();
    if (model === null) return;
    const found = await get(`models/${model}/shadows`);
    const text = JSON.stringify([model, found.shadows]);
    if (model !== this.model() || text === this.shown) return;
    this.shown = text;
    if (model !== this.of) say(this.said, "");
    this.of = model;
    this.table.hidden = found.shadows.length === 0;
    say(this.none, found.shadows.length ? "" : "No shadows: create one to try another specification without risk.");
    this.list.replaceChildren(...found.shadows.map((each) => this.row(each)));
  }

  row({ name, behind, skipped, failure, comparison }) {
    const about = [];
    if (failure) about.push(failure);
    else if (behind > 0) about.push(`${whole(behind)} events behind`);
    if (skipped > 0) about.push(`${whole(skipped)} samples skipped`);
    const { verdict, difference, n } = comparison;
    const judged = make("span", { className: failure ? "failed" : verdict, textContent: failure ? "stopped" : verdict });
    const gap = make("span", {}, difference === null ? "–" : signed(difference));
    if (difference !== null) gap.append(bar(comparison));
    const go = make("button", { type: "button", className: "quiet", textContent: "Promote", disabled: failure !== null });
    const end = make("button", { type: "button", className: "quiet", textContent: "Delete" });
    go.setAttribute("aria-label", `Promote ${name}`);
    end.setAttribute("aria-label", `Delete ${name}`);
    go.addEventListener("click", () => {
      const known = verdict === "better" ? "" : ` It is not known to be better (${verdict}, ${counted(n, "sample")} compared).`;
      if (!confirm(`From now on, ${name} answers in place of the present model, which stays as a shadow.${known}`)) return;
      this.act(`${name} is being promoted …`, () => this.promote(name));
    });
    end.addEventListener("click", () => {
      if (!confirm(`Everything that the shadow ${name} has learned is erased.`)) return;
      this.act(`${name} is being deleted …`, () => this.drop(name));
    });
    const title = make("th", { scope: "row", textContent: name });
    if (about.length) title.append(make("span", { className: "note", textContent: about.join(", ") }));
    const cells = [judged, gap, scores(comparison.shadow), scores(comparison.champion), whole(n), make("span", {}, go, " ", end)];
    return make("tr", {}, title, ...cells.map((cell) => make("td", {}, cell)));
  }

  async act(text, action) {
    say(this.said, text);
    try {
      const said = await action();
      await this.update();
      say(this.said, said);
    } catch (error) {
      say(this.said, explain(error));
      if (error instanceof Refusal && error.wantsKey) this.wanted(error);
    }
  }

  async promote(name) {
    const { champion, shadow } = await post(`models/${this.model()}/promote`, { shadow: name });
    return `${champion} answers now. The former champion is the shadow ${shadow}: promote it to go back.`;
  }

  async drop(name) {
    await remove(`models/${this.model()}/shadows/${encodeURIComponent(name)}`);
    return `${name} is deleted.`;
  }
}
