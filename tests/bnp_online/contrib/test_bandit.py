"""The bandit: what it samples, what it earns, River's conventions, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bnp_online.contrib.bandit import BNPThompsonSampling
from bnp_online.errors import ConfigurationError, SampleError
from tests.support.reference import Array

ARMS: list[int | str] = ["a", "b", "c"]


def problem(n: int, seed: int) -> Iterator[tuple[dict[str, float], Array]]:
    """Contexts of very different scales, and the mean reward of each arm."""
    rng = np.random.default_rng(seed)
    scales, theta = np.logspace(-2, 2, 5), rng.standard_normal((3, 5))
    for _ in range(n):
        standard = rng.standard_normal(5)
        x = scales * (3.0 + standard)
        yield {f"x{i}": value for i, value in enumerate(x.tolist())}, theta @ standard


def played(policy: BNPThompsonSampling, n: int = 400, seed: int = 0) -> tuple[list[Any], float]:
    """The arms that were pulled, and the regret."""
    rng = np.random.default_rng(seed)
    pulls, regret = [], 0.0
    for context, means in problem(n, seed):
        arm = policy.pull(ARMS, context)
        i = ARMS.index(arm)
        policy.update(arm, context, float(means[i] + 0.3 * rng.standard_normal()))
        pulls.append(arm)
        regret += float(means.max() - means[i])
    return pulls, regret


@pytest.mark.parametrize("seed", range(3))
def test_it_earns_more_than_chance_by_far(seed: int) -> None:
    _, regret = played(BNPThompsonSampling(seed=seed), 1000, seed)
    by_chance = sum(float(means.max() - means.mean()) for _, means in problem(1000, seed))
    assert regret < 0.1 * by_chance


def test_it_samples_the_posterior_of_an_arm() -> None:
    policy = BNPThompsonSampling(temperature=1.0, seed=2)
    rng = np.random.default_rng(3)
    contexts = [context for context, _ in problem(300, 1)]
    x = np.array([list(context.values()) for context in contexts])
    phi = np.column_stack([np.ones(300), np.clip((x - x.mean(0)) / x.std(0), -5, 5)])
    rewards = phi @ rng.standard_normal(6) + rng.standard_normal(300)
    for context, reward in zip(contexts, rewards.tolist(), strict=True):
        policy.update("a", context, reward)
    arm = policy._arms["a"]
    draws = []
    for _ in range(30_000):
        policy._step(arm)
        draws.append(arm.z)
    samples = np.array(draws[3000:])
    r = (rewards - rewards.mean()) / rewards.std()
    precision = phi.T @ phi / policy._noise + 6.0 * np.eye(6)
    mean, root = np.linalg.solve(precision, phi.T @ r / policy._noise), np.linalg.cholesky(precision)
    white = (samples - mean) @ root
    assert np.abs(white.mean(0)).max() < 0.25
    eigenvalues = np.linalg.eigvalsh(np.cov(white.T))
    assert eigenvalues.min() > 0.8
    assert eigenvalues.max() < 2.0  # 1, and the noise of drawing 16 rewards of 300, and of the step


def test_equal_seeds_decide_alike() -> None:
    one, same, other = (played(BNPThompsonSampling(seed=seed), 100)[0] for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])  # noqa: S301 (our own bytes)
def test_a_copy_goes_on_as_the_original(duplicate: Any) -> None:
    policy = BNPThompsonSampling(seed=4)
    played(policy, 60)
    twin = duplicate(policy)
    assert played(policy, 60, 1) == played(twin, 60, 1)


def test_it_follows_the_conventions_of_river() -> None:
    policy = BNPThompsonSampling(steps=2, burn_in=2, seed=5)
    pulls, _ = played(policy, 50)
    assert pulls[:6] == ["a", "a", "b", "b", "c", "c"]
    assert set(policy.ranking) == set(ARMS)
    assert "Pulls" in repr(policy)
    fresh = policy.clone()
    assert (fresh.steps, fresh.burn_in, fresh.seed, fresh._n) == (2, 2, 5, 0)
    assert played(fresh, 50)[0] == pulls


def test_features_and_arms_may_appear_at_any_time() -> None:
    policy = BNPThompsonSampling(memory=10, max_features=4, seed=6)
    assert policy.pull(["a"], {}) == "a"
    policy.update("a", {}, 1.0)
    for i in range(30):
        context = {"size": i, "late": 1.0} if i > 15 else {"size": None if i % 4 == 0 else i, "colour": "red"}
        arm = policy.pull(["a", 7], context)
        policy.update(arm, {**context, f"more{i}": 1.0}, i % 3)
    assert set(policy._arms) == {"a", 7}
    assert all(np.isfinite(arm.z).all() and len(arm.z) == 5 for arm in policy._arms.values())
    assert max(len(arm.rewards) for arm in policy._arms.values()) <= 10


@pytest.mark.parametrize(
    ("context", "reward", "code"),
    [
        (None, 1.0, "invalid_feature"),
        ({"a": float("inf")}, 1.0, "non_finite_feature"),
        ({"a": 1.0}, float("inf"), "non_finite_label"),
        ({"new": 1.0}, "much", "invalid_label"),
    ],
)
def test_what_cannot_be_used_changes_nothing(context: Any, reward: Any, code: str) -> None:
    policy = BNPThompsonSampling(seed=7)
    played(policy, 10)
    before = pickle.dumps(policy)
    with pytest.raises(SampleError) as error:
        policy.update("a", context, reward)
    assert error.value.code == code
    assert pickle.dumps(policy) == before


@pytest.mark.parametrize("options", [{"steps": 0}, {"memory": 0}, {"max_features": 0}, {"temperature": -1.0}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        BNPThompsonSampling(**options)
    assert error.value.field in options


def test_a_reward_that_is_missing_is_asked_for() -> None:
    policy = BNPThompsonSampling()
    with pytest.raises(SampleError, match="third positional argument") as error:
        policy.update("a", {"x": 1.0}, reward=1.0)
    assert error.value.field == "reward"
    policy.update("a", {"x": 1.0}, 1.0)  # nothing is in the way of the right call
