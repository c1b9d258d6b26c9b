"""The parameters, declared once: constructors, docstrings, ranges, and the schema of the HTTP API."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest

from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError
from bnp_online.client.schemas import ModelSpec
from bnp_online.engines.base import LearnerSpec
from bnp_online.network import ACTIVATIONS
from bnp_online.parameters import DESCRIPTIONS, Parameters, check_parameters

SHARED = [
    "hidden",
    "activation",
    "lr",
    "replay",
    "memory",
    "rho",
    "eps_rel",
    "eps_abs",
    "step_scale",
    "standardize",
    "input_shape",
    "network",
    "max_features",
]
DECLARED = {each.name: each for each in dataclasses.fields(Parameters)}


SPARSE = ["text", "ngrams", "sparse", "max_values"]


def test_the_order_of_positional_arguments_is_fixed() -> None:
    classifier, regressor = (
        list(inspect.signature(kind).parameters) for kind in (BNPClassifier, BNPRegressor)
    )
    assert classifier == [*SHARED, "max_classes", "engine", "device", "seed", "learner", *SPARSE, "backbone"]
    assert regressor == [*SHARED, "engine", "device", "seed", "intervals", "learner", *SPARSE, "backbone"]


@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_each_parameter_is_documented_with_its_default(
    kind: type[BNPClassifier] | type[BNPRegressor],
) -> None:
    text = inspect.getdoc(kind) or ""
    for name, parameter in inspect.signature(kind).parameters.items():
        assert f"\n{name} : " in text
        assert f", default {parameter.default!r}\n" in text
        assert DESCRIPTIONS[name]
    assert "{parameters}" not in text
    assert max(map(len, text.splitlines())) < 110


def test_the_http_api_has_every_parameter_but_the_engine() -> None:
    schema = ModelSpec.model_json_schema()["properties"]
    others = {"name", "task", "drift", "backbone_sha256"}
    assert schema.keys() == {*others, *DECLARED} - {"engine"}
    for name in (schema.keys() & DECLARED.keys()) - {"backbone"}:  # here a name, in Python a Backbone
        assert schema[name]["description"] == DESCRIPTIONS[name].replace("``", "`")
    spec = ModelSpec()
    assert spec.options() == {
        name: each.default
        for name, each in DECLARED.items()
        if name
        not in {
            "backbone",
            "engine",
            "device",
            "max_features",
            "max_classes",
            "max_values",
            "intervals",
            "input_shape",
        }
    }
    for kind in (BNPClassifier, BNPRegressor):
        assert kind(**spec.options())._parameters() == kind()._parameters()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("memory", 0, "must be int ≥ 1, not 0"),
        ("memory", "5", "must be int ≥ 1, not '5'"),
        ("rho", math.nan, "must be float ≥ 0 and ≤ 1, not nan"),
        ("eps_abs", math.inf, "must be float ≥ 0, not inf"),
        ("lr", "fast", "must be 'auto' or float > 0, not 'fast'"),
        ("lr", 0, "must be 'auto' or float > 0, not 0"),
        ("hidden", (3, 0), "must be tuple of int ≥ 1, not (3, 0)"),
        ("input_shape", (), "must be non-empty tuple of int ≥ 1 or None, not ()"),
        ("step_scale", "large", "must be {'norm', 'paper', 'none'}, not 'large'"),
        ("replay", None, "must be int ≥ 0, not None"),
        ("intervals", -1, "must be int ≥ 0, not -1"),
        ("hidden", 0, "must be tuple of int ≥ 1, not 0"),
        ("hidden", "64", "must be tuple of int ≥ 1, not '64'"),
        ("hidden", (2.5,), "must be tuple of int ≥ 1, not (2.5,)"),
        ("input_shape", 5, "must be non-empty tuple of int ≥ 1 or None, not 5"),
        ("memory", 2.5, "must be int ≥ 1, not 2.5"),
        ("memory", (3,), "must be int ≥ 1, not (3,)"),
        ("lr", [0.1], "must be 'auto' or float > 0, not [0.1]"),
        ("rho", None, "must be float ≥ 0 and ≤ 1, not None"),
        ("seed", 1.5, "must be int, not 1.5"),
        ("standardize", 2, "must be bool, not 2"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: Any, message: str) -> None:
    for make in (check_parameters, lambda **values: LearnerSpec(task="regression", **values)):
        with pytest.raises(ConfigurationError) as caught:
            make(**{name: value})
        assert (caught.value.field, caught.value.message) == (name, message)


def test_the_activations_are_those_that_a_network_has() -> None:
    assert DECLARED["activation"].metadata["choices"] == tuple(ACTIVATIONS)
