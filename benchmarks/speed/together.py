"""Many small models: one sample for each in one call, against a call for each model.

The models have the same features, and all of them learn one sample in a round. Both sides predict, and then
learn. They take turns in one process. The time is that of the processor; on a GPU, for which the processor
waits, it is that of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from bnp_online import BNPClassifier, learn_together

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table

SPECS: dict[str, dict[str, Any]] = {
    "(16,), one network": {"hidden": (16,), "lr": 0.1, "replay": 0},
    "(16,), one network, replay 3": {"hidden": (16,), "lr": 0.1, "replay": 3},
    "(16,), default": {"hidden": (16,)},
    "(100, 100), default": {},
}
_WARM_UP = 120
_NAMES = [f"f{i}" for i in range(8)]

Samples = tuple[list[dict[str, float]], list[str]]


def samples(count: int, rng: np.random.Generator) -> Samples:
    """Return samples with eight features and two labels."""
    rows = rng.normal(size=(count, len(_NAMES))).tolist()
    found = [dict(zip(_NAMES, row, strict=True)) for row in rows]
    return found, ["yes" if each["f0"] > 0.0 else "no" for each in found]


def made(options: dict[str, Any], count: int) -> list[BNPClassifier]:
    """Return models that have learned some samples."""
    models = [BNPClassifier(seed=i, **options) for i in range(count)]
    for model in models:
        model.learn_many(*samples(_WARM_UP, np.random.default_rng(1)))
    return models


def _alone(models: Sequence[BNPClassifier], some: Samples) -> None:
    for model, x, y in zip(models, *some, strict=True):
        model.learn_samples([model.preview().check(x, y)])


def compare(options: dict[str, Any], count: int, rounds: int, device: str) -> dict[str, float]:
    """Return the median microseconds of a sample: alone, and all models in a call."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    options = {**options, "device": device}
    rng = np.random.default_rng(0)
    alone, together = made(options, count), made(options, count)
    times: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(rounds):
        some = samples(count, rng)
        start = clock()
        _alone(alone, some)
        middle = clock()
        learn_together(together, *some)
        times["alone"].append(middle - start)
        times["together"].append(clock() - middle)
    equal = all(a.fingerprint() == b.fingerprint() for a, b in zip(alone, together, strict=True))
    if not equal:
        raise RuntimeError("models that learned together differ from those that learned alone")
    return {side: 1e6 * statistics.median(some) / count for side, some in times.items()}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the times by model."""
    results = {
        name: compare(options, arguments.models, arguments.rounds, arguments.device)
        for name, options in track(SPECS.items(), "measuring", console=console)
    }
    return {"models": arguments.models, "device": arguments.device, "results": results}


def blocks(content: Content) -> Blocks:
    """Return a row for each model."""
    rows = [
        [
            Cell(name),
            Cell(f"{of['alone']:.1f}"),
            Cell(f"{of['together']:.1f}"),
            Cell(f"{of['alone'] / of['together']:.1f}×"),
        ]
        for name, of in content["results"].items()
    ]
    where = f"{content['models']} models on {content['device']}"
    title = f"Microseconds to predict and learn a sample, with {where} in turn"
    return {"together": [Table(title, ["model", "a call for each", "one call for all", "ratio"], rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("together", __doc__)
    parser.add_argument("--models", type=int, default=1000, help="number of models")
    parser.add_argument("--device", default="cpu", help="device of the models, as cuda")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each model")
    run("together", parser.parse_args(argv), measure, blocks)
