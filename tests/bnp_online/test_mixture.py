"""The weights and the draws, by themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnp_online.mixture import draw, mix


def test_the_weights_follow_the_definition() -> None:
    rng = np.random.default_rng(0)
    weights = np.full(5, 0.2)
    expected = weights.copy()
    for _ in range(200):
        losses = rng.exponential(size=5) * [1.0, 1.2, 0.9, 2.0, 1.0]
        mix(weights, losses)
        raised = expected * np.exp(-0.2 * losses)
        expected = 0.99 * raised / raised.sum() + 0.01 / 5
        np.testing.assert_allclose(weights, expected, rtol=1e-10)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert weights.argmax() == 2


def test_a_copy_that_diverged_keeps_only_its_share() -> None:
    weights = np.array([0.7, 0.2, 0.1])
    mix(weights, np.array([math.inf, 1.0, 1.0]))
    np.testing.assert_allclose(weights, [0.01 / 3, 0.99 * 2 / 3 + 0.01 / 3, 0.99 / 3 + 0.01 / 3])


def test_draws_depend_on_the_arguments_alone_and_are_uniform() -> None:
    assert [draw(3, 7, 1, 100) for _ in range(3)] == [draw(3, 7, 1, 100)] * 3
    drawn = np.array([draw(0, step, turn, 10) for step in range(1, 4001) for turn in range(3)])
    assert drawn.min() == 0
    assert drawn.max() == 9
    counts = np.bincount(drawn, minlength=10)
    assert ((counts - 1200) ** 2 / 1200).sum() < 30  # χ² with 9 degrees of freedom: 1 in 2,000
    # Neither neighbours in time, nor in turn, nor in seed go together.
    for other in (
        [draw(0, step + 1, turn, 10) for step in range(1, 4001) for turn in range(3)],
        [draw(0, step, turn + 1, 10) for step in range(1, 4001) for turn in range(3)],
        [draw(1, step, turn, 10) for step in range(1, 4001) for turn in range(3)],
    ):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.04
