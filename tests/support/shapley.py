"""Shapley values by full enumeration, in float64, of what a model predicts with some features missing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnp_online.values import Vector

#: Bound of probabilities in log odds.
LEAST = 1e-12


def log_odds(probabilities: dict[Any, float], label: Any) -> float:
    """Return the log odds of a class."""
    rest = sum(p for other, p in probabilities.items() if other != label)
    return math.log(max(probabilities[label], LEAST)) - math.log(max(rest, LEAST))


def output(model: Any, x: Any, label: Any) -> float:
    """Return what an explanation is about: the log odds of a class, or the predicted number."""
    if model.task == "regression":
        return float(model.predict_one(x))
    return log_odds(model.predict_proba_one(x), label)


def shapley_values(value: Callable[[frozenset[int]], float], players: int) -> Vector:
    """Return the Shapley value of each player, from the value of each set of players."""
    sets = itertools.chain.from_iterable(
        itertools.combinations(range(players), n) for n in range(players + 1)
    )
    values = {frozenset(each): value(frozenset(each)) for each in sets}
    found = np.zeros(players)
    for known, whole in values.items():
        for i in known:
            others = len(known) - 1
            weight = math.factorial(others) * math.factorial(players - others - 1) / math.factorial(players)
            found[i] += weight * (whole - values[known - {i}])
    return found


def of_prediction(model: Any, x: dict[str, Any], names: Sequence[str], label: Any) -> Vector:
    """Return the Shapley values of the features of a sample; one that is not known is missing."""

    def value(known: frozenset[int]) -> float:
        sample = {name: x.get(name, 0.0) if i in known else None for i, name in enumerate(names)}
        return output(model, sample, label)

    return shapley_values(value, len(names))
