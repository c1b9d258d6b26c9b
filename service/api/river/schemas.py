"""The JSON of the River API Spec, as pydantic models; see `service.schemas`."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.config import JsonDict

from ...schemas import DEFAULT_MODEL, Features, Identifier, ModelSpec, Target
from ..openapi import REF

Flavor: TypeAlias = Literal["regression", "binary", "multiclass"]

_FEATURES: JsonDict = {"sepal length": 5.1, "sepal width": 3.5, "garden": "north"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RiverLearnBody(_Body):
    """A sample with its label."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": DEFAULT_MODEL, "features": _FEATURES, "ground_truth": "setosa"}]
        }
    )

    model: str
    features: Features
    ground_truth: Target
    identifier: Identifier | None = Field(
        default=None,
        description="Of a prediction, which this labels; any other makes the request safe to repeat.",
    )


class RiverPredictBody(_Body):
    """A sample without its label."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": DEFAULT_MODEL, "features": _FEATURES, "identifier": "t-7"}]}
    )

    model: str
    features: Features
    identifier: Identifier | None = Field(default=None, description="For the label; without it one is made.")


class RiverLabelBody(_Body):
    """The label of an earlier prediction."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": DEFAULT_MODEL, "identifier": "t-7", "label": "setosa"}]}
    )

    model: str
    identifier: Identifier
    label: Target


class RiverForm(_Body):
    """A model, named in a form."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": DEFAULT_MODEL}]})

    model: str


class RiverDone(RootModel[str]):
    """A word of success."""


class RiverPrediction(BaseModel):
    """A prediction, kept for its label."""

    model: str
    prediction: dict[str, float] | float | None = Field(
        description="Of a classification the probabilities by class, none before the first label; of a "
        "regression a number, null before the first label."
    )
    identifier: str


class RiverInfo(BaseModel):
    """What this server is."""

    id: str
    name: str
    description: str
    status: Literal["running"]
    version: str = Field(description="Of the River API Spec.")
    server_version: str
    flavors: list[Flavor]


class RiverName(BaseModel):
    """The name of a model that was made."""

    name: str


class RiverNames(BaseModel):
    """The names of all models."""

    models: list[str]


class RiverTimes(BaseModel):
    """How long calls took since the server started, in nanoseconds."""

    n_calls: int
    mean_duration: int
    mean_duration_human: str
    ewm_duration: int = Field(description="Exponentially weighted: the latest call counts for 0.3.")
    ewm_duration_human: str


class RiverStats(BaseModel):
    """How long a model took, from when it was asked until it had answered, the log included."""

    learn: RiverTimes
    predict: RiverTimes


class RiverToken(BaseModel):
    """What to send as `Authorization: Bearer TOKEN`."""

    token: str


def spec_schema() -> dict[str, Any]:
    """Return the schema of a model's spec without what the path says of it."""
    schema = ModelSpec.model_json_schema(ref_template=REF)
    del schema["$defs"]  # `POST /models` has them, too
    for said in ("name", "task"):
        del schema["properties"][said]
    schema["examples"] = [{"hidden": [64, 64], "lr": 0.1}]
    return schema
