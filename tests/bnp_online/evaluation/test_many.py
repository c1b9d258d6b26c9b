"""Scores of many samples in one call: equal to those of a loop, with equal states."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bnp_online.evaluation.baselines import Baselines
from bnp_online.evaluation.drift import ADWIN, Detector, PageHinkley
from bnp_online.evaluation.prequential import PrequentialMetrics

LABELS: list[tuple[Any, ...]] = [("a",), ("a", "b"), (1, 0), (True, False), ("x", "y", "z"), tuple(range(10))]


def runs(seed: int, most: int = 90) -> list[int]:
    """Return lengths of runs of samples; some are empty, some longer than the window."""
    return [int(n) for n in np.random.default_rng(seed).integers(0, most, 12)]


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_classes(labels: tuple[Any, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    window, digits = int(rng.integers(1, 60)), int(rng.integers(1, 17))
    one, many = (PrequentialMetrics("classification", window) for _ in range(2))
    for count in runs(seed):
        probabilities = rng.random((count, len(labels)))
        probabilities = np.round(probabilities / probabilities.sum(1, keepdims=True), digits)
        targets = rng.integers(0, len(labels), count)
        scores = many.update_classes(targets, labels, probabilities)
        for y, row, prediction, loss in zip(targets, probabilities, *scores, strict=True):
            assert prediction == labels[row.argmax()]
            assert loss == one.update(labels[y], prediction, dict(zip(labels, row.tolist(), strict=True)))
        assert json.dumps(many.state_dict()) == json.dumps(one.state_dict())
        if seed % 2:  # a prediction of fewer labels between two calls
            for each in (one, many):
                each.update(labels[0], labels[-1], {labels[-1]: 1.0})
    assert many.report() == one.report()


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_baselines(labels: tuple[Any, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.integers(1, 60))
    one, many = (Baselines("classification", window) for _ in range(2))
    for count in runs(seed):
        codes = rng.integers(0, len(labels), count)
        many.update_many(codes, labels)
        for code in codes:
            one.update(labels[code])
        assert json.dumps(many.state_dict()) == json.dumps(one.state_dict())


@pytest.mark.parametrize("seed", range(4))
def test_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.integers(1, 60))
    one, many = (PrequentialMetrics("regression", window) for _ in range(2))
    alone, together = (Baselines("regression", window) for _ in range(2))
    for count in runs(seed):
        targets, predictions = rng.normal(size=(2, count)).tolist()
        losses, variances = many.update_numbers(targets, predictions)
        together.update_numbers(targets)
        for y, prediction, loss, variance in zip(targets, predictions, losses, variances, strict=True):
            assert one.update(y, prediction) == loss
            assert one.target_variance == variance
            alone.update(y)
        assert json.dumps(many.state_dict()) == json.dumps(one.state_dict())
        assert json.dumps(together.state_dict()) == json.dumps(alone.state_dict())


@pytest.mark.parametrize("make", [ADWIN, lambda: PageHinkley(threshold=3.0)], ids=["adwin", "page_hinkley"])
def test_detectors(make: Callable[[], Detector]) -> None:
    one, many, rng, changes = make(), make(), np.random.default_rng(0), 0
    for i, count in enumerate(runs(1) * 4):
        losses = rng.exponential(0.3 + 2.0 * (i % 10 > 5), count).tolist()
        found = many.update_many(losses)
        assert found == [(k, change) for k, loss in enumerate(losses) if (change := one.update(loss))]
        assert many.state_dict() == one.state_dict()
        changes += len(found)
    assert changes > 3
