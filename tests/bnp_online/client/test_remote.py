"""River estimators whose model is on a server: River's own checks, through a real one."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import pytest
from river import checks, datasets, metrics, preprocessing

from bnp_online import BNPClassifier, BNPRegressor, SampleError
from bnp_online.client import RemoteClassifier, RemoteRegressor
from bnp_online.client.calls import new_id
from bnp_online.client.errors import InvalidSampleError, SharedModelError
from tests.bnp_online.test_frames import LABELS, TABLES
from tests.bnp_online.test_river_wrappers import classifies, learn, made, stream, wrappers
from tests.support.running import Server, serving

SPEC = {"hidden": [6], "replay": 0}
KINDS = {"classifier": RemoteClassifier, "regressor": RemoteRegressor}

#: River's checks that do not apply, and why. (What it checks of a seed and of `debug_one` it leaves out by
#: itself, for these estimators have none.)
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


def test_an_estimator_of_a_given_model_is_not_cloned(server: Server) -> None:
    server.create(name="shared", **SPEC)
    server.create(name="another", **SPEC)
    one = RemoteClassifier(server.url, "shared")
    one.learn_one({"a": 1.0}, "cat")
    ways: list[Callable[[], Any]] = [
        one.clone,
        lambda: copy.deepcopy(one),
        lambda: one.clone({"timeout": 3.0}),
    ]
    for clone in ways:
        with pytest.raises(SharedModelError, match="'shared': leave out `model`"):
            clone()
    assert one.clone({"model": "another"}).predict_one({"a": 1.0}) is None
    fresh = one.clone({"model": None, "spec": SPEC})
    assert fresh.predict_one({"a": 1.0}) is None
    fresh.delete()
    one.delete()
    assert server.get("/models/shared")["step"] == 1


def test_a_clone_with_attributes_begins_as_a_copy(server: Server) -> None:
    original = RemoteClassifier(server.url, spec=SPEC)
    original.learn_one({"a": 1.0}, "cat")
    twin = original.clone(include_attributes=True)
    twin.learn_one({"a": 1.0}, "dog")
    assert list(original.predict_proba_one({"a": 1.0})) == ["cat"]
    assert list(twin.predict_proba_one({"a": 1.0})) == ["cat", "dog"]
    for each in (original, twin):
        each.delete()
        each.close()


def plain(table: Any) -> tuple[type, str]:
    """Return the type and the values of a table or series."""
    return type(table), repr(table if isinstance(table, list) else np.asarray(table).tolist())


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_learned_and_predicted_as_in_process(table: str, server: Server) -> None:
    here, there = BNPClassifier(hidden=(6,), replay=0, device="cpu"), RemoteClassifier(server.url, spec=SPEC)
    X = TABLES[table]()
    assert plain(there.predict_many(X)) == plain(here.predict_many(X))
    for model in (here, there):
        model.learn_many(X, LABELS)
    assert plain(there.predict_many(X)) == plain(here.predict_many(X))
    assert plain(there.predict_proba_many(X)) == plain(here.predict_proba_many(X))
    assert there.client.fingerprint(there.name).model_sha256 == here.fingerprint()
    there.delete()
    there.close()


def test_frames_keep_their_index_in_a_pipeline(server: Server) -> None:
    X = pd.DataFrame({"a": np.arange(40.0) % 7, "b": np.arange(40.0) % 3}, [f"r{i}" for i in range(40)])
    here = preprocessing.StandardScaler() | BNPClassifier(hidden=(6,), replay=0, device="cpu")
    there = preprocessing.StandardScaler() | RemoteClassifier(server.url, spec=SPEC)
    for start in range(0, 40, 10):
        for model in (here, there):
            model.learn_many(X[start : start + 10], X["a"][start : start + 10] > 3)
    pd.testing.assert_series_equal(there.predict_many(X), here.predict_many(X))
    pd.testing.assert_frame_equal(there.predict_proba_many(X), here.predict_proba_many(X))
    pd.testing.assert_frame_equal(there.predict_proba_many(X[:0]), here.predict_proba_many(X[:0]))
    numbers = RemoteRegressor(server.url, spec=SPEC)
    assert [*numbers.predict_many(X)] == [0.0] * 40
    numbers.learn_many(X, X["b"])
    assert numbers.predict_many(X).index.equals(X.index)


def test_a_bad_row_is_named_and_nothing_is_sent(server: Server) -> None:
    model = RemoteClassifier(server.url, spec=SPEC)
    for X, y, text in (
        ([{"a": 1.0}, {"a": float("inf")}], [1, 2], "row 1: x.a: is not finite"),
        ([{"a": 1.0}, {"a": 1.0}], [1, None], "row 1: y: is missing"),
        ([{"a": 1.0}, {"a": 1.0}], [1, 1.5], "row 1: y: a class must be"),
        ([{"a": 1.0}], [1, 2], "y: has 2 targets for 1 samples"),
    ):
        with pytest.raises(SampleError, match=text.replace(".", "[.]")) as caught:
            model.learn_many(X, y)
        assert isinstance(caught.value, InvalidSampleError)
    with pytest.raises(SampleError, match=r"row 1: x\.a: must be a list of strings"):
        model.predict_many([{"a": 1.0}, {"a": [1]}])
    assert model.client.describe(model.name).step == 0
    with pytest.raises(InvalidSampleError, match="row 1: y: is of type str"):  # of the server
        model.learn_many([{"a": 1.0}, {"a": 1.0}, {"a": 2.0}], [1, "z", 2])
    assert model.client.describe(model.name).step == 2
    with pytest.raises(InvalidSampleError, match=r"row 1: x: must be"):
        model.predict_many([{"a": 1.0}, [1.0]])


def remotes(part: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the remote estimators in an object, each once."""
    if id(part) in seen or isinstance(part, type | str | np.ndarray):
        return
    seen.add(id(part))
    if isinstance(part, RemoteClassifier | RemoteRegressor):
        yield part
        return
    inside = [*part.values()] if isinstance(part, Mapping) else []
    inside += [*part] if isinstance(part, list | tuple | set | deque) else []
    inside += [*getattr(part, "__dict__", {}).values()]
    for each in inside:
        yield from remotes(each, seen)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", [*wrappers()])
@pytest.mark.filterwarnings("ignore")  # of the wrappers themselves
def test_the_models_in_a_wrapper_are_separate_or_refused(kind: type, given: bool, server: Server) -> None:
    """A wrapper that clones or copies an estimator has separate models; for a given model it is refused."""
    remote: Any = RemoteClassifier if classifies(kind) else RemoteRegressor
    name = new_id() if given else None
    if given:
        server.create(name=name, task=remote._task, **SPEC)
    arguments = [remote(server.url, name, spec=SPEC) for _ in range(3)]
    try:
        wrapper = made(kind, iter(arguments).__next__)
        learn(wrapper, itertools.islice(stream(kind), 12))
    except SharedModelError:
        assert given
        return
    inside = [*remotes(wrapper, set())]
    if given:
        assert {*map(id, inside)} <= {*map(id, arguments)}
    else:
        assert len({each.name for each in inside}) == len(inside)
    for each in inside:
        each.delete()
        each.close()


def test_the_key_does_not_show() -> None:
    estimator = RemoteClassifier(key="very-secret-key")
    assert "very-secret-key" not in repr(estimator)
    assert "very-secret-key" not in repr(estimator.clone())
    clone = estimator.clone()
    assert clone.client._http.headers["authorization"] == "Bearer very-secret-key"
    clone.close()
