// Nodes of the cluster, and its shards with their owners.

import { Refusal, get } from "./api.js";
import { $, make, say, seconds, whole } from "./dom.js";

const SILENT = 10; // seconds after which a node counts as lost

/** Return numbers as ranges: "0–3, 7". */
function ranges(numbers) {
  const found = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last?.at(-1) === number - 1) last[1] = number;
    else found.push([number]);
  }
  return found.map((range) => range.join("–")).join(", ") || "–";
}

const milliseconds = (value) => (value === null ? "–" : seconds(value / 1000));

function row(first, ...cells) {
  const rest = cells.map((cell) => make("td", {}, cell));
  return make("tr", {}, make("th", { scope: "row" }, first), ...rest);
}

function fill(list, rows) {
  const text = rows.map((each) => each.outerHTML).join("");
  if (list.dataset.rows === text) return; // spares screen readers, and keeps a selection
  list.dataset.rows = text;
  list.replaceChildren(...rows);
}

function drawNode({ node, role, address, seen_seconds: seen, owned, staleness_ms: lag, failed = [] }, self) {
  const lost = seen > SILENT;
  const live = failed.length ? `live, without ${failed.join(", ")}` : "live";
  const state = make("span", {
    className: lost || failed.length ? "lost" : "live",
    textContent: lost ? `not seen for ${seconds(Math.round(seen))}` : live,
  });
  const name = make("span", { textContent: node });
  if (node === self) name.append(" ", make("span", { className: "count", textContent: "(this page)" }));
  return row(name, role, state, ranges(owned), milliseconds(lag), address ?? "–");
}

function drawShard({ shard, owner, epoch, models, lag_ms: lag }) {
  const name = owner ?? make("span", { className: "lost", textContent: "none" });
  return row(String(shard), name, whole(epoch), whole(models), milliseconds(lag));
}

function draw({ node, role, shards, nodes }) {
  $("cluster").hidden = shards.length === 0;
  if (shards.length === 0) return;
  const free = shards.filter(({ owner }) => owner === null).map(({ shard }) => shard);
  const gaps = free.length ? ` Without an owner: ${ranges(free)}.` : "";
  say($("cluster-about"), `Node ${node} (${role}) shows this page. ${whole(shards.length)} shards.${gaps}`);
  fill($("node-list"), nodes.map((each) => drawNode(each, node)));
  fill($("shard-list"), shards.map(drawShard));
}

/** Draw the cluster; return whether there is one that the key may see. */
export async function drawCluster() {
  try {
    const found = await get("cluster");
    draw(found);
    return found.shards.length > 0;
  } catch (error) {
    if (!(error instanceof Refusal) || error.status >= 500) return true; // perhaps the next time
    $("cluster").hidden = true;
    return false;
  }
}
