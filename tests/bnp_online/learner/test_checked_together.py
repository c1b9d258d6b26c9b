"""Samples that are checked together, before the first of them is learned: the bits of one after the other."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from bnp_online import BNPClassifier, BNPRegressor

Learner = BNPClassifier | BNPRegressor
Labelled = tuple[dict[str, Any], Any]


def random_sample(rng: random.Random, step: int, *, regression: bool) -> Labelled:
    """Return a sample whose features get new values and columns all the time, and often have none."""
    values = {
        "number": rng.random() ** -3.0,
        "few": "uvwxyz"[rng.randrange(min(6, 1 + step // 40))],
        "many": f"m{rng.randrange(80)}",
        "mixed": rng.choice([1.0, 2.5, "u", f"q{step // 40}"]),
        "mixed_many": rng.choice([1.0, f"m{rng.randrange(60)}"]),
        f"rare{rng.randrange(200)}": rng.random(),
    }
    names = [name for name in values if rng.random() < 0.9] or ["number"]
    x = {name: values[name] if rng.random() < 0.8 else rng.choice([None, math.nan]) for name in names}
    return x, rng.gauss(0.0, 1.0) if regression else "abc"[rng.randrange(min(3, 1 + step // 70))]


def groups(seed: int, *, regression: bool) -> Iterator[list[Labelled]]:
    rng, step = random.Random(seed), 0  # noqa: S311
    while step < 200:
        group = [
            random_sample(rng, step + i, regression=regression) for i in range(rng.choice([1, 2, 5, 30]))
        ]
        yield group
        step += len(group)


def learn_together(learner: Learner, samples: list[Labelled]) -> None:
    check = learner.preview().check
    learner.learn_samples([check(x, y) for x, y in samples])


@pytest.mark.parametrize("most", [8, 4096])
@pytest.mark.parametrize("seed", range(4))
def test_a_group_has_the_bits_of_a_loop(seed: int, most: int) -> None:
    kind: type[Learner] = BNPRegressor if seed % 2 else BNPClassifier
    options: dict[str, Any] = {
        "hidden": (4,),
        "replay": 1,
        "memory": 30,
        "device": "cpu",
        "max_features": most,
    }
    alone, together = kind(**options, max_values=64), kind(**options, max_values=64)
    for samples in groups(seed, regression=kind is BNPRegressor):
        for x, y in samples:
            alone.learn_one(x, y)
        learn_together(together, samples)
        assert together.fingerprint() == alone.fingerprint()


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize(
    ("known", "new"),
    [(["u", "v"], "new"), (["u", "v"], 7.0), ([1.0, "u"], "new"), ([1.0, 2.5], "new")],
)
@pytest.mark.parametrize("strings", [0, 60])
def test_a_missing_value_has_the_columns_that_the_sample_before_adds(
    strings: int, known: list[Any], new: Any, missing: Any
) -> None:
    """So it is with columns alone, and if another feature has more strings than columns."""
    rng, learners = random.Random(0), [BNPClassifier((4,), seed=0, device="cpu") for _ in range(3)]  # noqa: S311
    for i in range(300):
        x = {"number": rng.random(), "mixed": rng.choice(known), "many": f"s{rng.randrange(strings or 1)}"}
        for each in learners:
            each.learn_one(x, i % 2)
    samples = [
        ({"number": 0.1 * i, "mixed": new if i == 1 else missing, "many": "s0"}, i % 2) for i in range(1, 4)
    ]
    for x, y in samples:
        learners[0].learn_one(x, y)
    learn_together(learners[1], samples)
    learners[2].learn_many([x for x, _ in samples], [y for _, y in samples])
    assert len({each.fingerprint() for each in learners}) == 1
