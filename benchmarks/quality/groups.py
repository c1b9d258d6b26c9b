"""Prequential quality on autocorrelated, stationary and drifting streams, against the first generation.

Test, then train: one pass, one sample at a time, from the second sample on. The streams are generated with a
fixed seed, or files of the folder ``--data-dir``. KNN* is the best of four settings on each stream, in
hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from ..common.generated import GROUPS, STREAMS
from ..common.program import Blocks, arguments_of, publish
from ..common.report import Cell, Table
from ..common.streams import files
from .groups_figure import draw
from .means import LOSS, Mean, losses, means
from .program import QUICK, Suite, add_options, check_streams, run
from .results import read
from .rivals import BY_NAME, CONTESTANTS, FIRST_GENERATION
from .summary import Entry
from .tables import format_gain, quality_table, verdict

_OURS, _BEFORE = CONTESTANTS[0].name, FIRST_GENERATION.name
_MODELS = (_OURS, _BEFORE, "KNN*", "Last")
_WHAT = {"Accuracy": "accuracy, %", "MAE": f"MAE, ratio to {_BEFORE}"}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments_of("groups", __doc__, seeds=(0, 1), quick=f"{QUICK} samples a stream, the first seed")
    parser.epilog = (
        "To continue an interrupted run, repeat the command with --keep. The name of a file shows its group: "
        "a_ and ra_ are autocorrelated, d_ and rd_ drifting, others stationary. Integers in y are classes, "
        "floats are the targets of a regression."
    )
    parser.add_argument(
        "--streams", nargs="+", metavar="NAME", help="default: the files, and all generated streams"
    )
    add_options(parser, list(BY_NAME), _MODELS)
    arguments = parser.parse_args(argv)
    if arguments.streams is None:
        arguments.streams = [*files(arguments.data_dir), *STREAMS]
    check_streams(parser, arguments)
    return arguments


def means_table(found: Sequence[Mean], models: Sequence[str]) -> Table:
    """Return the means by origin, metric and group, the best in bold."""
    rows = []
    for mean in found:
        known = [value for value in mean.values.values() if value is not None]
        best = max(known) if mean.metric == "Accuracy" else min(known)
        texts = {model: _format(mean.metric, mean.values.get(model)) for model in models}
        label = f"{mean.origin}, {mean.group}: {_WHAT[mean.metric]}"
        cells = [Cell(texts[model], texts[model] == _format(mean.metric, best)) for model in models]
        rows.append([Cell(label), Cell(str(mean.streams)), *cells])
    title = (
        "Mean accuracy (higher is better), and geometric mean of the ratios of the MAE to that of "
        f"{_BEFORE} (lower is better)"
    )
    return Table(title, ["streams", "number", *models], rows)


def _format(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if metric == "Accuracy" else f"{value:.3f}"


def losses_in_words(entries: Sequence[Entry]) -> str:
    """Return the streams on which the learner is worse than the first generation."""
    worse = losses(entries, _OURS, _BEFORE)
    streams = len({entry.stream for entry in entries})
    where = ", ".join(f"{gain.ours.stream} ({format_gain(gain)})" for gain in worse)
    return (
        f"{_OURS} is worse than {_BEFORE} by more than {LOSS['Accuracy']:g} points, or {LOSS['MAE']:g}% of "
        f"the MAE, on {len(worse)} of {streams} streams{': ' if where else ''}{where}."
    )


def blocks(entries: Sequence[Entry], facts: Mapping[str, Any]) -> Blocks:
    """Return the marked blocks of the page."""
    models = [name for name in BY_NAME if any(entry.model == name for entry in entries)]
    parts: list[Table | str] = []
    if _OURS in models and _BEFORE in models:
        found = means(entries, facts, _BEFORE)
        parts += [means_table(found, [m for m in _MODELS if m in models])] if found else []
        parts.append(losses_in_words(entries))
    rivals = [entry for entry in entries if entry.model != _BEFORE]
    parts.append(verdict(rivals, _OURS))
    for group in GROUPS:
        of_group = [entry for entry in entries if facts[entry.stream].get("group") == group]
        if of_group:
            table = quality_table(of_group)
            parts.append(Table(f"{group.capitalize()} streams: {table.title}", table.header, table.rows))
    return {"groups": [part for part in parts if part]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console = Console()
    if arguments.read is not None:
        entries, facts = read(arguments.read)
    else:
        results = run("groups", arguments, Suite(list(BY_NAME.values())), console)
        entries, facts = results.entries(), results.facts
        if results.unfinished:
            console.print(f"Incomplete streams: {', '.join(results.unfinished)}")
    if not entries:
        console.print(f"No stream has results of enough models yet. Written: {arguments.out}")
        return
    publish(
        arguments, console, blocks(entries, facts), {}, lambda _, path: draw(entries, facts, _BEFORE, path)
    )
