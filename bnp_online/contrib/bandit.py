"""Contextual bandit with the interface of River: Thompson sampling with BNP-SGLD.

Each arm has a linear model of its reward in the context. In intrinsic coordinates ``z = P⁻¹[b, w]`` that is
a linear model in the centred and scaled context φ, so the steps of BNP-SGLD (see `langevin`) are those of
SGLD on z, with a Gaussian prior on z whose precision λ is the length of z. For an arm with N stored rewards,
of which a step draws n::

    z ← z − h (mean of (φᵀz − r) φ + λ σ²/N · z) + √(2 h T σ²/N) ξ        h = min(1/E‖φ‖², n/N)

The rate is the largest that is stable for every context. It falls as 1/N, so that the noise of the draw stays
below half of the noise of the posterior. A decision takes the arm with the highest sampled reward.

References
----------
W. R. Thompson, *On the likelihood that one unknown probability exceeds another*, Biometrika 25, 1933.
P. Xu et al., *Langevin Monte Carlo for contextual bandits*, ICML 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from river.bandit.base import ArmID, ContextualPolicy, RewardObj

from ..encoding import FeatureIndex
from ..errors import ConfigurationError, SampleError
from ..values import Column, Vector, check_features, check_number

#: Standardized contexts are clipped to ± this.
_CLIP = 5.0
#: Retention weight of the mean squared error of the rewards drawn, σ².
_RETENTION = 0.99
#: Rewards drawn for a step, n.
_BATCH = 16


@dataclass
class _Arm:
    """Latest sample of the parameters of an arm, and its stored contexts and rewards."""

    z: Vector
    pulls: int = 0
    contexts: list[Vector] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


class BNPThompsonSampling(ContextualPolicy):
    """Thompson sampling with linear models of the rewards, sampled by BNP-SGLD.

    Contexts are dicts, as for the estimators; features and arms may appear at any time. Rewards of any scale
    are standardized online.

    Parameters
    ----------
    steps : int
        Langevin steps of an arm after each reward, ≥ 1.
    memory : int
        Number of stored rewards of each arm, the latest ones, ≥ 1.
    temperature : float
        T ≥ 0: 1 samples the posterior, 0 takes the arm with the best mean. Values between explore less than
        the posterior; they had less regret in all experiments.
    max_features : int
        Maximum number of features. Further ones are ignored.
    reward_obj, reward_scaler, burn_in
        As for the policies of River: the reward that `ranking` compares, and the initial pulls of each arm.
    seed : int
        Seed of all random numbers.

    Examples
    --------
    >>> policy = BNPThompsonSampling(seed=1)
    >>> right = 0
    >>> for t in range(300):
    ...     context = {"hour": t % 24}
    ...     arm = policy.pull(["day", "night"], context)
    ...     reward = float(arm == ("day" if t % 24 >= 12 else "night"))
    ...     policy.update(arm, context, reward)
    ...     right += reward if t >= 100 else 0
    >>> right > 150
    True
    """

    def __init__(
        self,
        steps: int = 4,
        memory: int = 2000,
        temperature: float = 0.1,
        max_features: int = 4096,
        reward_obj: RewardObj | None = None,
        reward_scaler: Any = None,
        burn_in: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(reward_obj, reward_scaler, burn_in)
        for name, count in (("steps", steps), ("memory", memory), ("max_features", max_features)):
            if count < 1:
                raise ConfigurationError(name, f"{count} is not ≥ 1")
        if not 0.0 <= temperature < math.inf:
            raise ConfigurationError("temperature", f"{temperature} is not a finite number ≥ 0")
        self.steps = steps
        self.memory = memory
        self.temperature = temperature
        self.max_features = max_features
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._features = FeatureIndex(max_features)
        self._arms: dict[ArmID, _Arm] = {}
        self._context = _Moments(np.zeros(0), np.zeros(0))
        self._reward = _Moments(np.zeros(1), np.zeros(1))
        self._noise = 1.0  # σ², of standardized rewards

    def _pull(self, arm_ids: list[ArmID], context: dict[str, Any]) -> ArmID:  # type: ignore[override]  # as in River
        phi = self._phi(self._vector(context))
        return max(arm_ids, key=lambda arm_id: float(phi @ self._arm(arm_id).z))

    def update(self, arm_id: ArmID, context: dict[str, Any], *reward_args: Any, **reward_kwargs: Any) -> None:
        """Learn the reward of an arm in a context.

        Parameters
        ----------
        arm_id : str or int
            The arm that was pulled.
        context : dict
            The context of that pull.
        *reward_args, **reward_kwargs
            The reward, a number, comes first; all arguments go to the reward object.

        Raises
        ------
        SampleError
            If the context or the reward cannot be used; nothing was changed.
        """
        if not reward_args:
            message = "is missing: pass it as the third positional argument, as for the policies of River"
            raise SampleError("invalid_label", "reward", message)
        features, reward = check_features(context), check_number(reward_args[0])
        self._grow(self._features.new(features))
        super().update(arm_id, context, *reward_args, **reward_kwargs)  # type: ignore[no-untyped-call]  # of River
        x = self._features.vector(features)
        arm = self._arm(arm_id)
        self._context.count(x)
        self._reward.count(np.array([reward]))
        self._remember(arm, x, reward)
        for _ in range(self.steps):
            self._step(arm)

    def _step(self, arm: _Arm) -> None:
        """Take one Langevin step on rewards drawn from the arm's memory."""
        drawn = self._rng.integers(len(arm.rewards), size=_BATCH)
        phi = self._phi(np.stack([arm.contexts[i] for i in drawn]))
        rewards = self._reward.standardize(np.array([[arm.rewards[i]] for i in drawn]))[:, 0]
        errors = phi @ arm.z - rewards
        # Standardized rewards have a noise of at most 1; larger errors come from z.
        self._noise += (1.0 - _RETENTION) * (min(float(np.mean(errors**2)), 1.0) - self._noise)
        noise = self._noise / len(arm.rewards)
        rate = self._rate(arm, noise)
        drift = phi.T @ errors / _BATCH + len(arm.z) * noise * arm.z
        white = self._rng.standard_normal(len(arm.z))
        arm.z = arm.z - rate * drift + math.sqrt(2.0 * rate * self.temperature * noise) * white

    def _rate(self, arm: _Arm, noise: float) -> float:
        """Return h; E‖φ‖² of standardized contexts is at most their length."""
        return min(1.0 / (len(arm.z) * (1.0 + noise)), _BATCH / len(arm.rewards))

    def _remember(self, arm: _Arm, x: Vector, reward: float) -> None:
        place = arm.pulls % self.memory
        arm.contexts[place : place + 1] = [x]
        arm.rewards[place : place + 1] = [reward]
        arm.pulls += 1

    def _arm(self, arm_id: ArmID) -> _Arm:
        """Return an arm; a new one starts with a sample of the prior."""
        if arm_id not in self._arms:
            self._arms[arm_id] = _Arm(self._prior(1 + len(self._features.columns)))
        return self._arms[arm_id]

    def _prior(self, count: int) -> Vector:
        """Return a sample of the prior."""
        return math.sqrt(self.temperature / (1 + len(self._features.columns))) * self._rng.standard_normal(
            count
        )

    def _vector(self, context: object) -> Vector:
        return self._features.vector(check_features(context))

    def _phi(self, x: Vector) -> Vector:
        """Return [1, φ] of raw contexts, of shape (…, inputs); a missing value is at its mean."""
        phi = self._context.standardize(x)
        return np.concatenate([np.ones((*x.shape[:-1], 1)), phi], axis=-1)

    def _grow(self, columns: list[Column]) -> None:
        """Append features; earlier contexts have 0 in them."""
        if not columns:
            return
        self._features.add(columns)
        self._context.grow(len(columns))
        for arm in self._arms.values():
            arm.z = np.concatenate([arm.z, self._prior(len(columns))])
            arm.contexts = [self._features.widen(x, ()) for x in arm.contexts]


@dataclass
class _Moments:
    """Cumulative mean and variance; a late feature was 0 before."""

    mean: Vector
    var: Vector
    seen: int = 0

    def count(self, x: Vector) -> None:
        self.seen += 1
        change = np.nan_to_num(x - self.mean)
        self.mean = self.mean + change / self.seen
        self.var = self.var + ((1.0 - 1.0 / self.seen) * change**2 - self.var) / self.seen

    def standardize(self, x: Vector) -> Vector:
        scale = np.sqrt(np.where(self.var > 0.0, self.var, np.inf))
        standard: Vector = np.clip(np.nan_to_num((x - self.mean) / scale), -_CLIP, _CLIP)
        return standard

    def grow(self, count: int) -> None:
        self.mean, self.var = (np.concatenate([a, np.zeros(count)]) for a in (self.mean, self.var))
