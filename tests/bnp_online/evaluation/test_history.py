"""History of the scores: bounded, thinned by powers of two, exact, and equal for any blocks."""

from __future__ import annotations

import json
import math
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnp_online.errors import StateError
from bnp_online.evaluation.history import ScoreHistory
from bnp_online.values import Vector


def scores(count: int, seed: int = 0, *, regression: bool = False) -> Vector:
    """Return random scores of samples; the first is not scored."""
    rng = np.random.default_rng(seed)
    values = np.ones((count, 7))
    if regression:
        values[:, 1:3] = np.abs(rng.standard_cauchy((count, 2))) ** 3
        values[:, 4:] = np.abs(rng.standard_cauchy((count, 3)))
    else:
        values[:, 1], values[:, 4:6] = rng.integers(0, 2, count), rng.integers(0, 2, (count, 2))
        values[:, 2], values[:, 6] = rng.exponential(size=count), rng.exponential(size=count)
    values[:1] = 0.0
    return values


def times(count: int) -> list[float]:
    return [1_700_000_000.25 + 0.5 * i for i in range(count)]


def one_by_one(values: Vector, first: int = 1, task: Any = "classification") -> ScoreHistory:
    history = ScoreHistory(task)
    for i, (row, time) in enumerate(zip(values.tolist(), times(len(values)), strict=True)):
        n, score, loss, plain, *rest = row
        a, b, c = rest
        history.add(first + i, time, score, loss if n else None, (a, b, c) if plain else None)
    return history


def in_blocks(values: Vector, cuts: list[int], first: int = 1, task: Any = "classification") -> ScoreHistory:
    history, when = ScoreHistory(task), times(len(values))
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        learn(history, first + start, when[start:stop], values[start:stop])
    return history


def learn(history: ScoreHistory, step: int, when: list[float], values: Vector) -> None:
    plain = array("d", values[values[:, 3] > 0, 4:].ravel())
    if len(values) and not values[0, 0]:  # it is not scored
        history.add(step, when[0], 0.0, None, None)
        step, when, values = step + 1, when[1:], values[1:]
    history.add_many(step, when, values[:, 1].tolist(), values[:, 2].tolist(), plain)


def state(history: ScoreHistory) -> str:
    return json.dumps(history.state_dict(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_into_blocks_gives_the_same_history(data: st.DataObject) -> None:
    count, first = (
        data.draw(st.integers(1, 6000)),
        data.draw(st.sampled_from([1, 8, 10, 11, 5004, 10**9 + 3])),
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=12)))
    task = data.draw(st.sampled_from(["classification", "regression"]))
    values = scores(count, data.draw(st.integers(0, 99)), regression=task == "regression")
    expected = one_by_one(values, first, task)
    assert state(in_blocks(values, cuts, first, task)) == state(expected)
    assert expected.report()["step"][-1] == first + count - 1  # the last point is present


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 20_000), first=st.sampled_from([1, 4, 777]), seed=st.integers(0, 99))
def test_points_hold_the_means_of_all_samples_between_them(count: int, first: int, seed: int) -> None:
    values = scores(count, seed)
    report = in_blocks(values, [], first).report()
    steps = report["step"]
    ends = [step - first + 1 for step in steps]
    assert report["start"] == first - 1
    assert [report["time"][i] for i in range(len(steps))] == [times(count)[end - 1] for end in ends]
    for i, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
        part = values[start:stop]
        n, plain = part[:, 0].sum(), part[:, 3].sum()
        assert report["n"][i] == n
        if n:
            assert report["scores"]["Accuracy"][i] == part[:, 1].sum() / n
            assert report["scores"]["LogLoss"][i] == pytest.approx(part[:, 2].sum() / n, rel=1e-12)
        if plain:
            assert report["baselines"]["last"]["Accuracy"][i] == part[:, 5].sum() / plain
            majority = report["baselines"]["majority"]
            assert majority["LogLoss"][i] == pytest.approx(part[:, 6].sum() / plain, rel=1e-12)


def test_it_is_bounded_and_thinned_by_powers_of_two() -> None:
    history, step, chunk = ScoreHistory("regression"), 1, 10_000
    values = np.ones((chunk, 7))
    for _ in range(120):
        learn(history, step, [float(step)] * chunk, values)
        step += chunk
        n = step - 1
        points = history.report()["step"]
        assert len(history) == len(points) <= 64 * math.log2(n / 640) + 256
        for level in range(int(math.log2(n / 10)) + 1):  # a multiple of 10·2^k stays for 1280·2^k steps
            distance = 10 * 2**level
            first = max(n - 1280 * 2**level, 0)
            expected = range(-(-first // distance) * distance or distance, n + 1, distance)
            assert set(expected) <= set(points)
    assert history.report()["n"] == np.diff([0, *points]).tolist()
    assert len(json.dumps(history.state_dict())) < 120_000


def test_the_bound_of_the_longest_life() -> None:
    """The points that the rule retains at the greatest step, by level."""
    total = sum(1280 * 2**k // (20 * 2**k) + 1 for k in range(60))
    assert (total + 64) * 72 < 300_000


def test_the_state_continues() -> None:
    values = scores(9000, regression=True)
    expected = one_by_one(values, task="regression")
    for cut in (1, 7, 640, 1285, 8999):
        begun = one_by_one(values[:cut], task="regression")
        begun.drifts.append((3, 4.5))
        other = ScoreHistory("regression")
        other.load_state_dict(json.loads(state(begun)))
        assert state(other) == state(begun)
        other.drifts.clear()
        copied = other.copy()
        for each in (other, copied):
            learn(each, cut + 1, times(9000)[cut:], values[cut:])
            assert state(each) == state(expected)


def test_a_copy_is_independent() -> None:
    history = one_by_one(scores(25))
    twin, before = history.copy(), state(history)
    learn(twin, 26, times(700), scores(700))
    twin.drifts.append((30, 1.0))
    assert state(history) == before


def test_few_points_are_a_summary() -> None:
    values = scores(50_000)
    history = in_blocks(values, [])
    short = history.report(most=32)
    assert 20 <= len(short["step"]) <= 32
    assert short["step"][-1] == 50_000
    assert sum(short["n"]) == 49_999
    right = sum(n * score for n, score in zip(short["n"], short["scores"]["Accuracy"], strict=True))
    assert right == pytest.approx(values[:, 1].sum())
    assert len(history) > 32


def test_errors_beyond_any_measure_leave_numbers() -> None:
    history = ScoreHistory("regression")
    for step in range(1, 1400):
        history.add(step, 1.0, 1e300, math.inf, (math.inf, 0.0, math.inf))
    json.dumps(history.report(), allow_nan=False)
    state(history)


def test_nothing_was_learned() -> None:
    history = ScoreHistory("classification")
    report = history.report()
    assert (len(history), report["start"], report["step"], report["scores"]["Accuracy"]) == (0, 0, [], [])
    other = ScoreHistory("classification")
    other.load_state_dict(json.loads(state(history)))
    assert state(other) == state(history)


def test_another_form_is_refused() -> None:
    history = one_by_one(scores(25))
    with pytest.raises(StateError, match="another form"):
        history.load_state_dict({**history.state_dict(), "every": 16})
