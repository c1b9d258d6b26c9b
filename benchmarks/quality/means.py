"""Means over groups of streams, and the streams on which a model is worse than another."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.generated import GROUPS
from .summary import LEVEL, Entry, Gain, gains

#: Name of all groups together.
ALL = "all"
#: Differences that count as a loss: points of accuracy, per cent of the MAE.
LOSS = {"Accuracy": 0.3, "MAE": 2.0}
#: Least number of samples of a stream that counts in a mean.
LEAST_SAMPLES = 200


@dataclass(frozen=True)
class Mean:
    """Mean over streams of one origin, group and metric.

    Attributes
    ----------
    origin, group, metric : str
        Which streams.
    streams : int
        Their number.
    values : dict of str to float or None
        By model: mean accuracy, or the geometric mean of the ratios of its MAE to that of the baseline; None
        if the model lacks a stream or diverged.
    """

    origin: str
    group: str
    metric: str
    streams: int
    values: Mapping[str, float | None]


def means(entries: Sequence[Entry], facts: Mapping[str, Any], baseline: str) -> list[Mean]:
    """Return the means over the streams of each origin, metric and group, and over all groups.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    facts : dict
        `Stream.describe` by name. Streams without a group, or with few samples, do not count.
    baseline : str
        The model whose MAE is 1; streams without it do not count.
    """
    by_stream: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_stream.setdefault(entry.stream, {})[entry.model] = entry
    models = list(dict.fromkeys(entry.model for entry in entries))
    counted = {
        name: found
        for name, found in by_stream.items()
        if facts[name].get("group") and facts[name]["samples"] >= LEAST_SAMPLES and baseline in found
    }
    result = []
    for origin in dict.fromkeys(facts[name]["origin"] for name in counted):
        for metric in LEVEL:
            for group in (*GROUPS, ALL):
                chosen = [
                    found
                    for name, found in counted.items()
                    if facts[name]["origin"] == origin
                    and found[baseline].metric == metric
                    and group in (facts[name]["group"], ALL)
                ]
                if chosen:
                    values = {model: _mean(metric, chosen, model, baseline) for model in models}
                    result.append(Mean(origin, group, metric, len(chosen), values))
    return result


def _mean(metric: str, chosen: Sequence[Mapping[str, Entry]], model: str, baseline: str) -> float | None:
    values = [found[model].value if model in found else None for found in chosen]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if metric == "Accuracy":
        return statistics.fmean(known)
    of_baseline = [found[baseline].value or float("inf") for found in chosen]
    return statistics.geometric_mean(value / one for value, one in zip(known, of_baseline, strict=True))


def losses(entries: Sequence[Entry], ours: str, baseline: str) -> list[Gain]:
    """Return the gains over a baseline on the streams where ours is clearly worse."""
    both = [entry for entry in entries if entry.model in (ours, baseline)]
    return [gain for gain in gains(both, ours) if gain.gain < -LOSS[gain.ours.metric]]
