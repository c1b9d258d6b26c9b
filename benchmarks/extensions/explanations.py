"""Explanations: their cost in predictions, their agreement with Shapley values, and the cost of importances.

The sides of a comparison alternate in one run, and the least time of each counts. Occlusion is the
explanation by further predictions: one with each feature missing, and one with none.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluation.importance import EVERY, Importances
from bnp_online.values import Vector

#: Samples before the measurement; explained samples; rounds; samples of a round with importances.
_SAMPLES, _EXPLAINED, _ROUNDS, _LEARNED = 3000, 100, 7, 640


class Case(NamedTuple):
    """A model and its stream: numbers, and strings with many values."""

    name: str
    make: Callable[[], Any]
    numbers: int
    strings: int = 0


CASES = (
    Case("default, 9 features", BNPClassifier, 9),
    Case("default, 21 features", BNPClassifier, 21),
    Case("default, 60 features", BNPClassifier, 60),
    Case("default, regression, 9 features", BNPRegressor, 9),
    Case("one network, 9 features", lambda: BNPClassifier(lr=0.3), 9),
    Case("linear, 9 features", lambda: BNPClassifier(hidden=(), lr=0.3), 9),
    Case("default, 4 numbers and 5 strings of 80 values", BNPClassifier, 4, 5),
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
        yield x, (y if case.make is BNPRegressor else int(y > 0.0))


def least(*sides: Callable[[], object]) -> list[float]:
    """Return the least time of each side, over alternating rounds."""
    times = [math.inf] * len(sides)
    for _ in range(_ROUNDS):
        for i, side in enumerate(sides):
            start = time.perf_counter()
            side()
            times[i] = min(times[i], time.perf_counter() - start)
    return times


def cost(case: Case) -> list[str]:
    """Return what an explanation costs: in µs, in predictions, and occlusion in predictions."""
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
    scale = 1e6 / len(xs)
    return [
        f"{predict * scale:.0f}",
        f"{explain * scale:.0f}",
        f"{explain / predict:.1f}",
        f"{occlusion / predict:.1f}",
        f"{novelty * scale:.0f}",
    ]


def share(case: Case) -> str:
    """Return the time of the importances of a sample, over that of learning 64 samples without a server."""
    model, importances = case.make(), Importances()
    for x, y in samples(case, _SAMPLES):
        model.learn_one(x, y)
    parts = iter([[*samples(case, _LEARNED, seed=2 + i)] for i in range(_ROUNDS)])

    def learn() -> None:
        check = model.preview().check
        model.learn_samples([check(x, y) for x, y in next(parts)])

    def explain() -> None:
        for x, _ in seen:
            importances.add(*model.contributions(x))

    seen = [*samples(case, _EXPLAINED, seed=1)]
    explained, learned = least(explain, learn)
    return f"{explained / len(seen) / (EVERY * learned / _LEARNED):.1%}"


def agreement(case: Case) -> str:
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
    return f"{np.corrcoef(found, expected)[0, 1]:.3f}"


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


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks explanations", description=__doc__)
    parser.parse_args(argv)
    table = Table("model", *("predict µs", "explain µs", "in predictions", "occlusion", "novelty µs"))
    further = Table("model", "correlation with Shapley values", "importances, share of learning")
    for case in CASES:
        table.add_row(case.name, *cost(case))
        further.add_row(case.name, agreement(case), share(case))
    for each in (table, further):
        Console().print(each)
