"""River's own conventions, every one of them, for three parameter sets of each estimator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from river import checks

from bnp_online import BNPClassifier, BNPRegressor

ESTIMATORS = {
    "classifier": BNPClassifier(),
    "classifier, linear": BNPClassifier(hidden=(), step_scale="paper", activation="tanh"),
    "regressor, intervals": BNPRegressor(hidden=(20,), lr=0.1, intervals=8),
    "classifier, gelu": BNPClassifier(hidden=(20,), activation="gelu", lr=0.1),
    "regressor": BNPRegressor(),
    "regressor, linear": BNPRegressor(hidden=(), step_scale="paper", activation="tanh"),
    "regressor, gelu": BNPRegressor(hidden=(20,), activation="gelu", lr=0.1),
}
CHECKS = [
    pytest.param(estimator, check, id=f"{name}-{i}-{getattr(check, '__name__', check)}")
    for name, estimator in ESTIMATORS.items()
    for i, check in enumerate(checks.yield_checks(estimator))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_check(
    estimator: BNPClassifier | BNPRegressor, check: Callable[[BNPClassifier | BNPRegressor], None]
) -> None:
    check(estimator.clone())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_check_is_skipped(name: str) -> None:
    assert ESTIMATORS[name]._unit_test_skips() == set()
    assert sum(name == str(each.id).split("-")[0] for each in CHECKS) >= 25
