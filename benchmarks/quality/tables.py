"""Tables of the quality benchmark, and its summary in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.report import Cell, Table
from ..common.streams import RAW
from .summary import LEVEL, Entry, Gain, gains, mean_ranks


def format_value(metric: str, value: float | None) -> str:
    """Return accuracy in percent, an error with three or four digits, or ``"diverged"``."""
    if value is None:
        return "diverged"
    if metric == "Accuracy":
        return f"{100 * value:.{2 if value >= 0.99 else 1}f}"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def format_gain(gain: Gain) -> str:
    """Return the gain with sign and unit."""
    text = f"{gain.gain:+.2f} points" if gain.ours.metric == "Accuracy" else f"{gain.gain:+.1f}%"
    return text.replace("-", "−")


def format_setting(entry: Entry) -> str:
    """Return the setting chosen in hindsight: rate (with ! at the edge of the grid), window, raw inputs."""
    parts = []
    if "rate" in entry.setting:
        parts.append(f"{entry.setting['rate']:g}{'!' if entry.at_edge else ''}")
    if "window" in entry.setting:
        parts.append(f"{entry.setting['window']}")
    if entry.setting.get("inputs") == RAW:
        parts.append(RAW)
    return f"({', '.join(parts)})" if parts else ""


def _streams(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
    names = dict.fromkeys(entry.stream for entry in entries)
    return {name: {entry.model: entry for entry in entries if entry.stream == name} for name in names}


def _text(entry: Entry, *, settings: bool) -> str:
    text = format_value(entry.metric, entry.value) + ("†" if entry.fewer_seeds else "")
    setting = format_setting(entry).replace(", ", ",\n") if settings else ""
    return f"{text}\n{setting}" if setting else text


def quality_table(entries: Sequence[Entry], *, settings: bool = True) -> Table:
    """Return a row for each stream and a column for each model by mean rank, the best in bold.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    settings : bool
        Whether to show the settings chosen in hindsight.
    """
    ranks = mean_ranks(entries)
    rows: list[list[Cell]] = []
    for name, row in _streams(entries).items():
        first = min(row.values(), key=lambda entry: entry.rank)
        best = format_value(first.metric, first.value)
        cells = [
            Cell(_text(row[model], settings=settings), format_value(first.metric, row[model].value) == best)
            if model in row
            else Cell("–")
            for model in ranks
        ]
        rows.append([Cell(f"{name} {'%' if first.metric == 'Accuracy' else 'MAE'}"), *cells])
    lowest = min(ranks.values())
    rows.append([Cell("mean rank"), *(Cell(f"{rank:.1f}", rank == lowest) for rank in ranks.values())])
    title = "Test, then train, one pass: accuracy in % (higher is better) or mean absolute error (lower is)"
    return Table(title, ["stream", *ranks], rows)


def gain_table(entries: Sequence[Entry], ours: str) -> Table:
    """Return the gain over the best rival of each stream."""
    rows = [
        [
            Cell(gain.ours.stream),
            Cell(format_value(gain.ours.metric, gain.ours.value)),
            Cell(format_value(gain.rival.metric, gain.rival.value)),
            Cell(f"{gain.rival.model} {format_setting(gain.rival)}".rstrip()),
            Cell(format_gain(gain), gain.level),
        ]
        for gain in gains(entries, ours)
    ]
    title = f"{ours} and the best rival of each stream (bold: {ours} is the best or nearly)"
    return Table(title, ["stream", ours, "best rival", "which", f"gain of {ours}"], rows)


def speed_table(entries: Sequence[Entry]) -> Table:
    """Return samples a second of predict and learn, for information only."""
    models = mean_ranks(entries)
    rows = [
        [Cell(name), *(Cell(f"{row[m].samples_per_second:,.0f}" if m in row else "–") for m in models)]
        for name, row in _streams(entries).items()
    ]
    title = "Samples a second, predict + learn (for information: a shared machine, no warm-up)"
    return Table(title, ["stream", *models], rows)


def verdict(entries: Sequence[Entry], ours: str) -> str:
    """Return the summary in words; an empty string without runs of ours or of a rival."""
    found = gains(entries, ours)
    if not found:
        return ""
    ranks = mean_ranks(entries)
    rival = next(model for model in ranks if model != ours)
    place = "next best" if ranks[ours] <= ranks[rival] else "best"
    behind = [gain for gain in found if not gain.level]
    where = ", ".join(f"{gain.ours.stream} ({format_gain(gain)}, {gain.rival.model})" for gain in behind)
    return (
        f"{ours} is the best or within {LEVEL['Accuracy']:g} points of the best (regression: within "
        f"{LEVEL['MAE']:g}% of the best MAE) on {len(found) - len(behind)} of {len(found)} streams; "
        f"mean rank {ranks[ours]:.1f} ({place}: {rival}, {ranks[rival]:.1f}). "
        f"Further behind on: {where or 'none'}."
    )
