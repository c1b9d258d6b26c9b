"""Tables of the benchmark of sparse streams, and its summary in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..common.report import Cell, Table
from ..quality.summary import LEVEL, Entry, gains, mean_ranks
from .cost import DENSE, PAIRED, RIVALS, thinned

_COST = "Processor time of a sample in µs, in turns in one process, median over the second half: BNP"
_UNITS = {"LogLoss": "log loss", "RMSE": "RMSE"}


def format_loss(value: float | None) -> str:
    """Return a loss with four digits after the point, or ``"diverged"``."""
    return "diverged" if value is None else f"{value:.4f}" if value < 10 else f"{value:.3g}"


def format_setting(entry: Entry) -> str:
    """Return the setting chosen in hindsight, with ! at the edge of the grid of rates."""
    parts = [f"{value:g}" for value in entry.setting.values()]
    return f"({', '.join(parts)}{'!' if entry.at_edge else ''})" if parts else ""


def by_stream(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    """Return the entries by stream and model."""
    names = dict.fromkeys(entry.stream for entry in entries)
    return {name: {entry.model: entry for entry in entries if entry.stream == name} for name in names}


def loss_table(entries: Sequence[Entry], facts: Mapping[str, Any]) -> Table:
    """Return the loss of each model on each stream, the least in bold, and the least possible one."""
    ranks = mean_ranks(entries)
    rows: list[list[Cell]] = []
    for name, row in by_stream(entries).items():
        first = min(row.values(), key=lambda entry: entry.rank)
        best = format_loss(first.value)
        cells = []
        for model in ranks:
            entry = row.get(model)
            text = "–" if entry is None else f"{format_loss(entry.value)} {format_setting(entry)}".rstrip()
            cells.append(Cell(text, entry is not None and format_loss(entry.value) == best))
        possible = facts[name].get("best")
        cells.append(Cell("–" if possible is None else format_loss(possible)))
        rows.append([Cell(f"{name}, {_UNITS[first.metric]}"), *cells])
    lowest = min(ranks.values())
    rows.append([Cell("mean rank"), *(Cell(f"{r:.1f}", r == lowest) for r in ranks.values()), Cell("")])
    title = "Predict, then learn, one pass: log loss, or RMSE for ratings (lower is better)"
    return Table(title, ["stream", *ranks, "possible"], rows)


def accuracy_table(entries: Sequence[Entry]) -> Table:
    """Return the accuracy, or the mean absolute error, at the setting with the least loss."""
    ranks = mean_ranks(entries)
    rows = []
    for name, row in by_stream(entries).items():
        metric = "Accuracy" if any("Accuracy" in entry.metrics for entry in row.values()) else "MAE"
        known = {model: entry.metrics[metric] for model, entry in row.items() if metric in entry.metrics}
        texts = {m: f"{100 * v:.1f}" if metric == "Accuracy" else format_loss(v) for m, v in known.items()}
        best = (
            max(known, key=known.__getitem__) if metric == "Accuracy" else min(known, key=known.__getitem__)
        )
        cells = [Cell(texts.get(model, "–"), texts.get(model) == texts[best]) for model in ranks]
        rows.append([Cell(f"{name} {'%' if metric == 'Accuracy' else 'MAE'}"), *cells])
    title = "Accuracy in % (higher is better) or mean absolute error (lower is), at the settings above"
    return Table(title, ["stream", *ranks], rows)


def gain_table(entries: Sequence[Entry], ours: str) -> Table:
    """Return the gain over the best rival of each stream."""
    rows = [
        [
            Cell(gain.ours.stream),
            Cell(format_loss(gain.ours.value)),
            Cell(format_loss(gain.rival.value)),
            Cell(f"{gain.rival.model} {format_setting(gain.rival)}".rstrip()),
            Cell(f"{gain.gain:+.1f}%".replace("-", "−"), gain.level),
        ]
        for gain in gains(entries, ours)
    ]
    title = f"{ours} and the best rival of each stream (bold: {ours} is the best or nearly)"
    return Table(title, ["stream", ours, "best rival", "which", f"gain of {ours}"], rows)


def time_table(entries: Sequence[Entry], facts: Mapping[str, Any]) -> Table:
    """Return the processor time of a sample of each model, with the sizes of the streams."""
    ranks = mean_ranks(entries)
    rows = []
    for name, row in by_stream(entries).items():
        times = [f"{1e6 / row[model].samples_per_second:,.0f}" if model in row else "–" for model in ranks]
        sizes = [f"{facts[name]['samples']:,}", f"{facts[name]['values']:,}"]
        rows.append([Cell(text) for text in (name, *sizes, *times)])
    title = "Processor time of a sample in µs: predict and learn, mean over the stream"
    return Table(title, ["stream", "samples", "values", *ranks], rows)


def verdict(entries: Sequence[Entry], ours: str) -> str:
    """Return the comparison with the rivals in words; an empty string without runs of ours or of a rival."""
    found = gains(entries, ours)
    if not found:
        return ""
    behind = [gain for gain in found if not gain.level]
    where = ", ".join(
        f"{gain.ours.stream} ({gain.gain:+.1f}%, {gain.rival.model})".replace("-", "−", 1) for gain in behind
    )
    return (
        f"{ours} has the least loss, or one within {LEVEL['LogLoss']:g}% of it, on "
        f"{len(found) - len(behind)} of {len(found)} streams. Further behind on: {where or 'none'}."
    )


def versus(entries: Sequence[Entry], ours: str, family: str, name: str) -> str:
    """Return on which streams a family of rivals, each at its best setting, has a smaller loss than ours.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    ours : str
        Name of our model.
    family, name : str
        First letters of the models' names; name of the family.
    """
    chosen = [entry for entry in entries if entry.model == ours or entry.model.startswith(family)]
    found = gains(chosen, ours)
    if not found:
        return ""
    better = [f"{gain.ours.stream} ({gain.rival.model})" for gain in found if gain.gain < 0]
    times = [gain.rival.samples_per_second / gain.ours.samples_per_second for gain in found]
    return (
        f"{name}, at its best of all these settings in hindsight, has a smaller loss than {ours} on "
        f"{len(better)} of {len(found)} streams{': ' if better else ''}{', '.join(better)}. At this setting "
        f"{ours} takes {min(times):.1f} to {max(times):.1f} times its processor time."
    )


def cost_table(cost: Mapping[str, Any]) -> Table:
    """Return the processor time on each stream, with ratios to dense learners with as many columns."""
    rows = []
    for name, of in cost.items():
        times = of["microseconds"]
        cells = [Cell(name), Cell(f"{of['columns']:,}")]
        for ours in PAIRED:
            cells.append(Cell(f"{times[ours]:,.0f}"))
            for other in DENSE[ours]:
                cells += [Cell(f"{times[other]:,.0f}"), Cell(f"{times[ours] / times[other]:.2f}×", True)]
        rows.append(cells)
    sides = [name for ours in PAIRED for name in (ours, *(n for of in DENSE[ours] for n in (of, "ratio")))]
    return Table(f"{_COST}, and dense learners", ["stream", "dense columns", *sides], rows)


def rivals_table(cost: Mapping[str, Any]) -> Table:
    """Return the processor time of the learner and of each rival on each stream."""
    names = [*PAIRED, *RIVALS]
    rows = [
        [
            Cell(stream),
            *(Cell(f"{of['microseconds'][n]:,.0f}" if n in of["microseconds"] else "–") for n in names),
        ]
        for stream, of in cost.items()
    ]
    return Table(f"{_COST}, and rivals", ["stream", *names], rows)


def growth_table(growth: Mapping[str, Any]) -> Table:
    """Return the processor time by the number of values seen."""
    names = list(growth["points"][0]["microseconds"])
    rows = [
        [Cell(f"{point['samples']:,}"), Cell(f"{point['values']:,}")]
        + [Cell(f"{point['microseconds'][name]:,.0f}") for name in names]
        for point in thinned(growth["points"])
    ]
    title = f"Processor time of a sample in µs by the number of values seen, on {growth['stream']}"
    return Table(title, ["samples", "values", *names], rows)
