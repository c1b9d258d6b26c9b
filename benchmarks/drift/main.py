"""Drift detection and drift response, on streams with a known change.

The program measures the delay and the false alarms of the detectors, and the gain of both responses. The
learner has its defaults; the detector is the server's own class.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.progress import track
from river.datasets import synth

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.engines.base import Task
from bnp_online.evaluation.prequential import PrequentialMetrics
from service.models.drift import Drift
from service.schemas import DriftSpec

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from . import figure

Sample: TypeAlias = tuple[dict[str, Any], Any]
Action: TypeAlias = Literal["none", "forget_moments", "reset_slowest"]
ACTIONS: tuple[Action, ...] = ("none", "forget_moments", "reset_slowest")

#: Samples before the change, after it, and in each of the two parts after it that are scored.
BEFORE, AFTER, PART = 4000, 2000, 1000
#: Samples in a point of the figure.
WINDOW = 100
SEEDS = 5


@dataclass(frozen=True)
class Changing:
    """Stream for each seed and position of the change."""

    task: Task
    samples: Callable[[int, int], Iterable[Sample]]


def _abrupt(before: Iterable[Sample], after: Iterable[Sample], at: int) -> Iterator[Sample]:
    """Yield `at` samples of one stream, then those of another."""
    yield from itertools.islice(before, at)
    yield from after


def _gradual(before: Any, after: Any, at: int, seed: int) -> Iterable[Sample]:
    """Return a stream that changes gradually into another one, mostly within 2,000 samples."""
    both: Iterable[Sample] = synth.ConceptDriftStream(
        before, after, seed=seed, position=at + 1000, width=1000
    )
    return both


def _in_other_units(samples: Iterable[Sample], at: int) -> Iterator[Sample]:
    """Yield samples whose features are scaled by 5 and shifted by 10 after `at` samples."""
    for i, (x, y) in enumerate(samples):
        yield ({name: 5.0 * value + 10.0 for name, value in x.items()} if i >= at else x), y


def _agrawal(function: int, seed: int) -> Any:
    return synth.Agrawal(classification_function=function, perturbation=0.05, seed=seed)


def _rbf(seed: int) -> Iterable[Sample]:
    return synth.RandomRBF(seed, seed + 9, n_classes=4, n_features=8, n_centroids=20)


def _friedman(seed: int, at: int) -> Iterable[Sample]:
    return synth.FriedmanDrift("gsg", position=(at, 10**9), transition_window=1, seed=seed)


STREAMS: dict[str, Changing] = {
    "SEA": Changing(
        "classification", lambda s, at: _abrupt(synth.SEA(0, seed=s), synth.SEA(3, seed=s + 50), at)
    ),
    "Agrawal": Changing("classification", lambda s, at: _abrupt(_agrawal(1, s), _agrawal(6, s + 50), at)),
    "Agrawal, gradual": Changing(
        "classification", lambda s, at: _gradual(_agrawal(1, s), _agrawal(6, s + 50), at, s)
    ),
    "Sine": Changing(
        "classification", lambda s, at: _abrupt(synth.Sine(0, seed=s), synth.Sine(1, seed=s + 50), at)
    ),
    "RandomRBF, other units": Changing("classification", lambda s, at: _in_other_units(_rbf(s), at)),
    "RandomRBF, no change": Changing("classification", lambda s, at: _rbf(s)),
    "Friedman": Changing("regression", _friedman),
    "Friedman, other units": Changing(
        "regression", lambda s, at: _in_other_units(synth.Friedman(seed=s), at)
    ),
}


@dataclass
class Run:
    """Run of one stream and action: errors (0 or 1, or absolute), and steps of the detections."""

    errors: list[float]
    found: dict[str, list[int]]


def watch(samples: Iterable[Sample], task: Task, action: Action, length: int) -> Run:
    """Predict and learn a stream with the server's drift response; a second detector observes."""
    model = BNPClassifier() if task == "classification" else BNPRegressor()
    scores, run = PrequentialMetrics(task), Run([], {"adwin": [], "page_hinkley": []})
    acting = Drift(DriftSpec(action=action))
    watching = {"adwin": acting, "page_hinkley": Drift(DriftSpec(detector="page_hinkley"))}
    for x, y in itertools.islice(samples, length):
        if acting.ready(model.step):
            getattr(model, action)()
            acting.done()
        prediction, probabilities = model.predict(x)
        model.learn_one(x, y)
        if prediction is None:
            run.errors.append(0.0)
            continue
        run.errors.append(float(prediction != y) if task == "classification" else abs(prediction - y))
        loss = scores.update(y, prediction, probabilities)
        for name, drift in watching.items():
            if loss is not None and drift.see(loss, scores.target_variance, model.step):
                run.found[name].append(model.step)
    return run


def summary(runs: Sequence[Run], before: int, part: int) -> dict[str, Any]:
    """Return mean errors before and after the change, and the detections."""
    spans = {"before": (before - part, before), "first": (before, before + part)}
    spans["second"] = (before + part, before + 2 * part)
    found: dict[str, Any] = {
        name: statistics.fmean(statistics.fmean(run.errors[slice(*span)]) for run in runs)
        for name, span in spans.items()
    }
    for detector in runs[0].found:
        after = [[step - before for step in run.found[detector] if step > before] for run in runs]
        found[detector] = {
            "delays": [steps[0] if steps else None for steps in after],
            "false": sum(step <= before for run in runs for step in run.found[detector]),
        }
    length = before + 2 * part
    found["curve"] = [
        statistics.fmean(statistics.fmean(run.errors[i : i + WINDOW]) for run in runs)
        for i in range(max(before - part, 0), length, WINDOW)
    ]
    return found


def detection_table(results: dict[str, dict[str, Any]]) -> Table:
    """Return the detections of each detector."""
    rows = []
    for name, of in results.items():
        cells = [Cell(name)]
        for detector in ("adwin", "page_hinkley"):
            delays, false = of["none"][detector]["delays"], of["none"][detector]["false"]
            seen = [delay for delay in delays if delay is not None]
            delay = f"{statistics.median(seen):.0f}" if seen else "–"
            cells += [Cell(f"{len(seen)}/{len(delays)}"), Cell(delay), Cell(str(false))]
        rows.append(cells)
    one = ("seen", "median delay", "false alarms")
    header = ["stream", *(f"{name}: {each}" for name in ("ADWIN", "Page-Hinkley") for each in one)]
    return Table("Detections of the change, without a drift response", header, rows)


def gain_table(results: dict[str, dict[str, Any]]) -> Table:
    """Return the errors before the change and in both parts after it, by action."""
    rows = []
    for name, of in results.items():
        regression = STREAMS[name].task == "regression"
        lowest = {part: min(of[action][part] for action in ACTIONS) for part in ("first", "second")}
        cells = [
            Cell(f"{name}, {'MAE' if regression else '%'}"),
            Cell(_error(of["none"]["before"], regression)),
        ]
        cells += [
            Cell(_error(of[action][part], regression), best=of[action][part] == lowest[part])
            for part in ("first", "second")
            for action in ACTIONS
        ]
        rows.append(cells)
    parts = (f"to {PART:,}", f"to {2 * PART:,}")
    header = ["error", "before", *(f"{action} {part}" for part in parts for action in ACTIONS)]
    return Table("Errors before and after the change, by drift response", header, rows)


def _error(value: float, regression: bool) -> str:
    return f"{value:.3g}" if regression else f"{100 * value:.2f}"


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the summary of the runs by stream and action."""
    length = arguments.before + 2 * arguments.part
    results: dict[str, dict[str, Any]] = {}
    for name, action in track(list(itertools.product(arguments.streams, ACTIONS)), console=console):
        stream = STREAMS[name]
        runs = [
            watch(stream.samples(seed, arguments.before), stream.task, action, length)
            for seed in arguments.seeds
        ]
        results.setdefault(name, {})[action] = summary(runs, arguments.before, arguments.part)
    settings = {"before": arguments.before, "part": arguments.part, "seeds": len(arguments.seeds)}
    return {"settings": settings | {"window": WINDOW}, "results": results}


def blocks(content: Content) -> Blocks:
    """Return both tables."""
    return {"drift": [detection_table(content["results"]), gain_table(content["results"])]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("drift", __doc__, figure="docs/images/drift.png", seeds=range(SEEDS))
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS), metavar="NAME")
    parser.add_argument("--before", type=int, default=BEFORE, help="samples before the change")
    parser.add_argument("--part", type=int, default=PART, help="samples in each of the two parts after it")
    run("drift", parser.parse_args(argv), measure, blocks, figure.draw)
