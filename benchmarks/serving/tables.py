"""Tables of the throughput benchmark."""

from __future__ import annotations

from ..common.report import Cell, Table

IDIOMATIC = "idiomatic FastAPI"
LINES, SUSTAINED, CSV, ARROW, PREDICTED = "lines", "sustained lines", "CSV", "Arrow", "predicted lines"
#: Rows of the streams, by what was sent.
STREAMS = {
    LINES: "/learn, lines",
    SUSTAINED: "/learn, lines, log at its limit",
    CSV: "/learn, CSV",
    ARROW: "/learn, Arrow",
    PREDICTED: "/predict, lines",
}
IDLE = "idle"
FLOOD = {"lines": "while 2 streams learn", "json": "while 16 connections learn"}

#: By what was sent, by side, by name of the figure.
Figures = dict[str, dict[str, dict[str, float]]]

_LOGS = {
    "full": "each sample flushed to disk before its response (the default)",
    "relaxed": "each sample written before its response, without a flush to disk",
    "none": "without a log",
}


def tables(durability: str, figures: Figures) -> list[Table]:
    """Return requests a second, and latencies of predictions."""
    return [_rates(durability, figures), _latencies(durability, figures)]


def durability_table(results: dict[str, Figures]) -> Table:
    """Return the cost of the log: rates of learning, as multiples of the idiomatic endpoint's in one run."""
    rows = []
    for what in (what for what in results["none"] if what.startswith("/learn ")):
        for side in results["none"][what]:
            by_log = {log: figures[what] for log, figures in results.items()}
            multiples = {log: found[side]["rate"] / found[IDIOMATIC]["rate"] for log, found in by_log.items()}
            if side in results["none"][LINES]:
                shown = [_share(multiples[log], multiples["none"]) for log in results]
                rows.append([Cell(f"{side}: {what}"), *shown])
    return Table(
        "Cost of durability: learning, × idiomatic FastAPI (in parentheses: of the rate without a log)",
        ["", *results],
        rows,
    )


def _share(multiple: float, reference: float) -> Cell:
    return Cell(f"{multiple:.2f}× ({multiple / reference:.2f})")


def _rates(durability: str, figures: Figures) -> Table:
    """Return rates, multiples of the rate of the idiomatic endpoint, and processor times."""
    sent = [what for what in figures if what not in (*STREAMS, IDLE, *FLOOD.values())]
    sides = list(figures[sent[0]])
    rows = []
    for what in sent:
        reference = figures[what][IDIOMATIC]["rate"]
        rows.append([Cell(what), *(_multiple(figures[what][side], reference) for side in sides)])
    of = "/learn 16" if "/learn 16" in figures else sent[0]
    reference = figures[of][IDIOMATIC]["rate"]
    for what, shown in STREAMS.items():
        found = [figures[what].get(side) for side in sides]
        rows.append([Cell(shown), *(_multiple(f, reference) if f else Cell("") for f in found)])
    title = (
        f"Samples a second, {_LOGS[durability]} (× idiomatic FastAPI; streams: × its {of}; "
        "µs of the server's processor time a sample)"
    )
    return Table(title, ["route, connections", *sides], rows)


def _multiple(found: dict[str, float], reference: float) -> Cell:
    rate = found["rate"]
    return Cell(f"{rate:,.0f} ({rate / reference:.2f}×; {found['processor']:.0f} µs)")


def _latencies(durability: str, figures: Figures) -> Table:
    rows = []
    for side, idle in figures[IDLE].items():
        for what in (IDLE, *FLOOD.values()):
            found = figures[what][side]
            marks = [Cell(f"{found[name]:.2f}") for name in ("p50", "p95", "p99")]
            ratio = Cell("" if what == IDLE else f"{found['p99'] / idle['p99']:.1f}×")
            rows.append([Cell(f"{side}: {what}"), *marks, ratio])
    title = f"Latency of one client's predictions in ms, {_LOGS[durability]}"
    return Table(title, ["", "p50", "p95", "p99", "p99 / idle"], rows)
