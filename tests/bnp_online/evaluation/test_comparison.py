"""Paired comparison: its interval holds at all times together, and it decides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bnp_online.errors import ConfigurationError, StateError
from bnp_online.evaluation import PairedComparison, Scored
from bnp_online.evaluation.comparison import MAX_DEVIATION, _boundary
from bnp_online.mixture import MAX_LOSS

Floats = Any
RUNS, LENGTH = 300, 2000


def coins(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Differences as far apart as they can be."""
    return rng.choice([-1.0, 1.0], LENGTH), np.zeros(LENGTH)


def rare(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Rare large differences against many small ones, with mean 0."""
    return np.where(rng.random(LENGTH) < 0.02, 0.98, -0.02), np.zeros(LENGTH)


def drifting(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Means that change with time, and with the differences before."""
    found, means, last = np.empty(LENGTH), np.empty(LENGTH), 0.0
    for i, uniform in enumerate(rng.random(LENGTH)):
        means[i] = 0.3 * math.sin(i / 200.0) + 0.3 * last
        last = found[i] = 1.0 if uniform < 0.5 + 0.5 * means[i] else -1.0
    return found, means


@pytest.mark.parametrize("stream", [coins, rare, drifting])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_interval_holds_at_all_times_together(
    stream: Callable[[np.random.Generator], tuple[Floats, Floats]], alpha: float
) -> None:
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(RUNS):
        differences, means = stream(rng)
        sums, squares = np.abs(np.cumsum(differences - means)), np.cumsum(differences**2)
        # A mixture is beyond the best of its terms, which is beyond that of a normal distribution.
        near = np.flatnonzero(sums > np.sqrt(2.0 * math.log(2.0 / alpha) * squares))
        wrong += any(sums[i] > _boundary(squares[i], alpha) for i in near[:: len(near) // 60 + 1])
    assert wrong / RUNS <= alpha + 2.0 * math.sqrt(alpha * (1.0 - alpha) / RUNS)
    assert wrong > 0 or alpha < 0.1  # it is not so wide that it could never be wrong


def test_the_boundary_is_that_of_the_mixture() -> None:
    rates = 0.9 / 2.0 ** np.arange(18)
    weights = 1.0 / np.sqrt(np.arange(1, 19))
    weights /= weights.sum()
    for squares in (0.0, 0.5, 30.0, 1e4, 1e7):
        reach = _boundary(squares, 0.05)
        terms = weights * np.exp(rates * reach + (np.log1p(-rates) + rates) * squares)
        assert terms.sum() == pytest.approx(40.0, rel=1e-6)


def stitched(squares: float, alpha: float) -> float:
    """Return the stitched boundary of Howard et al. (2021), equation 10, for both sides."""
    s, eta = 1.4, 2.0
    zeta = sum(k**-s for k in range(1, 200_000)) + 200_000 ** (1 - s) / (s - 1)
    level = s * math.log(math.log(max(squares, 1.0), eta) + 1) + math.log(zeta) + math.log(2 / alpha)
    root, line = (eta**0.25 + eta**-0.25) / math.sqrt(2), (math.sqrt(eta) + 1) / 2
    return math.sqrt(root**2 * max(squares, 1.0) * level + (line * level) ** 2) + line * level


def test_the_boundary_is_narrower_than_a_stitched_one() -> None:
    for squares, share in ((0.01, 0.55), (1.0, 0.65), (100.0, 0.85), (1e4, 0.87), (1e7, 0.87)):
        assert _boundary(squares, 0.05) < share * stitched(squares, 0.05)


def compare(comparison: PairedComparison, pairs: list[tuple[float, float]]) -> int | None:
    """Add pairs of losses; return the number of pairs at the first decision."""
    for i, (first, second) in enumerate(pairs, 1):
        comparison.update(Scored(float(first < 0.7), first), Scored(float(second < 0.7), second))
        if i % 50 == 0 and comparison.verdict != "undecided":
            return i
    return None


def test_it_decides_after_a_few_thousand_samples() -> None:
    rng, decided = np.random.default_rng(3), []
    for _ in range(20):
        champion = rng.exponential(0.4, 4000).clip(0.0, MAX_LOSS)
        shadow = (0.85 * champion + rng.exponential(0.02, 4000)).clip(0.0, MAX_LOSS)
        comparison = PairedComparison("classification")
        decided.append(compare(comparison, list(zip(champion.tolist(), shadow.tolist(), strict=True))))
        assert comparison.verdict == "better"
    assert max(each or 10**9 for each in decided) <= 3000  # 0.36 nats against 0.4


def test_scores_difference_and_verdict() -> None:
    comparison = PairedComparison("classification")
    assert comparison.report() == {
        "n": 0,
        "champion": {"Accuracy": None, "LogLoss": None},
        "shadow": {"Accuracy": None, "LogLoss": None},
        "difference": None,
        "low": -MAX_LOSS,
        "high": MAX_LOSS,
        "confidence": 0.95,
        "verdict": "undecided",
    }
    for _ in range(300):
        comparison.update(Scored(1.0, 0.25), Scored(0.0, 1.5))
    found = comparison.report()
    assert found["champion"] == {"Accuracy": 1.0, "LogLoss": 0.25}
    assert found["shadow"] == {"Accuracy": 0.0, "LogLoss": 1.5}
    assert found["difference"] == pytest.approx(1.25)
    assert 0.0 < found["low"] < 1.25 < found["high"] <= MAX_LOSS
    assert found["verdict"] == "worse"


def test_errors_of_a_regression_are_in_deviations_of_the_targets_before() -> None:
    def run(scale: float) -> dict[str, Any]:
        comparison, rng = PairedComparison("regression"), np.random.default_rng(1)
        for target, one, other in rng.normal(0.0, 1.0, (500, 3)).tolist():
            first, second = (Scored(abs(scale * e), (scale * e) ** 2) for e in (one, 0.1 * other))
            comparison.update(first, second, scale * target)
        return comparison.report()

    plain, large = run(1.0), run(1000.0)
    assert plain["verdict"] == "better"
    for name in ("difference", "low", "high"):
        assert plain[name] == pytest.approx(large[name])
    assert plain["difference"] == pytest.approx(-0.9 * math.sqrt(2.0 / math.pi), abs=0.1)
    assert large["shadow"]["RMSE"] == pytest.approx(1000.0 * plain["shadow"]["RMSE"])
    comparison = PairedComparison("regression")
    for i in range(100):  # a glitch counts 4 deviations at most
        comparison.update(Scored(0.0, 0.0), Scored(1e300 * (i == 50), 0.0), float(i % 2))
    assert comparison.difference == pytest.approx(MAX_DEVIATION / 100)


def test_its_state_continues() -> None:
    for task in ("classification", "regression"):
        one, other = PairedComparison(task, 0.1), PairedComparison(task, 0.1)
        pairs = np.random.default_rng(2).random((40, 2)).tolist()
        for i, (first, second) in enumerate(pairs):
            one.update(Scored(first, first), Scored(second, second), float(i))
            if i == 20:
                other.load_state_dict(json.loads(json.dumps(one.state_dict())))
                twin = one.copy()
            elif i > 20:
                other.update(Scored(first, first), Scored(second, second), float(i))
        assert one.state_dict() == other.state_dict()
        assert twin.n == 21
        with pytest.raises(StateError):
            PairedComparison(task, 0.2).load_state_dict(one.state_dict())
    with pytest.raises(ConfigurationError, match="alpha"):
        PairedComparison("regression", 1.0)
