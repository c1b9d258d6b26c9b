"""Explanations: their cost in predictions, their agreement with Shapley values, and the cost of importances.

The sides of a comparison alternate in one run, and the least time of each counts. Occlusion is the
explanation by further predictions: one with each feature missing, and one with none. The cost of importances
is the processor time that they take at a server that learns lines, in that of the whole server. Needs wrk.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.values import Vector

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from ..serving import wrk
from ..serving.server import processor_time, serve
from ..serving.throughput import LINES_A_REQUEST, STREAMS

#: Samples before the measurement; explained samples; rounds.
_SAMPLES, _EXPLAINED, _ROUNDS = 3000, 100, 7
#: Writes the processor time of the importances of a server to a file, {0}.
_TIMED = """
import os, struct, time
from service.models.hosted import HostedModel
add, file, total = HostedModel._add_importances, os.open({0!r}, os.O_RDWR), 0.0
def timed(self, x):
    global total
    start = time.thread_time()
    add(self, x)
    total += time.thread_time() - start
    os.pwrite(file, struct.pack("d", total), 0)
HostedModel._add_importances = timed
"""


class Case(NamedTuple):
    """A model and its stream: numbers, and strings with many values."""

    name: str
    spec: dict[str, Any]
    numbers: int
    strings: int = 0

    def make(self) -> Any:
        """Return a new model."""
        options = {name: value for name, value in self.spec.items() if name != "task"}
        return (BNPRegressor if self.regression else BNPClassifier)(**options)

    @property
    def regression(self) -> bool:
        """Whether targets are numbers."""
        return "task" in self.spec


CASES = (
    Case("default, 9 numbers", {}, 9),
    Case("default, 21 numbers", {}, 21),
    Case("default, 60 numbers", {}, 60),
    Case("default, regression, 9 numbers", {"task": "regression"}, 9),
    Case("replay=0, 9 numbers", {"replay": 0}, 9),
    Case("one network, 9 numbers", {"lr": 0.3}, 9),
    Case("linear, 9 numbers", {"hidden": (), "lr": 0.3}, 9),
    Case("default, 4 numbers and 5 strings of 80 values", {}, 4, 5),
)


def samples(case: Case, count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield samples with an interaction of numbers; the target is a class or a number."""
    rng = np.random.default_rng(seed)
    weights, effects = np.random.default_rng(9).normal(size=60), np.random.default_rng(8).normal(size=80)
    for _ in range(count):
        v = rng.normal(size=case.numbers)
        codes = rng.integers(80, size=case.strings)
        y = float(v @ weights[: case.numbers] + v[0] * v[1] + effects[codes].sum())
        x: dict[str, Any] = {f"f{j}": each for j, each in enumerate(v.tolist())}
        x |= {f"s{j}": f"v{each}" for j, each in enumerate(codes)}
        yield x, (y if case.regression else int(y > 0.0))


def least(*sides: Callable[[], object]) -> list[float]:
    """Return the least time of each side, over alternating rounds."""
    times = [math.inf] * len(sides)
    for _ in range(_ROUNDS):
        for i, side in enumerate(sides):
            start = time.perf_counter()
            side()
            times[i] = min(times[i], time.perf_counter() - start)
    return times


def cost(case: Case) -> dict[str, float]:
    """Return the times of a prediction, an explanation, an occlusion and a novelty in µs."""
    model = case.make()
    for x, y in samples(case, _SAMPLES):
        model.learn_one(x, y)
    xs = [x for x, _ in samples(case, _EXPLAINED, seed=1)]

    def occlude() -> None:
        for x in xs:
            model.predict_one(x)
            for name in x:
                model.predict_one({**x, name: None})

    predict, explain, occlusion, novelty = least(
        lambda: [model.predict_one(x) for x in xs],
        lambda: [model.explain_one(x) for x in xs],
        occlude,
        lambda: [model.novelty_one(x) for x in xs],
    )
    times = {"predict": predict, "explain": explain, "occlusion": occlusion, "novelty": novelty}
    return {name: round(each * 1e6 / len(xs), 1) for name, each in times.items()}


def share(case: Case, seconds: int) -> float:
    """Return the processor time of the importances in that of a server, after the first 4,096 samples."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, total = folder / "lines.ndjson", folder / "total"
        lines.write_text("".join(json.dumps({"x": x, "y": y}) + "\n" for x, y in samples(case, _SAMPLES)))
        total.write_bytes(struct.pack("d", 0.0))
        (folder / "data").mkdir()
        load = wrk.Load("/learn", lines, STREAMS, seconds, LINES_A_REQUEST)
        prefix, spec = _TIMED.format(str(total)), json.dumps(case.spec)
        with serve(folder / "data", prefix, BNP_DEFAULT_MODEL=spec) as served:

            def spent() -> tuple[float, float]:
                (of_importances,) = struct.unpack("d", total.read_bytes())
                return of_importances, processor_time(served.server.process.pid)

            wrk.run(served.url, load)
            before = spent()
            wrk.run(served.url, load)
            of_importances, of_all = (now - then for now, then in zip(spent(), before, strict=True))
    return round(of_importances / of_all, 4)


def agreement(case: Case) -> float:
    """Return the correlation of contributions with Shapley values by enumeration, with 8 features."""
    case = case._replace(numbers=min(case.numbers, 8 - case.strings))
    model = case.make()
    for x, y in samples(case, _SAMPLES):
        model.learn_one(x, y)
    found, expected = list[float](), list[float]()
    for x, _ in samples(case, 20, seed=1):
        explanation = model.explain_one(x)
        found += explanation.contributions.values()
        expected += shapley(model, x, explanation.label).tolist()
    return round(float(np.corrcoef(found, expected)[0, 1]), 3)


def shapley(model: Any, x: dict[str, Any], label: Any) -> Vector:
    """Return the Shapley values of the features, where a feature that is not known is missing."""
    names = [*model.explain_one(x).contributions]
    n = len(names)

    def value(known: tuple[int, ...]) -> float:
        sample = {name: x[name] if i in known else None for i, name in enumerate(names)}
        if label is None:
            return float(model.predict_one(sample))
        p = model.predict_proba_one(sample)
        rest = sum(each for other, each in p.items() if other != label)
        return math.log(max(p[label], 1e-12)) - math.log(max(rest, 1e-12))

    sets = itertools.chain.from_iterable(itertools.combinations(range(n), size) for size in range(n + 1))
    values = {known: value(known) for known in sets}
    found = np.zeros(n)
    for known, whole in values.items():
        for i in known:
            others = len(known) - 1
            weight = math.factorial(others) * math.factorial(n - others - 1) / math.factorial(n)
            found[i] += weight * (whole - values[tuple(j for j in known if j != i)])
    return found


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the figures of each model."""
    wrk.require()
    found = {}
    for case in track(CASES, "measuring", console=console):
        found[case.name] = {
            **cost(case),
            "share": share(case, arguments.seconds),
            "correlation": agreement(case),
        }
    return {"learned": _SAMPLES, "rounds": _ROUNDS, "models": found}


def blocks(content: Content) -> Blocks:
    """Return a row for each model."""
    rows = []
    for name, of in content["models"].items():
        predictions = [f"{of[each] / of['predict']:.0f}" for each in ("explain", "occlusion")]
        figures = [
            f"{of['predict']:.0f}",
            f"{of['novelty']:.0f}",
            f"{of['correlation']:.3f}",
            f"{of['share']:.1%}",
        ]
        rows.append([Cell(text) for text in (name, *predictions, *figures)])
    columns = ["model", "an explanation, in predictions", "occlusion, in predictions", "prediction, µs"]
    columns += ["novelty, µs", "correlation with Shapley values", "importances, of the server"]
    return {"explanations": [Table("Cost and agreement of explanations", columns, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("explanations", __doc__, pages=["docs/how-to/explain.md"])
    parser.add_argument("--seconds", type=int, default=3, help="duration of learning at a server")
    run("explanations", parser.parse_args(argv), measure, blocks)
