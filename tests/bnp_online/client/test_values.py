"""The client sends what an estimator accepts as what the estimator reads; it names what it cannot send."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnp_online import BNPClassifier, BNPRegressor, SampleError
from bnp_online.client import Client, ClientError, RemoteClassifier, RemoteRegressor, Sample, values
from bnp_online.client.calls import new_id
from bnp_online.values import check_features
from tests.support.running import Server

SPEC: dict[str, Any] = {"hidden": [4], "replay": 0}
MISSING = [None, math.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("nan")]
#: Values that JSON has not, with what is sent.
CONVERTED = [
    (datetime(2020, 5, 1, 12, tzinfo=UTC), 1588334400.0),
    (datetime(2020, 5, 1, 12), 1588334400.0),
    (pd.Timestamp("2020-05-01 12:00"), 1588334400.0),
    (np.datetime64("2020-05-01T12:00"), 1588334400.0),
    (date(1970, 1, 2), 86400.0),
    (time(1, 30), 5400.0),
    (timedelta(minutes=1.5), 90.0),
    (np.timedelta64(1, "m"), 60.0),
    (pd.Timedelta("2s"), 2.0),
    (Decimal("0.1"), 0.1),
    (Fraction(1, 3), 1 / 3),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.longdouble(0.5), 0.5),
    (np.int8(-3), -3.0),
    (np.bool_(True), 1.0),
    (np.str_("red"), "red"),
    (torch.tensor(2.5), 2.5),
    (torch.tensor(3), 3.0),
]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_a_missing_value_is_null(value: Any) -> None:
    assert values.features({"a": value}) == {"a": None}


@pytest.mark.parametrize(("value", "sent"), CONVERTED, ids=repr)
def test_a_value_that_json_has_not_is_converted(value: Any, sent: Any) -> None:
    assert values.features({"a": value}) == {"a": sent}
    assert check_features({"a": value}) == check_features({"a": sent})


def test_names_are_strings() -> None:
    x = {1: 2.0, np.int64(3): 1, ("a", "b"): True, np.str_("n"): "v"}
    assert values.features(x) == {"1": 2.0, "3": 1, "('a', 'b')": True, "n": "v"}
    assert check_features(x) == check_features(values.features(x))


@pytest.mark.parametrize(
    ("x", "field"),
    [
        ({"a": math.inf}, "x.a"),
        ({"a": -np.float64("inf")}, "x.a"),
        ({"a": Decimal("inf")}, "x.a"),
        ({"a": 1e101}, "x.a"),
        ({"a": 10**400}, "x.a"),
        ({"b": 0.5, "a": 10**400}, "x.a"),
        ({"b": 1e100, "c": "s", "a": -1e101}, "x.a"),
        ({"a": [1]}, "x.a"),
        ({"a": Ellipsis}, "x.a"),
        ({"a": 1j}, "x.a"),
        ({1.5: 1}, "x.1.5"),
        ({1: 1, "1": 2}, "x.1"),
        ([[1.0, 2.0], [3.0, math.inf]], "x[1][1]"),
        (np.array([1.0, np.inf]), "x[1]"),
        ([[1.0], [2.0, 3.0]], "x"),
        (["a"], "x"),
        ("a", "x"),
        (None, "x"),
    ],
    ids=repr,
)
def test_a_feature_that_cannot_be_sent_is_named(x: Any, field: str) -> None:
    client = Client("http://127.0.0.1:9", patience=0.0)  # nothing is sent
    for call in (lambda: client.learn_one(x, 1), lambda: client.predict_one(x)):
        with pytest.raises(SampleError) as caught:
            call()
        assert isinstance(caught.value, ClientError)
        assert caught.value.field == field
        assert str(caught.value).startswith(f"{field}: ")
    refused = client.learn_many([(x, 1)]).refusals
    assert [(i, error.field, error.row) for i, error in refused] == [(0, field, 0)]


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        (Sample({}, None), "y"),
        (Sample({}, math.nan), "y"),
        (Sample({}, math.inf), "y"),
        (Sample({}, date(2020, 1, 1)), "y"),
        (Sample({}, ["a"]), "y"),
        (Sample({}, 1, id=uuid.UUID(int=1)), "id"),  # type: ignore[arg-type]  # meant
        (Sample({}, 1, w=math.nan), "w"),
        (Sample({}, 1, w=-1.0), "w"),
    ],
    ids=repr,
)
def test_a_target_an_id_and_a_weight_that_cannot_be_sent_are_named(sample: Sample, field: str) -> None:
    client = Client("http://127.0.0.1:9", patience=0.0)
    with pytest.raises(SampleError) as caught:
        client.learn_one(sample.x, sample.y, id=sample.id, w=sample.w)
    assert caught.value.field == field


def test_an_array_is_sent_as_nested_lists() -> None:
    assert values.features(np.array([[1, 2], [3, 4]], np.uint8)) == [[1, 2], [3, 4]]
    assert values.features(torch.tensor([0.5, math.nan])) == [0.5, None]
    assert values.features([True, None, Decimal("0.5")]) == [1.0, None, 0.5]
    assert values.features([[0.5, 1.0]]) == [[0.5, 1.0]]


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32).map(np.float32),
    st.floats(-1e6, 1e6),
    st.integers(-(10**6), 10**6).map(np.int64),
    st.decimals(-1000, 1000, places=2),
    st.fractions(-10, 10, max_denominator=9),
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)),
    st.dates(date(1990, 1, 1), date(2030, 1, 1)).map(np.datetime64),
    st.timedeltas(timedelta(0), timedelta(9)),
    st.times(),
    st.booleans(),
)
NAMES = st.one_of(
    st.sampled_from("abcd"), st.integers(0, 3), st.tuples(st.sampled_from("ab"), st.integers(0, 1))
)
VALUES = st.one_of(NUMBERS, st.sampled_from([*MISSING, "red", "a=b", np.str_("blue")]))
SAMPLES = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=6)
#: Estimators on the server and here, with targets of several types.
CLASSES: list[Callable[[int], Any]] = [
    lambda i: np.int64(i % 2),
    lambda i: np.bool_(i % 2),
    lambda i: float(i % 2),
    lambda i: "ab"[i % 2],
]
TARGETS: list[Callable[[int], Any]] = [float, np.float32, Decimal, lambda i: Fraction(i, 3)]
KINDS = [
    *((RemoteClassifier, BNPClassifier, target) for target in CLASSES),
    *((RemoteRegressor, BNPRegressor, target) for target in TARGETS),
]


@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAMPLES, st.sampled_from(KINDS))
def test_a_remote_model_learns_as_a_local_one(server: Server, xs: list[Any], kind: tuple[Any, ...]) -> None:
    remote, local, target = kind
    there, here = remote(server.url, spec=SPEC), local(hidden=(4,), replay=0, device="cpu")
    for i, x in enumerate(xs):
        assert there.predict_one(x) == here.predict_one(x)
        there.learn_one(x, target(i))
        here.learn_one(x, target(i))
    for estimator in (there, here):
        estimator.learn_many(xs, [target(i) for i in range(len(xs))])
    assert there.predict_many(xs) == here.predict_many(xs)
    assert there.client.fingerprint(there.name).model_sha256 == here.fingerprint()
    there.delete()
    there.close()


def test_a_label_of_an_earlier_prediction_is_converted(server: Server) -> None:
    with Client(server.url) as client:
        name = new_id()
        client.create(name, **SPEC)
        client.learn_one({"a": 1}, np.int64(1), model=name)
        client.predict_one({"a": math.nan}, model=name, id="t")
        assert client.label("t", 1.0, model=name).step == 2
        assert client.describe(name).classes == [1]
