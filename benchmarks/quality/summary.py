"""Summary of runs: one figure for each stream and model, ranks and gains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .contestant import Contestant, Setting

#: Distance from the best within which a model counts as level: points of accuracy, per cent of a loss.
LEVEL = {"Accuracy": 0.5, "MAE": 1.0, "LogLoss": 1.0, "RMSE": 1.0}
_ROUNDING = 1e-9
#: Share of the models that must have finished a stream for it to count.
_MOST = 0.75


@dataclass(frozen=True)
class Entry:
    """Result of one model on one stream.

    Attributes
    ----------
    stream, model, metric : str
        Names; the metric is ``"Accuracy"`` (higher is better), or another one (lower is).
    value : float or None
        Mean over seeds; None if the model diverged.
    by_seed : tuple of float
        Values of the seeds.
    fewer_seeds : bool
        Whether another model of the stream has more seeds.
    setting : dict
        Best setting in hindsight, for a tuned model.
    at_edge : bool
        Whether its learning rate is the lowest or the highest of the grid: a wider one might do better.
    rank : float
        Rank among the models of the stream; ties share the mean of their ranks.
    samples_per_second : float
        Median over seeds (at the best setting).
    metrics : dict
        Means over seeds of all metrics at the best setting; empty if the model diverged.
    """

    stream: str
    model: str
    metric: str
    value: float | None
    by_seed: tuple[float, ...]
    fewer_seeds: bool
    setting: Setting
    at_edge: bool
    rank: float
    samples_per_second: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def metric_of(facts: Mapping[str, Any]) -> str:
    """Return the one metric that tables show for a stream: its own, or the one of its task."""
    if "metric" in facts:
        return str(facts["metric"])
    return "Accuracy" if facts["task"] == "classification" else "MAE"


def _goodness(metric: str, value: float | None) -> float:
    """Return a number that is higher for a better model."""
    if value is None:
        return float("-inf")
    return value if metric == "Accuracy" else -value


@dataclass(frozen=True)
class _Best:
    setting: Setting
    value: float | None
    runs: list[dict[str, Any]]


def _best(metric: str, settings: Sequence[Setting], runs: Sequence[dict[str, Any]]) -> _Best | None:
    """Return the setting with the best mean over seeds; None unless all have run with the same seeds.

    A setting that diverged once is out. None also without any setting.
    """
    if not settings:
        return None
    by_setting = [[run for run in runs if run["setting"] == setting] for setting in settings]
    seeds = [{run["seed"] for run in kept} for kept in by_setting]
    if not seeds[0] or any(of != seeds[0] for of in seeds):
        return None
    candidates = []
    for setting, kept in zip(settings, by_setting, strict=True):
        diverged = any(run["metrics"] is None for run in kept)
        mean = None if diverged else statistics.fmean(run["metrics"][metric] for run in kept)
        candidates.append(_Best(setting, mean, kept))
    return max(candidates, key=lambda best: _goodness(metric, best.value))


def summarize(
    runs: Sequence[dict[str, Any]], facts: Mapping[str, Any], contestants: Sequence[Contestant]
) -> list[Entry]:
    """Return an entry for each model and each stream that most models have finished.

    Parameters
    ----------
    runs : list of dict
        Runs as JSON.
    facts : dict
        By name of stream: `Stream.describe`.
    contestants : sequence of Contestant
        Those without any complete set of runs are left out.
    """
    found: dict[str, dict[str, _Best]] = {}
    for stream, fact in facts.items():
        of_stream = [run for run in runs if run["stream"] == stream]
        bests = {
            c.name: _best(
                metric_of(fact),
                c.settings(fact),
                [run for run in of_stream if run["model"] == c.name],
            )
            for c in contestants
        }
        found[stream] = {name: best for name, best in bests.items() if best is not None}
    taking_part = {name for bests in found.values() for name in bests}
    by_name = {c.name: c for c in contestants}
    return [
        entry
        for stream, bests in found.items()
        if bests and len(bests) >= _MOST * len(taking_part)
        for entry in _entries(stream, metric_of(facts[stream]), bests, by_name)
    ]


def _entries(
    stream: str, metric: str, bests: Mapping[str, _Best], contestants: Mapping[str, Contestant]
) -> list[Entry]:
    values = [_goodness(metric, best.value) for best in bests.values()]
    most_seeds = max(len(best.runs) for best in bests.values())
    entries = []
    for name, best in bests.items():
        goodness = _goodness(metric, best.value)
        entries.append(
            Entry(
                stream=stream,
                model=name,
                metric=metric,
                value=best.value,
                by_seed=tuple(run["metrics"][metric] for run in best.runs if run["metrics"]),
                fewer_seeds=contestants[name].seeded and len(best.runs) < most_seeds,
                setting=best.setting,
                at_edge=contestants[name].at_edge(best.setting),
                rank=1 + sum(v > goodness for v in values) + (values.count(goodness) - 1) / 2,
                samples_per_second=statistics.median(run["samples_per_second"] for run in best.runs),
                metrics=_mean_metrics(best),
            )
        )
    return entries


def _mean_metrics(best: _Best) -> dict[str, float]:
    of_runs = [run["metrics"] for run in best.runs]
    if best.value is None:
        return {}
    return {name: statistics.fmean(metrics[name] for metrics in of_runs) for name in of_runs[0]}


def mean_ranks(entries: Sequence[Entry]) -> dict[str, float]:
    """Return each model's mean rank over the streams, best first."""
    models = dict.fromkeys(entry.model for entry in entries)
    ranks = {m: statistics.fmean(e.rank for e in entries if e.model == m) for m in models}
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


@dataclass(frozen=True)
class Gain:
    """Gain of our model over the best rival on one stream.

    Attributes
    ----------
    ours, rival : Entry
        Both entries.
    gain : float
        By how much ours is better: points of accuracy, or per cent of the rival's loss; -inf if it diverged.
    by_seed : tuple of float
        The same for each seed of ours, against the rival's mean.
    """

    ours: Entry
    rival: Entry
    gain: float
    by_seed: tuple[float, ...]

    @property
    def level(self) -> bool:
        """Whether ours is the best, or nearly."""
        return self.gain >= -LEVEL[self.ours.metric] - _ROUNDING


def _gain(metric: str, ours: float | None, rival: float | None) -> float:
    if ours is None or rival is None:
        return float("-inf") if ours is None else float("inf")
    return 100 * (ours - rival) if metric == "Accuracy" else 100 * (rival - ours) / rival


def gains(entries: Sequence[Entry], ours: str) -> list[Gain]:
    """Return the gain of a model over the best of the others, stream by stream; none without the model."""
    found = []
    for own in (entry for entry in entries if entry.model == ours):
        others = [entry for entry in entries if entry.stream == own.stream and entry.model != ours]
        if others:
            rival = min(others, key=lambda entry: entry.rank)
            by_seed = tuple(_gain(own.metric, value, rival.value) for value in own.by_seed)
            found.append(Gain(own, rival, _gain(own.metric, own.value, rival.value), by_seed))
    return found
