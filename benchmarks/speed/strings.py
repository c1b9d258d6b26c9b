"""Cost of a string feature: the time of a sample with one string over that of a sample of numbers alone.

Both kinds of sample take turns in one process. The program times the encoding of a sample, a prediction and a
learning step. A sample has ten features, parsed from JSON, so that equal strings are distinct objects.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import track

from bnp_online import BNPClassifier

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from ..common.streams import Sample

MODELS: dict[str, dict[str, Any]] = {
    "linear, one member": {"hidden": (), "lr": 0.3},
    "(100, 100), one member": {"lr": 0.3},
    "(100, 100), default": {},
}
_FEATURES, _WARM_UP = 10, 300


def samples(count: int, strings: int) -> list[Sample]:
    """Return samples whose last `strings` features are strings, parsed from JSON."""
    rng = random.Random(0)  # noqa: S311 (reproducible samples, no secrets)
    made = []
    for _ in range(count):
        x: dict[str, Any] = {f"f{i}": round(rng.gauss(0.0, 1.0), 4) for i in range(_FEATURES)}
        for i in range(_FEATURES - strings, _FEATURES):
            x[f"f{i}"] = rng.choice(["red", "green", "blue"])
        made.append((x, rng.randrange(2)))
    parsed: list[Sample] = json.loads(json.dumps(made))
    return parsed


def _encode(model: BNPClassifier, x: dict[str, Any], y: Any) -> None:
    model.preview().check(x, y)


def _predict(model: BNPClassifier, x: dict[str, Any], y: Any) -> None:
    model.predict_one(x)


def _learn(model: BNPClassifier, x: dict[str, Any], y: Any) -> None:
    model.learn_one(x, y)


OPERATIONS = {"encode": _encode, "predict": _predict, "learn": _learn}


def _microseconds(call: Callable[[dict[str, Any], Any], None], stream: Sequence[Sample]) -> float:
    """Return the processor time of a call for one sample."""
    start = time.process_time()
    for x, y in stream:
        call(x, y)
    return 1e6 * (time.process_time() - start) / len(stream)


def compare(options: dict[str, Any], count: int, repeats: int) -> dict[str, list[float]]:
    """Return by operation the median microseconds of a sample of numbers, and of one with a string."""
    streams = [samples(count, strings) for strings in (0, 1)]
    models = [BNPClassifier(**options) for _ in streams]
    for model, stream in zip(models, streams, strict=True):
        for x, y in stream[:_WARM_UP]:
            model.learn_one(x, y)
    times: dict[str, list[list[float]]] = {name: [[], []] for name in OPERATIONS}
    for _ in range(repeats):
        for side, (model, stream) in enumerate(zip(models, streams, strict=True)):
            for name, operation in OPERATIONS.items():
                times[name][side].append(_microseconds(partial(operation, model), stream))
    return {name: [statistics.median(side) for side in sides] for name, sides in times.items()}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the times by model and operation."""
    results = {
        name: compare(MODELS[name], arguments.samples, arguments.repeats)
        for name in track(MODELS, "measuring", console=console)
    }
    return {"samples": arguments.samples, "repeats": arguments.repeats, "results": results}


def blocks(content: Content) -> Blocks:
    """Return a row for each model and operation."""
    rows = [
        [
            Cell(f"{model}: {operation}"),
            Cell(f"{numbers:.2f}"),
            Cell(f"{string:.2f}"),
            Cell(f"{string / numbers:.2f}×"),
        ]
        for model, of in content["results"].items()
        for operation, (numbers, string) in of.items()
    ]
    title = "Microseconds of a sample of ten features: all numbers, and one of them a string"
    return {"strings": [Table(title, ["model", "numbers", "one string", "ratio"], rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("strings", __doc__)
    parser.add_argument("--samples", type=int, default=2000, help="samples of each repeat")
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    run("strings", parser.parse_args(argv), measure, blocks)
