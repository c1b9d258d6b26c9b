"""JSON of the HTTP API that the client and the server share, as pydantic models."""

from __future__ import annotations

import dataclasses
import functools
import operator
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    create_model,
)
from pydantic.config import JsonDict

from ..parameters import Parameters

DEFAULT_MODEL = "default"
MAX_ID_LENGTH = 128
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Task: TypeAlias = Literal["classification", "regression"]
ClassLabel: TypeAlias = StrictBool | StrictInt | StrictStr
Target: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr
FeatureValue: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr | None
Features: TypeAlias = dict[str, FeatureValue] | list[Any]
Identifier: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
ModelName: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]


def _whole(value: Any) -> Any:
    """Return a float without a fraction as what it is in JSON, where 3.0 is an integer."""
    return int(value) if type(value) is float and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)  # after the bounds: the schema shows only those that stand before
#: A schema by position, which pydantic writes for a tuple, is beyond some readers of OpenAPI.
_TWO_NUMBERS: JsonDict = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53), _WHOLE]  # what any client of JSON holds exactly
MaxFeatures: TypeAlias = Annotated[int, Field(ge=1), _WHOLE]
MaxClasses: TypeAlias = Annotated[int, Field(ge=2), _WHOLE]

State: TypeAlias = Annotated[
    Literal["ready", "rebuilding", "failed"],
    Field(description="rebuilding: it serves, and is being rebuilt without forgotten samples."),
]
_GIVEN = Field(description="Made before learning; null before the first label, and for a duplicate.")
_LOSS = Field(description="Of that prediction: nats, or the squared error; null where there is none.")


class Body(BaseModel):
    """Base of request bodies: no unknown field, no conversion between types, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DriftSpec(Body):
    """How a model's loss is watched, and what is done when it rises; what is left out has its default."""

    model_config = ConfigDict(frozen=True)

    detector: Literal["adwin", "page_hinkley", "none"] = "adwin"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="adwin: how probable a false alarm may be, 0.002 by default; page_hinkley: how much of a "
        "deviation is tolerated, 0.005 by default.",
    )
    threshold: float = Field(
        default=50.0, gt=0, description="page_hinkley: how large a sum of deviations is a drift."
    )
    action: Literal["none", "forget_moments", "reset_slowest"] = Field(
        default="none",
        description="Taken after a checkpoint: shorten the memory of the running moments, or let the copies "
        "that average start again from the best of the others.",
    )


#: Parameters that the server sets, not the specification of a model.
_PLACE = ("engine", "device")
#: Limits that a server adds to the ranges of the library.
_LIMITS: dict[str, dict[str, Any]] = {
    "hidden": {"le": 4096, "max_length": 8},
    "replay": {"le": 100},
    "memory": {"le": 1_000_000},
    "rho": {"le": None, "lt": 1},
    "eps_abs": {"ge": None, "gt": 0},
    "input_shape": {"le": 1024, "max_length": 4},
    "max_classes": {"ge": 2},
    "seed": {"ge": 0, "lt": 2**63},
    "intervals": {"le": 256},
}


def _field(each: dataclasses.Field[Any]) -> tuple[Any, Any]:
    """Return the type and the field for the declaration of a parameter."""
    about = {**each.metadata, **_LIMITS.get(each.name, {})}
    bounds = {key: about[key] for key in ("ge", "gt", "le", "lt") if about.get(key) is not None}
    whole: Any = Annotated[int, Field(**bounds), _WHOLE]
    types: dict[str, Any] = {
        "bool": bool,
        "float": Annotated[float, Field(**bounds)],
        "int": whole,
        "tuple[int, ...]": GenericAlias(tuple, (whole, ...)),
        "None": None,
    }
    kinds = [types[name] for name in str(each.type).split(" | ") if name in types]
    choices, default = about.get("choices"), each.default
    if choices:
        kinds.append(Literal[choices])
    if each.name in ("max_features", "max_classes", "intervals"):  # the server's own, or of one task only
        default = None
        kinds.append(None)
    options = {key: about[key] for key in ("min_length", "max_length") if key in about}
    if choices and len(kinds) > 1:
        options["union_mode"] = "left_to_right"
    field = Field(default=default, description=about["doc"].replace("``", "`"), **options)
    return functools.reduce(operator.or_, kinds), field


class _Named(Body):
    name: ModelName = DEFAULT_MODEL
    task: Task = "classification"


if TYPE_CHECKING:

    class _Options(Parameters, _Named): ...

else:
    _Options = create_model(
        "_Options",
        __base__=_Named,
        **{each.name: _field(each) for each in dataclasses.fields(Parameters) if each.name not in _PLACE},
    )


class ModelSpec(_Options):
    """Specification of a model; a field that is left out has the library's default."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{"name": "prices", "task": "regression", "hidden": [64, 64], "lr": 0.1}]
        },
    )

    drift: DriftSpec = DriftSpec()

    def options(self) -> dict[str, Any]:
        """Return the arguments of the estimator's constructor."""
        return self.model_dump(exclude={*_Named.model_fields, "drift"}, exclude_none=True)


class LearnAnswer(BaseModel):
    """What became of a sample."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": DEFAULT_MODEL,
                    "step": 1042,
                    "prediction": "setosa",
                    "loss": 0.31,
                    "duplicate": False,
                }
            ]
        }
    )

    model: str
    step: int = Field(description="How many samples the model had learned with this one.")
    prediction: Target | None = _GIVEN
    loss: float | None = _LOSS
    duplicate: bool = Field(description="Whether the id was known, so that nothing changed.")


class PredictAnswer(BaseModel):
    """A prediction; ``probabilities`` are there for a classification only."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": DEFAULT_MODEL,
                    "step": 1042,
                    "prediction": "setosa",
                    "probabilities": {"setosa": 0.75, "virginica": 0.25},
                    "id": "t-42",
                }
            ]
        }
    )

    model: str
    step: int = Field(description="How many samples the model had learned when it predicted.")
    prediction: Target | None = Field(description="Null before the first label.")
    probabilities: dict[str, float] | None = Field(default=None, description="By class, as JSON writes it.")
    id: str | None
    interval: Annotated[tuple[float, float], WithJsonSchema(_TWO_NUMBERS)] | None = Field(
        default=None, description="Low and high, if it was asked for; null before 20 errors were seen."
    )


class ModelSummary(BaseModel):
    """A line of the list of models."""

    name: str
    task: Task
    step: int
    state: State


class ModelList(BaseModel):
    """All models, in the order in which they were made."""

    models: list[ModelSummary]


class CopyWeight(BaseModel):
    """A copy of the network, and its weight in the prediction."""

    lr: float
    replay: int
    averages: bool
    weight: float


class DriftReport(BaseModel):
    """How a model is watched for drift, and what was found."""

    setting: DriftSpec
    detections: int = Field(description="How often its loss rose.")
    last_step: int | None = Field(description="How many samples it had learned when that was found last.")
    actions: int = Field(description="How often something was done about it.")
    due: bool = Field(description="Whether something is about to be done.")


class ModelDescription(BaseModel):
    """A model: what it was told to be, and what it became."""

    name: str
    spec: ModelSpec
    step: int
    classes: list[ClassLabel] = Field(description="In order of arrival; empty for a regression.")
    features: list[str] = Field(description="Columns in order of arrival.")
    ignored_features: int = Field(description="Values ignored for want of a column.")
    parameters: int
    device: str
    engine: str
    mixture: list[CopyWeight] = Field(description="The copies that run side by side, and their weights.")
    sequence: int = Field(description="Number of the last event of the log that is in its state.")
    pending: int = Field(description="Predictions that wait for their label.")
    drift: DriftReport
    state: State
    versions: dict[str, str]


class Scores(BaseModel):
    """Prequential metrics: each sample was predicted before it was learned."""

    n: int = Field(description="Samples scored.")
    cumulative: dict[str, float | None]
    window: dict[str, float | None] = Field(description="The same over the last `size` samples.")


class Fingerprint(BaseModel):
    """Digests over all that learning changes."""

    step: int
    sha256: str = Field(description="Over the model, its prequential metrics and its drift detector.")
    model_sha256: str = Field(description="Over the model alone: `fingerprint()` of the estimator in Python.")


class CheckpointAnswer(BaseModel):
    """A state that is kept."""

    checkpoint: str = Field(description="Its name.")
    step: int
    time: str = Field(description="When it was kept.")
    bytes: int
    current: bool = Field(description="Whether a rollback may go there.")


class CheckpointList(BaseModel):
    """The states that are kept, the newest first."""

    checkpoints: list[CheckpointAnswer]


class RollbackAnswer(BaseModel):
    """Where the model is now."""

    model: str
    step: int
    branch: int = Field(description="Of the model's history, to which its events belong from here on.")


class ForgetAnswer(BaseModel):
    """What is gone from the log."""

    model: str
    forgotten: int = Field(description="Events that are gone; 0 if all had been forgotten before.")
    rebuilding: bool = Field(description="Whether the model is still being rebuilt without them.")


class Health(BaseModel):
    """A sign of life."""

    status: Literal["alive", "ready"]
