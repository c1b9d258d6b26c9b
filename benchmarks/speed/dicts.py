"""predict_one and learn_one with dicts, against River, on scikit-learn's digits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from river import linear_model, multiclass, preprocessing

from bnp_online import BNPClassifier

from ..common.report import Cell, Table
from ..common.streams import Sample, load
from .timing import Effort, Tick

_RIVER = "River: StandardScaler, then OneVsRestClassifier(LogisticRegression)"
_SIDES: dict[str, Callable[[], Any]] = {
    _RIVER: lambda: (
        preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    ),
    "BNPClassifier(lr=0.1, replay=0): one member": lambda: BNPClassifier(lr=0.1, replay=0),
    "BNPClassifier(replay=0)": lambda: BNPClassifier(replay=0),
    "BNPClassifier()": BNPClassifier,
}


def _pass(model: Any, samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the samples a second, and the accuracy, of one pass: predict, then learn."""
    right = 0
    start = time.perf_counter()
    for x, y in samples:
        right += model.predict_one(x) == y
        model.learn_one(x, y)
    return len(samples) / (time.perf_counter() - start), right / len(samples)


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return samples a second and accuracy by model: whole passes in turns, after a warm-up."""
    samples = load("digits", 200 if effort.quick else None).samples
    speeds: dict[str, list[float]] = {name: [] for name in _SIDES}
    accuracy = {}
    for repeat in range(effort.repeats + 1):
        tick(f"pass {repeat} of {effort.repeats}")
        for name, make in _SIDES.items():
            speed, accuracy[name] = _pass(make(), samples)
            if repeat > 0:
                speeds[name].append(speed)
    return {
        name: {"samples_per_second": statistics.median(speeds[name]), "accuracy": accuracy[name]}
        for name in _SIDES
    }


def tables(results: dict[str, Any]) -> list[Table]:
    """Return each model's speed, as a multiple of River's."""
    river = results[_RIVER]["samples_per_second"]
    rows = [
        [
            Cell(name),
            Cell(f"{of['samples_per_second']:,.0f}"),
            Cell(f"{of['samples_per_second'] / river:.1f}×"),
            Cell(f"{100 * of['accuracy']:.1f}"),
        ]
        for name, of in results.items()
    ]
    header = ["predict_one + learn_one with dicts, digits", "samples/s", "of River's", "accuracy, %"]
    return [Table("Dicts of 64 features, against River", header, rows)]
