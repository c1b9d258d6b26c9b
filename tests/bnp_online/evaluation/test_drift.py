"""The detectors of drift are River's, number by number, and come back from JSON as they were."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import drift

from bnp_online import ConfigurationError, StateError
from bnp_online.evaluation.drift import ADWIN, Detector, PageHinkley

DETECTORS: list[Callable[[], Detector]] = [ADWIN, lambda: PageHinkley(threshold=20.0)]


def numbers(seed: int, length: int, gap: int = 1000) -> Iterator[float]:
    """Numbers whose mean changes now and then: of a loss with a long tail, or errors that are 0 or 1."""
    rng = random.Random(seed)  # noqa: S311
    mean = 0.3
    for _ in range(length):
        if rng.random() < 1.0 / gap:
            mean = rng.uniform(0.05, 0.95)
        yield rng.expovariate(1.0 / mean) if seed % 2 else float(rng.random() < mean)


@pytest.mark.parametrize("seed", range(4))
def test_adwin_is_rivers(seed: int) -> None:
    ours, theirs = ADWIN(), drift.ADWIN()
    found = 0
    for value in numbers(seed, 30_000):
        change = ours.update(value)
        theirs.update(value)
        assert (change != 0.0) == theirs.drift_detected
        found += theirs.drift_detected
        state = ours.state_dict()
        if not theirs.drift_detected and not state["waiting"]:  # River's begins anew with the next number
            width, total, squares = state["totals"]
            assert (width, total, squares) == (theirs.width, theirs.total, theirs.variance)
    assert found > 5


@pytest.mark.parametrize("seed", range(4))
def test_page_hinkley_is_rivers(seed: int) -> None:
    ours, theirs = PageHinkley(threshold=20.0), drift.PageHinkley(threshold=20.0, mode="up")
    found = 0
    for value in numbers(seed, 30_000):
        change = ours.update(value)
        theirs.update(value)
        assert (change != 0.0) == theirs.drift_detected
        found += theirs.drift_detected
    assert found > 3


@given(
    st.lists(st.floats(0.0, 1.0), max_size=300),
    st.floats(0.0, 20.0),
    st.sampled_from([1e-4, 0.002, 0.3]),
)
def test_adwin_is_rivers_on_anything(values: list[float], jump: float, delta: float) -> None:
    ours, theirs = ADWIN(delta), drift.ADWIN(delta)
    for value in [*values, *(value + jump for value in values)]:
        theirs.update(value)
        assert (ours.update(value) != 0.0) == theirs.drift_detected


@pytest.mark.parametrize("make", DETECTORS)
def test_a_detector_comes_back_from_json_as_it_was(make: Callable[[], Detector]) -> None:
    one = make()
    other = make()
    found = 0
    for i, value in enumerate(numbers(2, 5000, gap=400)):
        change = one.update(value)
        found += change != 0.0
        assert other.update(value) == change
        if i % 97 == 0:
            before, other = other, make()
            other.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert other.state_dict() == one.state_dict()
    assert found > 2


def test_adwin_tells_which_way_the_mean_went() -> None:
    for before, after in ((0.2, 0.8), (0.8, 0.2)):
        detector = ADWIN()
        changes = [detector.update(before if i < 320 else after) for i in range(640)]
        assert [change > 0 for change in changes if change] == [after > before]


@pytest.mark.parametrize("make", DETECTORS)
@pytest.mark.parametrize(
    "state", [{}, {"waiting": [], "totals": [1.0], "rows": [[]]}, {"n": "a", "mean": 0.0}]
)
def test_a_damaged_state_is_refused(make: Callable[[], Detector], state: dict[str, Any]) -> None:
    detector = make()
    before = detector.state_dict()
    with pytest.raises(StateError):
        detector.load_state_dict(state)
    assert detector.state_dict() == before


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ADWIN(0.0), "delta"),
        (lambda: ADWIN(1.0), "delta"),
        (lambda: PageHinkley(-1.0), "delta"),
        (lambda: PageHinkley(threshold=0.0), "threshold"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        make()
