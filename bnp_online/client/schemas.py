"""JSON of the HTTP API that the client and the server share, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

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
)
from pydantic.config import JsonDict

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
Width: TypeAlias = Annotated[int, Field(ge=1, le=4096), _WHOLE]
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53), _WHOLE]  # what any client of JSON holds exactly
Side: TypeAlias = Annotated[int, Field(ge=1, le=1024), _WHOLE]
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


class ModelSpec(Body):
    """How to make a model; what is left out has the library's default."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{"name": "prices", "task": "regression", "hidden": [64, 64], "lr": 0.1}]
        },
    )

    name: ModelName = DEFAULT_MODEL
    task: Task = "classification"
    hidden: tuple[Width, ...] = Field(
        default=(100, 100), max_length=8, description="Widths of the hidden layers."
    )
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        union_mode="left_to_right",
        description="Learning rate; auto runs copies at several and weighs them.",
    )
    replay: Annotated[int, Field(ge=0, le=100), _WHOLE] = Field(
        default=3, description="With auto: remembered samples learned again after each."
    )
    memory: Annotated[int, Field(ge=1, le=1_000_000), _WHOLE] = Field(
        default=5000, description="How many samples are remembered."
    )
    rho: float = Field(default=0.99, ge=0, lt=1, description="What the running statistics keep at each step.")
    eps_rel: float = Field(
        default=1e-2, ge=0, description="Added to each variance, relative to the layer's largest."
    )
    eps_abs: float = Field(default=1e-4, gt=0, description="Added to each variance.")
    step_scale: Literal["norm", "paper", "none"] = "norm"
    standardize: bool = Field(default=True, description="Whether inputs are standardized on line.")
    seed: Annotated[int, Field(ge=0, lt=2**63), _WHOLE] = 0
    input_shape: tuple[Side, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=4,
        description="Shape of x as nested lists; without it x is an object.",
    )
    network: Literal["mlp", "cnn"] = "mlp"
    max_features: MaxFeatures | None = Field(
        default=None, description="Columns beyond this many are ignored."
    )
    max_classes: MaxClasses | None = Field(default=None, description="A further class is refused.")
    drift: DriftSpec = DriftSpec()
    intervals: Annotated[int, Field(ge=0, le=256), _WHOLE] | None = Field(
        default=None,
        description="Of a regression: samples of parameters behind predictive intervals; 32 is a good "
        "number, and 0 or null gives none.",
    )


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
