"""River estimators whose model is on a server: River's own checks, through a real one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from river import checks, datasets, metrics

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.client import RemoteClassifier, RemoteRegressor
from tests.support.running import Server, serving

SPEC = {"hidden": [6], "replay": 0}
KINDS = {"classifier": RemoteClassifier, "regressor": RemoteRegressor}

#: River's checks that do not apply, and why. (What it checks of a seed, of mini-batches and of `debug_one` it
#: leaves out by itself, for these estimators have none.)
SKIPS: dict[str, str] = {}

CHECKS = [
    pytest.param(name, check, id=f"{name}-{i}-{getattr(check, '__name__', check)}")
    for name, kind in KINDS.items()
    for i, check in enumerate(checks.yield_checks(kind()))
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for a model for each check, which does not wait for the disk."""
    with serving(tmp_path_factory.mktemp("server"), max_models=1000, durability="relaxed") as running:
        yield running


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_check(name: str, check: Callable[[Any], None], server: Server) -> None:
    if check.__name__ in SKIPS:
        pytest.skip(SKIPS[check.__name__])
    check(KINDS[name](server.url, spec=SPEC).clone())


@pytest.mark.parametrize("kind", KINDS.values())
def test_few_checks_are_left_out(kind: type[Any]) -> None:
    assert kind()._unit_test_skips() == set()
    assert len(list(checks.yield_checks(kind()))) >= 25
    assert set(SKIPS) <= {check.__name__ for check in checks.yield_checks(kind())}


def test_it_predicts_as_the_estimator_does_in_process(server: Server) -> None:
    here, there = BNPClassifier(hidden=(6,), replay=0, device="cpu"), RemoteClassifier(server.url, spec=SPEC)
    accuracy = metrics.Accuracy()
    for x, y in datasets.Phishing().take(60):
        assert there.predict_proba_one(x) == here.predict_proba_one(x)
        assert there.predict_one(x) == here.predict_one(x)
        if (prediction := there.predict_one(x)) is not None:
            accuracy.update(y, prediction)
        here.learn_one(x, y)
        there.learn_one(x, y)
    assert there.client.fingerprint(there.name).model_sha256 == here.fingerprint()
    assert accuracy.get() > 0.5
    there.delete()


def test_it_predicts_numbers(server: Server) -> None:
    here, there = BNPRegressor(hidden=(6,), replay=0, device="cpu"), RemoteRegressor(server.url, spec=SPEC)
    for x, y in datasets.TrumpApproval().take(30):
        assert there.predict_one(x) == here.predict_one(x)
        here.learn_one(x, y, w=0.5)
        there.learn_one(x, y, w=0.5)


def test_clones_and_copies_learn_on_their_own(server: Server) -> None:
    original = RemoteClassifier(server.url, spec=SPEC)
    original.learn_one({"a": 1.0}, "cat")
    twin, fresh, handle = copy.deepcopy(original), original.clone(), pickle.loads(pickle.dumps(original))  # noqa: S301 (its own)
    handle.learn_one({"a": 2.0}, "dog")
    assert list(original.predict_proba_one({"a": 1.0})) == ["cat", "dog"]
    assert list(twin.predict_proba_one({"a": 1.0})) == ["cat"]
    assert fresh.predict_one({"a": 1.0}) is None
    names = {original.name, twin.name, fresh.name, handle.name}
    assert len(names) == 3
    for each in (original, twin, fresh):
        each.delete()
        each.close()
    assert not names & {model["name"] for model in server.get("/models")["models"]}


def test_a_named_model_is_shared_and_stays(server: Server) -> None:
    server.create(name="shared", **SPEC)
    one = RemoteClassifier(server.url, "shared")
    other = one.clone()
    one.learn_one({"a": 1.0}, "cat")
    assert other.predict_one({"a": 1.0}) == "cat"
    one.delete()
    assert server.get("/models/shared")["step"] == 1


def test_the_key_does_not_show() -> None:
    estimator = RemoteClassifier(key="very-secret-key")
    assert "very-secret-key" not in repr(estimator)
    assert "very-secret-key" not in repr(estimator.clone())
    clone = estimator.clone()
    assert clone.client._http.headers["authorization"] == "Bearer very-secret-key"
    clone.close()
