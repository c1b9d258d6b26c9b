"""Explanation of a prediction of a learner with a stage: the network, the linear group and the pair group.

Each of the three gets its Shapley value in the combination, which takes eight combinations, and divides it
among the features as it changed itself:

- the network by `Engine.explain`; the contributions of columns that several features share are divided in
  proportion to those through the groups;
- the linear group by its terms, each of one feature, times the mean gradient of the log odds on the line from
  the base, where no value is known and all numbers are at their mean;
- the pair group in the same way. Half of the term of a pair belongs to each of both features. The rest of its
  change is that of the linear group, on whose log probabilities it is built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engines.numba_pool import LEAST_PROBABILITY
from ..values import Vector
from .constants import LEAST_OFFSET, MOST_PAIRS, PAIR_COUNT
from .stage import SparseStage
from .state import (
    CLASSES,
    KNOWN,
    LINEAR,
    MEMBERS,
    PAIR_NUMBER,
    PAIRS,
    REGRESSION,
    TARGET_HIGH,
    TARGET_LOW,
    State,
)

#: Points and weights of the quadrature on [0, 1].
_POINTS, _WEIGHTS = (0.5 * each for each in np.polynomial.legendre.leggauss(8))
_POINTS = _POINTS + 0.5
#: Greatest factor between the change of a part and its share in the combination.
_MOST = 4.0


class _Part(NamedTuple):
    """Prediction of a part at the input and at the base, and its change by feature."""

    value: Vector
    base: Vector
    changes: Vector


class Network(NamedTuple):
    """Predictions of the network at the input and at the base, and contributions by feature.

    Attributes
    ----------
    value, base : float64 (C,)
        Predictions.
    contributions : float64 (features + 1,)
        Contributions; the last one is of the columns that several features share.
    """

    value: Vector
    base: Vector
    contributions: Vector


def explain_staged(
    stage: SparseStage,
    network: Network,
    of_columns: NDArray[np.int64],
    features: Mapping[str, int],
    label: int,
) -> tuple[float, float, Vector]:
    """Explain the prediction for the sample that `SparseStage.front` read last.

    Parameters
    ----------
    stage : SparseStage
        The stage.
    network : Network
        The network's part.
    of_columns : int64 (columns,)
        Place of the feature of each column.
    features : dict of str to int
        Places of the features by name.
    label : int
        Class to explain; −1 for a regression.

    Returns
    -------
    float, float, array of shape (features,)
        Output at the input and at the base, and contributions.
    """
    count = len(features)
    linear, pairs = _groups(stage, of_columns, features, label)
    both = np.abs(linear.changes) + np.abs(pairs.changes)
    of_network = network.contributions[:count] + _divided(network.contributions[count], both)
    parts = (_Part(network.value, network.base, of_network), linear, pairs)

    given = np.empty((2, len(network.value)))

    def combined(known: tuple[bool, ...]) -> float:
        for k in range(2):
            given[k] = parts[k + 1].value if known[k + 1] else parts[k + 1].base
        return _explained(stage.combine(network.value if known[0] else network.base, given), label)

    values = {known: combined(known) for known in itertools.product((False, True), repeat=3)}
    whole, base = values[True, True, True], values[False, False, False]
    contributions = np.zeros(count)
    for k, part in enumerate(parts):
        change = _explained(part.value, label) - _explained(part.base, label)
        contributions += _shared(_shapley(values, k), change, part.changes)
    return whole, base, contributions + _divided(whole - base - contributions.sum(), np.abs(contributions))


def _shapley(values: Mapping[tuple[bool, ...], float], player: int) -> float:
    """Return the Shapley value of one of three players."""
    total = 0.0
    for known, value in values.items():
        if known[player]:
            without = tuple(each and i != player for i, each in enumerate(known))
            others = sum(known) - 1
            total += (value - values[without]) * (1.0 / 3.0 if others != 1 else 1.0 / 6.0)
    return total


def _shared(share: float, change: float, changes: Vector) -> Vector:
    """Divide the share of a part among the features: as its change, as far as both have one sign."""
    factor = min(max(share / change, 0.0), _MOST) if change else 0.0
    return factor * changes + _divided(share - factor * changes.sum(), np.abs(changes))


def _divided(amount: float, sizes: Vector) -> Vector:
    """Divide an amount in proportion to sizes; in equal parts if all are 0."""
    total = sizes.sum()
    shares: Vector = sizes / total if total > 0.0 else np.full(len(sizes), 1.0 / max(len(sizes), 1))
    return amount * shares


def _explained(prediction: Vector, label: int) -> float:
    if label < 0:
        return float(prediction[0])
    at, rest = float(prediction[label]), float(prediction.sum() - prediction[label])
    return math.log(max(at, LEAST_PROBABILITY)) - math.log(max(rest, LEAST_PROBABILITY))


def _groups(
    stage: SparseStage, of_columns: NDArray[np.int64], features: Mapping[str, int], label: int
) -> tuple[_Part, _Part]:
    """Return the parts of the linear group and of the pair group."""
    s = stage.state
    outputs = 1 if s.config[REGRESSION] else int(s.scalars[CLASSES])
    places = np.array([features[name] for name in stage.fields], np.int64)
    of_items = places[s.field[s.rows[: int(s.scalars[KNOWN])]]]
    of_numbers = of_columns[s.numeric]
    terms = [np.zeros((len(features), MEMBERS, outputs)) for _ in range(2)]
    width = s.weights.shape[1] // MEMBERS
    known = s.rows[: len(of_items)]
    weights = s.weights[known].reshape(-1, MEMBERS, width)[:, :, :outputs]
    np.add.at(
        terms[LINEAR][:, :, : weights.shape[2]],
        of_items,
        weights * s.row_amounts[: len(of_items), None, None],
    )
    _add_pairs(s, of_items, terms[PAIRS])
    for group in (LINEAR, PAIRS):
        of_z = s.number_weights[group][:, :outputs] * s.z
        np.add.at(terms[group], of_numbers, of_z.transpose(2, 0, 1))
    base, whole = s.bias[LINEAR][:, :outputs], terms[LINEAR].sum(axis=0)
    shares = s.shares[LINEAR]
    if label < 0:
        return _numbers(s, terms)
    mixed = [_mixed(base + t * whole, shares) for t in (0.0, 1.0)]
    changes = _changes(base, whole, shares, terms[LINEAR], _odds(label))
    linear = _Part(mixed[1], mixed[0], changes)
    offsets = [np.log(np.maximum(each, LEAST_OFFSET)) for each in mixed]
    base_pairs = s.bias[PAIRS][:, :outputs] + offsets[0]
    whole_pairs = terms[PAIRS].sum(axis=0) + (offsets[1] - offsets[0])
    slopes = _slopes(base_pairs, whole_pairs, s.shares[PAIRS], _odds(label))
    of_offset = slopes.sum(axis=0)
    changes = terms[PAIRS].reshape(len(features), -1) @ slopes.reshape(-1)
    changes += _changes(base, whole, shares, terms[LINEAR], lambda p: of_offset / np.maximum(p, LEAST_OFFSET))
    ends = [_mixed(base_pairs + t * whole_pairs, s.shares[PAIRS]) for t in (0.0, 1.0)]
    return linear, _Part(ends[1], ends[0], changes)


def _add_pairs(s: State, of_items: NDArray[np.int64], out: Vector) -> None:
    """Add the terms of the pairs of a sample, half to each of both features, in the order of `find_pairs`."""
    counts = s.counts[s.rows[: len(of_items)]]
    weight = counts[:, 1] if s.config[REGRESSION] else counts[:, : int(s.scalars[CLASSES])].sum(axis=1)
    frequent = of_items[weight >= PAIR_COUNT]
    first, second = np.triu_indices(len(frequent), 1)
    found = min(int(s.scalars[PAIR_NUMBER]), MOST_PAIRS, len(first))
    width = s.pair_weights.shape[1] // MEMBERS
    weights = s.pair_weights[s.pair_rows[:found]].reshape(-1, MEMBERS, width)[:, :, : out.shape[2]]
    half = 0.5 * weights * s.pair_amounts[:found, None, None]
    np.add.at(out[:, :, : half.shape[2]], frequent[first[:found]], half)
    np.add.at(out[:, :, : half.shape[2]], frequent[second[:found]], half)


def _numbers(s: State, terms: Sequence[Vector]) -> tuple[_Part, _Part]:
    """Return the parts of both groups of a regression: sums of the terms, in units of the target."""
    found, base, changes = list[_Part](), 0.0, np.zeros(len(terms[0]))
    mean, deviation = float(s.target[0, 0]), math.sqrt(s.target[1, 0])
    margin = (s.scalars[TARGET_HIGH] - s.scalars[TARGET_LOW]) / 4.0
    low, high = s.scalars[TARGET_LOW] - margin, s.scalars[TARGET_HIGH] + margin
    for group in (LINEAR, PAIRS):
        base += float(s.shares[group] @ s.bias[group][:, 0])
        changes = changes + terms[group][:, :, 0] @ s.shares[group]
        ends = [
            np.clip([mean + deviation * value], low, high) for value in (base + float(changes.sum()), base)
        ]
        found.append(_Part(ends[0], ends[1], deviation * changes))
    return found[0], found[1]


def _mixed(logits: Vector, shares: Vector) -> Vector:
    """Return the prediction of a group from the logits of its members, (MEMBERS, C)."""
    mixed: Vector = shares @ _softmax(logits)
    return mixed


def _softmax(logits: Vector) -> Vector:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Vector = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _odds(label: int) -> Callable[[Vector], Vector]:
    """Return the gradient of the log odds of a class with respect to probabilities, (Q, C)."""

    def gradient(p: Vector) -> Vector:
        rest = np.maximum(p.sum(axis=1) - p[:, label], LEAST_PROBABILITY)
        found = np.repeat(-1.0 / rest[:, None], p.shape[1], axis=1)
        found[:, label] = 1.0 / np.maximum(p[:, label], LEAST_PROBABILITY)
        return found

    return gradient


def _slopes(base: Vector, whole: Vector, shares: Vector, gradient: Callable[[Vector], Vector]) -> Vector:
    """Return the mean gradient of a function of a group's prediction, with respect to the members' logits."""
    p = _softmax(base + _POINTS[:, None, None] * whole)
    outer = gradient(shares @ p)[:, None]
    slopes = shares[:, None] * p * (outer - (p * outer).sum(axis=2, keepdims=True))
    found: Vector = (_WEIGHTS @ slopes.reshape(len(_WEIGHTS), -1)).reshape(base.shape)
    return found


def _changes(
    base: Vector, whole: Vector, shares: Vector, terms: Vector, gradient: Callable[[Vector], Vector]
) -> Vector:
    """Return the change of a function of a group's prediction by feature."""
    slopes = _slopes(base, whole, shares, gradient)
    found: Vector = terms.reshape(len(terms), -1) @ slopes.reshape(-1)
    return found
