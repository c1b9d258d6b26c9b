"""Running mean and total variance: the recursion, the trap at one sample a step, merging, growing, state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnp_online.errors import ConfigurationError, StateError
from bnp_online.moments import RunningMoments, mean_and_variance
from tests.support.reference import Array, array, running_moments

RHOS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])
SEEDS = st.integers(0, 2**32 - 1)


def random_stream(seed: int, sizes: list[int], features: int = 3) -> list[Array]:
    """Steps of so many samples each, with a mean and a scale for each feature."""
    rng = np.random.default_rng(seed)
    centre, scale = rng.normal(0.0, 5.0, features), rng.uniform(0.1, 3.0, features)
    return [centre + scale * rng.standard_normal((size, features)) for size in sizes]


def after(steps: list[Array], rho: float = 0.99, features: int = 3, **kwargs: Any) -> RunningMoments:
    """Float64 moments that took these steps."""
    moments = RunningMoments(features, rho, dtype=torch.float64, **kwargs)
    for samples in steps:
        moments.update(torch.from_numpy(samples))
    return moments


def assert_close(moments: RunningMoments, mean: Array, var: Array, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(array(moments.mean), mean, rtol=rtol, atol=1e-13)
    np.testing.assert_allclose(array(moments.var), var, rtol=rtol, atol=1e-13)


def assert_same(a: RunningMoments, b: RunningMoments) -> None:
    """Equal to the last bit."""
    assert (a.weight, a.prior_weight) == (b.weight, b.prior_weight)
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.var, b.var)


class TestUpdate:
    @settings(max_examples=50)
    @given(seed=SEEDS, rho=RHOS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=30))
    def test_follows_the_recursion_for_any_number_of_samples(
        self, seed: int, rho: float, sizes: list[int]
    ) -> None:
        steps = random_stream(seed, sizes)
        moments = RunningMoments(3, rho, dtype=torch.float64)
        for count, samples in enumerate(steps, start=1):
            moments.update(torch.from_numpy(samples))
            assert_close(moments, *running_moments(steps[:count], rho), rtol=1e-10)

    def test_one_sample_a_step_keeps_the_variance(self) -> None:
        """The paper's average of within-batch variances decays to nothing here."""
        steps = random_stream(0, [1] * 2000)
        within_batch = np.ones(3)
        for samples in steps:
            within_batch = 0.99 * within_batch + 0.01 * samples.var(axis=0)
        assert within_batch.max() < 1e-8
        spread = np.concatenate(steps).var(axis=0)
        var = array(after(steps).var)
        assert (0.5 * spread < var).all()
        assert (var < 2.0 * spread).all()

    def test_early_statistics_are_plain_averages_with_one_pseudo_sample(self) -> None:
        steps = random_stream(1, [1] * 98)
        values = np.concatenate(steps)
        mean = values.sum(axis=0) / 99
        var = (1.0 + np.square(values).sum(axis=0)) / 99 - mean**2
        moments = after(steps)
        assert_close(moments, mean, var, rtol=1e-11)
        assert moments.weight == 99.0

    def test_the_weight_stops_where_rho_takes_over(self) -> None:
        moments = after(random_stream(1, [1] * 300))
        assert moments.weight == pytest.approx(100.0)
        assert moments.prior_weight == pytest.approx(0.99**201, rel=1e-9)

    def test_cumulative_averages_without_a_prior_are_those_of_numpy(self) -> None:
        steps = random_stream(2, [1] * 500)
        values = np.concatenate(steps)
        assert_close(after(steps, rho=1.0, prior=0.0), values.mean(axis=0), values.var(axis=0), rtol=1e-11)

    def test_a_heavier_prior_counts_as_that_many_pseudo_samples(self) -> None:
        steps = random_stream(3, [1] * 20)
        values = np.concatenate(steps)
        mean = values.sum(axis=0) / 25
        var = (5.0 + np.square(values).sum(axis=0)) / 25 - mean**2
        assert_close(after(steps, rho=1.0, prior=5.0), mean, var, rtol=1e-11)

    def test_from_statistics_or_from_samples_is_the_same(self) -> None:
        steps = random_stream(4, [4, 1, 3])
        moments = RunningMoments(3, dtype=torch.float64)
        for x in map(torch.from_numpy, steps):
            moments.update_from(x.mean(dim=0), x.var(dim=0, correction=0) if len(x) > 1 else None)
        assert_close(moments, *running_moments(steps, 0.99))

    def test_second_moment_is_the_mean_square(self) -> None:
        steps = random_stream(5, [1] * 50)
        moments = after(steps, rho=1.0, prior=0.0)
        expected = np.square(np.concatenate(steps)).mean(axis=0)
        np.testing.assert_allclose(array(moments.second_moment), expected, rtol=1e-12)

    def test_a_shallow_copy_keeps_its_values(self) -> None:
        """A learner copies its moments before a step that it may have to take back."""
        moments = after(random_stream(6, [2, 2]))
        kept = copy.copy(moments)
        before = moments.state_dict()
        moments.update(torch.ones(1, 3))
        assert torch.equal(kept.mean, before["mean"])
        assert torch.equal(kept.var, before["var"])
        assert kept.weight == before["weight"] != moments.weight

    def test_the_graph_of_the_samples_is_not_kept(self) -> None:
        moments = RunningMoments(3)
        moments.update(torch.ones(2, 3, requires_grad=True))
        assert not moments.mean.requires_grad
        assert not moments.var.requires_grad

    @pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 1), (2, 4), (1, 2, 3)])
    def test_samples_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        moments = after(random_stream(7, [2]))
        before = copy.copy(moments)
        with pytest.raises(ValueError, match="shape"):
            moments.update(torch.ones(shape))
        assert_same(moments, before)


def weighted_samples(steps: list[Array], rho: float) -> tuple[Array, Array, float]:
    """Values, weights, and the pseudo-sample's weight, of moments that took these steps of one sample."""
    weights = np.ones(1)
    for _ in steps:
        total = min(weights.sum() + 1.0, 1 / (1 - rho) if rho < 1 else np.inf)
        weights = np.append(weights * (total - 1.0) / weights.sum(), 1.0)
    return np.concatenate(steps), weights[1:], float(weights[0])


class TestMerge:
    @settings(max_examples=30)
    @given(seed=SEEDS, halves=st.tuples(st.integers(0, 40), st.integers(0, 40)))
    def test_two_halves_give_the_whole(self, seed: int, halves: tuple[int, int]) -> None:
        """Exactly, with rho = 1; and the pseudo-sample, which each half began with, counts once."""
        steps = random_stream(seed, [1] * sum(halves))
        merged, other = after(steps[: halves[0]], rho=1.0), after(steps[halves[0] :], rho=1.0)
        merged.merge(other)
        whole = after(steps, rho=1.0)
        assert_close(merged, array(whole.mean), array(whole.var), rtol=1e-11)
        assert merged.weight == pytest.approx(sum(halves) + 1)
        assert merged.prior_weight == pytest.approx(1.0)

    @pytest.mark.parametrize("rho", [0.9, 0.99])
    def test_forgetting_moments_merge_with_their_effective_weights(self, rho: float) -> None:
        streams = random_stream(8, [1] * 30), random_stream(9, [1] * 70)
        merged = after(streams[0], rho)
        merged.merge(after(streams[1], rho))
        (a, a_weights, a_prior), (b, b_weights, b_prior) = (weighted_samples(s, rho) for s in streams)
        weights = np.concatenate([a_weights, b_weights])[:, None] / (total := merged.weight)
        prior = min(a_prior, b_prior) / total
        values = np.concatenate([a, b])
        mean = (weights * values).sum(axis=0)
        assert weights.sum() + prior == pytest.approx(1.0)
        assert_close(merged, mean, (weights * values**2).sum(axis=0) + prior - mean**2, rtol=1e-10)

    def test_the_order_does_not_matter_to_the_bit(self) -> None:
        a, b = after(random_stream(10, [1] * 30)), after(random_stream(11, [3] * 50))
        ab, ba = copy.copy(a), copy.copy(b)
        ab.merge(b)
        ba.merge(a)
        assert_same(ab, ba)

    def test_moments_that_saw_nothing_change_nothing(self) -> None:
        seen = after(random_stream(12, [1] * 150))
        for merged, other in ((copy.copy(seen), after([])), (after([]), seen)):
            merged.merge(other)
            assert_close(merged, array(seen.mean), array(seen.var))
            assert merged.weight == pytest.approx(seen.weight)
            assert merged.prior_weight == pytest.approx(seen.prior_weight)

    def test_nothing_merged_with_nothing_is_the_start(self) -> None:
        for prior in (0.0, 1.0):
            merged = after([], prior=prior)
            merged.merge(after([], prior=prior))
            assert_same(merged, after([], prior=prior))

    def test_the_other_is_left_as_it_is(self) -> None:
        other = after(random_stream(13, [2] * 5))
        before = copy.copy(other)
        after(random_stream(14, [2] * 5)).merge(other)
        assert_same(other, before)

    def test_a_large_offset_does_not_cancel(self) -> None:
        """Sums of squares would leave no digit of this variance."""
        values = 1e9 + np.random.default_rng(0).standard_normal((200, 3))
        merged = after([values[:1], *np.split(values[1:100], 99)], rho=1.0, prior=0.0)
        merged.merge(after(np.split(values[100:], 100), rho=1.0, prior=0.0))
        np.testing.assert_allclose(array(merged.var), values.var(axis=0), rtol=1e-6)

    def test_learning_goes_on_after_a_merge(self) -> None:
        steps = random_stream(15, [1] * 60)
        merged = after(steps[:20], rho=1.0)
        merged.merge(after(steps[20:40], rho=1.0))
        for samples in steps[40:]:
            merged.update(torch.from_numpy(samples))
        whole = after(steps, rho=1.0)
        assert_close(merged, array(whole.mean), array(whole.var), rtol=1e-11)

    def test_other_lengths_are_refused(self) -> None:
        moments = after(random_stream(16, [2]))
        before = copy.copy(moments)
        with pytest.raises(StateError, match="4 features into 3"):
            moments.merge(RunningMoments(4))
        assert_same(moments, before)


class TestGrow:
    @pytest.mark.parametrize(("prior", "start"), [(1.0, 1.0), (0.0, 0.0)])
    def test_new_features_begin_at_the_start(self, prior: float, start: float) -> None:
        moments = after(random_stream(17, [1] * 5), prior=prior)
        before = moments.state_dict()
        moments.grow(2)
        assert moments.mean.tolist() == [*before["mean"].tolist(), 0.0, 0.0]
        assert moments.var.tolist() == [*before["var"].tolist(), start, start]
        assert moments.weight == before["weight"]

    def test_growing_and_learning_changes_no_old_feature(self) -> None:
        steps = random_stream(18, [1] * 10, features=5)
        moments = after([samples[:, :3] for samples in steps[:5]])
        moments.grow(2)
        for samples in steps[5:]:
            moments.update(torch.from_numpy(samples))
        mean, var = running_moments([samples[:, :3] for samples in steps], 0.99)
        np.testing.assert_allclose(array(moments.mean)[:3], mean, rtol=1e-12)
        np.testing.assert_allclose(array(moments.var)[:3], var, rtol=1e-12)


class TestState:
    def test_a_round_trip_goes_on_to_the_last_bit(self) -> None:
        steps = random_stream(19, [1, 4, 2, 1, 3, 1])
        original = after(steps[:3])
        restored = after([])
        restored.load_state_dict(original.state_dict())
        assert_same(original, restored)
        for samples in map(torch.from_numpy, steps[3:]):
            original.update(samples)
            restored.update(samples)
        assert_same(original, restored)

    def test_a_state_is_a_copy_both_ways(self) -> None:
        moments = after(random_stream(20, [2]))
        state = moments.state_dict()
        mean = state["mean"].clone()
        state["mean"].zero_()
        assert torch.equal(moments.mean, mean)
        moments.load_state_dict(state)
        state["mean"].fill_(7.0)
        assert moments.mean.tolist() == [0.0, 0.0, 0.0]

    def test_weights_may_be_tensors(self) -> None:
        moments, restored = after(random_stream(21, [2] * 4)), after([])
        state = moments.state_dict()
        restored.load_state_dict({key: torch.as_tensor(v, dtype=torch.float64) for key, v in state.items()})
        assert_same(moments, restored)
        assert isinstance(restored.weight, float)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"var": ...}, "keys"),
            ({"extra": 1.0}, "keys"),
            ({"mean": torch.zeros(4)}, "mean"),
            ({"var": torch.zeros(3, 1)}, "var"),
            ({"var": [1.0, 1.0, 1.0]}, "var"),
            ({"weight": float("nan")}, "weight"),
            ({"weight": "many"}, "weight"),
            ({"prior_weight": -1.0}, "prior_weight"),
            ({"prior_weight": None}, "prior_weight"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_refused_and_changes_nothing(
        self, change: dict[str, Any], message: str
    ) -> None:
        moments = after(random_stream(22, [2]))
        before = copy.copy(moments)
        other = after(random_stream(23, [3])).state_dict() | change
        with pytest.raises(StateError, match=message):
            moments.load_state_dict({key: value for key, value in other.items() if value is not ...})
        assert_same(moments, before)


class TestPlace:
    @pytest.mark.parametrize("device", ["cpu", "meta", pytest.param("cuda", marks=pytest.mark.cuda)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_moving_takes_everything_along(self, device: str, dtype: torch.dtype) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        moments = after(random_stream(24, [2]))
        moments.to(torch.device(device), dtype)
        moments.update(torch.ones(2, 3, device=device))
        moments.grow(1)
        for statistic in (moments.mean, moments.var):
            assert statistic.device.type == device
            assert statistic.dtype == dtype

    def test_moving_keeps_the_values(self) -> None:
        steps = random_stream(25, [2] * 5)
        moments = after(steps)
        moments.to(torch.device("cpu"), torch.float32)
        assert_close(moments, *running_moments(steps, 0.99), rtol=1e-6)

    def test_samples_are_taken_in_the_precision_of_the_statistics(self) -> None:
        moments = RunningMoments(3)
        moments.update(torch.ones(2, 3, dtype=torch.float64))
        moments.update(torch.ones(1, 3, dtype=torch.bfloat16))
        assert moments.mean.dtype == moments.var.dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("num_features", {"num_features": -1}),
        ("rho", {"rho": 1.01}),
        ("rho", {"rho": -0.1}),
        ("rho", {"rho": float("nan")}),
        ("prior", {"prior": -1.0}),
        ("prior", {"prior": float("inf")}),
        ("prior", {"prior": float("nan")}),
    ],
)
def test_arguments_out_of_range_are_refused(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RunningMoments(**{"num_features": 3, **arguments})
    assert caught.value.field == field


@pytest.mark.parametrize(
    "shape", [(1, 5), (2, 5), (1024, 5), (1025, 5), (40_000, 5), (3, 5, 7), (2, 5, 4, 4), (700, 5, 8, 8)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_mean_and_variance_in_float32_are_those_in_float64(shape: tuple[int, ...], transposed: bool) -> None:
    """However many rows there are: some are added up by one kernel, more of them by parts."""
    x = 30.0 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if transposed:
        x = x.mT.contiguous().mT
    dims = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x.double(), dim=dims, correction=0)
    found_mean, found_var = mean_and_variance(x, dims)
    torch.testing.assert_close(found_mean.double(), mean, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(found_var.double(), var, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 2, 3000])
def test_moments_of_no_features(rows: int) -> None:
    moments = RunningMoments(0)
    moments.update(torch.empty(rows, 0))
    assert moments.weight == 2.0
