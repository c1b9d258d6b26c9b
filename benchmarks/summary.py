"""From single runs to one figure a stream and model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .report import Cell, Table
from .rivals import Contestant
from .streams import Stream


@dataclass(frozen=True)
class Entry:
    """What one model came to on one stream.

    Attributes
    ----------
    stream, model, metric : str
        Names; the metric is ``"Accuracy"`` or ``"MAE"``.
    value : float or None
        Mean over seeds; None if the model diverged.
    by_seed : tuple of float
        What it is the mean of.
    rate : float or None
        The learning rate that was best in hindsight, for a tuned model.
    at_edge : bool
        Whether that is the lowest or the highest rate of the grid: a wider one might do better.
    rank : float
        Place among the models of the stream; equal ones share the mean of their places.
    samples_per_second : float
        Median over seeds (at the best rate).
    """

    stream: str
    model: str
    metric: str
    value: float | None
    by_seed: tuple[float, ...]
    rate: float | None
    at_edge: bool
    rank: float
    samples_per_second: float


def summarize(
    runs: Sequence[dict[str, Any]], streams: Sequence[Stream], contestants: Sequence[Contestant]
) -> list[Entry]:
    """Return one entry for each stream and model that ran."""
    entries: list[Entry] = []
    for stream in streams:
        of_stream = [run for run in runs if run["stream"] == stream.name]
        chosen = {c.name: _best_rate(stream, c, of_stream) for c in contestants}
        values = [_goodness(stream.metric, mean) for mean, _ in chosen.values()]
        for contestant in contestants:
            value, kept = chosen[contestant.name]
            goodness = _goodness(stream.metric, value)
            rate = kept[0]["rate"]
            entries.append(
                Entry(
                    stream=stream.name,
                    model=contestant.name,
                    metric=stream.metric,
                    value=value,
                    by_seed=tuple(run["metrics"][stream.metric] for run in kept if run["metrics"]),
                    rate=rate,
                    at_edge=contestant.tuned and rate in (contestant.rates[0], contestant.rates[-1]),
                    rank=1 + sum(v > goodness for v in values) + (values.count(goodness) - 1) / 2,
                    samples_per_second=statistics.median(run["samples_per_second"] for run in kept),
                )
            )
    return entries


def _goodness(metric: str, value: float | None) -> float:
    """Return a number that is higher for a better model."""
    if value is None:
        return float("-inf")
    return value if metric == "Accuracy" else -value


def _best_rate(
    stream: Stream, contestant: Contestant, runs: Sequence[dict[str, Any]]
) -> tuple[float | None, list[dict[str, Any]]]:
    """Return the best mean over seeds, and the runs that it is of; a rate that diverged once is out."""
    candidates: list[tuple[float | None, list[dict[str, Any]]]] = []
    for rate in contestant.rates:
        kept = [run for run in runs if run["model"] == contestant.name and run["rate"] == rate]
        diverged = any(run["metrics"] is None for run in kept)
        mean = None if diverged else statistics.fmean(run["metrics"][stream.metric] for run in kept)
        candidates.append((mean, kept))
    return max(candidates, key=lambda candidate: _goodness(stream.metric, candidate[0]))


def format_value(metric: str, value: float | None) -> str:
    """Return accuracy in percent, an error with three or four digits, or ``"diverged"``."""
    if value is None:
        return "diverged"
    if metric == "Accuracy":
        return f"{100 * value:.{2 if value >= 0.99 else 1}f}"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _rate(entry: Entry) -> str:
    return "" if entry.rate is None else f"\n({entry.rate:g}{'!' if entry.at_edge else ''})"


def _matrix(entries: Sequence[Entry]) -> list[list[Entry]]:
    names = dict.fromkeys(entry.stream for entry in entries)
    return [[entry for entry in entries if entry.stream == name] for name in names]


def quality_table(entries: Sequence[Entry]) -> Table:
    """Return the figures: a row a stream, a column a model, the best in bold, and the mean rank."""
    matrix = _matrix(entries)
    models = [entry.model for entry in matrix[0]]
    rows: list[list[Cell]] = []
    for row in matrix:
        unit = "%" if row[0].metric == "Accuracy" else "MAE"
        shown = [format_value(e.metric, e.value) for e in row]
        best = shown[min(range(len(row)), key=lambda i: row[i].rank)]
        cells = [Cell(text + _rate(e), text == best) for text, e in zip(shown, row, strict=True)]
        rows.append([Cell(f"{row[0].stream} {unit}"), *cells])
    ranks = [statistics.fmean(e.rank for e in entries if e.model == model) for model in models]
    rows.append([Cell("mean rank"), *(Cell(f"{rank:.1f}", rank == min(ranks)) for rank in ranks)])
    title = "Test, then train, one pass: accuracy in % or mean absolute error"
    return Table(title, ["stream", *models], rows)


def speed_table(entries: Sequence[Entry]) -> Table:
    """Return samples a second, predict and learn: for information, this is no benchmark of speed."""
    matrix = _matrix(entries)
    rows = [
        [Cell(row[0].stream), *(Cell(f"{entry.samples_per_second:,.0f}") for entry in row)] for row in matrix
    ]
    title = "Samples a second, predict + learn (for information: a shared machine, no warm-up)"
    return Table(title, ["stream", *(entry.model for entry in matrix[0])], rows)
