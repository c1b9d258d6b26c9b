// Overview of all models: a table that is sorted and filtered, and the forms that create and delete a model.

import { Refusal, get, post, remove } from "./api.js";
import { $, compact, make, makeSvg, percent, say, short, whole } from "./dom.js";

/** Columns: title, and the value by which rows are sorted. */
const COLUMNS = [
  ["Model", ({ name }) => name],
  ["Score", ({ task, score }) => (score === null || task === "classification" ? score : -1 - score)], // a small MAE is good
  ["Its life", null],
  ["Samples", ({ step }) => step],
  ["Rate", ({ rate }) => rate],
  ["Drifts", ({ drifts }) => drifts],
  ["State", ({ state }) => state],
  ["Leading experts", ({ leading }) => leading],
];

export class Overview {
  /** @param choose is called with the name of a model; @param wanted when a key is refused */
  constructor(choose, wanted) {
    this.choose = choose;
    this.wanted = wanted;
    this.rows = [];
    this.before = null;
    this.sorting = { column: 0, down: false };
    this.heads = COLUMNS.map(([title, by], i) => this.head(title, by, i));
    $("overview-head").replaceChildren(...this.heads);
    $("overview-filter").addEventListener("input", () => this.draw());
    $("create-open").addEventListener("click", () => {
      say($("create-problem"), "");
      $("create").showModal();
    });
    $("create-cancel").addEventListener("click", () => $("create").close());
    $("create-form").addEventListener("submit", (event) => this.create(event));
    $("delete-open").addEventListener("click", () => this.ask());
    $("delete-cancel").addEventListener("click", () => $("delete").close());
    $("delete-form").addEventListener("submit", (event) => this.remove(event));
  }

  head(title, by, i) {
    if (by === null) return make("th", { scope: "col", textContent: title });
    const button = make("button", { type: "button", className: "sort", textContent: title });
    button.addEventListener("click", () => {
      this.sorting = { column: i, down: this.sorting.column === i ? !this.sorting.down : i > 0 };
      this.draw();
    });
    return make("th", { scope: "col" }, button);
  }

  /** Ask the server, and draw. */
  async update(selected) {
    const { time, models } = await get("overview");
    const then = new Map((this.before?.models ?? []).map((each) => [each.name, each.step]));
    const span = this.before === null ? null : time - this.before.time;
    this.rows = models.map((each) => {
      const classes = each.task === "classification";
      const known = span > 0 && each.step !== null && then.get(each.name) !== undefined && then.get(each.name) !== null;
      const lead = Object.entries(each.shares ?? {}).sort(([, a], [, b]) => b - a);
      return {
        ...each,
        score: each.recent?.[classes ? "Accuracy" : "MAE"] ?? null,
        said: classes ? percent : (value) => (value === null ? "–" : `MAE ${short(value)}`),
        rate: known ? Math.max(each.step - then.get(each.name), 0) / span : null,
        leading: each.step !== 0 && lead.length > 1 ? lead.slice(0, 2).map(([kind, share]) => `${kind} ${Math.round(100 * share)}%`).join(", ") : "–",
      };
    });
    this.before = { time, models };
    this.selected = selected;
    $("delete-open").disabled = selected === null;
    $("overview").hidden = false; // the height of the list is measured
    this.draw();
  }

  draw() {
    const words = $("overview-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = ({ name, task, state, leading }) => `${name} ${task} ${state} ${leading}`.toLowerCase();
    const shown = this.rows.filter((row) => words.every((word) => text(row).includes(word)));
    const { column, down } = this.sorting;
    const by = COLUMNS[column][1];
    const sign = down ? -1 : 1;
    shown.sort((a, b) => {
      const [one, other] = [by(a), by(b)];
      if (one === null || other === null) return (one === null) - (other === null); // unknown ones come last
      return typeof one === "string" ? sign * one.localeCompare(other, "en", { numeric: true }) : sign * (one - other);
    });
    this.heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const focused = document.activeElement?.dataset?.model;
    $("overview-list").replaceChildren(...shown.map((row) => this.row(row)));
    if (focused) [...$("overview-list").querySelectorAll("button")].find(({ dataset }) => dataset.model === focused)?.focus();
    say($("overview-none"), shown.length || !words.length ? "" : `No model matches “${$("overview-filter").value.trim()}”.`);
    const list = $("overview-list").closest(".scroll");
    say($("overview-more"), list.scrollHeight > list.clientHeight + 1 ? `Scroll the list to see all ${whole(shown.length)}.` : "");
    const all = this.rows.length;
    $("overview-find").hidden = all < 6;
    say($("overview-count"), shown.length === all ? whole(all) : `${whole(shown.length)} of ${whole(all)}`);
  }

  row(row) {
    const button = make("button", { type: "button", className: "link", textContent: row.name });
    button.dataset.model = row.name;
    if (row.name === this.selected) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.choose(row.name));
    const cells = [
      make("td", {}, make("data", { value: String(row.score ?? ""), textContent: row.said(row.score) })),
      make("td", {}, sparkline(row.sparkline, row.drift_marks)),
      make("td", { textContent: row.step === null ? "–" : whole(row.step) }),
      make("td", { textContent: row.rate === null ? "–" : `${compact(row.rate)}/s` }),
      make("td", { textContent: row.drifts === null ? "–" : whole(row.drifts) }),
      make("td", { textContent: row.state, className: "text" }),
      make("td", { textContent: row.leading, className: "text" }),
    ];
    return make("tr", {}, make("th", { scope: "row" }, button), ...cells);
  }

  async create(event) {
    event.preventDefault();
    const more = $("create-more").value.trim();
    try {
      const spec = { ...(more && JSON.parse(more)), name: $("create-name").value.trim(), task: $("create-task").value };
      await post("models", spec);
      $("create").close();
      $("create-form").reset();
      this.choose(spec.name);
    } catch (error) {
      this.refused($("create-problem"), error);
    }
  }

  ask() {
    say($("delete-text"), `Everything that the model “${this.selected}” has learned is erased. Type its name to confirm.`);
    say($("delete-problem"), "");
    $("delete-name").value = "";
    $("delete").showModal();
  }

  async remove(event) {
    event.preventDefault();
    if ($("delete-name").value !== this.selected) {
      say($("delete-problem"), "This is not the name of the model.");
      return;
    }
    try {
      await remove(`models/${this.selected}`);
      $("delete").close();
      this.choose(null);
    } catch (error) {
      this.refused($("delete-problem"), error);
    }
  }

  refused(place, error) {
    if (error instanceof SyntaxError) say(place, `Invalid JSON: ${error.message}`);
    else say(place, error instanceof Refusal ? error.message : "The server does not respond.");
    if (error instanceof Refusal && error.wantsKey) {
      $("create").close();
      $("delete").close();
      this.wanted(error);
    }
  }
}

/** Return a small line of values, with marks at shares of its width. */
function sparkline(values, marks) {
  const known = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
  const svg = makeSvg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (known.length < 2) return svg;
  const numbers = known.map(([, value]) => value);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const at = ([i, value]) => {
    const x = 1 + (98 * i) / (values.length - 1);
    return `${x.toFixed(1)},${(22 - (20 * (value - low)) / (high - low || 1)).toFixed(1)}`;
  };
  for (const mark of marks) {
    const x = (1 + 98 * mark).toFixed(1);
    svg.append(makeSvg("line", { x1: x, x2: x, y1: 1, y2: 23 }));
  }
  svg.append(makeSvg("polyline", { points: known.map(at).join(" ") }));
  return svg;
}
