"""Predictive intervals: the step against its definition, coverage, state, and what is refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

import bnp_online as bnp
from benchmarks.common import streams
from bnp_online import checkpoint
from bnp_online.errors import ConfigurationError, SampleError, StateError
from bnp_online.intervals import Intervals
from tests.support.reference import Array, preconditioner

MASK = 2**64 - 1
LEVELS = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]


def uniform(seed: int, step: int, place: int) -> float:
    """SplitMix64 on a counter, in Python's integers."""
    x = seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 + step * 0xBF58476D1CE4E5B9
    x = (x + place * 0x94D049BB133111EB) & MASK
    for _ in range(2):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
        x ^= x >> 31
    return (x >> 11) / 2**53


def normals(seed: int, step: int, count: int) -> Array:
    """Box and Muller."""
    pairs = [(uniform(seed, step, 2 * i), uniform(seed, step, 2 * i + 1)) for i in range(count)]
    return np.array([math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v) for u, v in pairs])


class Reference:
    """The model of the errors from its definition: explicit P, numpy, no running formula but of q and c."""

    def __init__(self, window: int, seed: int) -> None:
        self.window, self.seed = window, seed
        self.x: list[Array] = []
        self.predictions: list[float] = []
        self.errors: list[float] = []
        self.rows: list[Array] = []
        self.params = np.zeros((2, 0))
        self.samples: list[Array] = []
        self.log_factors = np.zeros(len(LEVELS))

    def row(self, x: Array, prediction: float) -> Array:
        """[1, φ] with the statistics as they are."""

        def standard(value: Any, seen: Any) -> Any:
            spread = np.std(seen, axis=0)
            spread = np.where(spread > 0, spread, np.inf)
            return np.clip((value - np.mean(seen, axis=0)) / spread, -5, 5)

        features = standard(x, self.x) if self.x else np.zeros(len(x))
        of_prediction = standard(prediction, self.predictions) if self.predictions else 0.0
        return np.array([1.0, of_prediction, *features])

    @property
    def scale(self) -> float:
        mean = 0.0
        for i, error in enumerate(self.errors):
            mean += (error**2 - mean) / min(i + 1, 100)
        return math.sqrt(mean)

    def radius(self, x: Array, prediction: float) -> Array | None:
        """By level of the grid."""
        if len(self.errors) < 20:
            return None
        m, s = np.einsum("kij,j->ik", np.array(self.samples), self.row(x, prediction))
        spread = self.scale * math.sqrt((np.exp(2 * np.clip(s, -4, 4)) + m**2).mean())
        quantiles = np.array([NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS])
        widths: Array = np.maximum.accumulate(np.exp(self.log_factors) * quantiles * spread)
        return widths

    def learn(self, x: Array, target: float, prediction: float, weight: float) -> None:
        if not self.x:
            self.params = np.zeros((2, len(x) + 2))
        if math.isnan(prediction):
            self.x.append(x)
            return
        error = target - prediction
        if (widths := self.radius(x, prediction)) is not None:
            missed = abs(error) > widths
            self.log_factors = self.log_factors + 0.05 * weight * (missed - (1 - np.array(LEVELS)))
        self.x.append(x)
        self.predictions.append(prediction)
        self.errors.append(error)
        row = self.row(x, prediction)
        self.rows.append(row[1:])
        mean, var = np.zeros(len(row) - 1), np.ones(len(row) - 1)
        for t, phi in enumerate(self.rows):
            rho = min(0.99, (t + 1) / (t + 2))
            var = rho * var + rho * (1 - rho) * (phi - mean) ** 2
            mean = mean + (1 - rho) * (phi - mean)
        p = preconditioner(mean, var + 1e-2 * var.max() + 1e-4, centred=True)
        unit = np.clip(error / self.scale, -10, 10)
        m, s = self.params @ row
        deviation = math.exp(np.clip(s, -4, 4))
        v = (unit - m) / deviation
        robust = 5.0 / (4.0 + v * v)
        information = np.array([deviation**-2, 2.0])
        gradient = np.array([-robust * v / deviation, 1.0 - robust * v * v]) / information
        rate = 0.02 * weight / (len(row) - 1)
        xi = normals(self.seed, len(self.errors) - 1, 2 * len(row)).reshape(2, -1)
        noise = np.sqrt(2 * rate / 500 / information)[:, None] * xi @ p.T
        self.params = self.params - rate * np.outer(gradient, p @ p.T @ row) + noise
        if len(self.errors) % 4 == 0:
            self.samples = [*self.samples, self.params][-self.window :]


def test_it_follows_its_definition() -> None:
    rng = np.random.default_rng(0)
    ours, reference = Intervals(5, 7, 3), Reference(5, 7)
    given = 0
    for t in range(120):
        x = rng.normal([3.0, -1.0, 0.0], [0.1, 5.0, 1.0])
        prediction = math.nan if t == 0 else float(x[0])
        target = x[0] + rng.standard_t(3) * math.exp(0.3 * x[2])
        weight = 0.5 if t % 5 == 0 else 1.0
        expected = reference.radius(x, prediction)
        for i, level in enumerate(LEVELS):
            radius = ours.radius(x, prediction, level)
            if expected is None:
                assert radius is None
            else:
                assert radius == pytest.approx(expected[i], rel=1e-9)
                given += 1
        row = (np.array([each]) for each in (x, target, prediction, weight))
        ours.learn(*row)
        reference.learn(x, target, prediction, weight)
    assert given == len(LEVELS) * 99
    params = ours.state_dict()["intervals.params"].numpy()
    np.testing.assert_allclose(params, reference.params, rtol=1e-9, atol=1e-12)


def test_between_the_levels_of_the_grid_width_rises_with_the_level() -> None:
    rng = np.random.default_rng(1)
    ours = Intervals(8, 0, 1)
    for _ in range(300):
        x = rng.normal(size=(1, 1))
        ours.learn(x, x[0] + rng.choice([-1.0, 1.0], 1), x[0], np.ones(1))  # errors of ±1: the factors cross
    at = np.zeros(1)
    widths = [ours.radius(at, 0.0, level) for level in (1e-9, *np.linspace(0.01, 0.999, 300), 1 - 2**-53)]
    assert all(width is not None and math.isfinite(width) for width in widths)
    assert widths == sorted(widths, key=float)  # type: ignore[arg-type]  # none is None, as was just shown
    factors = ours.state_dict()["intervals.factors"].numpy()
    raw = np.exp(factors) * [NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS]
    assert (np.diff(raw) < 0).any()


def uneven(n: int, seed: int) -> list[tuple[dict[str, float], float]]:
    """A line whose noise depends on `b`, and is three times as strong in the second half."""
    rng = random.Random(seed)  # noqa: S311
    samples = []
    for i in range(n):
        x = {"a": rng.gauss(10.0, 2.0), "b": rng.choice([-1.0, 1.0])}
        noise = math.exp(x["b"]) * (3.0 if i >= n // 2 else 1.0)
        samples.append((x, 2.0 * x["a"] + rng.gauss(0.0, noise)))
    return samples


def prequential(samples: Any, level: float, **options: Any) -> tuple[float, list[tuple[Any, float]]]:
    """Coverage in %, and by sample x and width."""
    model = bnp.BNPRegressor((10,), lr=0.3, intervals=32, **options)
    held, widths = [], []
    for x, y in samples:
        interval = model.predict_interval_one(x, level)
        if interval is not None:
            low, high = interval
            prediction = model.predict_one(x)
            assert prediction is not None
            assert low <= prediction <= high
            held.append(low <= y <= high)
            widths.append((x, high - low))
        model.learn_one(x, y)
    assert len(held) == len(samples) - 21
    return 100.0 * float(np.mean(held)), widths


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.85])
def test_they_hold_as_often_as_asked_and_adapt_to_x_and_to_drift(level: float) -> None:
    coverage, widths = prequential(uneven(2000, 0), level)
    assert abs(coverage - 100.0 * level) <= 2.0
    before, after = widths[600:980], widths[1600:]
    of = {b: np.mean([width for x, width in before if x["b"] == b]) for b in (-1.0, 1.0)}
    assert of[1.0] > 3.0 * of[-1.0]  # of the noise: 7.4
    later = np.mean([width for _, width in after]) / np.mean([width for _, width in before])
    assert 2.0 < later < 4.0


@pytest.mark.parametrize("name", ["TrumpApproval", "ChickWeights"])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_they_hold_as_often_as_asked_on_real_streams(name: str, level: float) -> None:
    coverage, _ = prequential(streams.load(name).samples, level)
    assert abs(coverage - 100.0 * level) <= 2.0


def learned(n: int = 60, **options: Any) -> bnp.BNPRegressor:
    model = bnp.BNPRegressor((6,), lr=0.3, **options)
    for x, y in uneven(n, 1):
        model.learn_one(x, y)
    return model


def test_they_leave_predictions_as_they_are() -> None:
    off, on = learned(), learned(intervals=4)
    tensors = on.state_dict()["tensors"]
    for name, tensor in off.state_dict()["tensors"].items():
        assert torch.equal(tensor, tensors[name])
    assert off.fingerprint() != on.fingerprint()


def test_the_state_goes_on_as_the_original(tmp_path: Path) -> None:
    model = learned(intervals=4)
    model.save(tmp_path / "model")
    twin = bnp.load(tmp_path / "model")
    assert isinstance(twin, bnp.BNPRegressor)
    for x, y in uneven(20, 2):
        assert model.predict_interval_one(x) == twin.predict_interval_one(x)
        model.learn_one(x, y)
        twin.learn_one(x, y)
    assert model.fingerprint() == twin.fingerprint()


def test_the_state_of_the_greatest_values_and_targets_is_taken(tmp_path: Path) -> None:
    rng = random.Random(2)  # noqa: S311
    model = bnp.BNPRegressor((4,), intervals=4, memory=50)
    for _ in range(60):
        model.learn_one({"a": rng.uniform(-1e100, 1e100)}, rng.choice([-1e100, 1e100]))
    model.save(tmp_path / "model")
    assert bnp.load(tmp_path / "model").fingerprint() == model.fingerprint()
    assert model.predict_interval_one({"a": 1e100}) is not None


def test_another_seed_gives_other_intervals() -> None:
    x = {"a": 10.0, "b": 1.0}
    assert learned(intervals=4).predict_interval_one(x) != learned(intervals=4, seed=1).predict_interval_one(
        x
    )


def test_a_state_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    model = learned()
    state = model.state_dict()
    del state["parameters"]["intervals"]
    checkpoint.save(tmp_path / "old", state)
    assert bnp.load(tmp_path / "old").fingerprint() == model.fingerprint()
    twin = bnp.BNPRegressor((6,), lr=0.3)
    twin.load_state_dict(state)
    assert twin.fingerprint() == model.fingerprint()
    with pytest.raises(StateError, match="intervals"):
        bnp.BNPRegressor((6,), lr=0.3, intervals=4).load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scalars", math.nan), ("scalars", -1.0), ("inputs", -1.0), ("params", math.inf), ("samples", 1e200)],
)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str, value: float) -> None:
    model = learned(intervals=4)
    state, before = model.state_dict(), model.fingerprint()
    state["tensors"][f"intervals.{name}"].view(-1)[-1] = value
    with pytest.raises(StateError, match="damaged"):
        model.load_state_dict(state)
    assert model.fingerprint() == before


@pytest.mark.parametrize("change", ["missing", "shape", "type", "odd"])
def test_a_state_of_another_form_is_refused(change: str) -> None:
    model = learned(intervals=4)
    state = model.state_dict()
    tensors = state["tensors"]
    if change == "missing":
        del tensors["intervals.params"]
    elif change == "shape":
        tensors["intervals.params"] = tensors["intervals.params"][:, :-1]
    elif change == "type":
        tensors["intervals.params"] = tensors["intervals.params"].float()
    else:
        tensors["intervals.scalars"][-1] += 0.5
    with pytest.raises(StateError, match="damaged"):
        model.load_state_dict(state)


def test_before_twenty_errors_there_is_none() -> None:
    x = {"a": 10.0, "b": 1.0}
    assert bnp.BNPRegressor(intervals=4).predict_interval_one(x) is None
    assert learned(20, intervals=4).predict_interval_one(x) is None
    assert learned(21, intervals=4).predict_interval_one(x) is not None


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90, math.nan, "0.9", None, True])
def test_a_level_out_of_range_is_refused(level: Any) -> None:
    with pytest.raises(SampleError) as error:
        learned(intervals=4).predict_interval_one({}, level)
    assert (error.value.code, error.value.field) == ("invalid_level", "level")


def test_without_intervals_they_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="intervals=32"):
        learned().predict_interval_one({})
    with pytest.raises(ConfigurationError, match="intervals"):
        bnp.BNPRegressor(intervals=-1)


def test_a_stream_without_errors_has_intervals_of_no_width_and_recovers() -> None:
    model = bnp.BNPRegressor((), lr=0.3, intervals=4)
    for _ in range(500):
        model.learn_one({"a": 1.0}, 2.0)
    assert model.predict_interval_one({"a": 1.0}) == (2.0, 2.0)
    rng = random.Random(0)  # noqa: S311
    for _ in range(500):
        model.learn_one({"a": 1.0}, rng.gauss(2.0, 1.0))
    interval = model.predict_interval_one({"a": 1.0})
    assert interval is not None
    assert 2.0 < interval[1] - interval[0] < 5.0  # of a Gaussian: 3.3
