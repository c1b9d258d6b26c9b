"""Tables of the comparison page, from the results of record in docs/benchmarks/."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.quality.results import read
from benchmarks.quality.summary import mean_ranks
from tools.reference.markdown import table

_RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
_OURS = "BNP"
#: Models without features.
_FLOORS = ("Floor", "Last")


def quality() -> str:
    """Return a table of the models of the quality benchmark by mean rank."""
    about = json.loads((_RESULTS / "quality.json").read_text(encoding="utf-8"))["models"]
    entries, _ = read(_RESULTS / "quality.json")
    ours = {entry.stream: entry.samples_per_second for entry in entries if entry.model == _OURS}
    rows = []
    for model, rank in mean_ranks(entries).items():
        of = [entry for entry in entries if entry.model == model]
        ratios = [entry.samples_per_second / ours[entry.stream] for entry in of]
        first = sum(entry.rank < 2 for entry in of)
        if model not in _FLOORS:
            name = model.replace("*", "\\*")
            speed = f"{min(ratios):.2g} to {max(ratios):.2g} ({statistics.median(ratios):.2g})"
            speed = "1" if model == _OURS else speed
            rows.append((name, about[model]["about"], f"{rank:.1f}", f"{first} of {len(of)}", speed))
    return table(["model", "what it is", "mean rank", "first on", "speed, × BNP (median)"], rows)


def dicts() -> str:
    """Return a table of the speed with dicts of 64 features."""
    parts = json.loads((_RESULTS / "speed.json").read_text(encoding="utf-8"))["parts"]
    rows = [
        (side, f"{of['samples_per_second']:,.0f}", f"{100 * of['accuracy']:.1f}")
        for side, of in parts["dicts"].items()
    ]
    return table(
        ["predict and learn, digits, 64 features, 10 classes", "samples a second", "accuracy, %"], rows
    )


def sparse() -> str:
    """Return a table of loss and time on sparse streams, against the best setting of Vowpal Wabbit."""
    entries, facts = read(_RESULTS / "sparse.json")
    rows = []
    for stream, about in facts.items():
        of = {entry.model: entry for entry in entries if entry.stream == stream}
        known = [entry for model, entry in of.items() if model.startswith("VW") and entry.value is not None]
        rival = min(known, key=lambda entry: entry.rank)
        (loss, time), (other_loss, other_time) = (
            (f"{each.value:.4f}", f"{1e6 / each.samples_per_second:,.0f}") for each in (of[_OURS], rival)
        )
        which = rival.model.rstrip("*")
        name = f"{stream}, {'RMSE' if about['metric'] == 'RMSE' else 'log loss'}"
        rows.append((name, f"{about['values']:,}", loss, f"{other_loss} ({which})", time, other_time))
    return table(["stream", "values", "BNP", "Vowpal Wabbit", "BNP, µs a sample", "Vowpal Wabbit, µs"], rows)


#: Tables by the comment that they replace.
FIGURES: dict[str, Callable[[], str]] = {
    "<!-- figures: quality -->": quality,
    "<!-- figures: dicts -->": dicts,
    "<!-- figures: sparse -->": sparse,
}
