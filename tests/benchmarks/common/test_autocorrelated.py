"""Generators of autocorrelated streams: shapes, seeds, and the dependence of neighbouring samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.common import autocorrelated as make

Rows = tuple[NDArray[np.float64], NDArray[Any]]

#: Generator, number of features, and the share of labels equal to the one before (± 0.05).
_CLASSES: dict[str, tuple[Callable[[int], Rows], int, float]] = {
    "filmed": (make.filmed, 21, 0.90),
    "filmed, long runs": (lambda s: make.filmed(s, classes=12, d=10, run=40), 10, 0.977),
    "price": (make.price, 5, 0.905),
    "walk": (make.walk, 8, 0.90),
}
#: Generator, number of features, and the correlation of a target with the one before (± 0.05).
_NUMBERS: dict[str, tuple[Callable[[int], Rows], int, float]] = {
    "sensor": (make.sensor, 6, 0.97),
    "sensor, hidden": (lambda s: make.sensor(s, hidden=1.0), 6, 0.98),
    "counts": (make.counts, 5, 0.75),
}


def _same_as_before(y: NDArray[Any]) -> float:
    return float(np.mean(y[1:] == y[:-1]))


@pytest.mark.parametrize("name", [*_CLASSES, *_NUMBERS])
def test_a_stream_is_determined_by_its_seed(name: str) -> None:
    generate, features, _ = (_CLASSES | _NUMBERS)[name]
    (X, y), (again, _), (other, _) = generate(1), generate(1), generate(2)
    assert X.shape == (len(y), features)
    assert len(y) >= 4000
    assert np.isfinite(X).all()
    assert np.array_equal(X, again)
    assert not np.array_equal(X, other)


@pytest.mark.parametrize("name", _CLASSES)
def test_labels_persist(name: str) -> None:
    generate, _, share = _CLASSES[name]
    found = [_same_as_before(generate(seed)[1]) for seed in range(3)]
    assert np.mean(found) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("name", _NUMBERS)
def test_targets_persist(name: str) -> None:
    generate, _, correlation = _NUMBERS[name]
    found = [np.corrcoef(y[1:], y[:-1])[0, 1] for y in (generate(seed)[1] for seed in range(3))]
    assert np.mean(found) == pytest.approx(correlation, abs=0.05)


def test_units_change_on_the_way() -> None:
    (X, y), (scaled, target) = make.sensor(0), make.sensor(0, units=True)
    assert np.array_equal(X[:3000], scaled[:3000])
    np.testing.assert_allclose(scaled[3000:, 0], X[3000:, 0] * 1.8 + 32)
    np.testing.assert_allclose(scaled[4000:, 1], X[4000:, 1] * 1000)
    np.testing.assert_allclose(target[4500:], y[4500:] * 2.2)
    (plain, labels), (scaled, same) = make.walk(0), make.walk(0, units=True)
    assert np.array_equal(labels, same)
    np.testing.assert_allclose(scaled[2500:, 0], plain[2500:, 0] * 10)


def test_an_order_in_runs_has_each_row_once_and_puts_similar_rows_together() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=2000)
    place = rng.normal(size=2000)
    X = np.outer(place, np.ones(5)) + 0.1 * rng.normal(size=(2000, 5))
    order = make.order_in_runs(X, y, 15, seed=0)
    assert sorted(order) == list(range(2000))
    assert _same_as_before(y[order]) == pytest.approx(0.945, abs=0.02)
    same = y[order][1:] == y[order][:-1]
    assert np.abs(np.diff(place[order]))[same].mean() < 0.2  # 1.1 in another order


def test_an_order_with_persistence_keeps_the_class_with_that_probability() -> None:
    y = np.repeat(list("abc"), 1000)
    order = make.order_with_persistence(y, 0.9, seed=0)
    assert len(set(order)) == len(order)
    assert _same_as_before(y[order]) == pytest.approx(0.9 + 0.1 / 3, abs=0.02)
    assert np.bincount(order // 1000).max() == 1000  # up to the last row of a class
