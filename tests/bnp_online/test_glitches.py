"""One absurd value, and data that look like one: what the default estimators make of them.

The moments and the bounds of values have tests of their own (`tests/bnp_online/engines/test_experts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnp_online import BNPClassifier, BNPRegressor

Array = NDArray[np.float64]
Features = dict[str, Any]

SAMPLES = 500
#: Places of a glitch: the first value, among the first 20, the 20th and the 21st, and later.
PLACES = (0, 10, 19, 20, 200)
#: Standard deviation of the targets of `weather`, about.
SPREAD = 11.0


def errors(model: BNPClassifier | BNPRegressor, inputs: Iterable[Features], targets: Iterable[Any]) -> Array:
    """Return the error of each prediction, before the sample is learned: 0 or 1, or the absolute error."""
    found = []
    for x, y in zip(inputs, targets, strict=True):
        prediction = model.predict_one(x)
        if isinstance(prediction, float):
            found.append(abs(prediction - y))
        else:
            found.append(math.nan if prediction is None else float(prediction != y))
        model.learn_one(x, y)
    return np.array(found)


def dicts(**columns: Iterable[float]) -> list[Features]:
    """Return the rows of columns as dicts."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def weather(samples: int = SAMPLES) -> tuple[list[Features], list[float]]:
    """Return two features, and a target that is a line in them."""
    rng = np.random.default_rng(0)
    warmth, wind = rng.normal(20.0, 5.0, samples), rng.normal(size=samples)
    return dicts(warmth=warmth.tolist(), wind=wind.tolist()), (2.0 * warmth + 5.0 * wind).tolist()


def words(targets: Iterable[float]) -> list[str]:
    return ["warm" if y > 40.0 else "cold" for y in targets]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [999999.0, -1e30])
@pytest.mark.parametrize("beside", [None, math.nan])
def test_an_absurd_feature_costs_almost_nothing_after_it(
    place: int, value: float, beside: float | None
) -> None:
    inputs, targets = weather()
    labels = words(targets)
    without = errors(BNPClassifier(), inputs, labels)
    inputs[place] = {"warmth": value, "wind": inputs[place]["wind"] if beside is None else beside}
    found = errors(BNPClassifier(), inputs, labels)
    after = slice(max(place + 1, 20), None)
    assert found[after].mean() < without[after].mean() + 0.03  # 0.3 without bounds


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [99999.0, -1e8])
def test_an_absurd_target_costs_almost_nothing_after_it(place: int, value: float) -> None:
    inputs, targets = weather()
    targets[place] = value
    found = errors(BNPRegressor(), inputs, targets)
    assert found[max(place, 20) + 100 :].mean() < 0.02 * SPREAD  # 100 and more without bounds


def test_an_absurd_feature_does_not_make_the_prediction_absurd() -> None:
    inputs, targets = weather(200)
    model = BNPRegressor()
    errors(model, inputs, targets)
    prediction = model.predict_one({"warmth": 1e9, "wind": 0.0})
    assert prediction is not None
    assert min(targets) - SPREAD * 4 < prediction < max(targets) + SPREAD * 4


def test_a_feature_may_begin_with_20_equal_values() -> None:
    inputs, targets = weather()
    labels = words(targets)
    for x in inputs[:20]:
        x["warmth"] = 7.0
    assert errors(BNPClassifier(), inputs, labels)[100:].mean() < 0.06  # a frozen feature: 0.4


def test_a_target_may_begin_with_20_equal_values() -> None:
    inputs, targets = weather()
    targets[:20] = [0.0] * 20
    assert errors(BNPRegressor(), inputs, targets)[200:].mean() < 0.02 * SPREAD


def test_a_target_may_be_zero_at_night() -> None:
    hours = [float((t + 18) % 24) for t in range(24 * 40)]
    inputs = dicts(hour=hours, clouds=np.random.default_rng(0).uniform(0.2, 1.0, len(hours)).tolist())
    sun = [max(math.sin((hour - 6.0) / 12.0 * math.pi), 0.0) for hour in hours]
    power = [800.0 * height * x["clouds"] for height, x in zip(sun, inputs, strict=True)]
    found = errors(BNPRegressor(), inputs, power)
    assert found[-240:].mean() < 0.05 * np.std(power)


@pytest.mark.parametrize("kind", [bool, float, lambda flag: "yes" if flag else "no"])
def test_a_rare_flag_keeps_its_effect(kind: Callable[[bool], Any]) -> None:
    rng = np.random.default_rng(0)
    flags = [t % 500 == 100 for t in range(3000)]
    noise = rng.normal(size=3000).tolist()
    inputs = [{"flag": kind(flag), "z": z} for flag, z in zip(flags, noise, strict=True)]
    found = errors(BNPRegressor(), inputs, [10.0 * f + z for f, z in zip(flags, noise, strict=True)])
    assert found[[1600, 2100, 2600]].mean() < 2.0  # 10 if it is ignored
    assert np.delete(found, flags)[1000:].mean() < 0.1


def with_and_without_bounds(inputs: list[Features], targets: list[float]) -> list[Array]:
    """Return the errors of the default regressor, and of the first generation, which bounds no value."""
    return [errors(model, inputs, targets) for model in (BNPRegressor(), BNPRegressor(learner=1))]


@pytest.mark.parametrize("heavy", ["feature", "target"])
def test_a_heavy_tail_is_learned_as_without_bounds(heavy: str) -> None:
    a, z = np.random.default_rng(0).normal(size=(2, 1000))
    x, y = (np.exp(2 * a), 2 * a + z) if heavy == "feature" else (a, np.exp(1.5 * a) + z)
    bounded, unbounded = with_and_without_bounds(dicts(x=x.tolist(), z=z.tolist()), y.tolist())
    assert bounded[300:].mean() < 1.05 * unbounded[300:].mean()


@pytest.mark.parametrize("shifted", ["feature", "target"])
def test_a_change_of_50_standard_deviations_is_followed_as_fast_as_without_bounds(shifted: str) -> None:
    inputs, targets = weather(2 * SAMPLES)
    for i in range(SAMPLES, 2 * SAMPLES):
        if shifted == "feature":
            inputs[i]["warmth"] += 250.0
        else:
            targets[i] += 50 * SPREAD
    bounded, unbounded = with_and_without_bounds(inputs, targets)
    for part in (slice(SAMPLES, SAMPLES + 200), slice(SAMPLES + 200, None)):
        assert bounded[part].mean() < 1.1 * unbounded[part].mean()
