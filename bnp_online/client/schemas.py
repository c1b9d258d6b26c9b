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
    model_validator,
)
from pydantic.config import JsonDict

from ..layer_list import ACTIVATION_NAMES, MOST_KERNEL, MOST_LAYERS, MOST_WIDTH
from ..parameters import DESCRIPTIONS, EARLIER, Parameters

DEFAULT_MODEL = "default"
MAX_ID_LENGTH = 128
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Role: TypeAlias = Literal["owner", "standby", "replica"]
Task: TypeAlias = Literal["classification", "regression"]
ClassLabel: TypeAlias = StrictBool | StrictInt | StrictStr
Target: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr
FeatureValue: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr | list[StrictStr] | None
Features: TypeAlias = dict[str, FeatureValue] | list[Any]
Identifier: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
ModelName: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
DEVICE_PATTERN = r"^(auto|cpu|cuda(:[0-9]{1,2})?)$"
Device: TypeAlias = Annotated[str, Field(pattern=DEVICE_PATTERN)]


def _whole(value: Any) -> Any:
    """Return a float without a fraction as what it is in JSON, where 3.0 is an integer."""
    return int(value) if type(value) is float and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)  # after the bounds: the schema shows only those that stand before
#: A schema by position, which pydantic writes for a tuple, is beyond some readers of OpenAPI.
_TWO_NUMBERS: JsonDict = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53), _WHOLE]  # what any client of JSON holds exactly
MaxFeatures: TypeAlias = Annotated[int, Field(ge=1), _WHOLE]
MaxClasses: TypeAlias = Annotated[int, Field(ge=2), _WHOLE]
MaxValues: TypeAlias = Annotated[int, Field(ge=32, le=2**24), _WHOLE]

State: TypeAlias = Annotated[
    Literal["ready", "rebuilding", "failed"],
    Field(
        description="rebuilding: the model serves requests while it is rebuilt without forgotten samples, or "
        "upgraded."
    ),
]
_GIVEN = Field(description="Prediction before learning; null before the first label, and for a duplicate.")
_LOSS = Field(description="Its loss in nats, or its squared error; null without a prediction.")


class Schema(BaseModel):
    """Base of all schemas: the docstring of a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Body(Schema):
    """Base of request bodies: no unknown field, no conversion between types, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class DriftSpec(Body):
    """Drift detection on the loss of a model, and the response to drift."""

    model_config = ConfigDict(frozen=True)

    detector: Literal["adwin", "page_hinkley", "none"] = "adwin"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """adwin: probability of a false alarm, 0.002 by default; page_hinkley: tolerated deviation, 0.005 by
    default."""
    threshold: float = Field(default=50.0, gt=0)
    """page_hinkley: sum of deviations that counts as drift."""
    action: Literal["none", "forget_moments", "reset_slowest"] = "none"
    """Response, after a checkpoint: shorten the memory of the running moments, or restart the averaging
    members from the best of the others."""


def _layer(name: str, value: JsonDict, **settings: JsonDict) -> JsonDict:
    """Return the schema of a layer with settings."""
    return {
        "type": "object",
        "title": f"{name.title()}Layer",
        "properties": {name: value, **settings},
        "required": [name],
        "additionalProperties": False,
    }


def _choice(*values: str) -> JsonDict:
    return {"type": "string", "enum": [*values]}


def _layers_schema() -> JsonDict:
    """Return the schema of a list of layers; what is inside a residual layer has no schema of its own."""
    width: JsonDict = {"type": "integer", "minimum": 1, "maximum": MOST_WIDTH}
    inner: JsonDict = {"type": "array", "items": {}, "minItems": 1, "description": "Layers, as in `network`."}
    boolean: JsonDict = {"type": "boolean"}

    def pair(least: int, *others: JsonDict) -> JsonDict:
        size: JsonDict = {"type": "integer", "minimum": least, "maximum": MOST_KERNEL}
        both: JsonDict = {"type": "array", "items": size, "minItems": 2, "maxItems": 2}
        return {"anyOf": [size, both, *others]}

    conv = {"kernel": pair(1), "stride": pair(1), "padding": pair(0), "groups": width, "bias": boolean}
    layers: list[Any] = [
        _choice(*ACTIVATION_NAMES, "flatten"),
        _layer("conv", width, **conv),
        _layer("dense", width, bias=boolean),
        _layer(
            "pool",
            pair(1, {"type": "string", "enum": ["global"]}),
            kind={"type": "string", "enum": ["max", "mean"]},
        ),
        _layer("norm", _choice("layer", "group"), groups=width),
        _layer("residual", inner, shortcut=inner),
    ]
    return {"type": "array", "items": {"anyOf": layers}, "minItems": 1, "maxItems": MOST_LAYERS}


#: The layers are checked by `bnp_online.layer_list`, whose errors name the layer.
_LAYERS: Any = Annotated[list[Any], WithJsonSchema(_layers_schema())]

#: Parameters that the server sets, not the specification of a model.
_PLACE = ("engine",)
#: Parameters that a specification names, and the server opens.
_NAMED = ("backbone",)
#: Parameters whose default is the server's own setting, or that only one task has.
_OPTIONAL = ("max_features", "max_classes", "max_values", "intervals", "device")
#: Limits that a server adds to the ranges of the library.
_LIMITS: dict[str, dict[str, Any]] = {
    "hidden": {"le": 4096, "max_length": 8},
    "replay": {"le": 100},
    "memory": {"le": 1_000_000},
    "rho": {"le": None, "lt": 1},
    "eps_abs": {"ge": None, "gt": 0},
    "input_shape": {"le": 1024, "max_length": 4},
    "max_classes": {"ge": 2},
    "max_values": {"le": 2**24},
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
        "tuple[str, ...]": tuple[str, ...],
        "list[Any]": _LAYERS,
        "None": None,
    }
    kinds = [types[name] for name in str(each.type).split(" | ") if name in types]
    choices, default = about.get("choices"), each.default
    if "pattern" in about:
        kinds.append(Device)
    elif choices:
        kinds.append(Literal[choices])
    if each.name in _OPTIONAL:
        default = None
        kinds.append(None)
    options = {key: about[key] for key in ("min_length", "max_length") if key in about}
    if choices and len(kinds) > 1 and "pattern" not in about:
        options["union_mode"] = "left_to_right"
    field = Field(default=default, description=DESCRIPTIONS.get(each.name, "").replace("``", "`"), **options)
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
        **{
            each.name: _field(each)
            for each in dataclasses.fields(Parameters)
            if each.name not in _PLACE + _NAMED
        },
    )


class ModelSpec(_Options):
    """Specification of a model; a field that is left out has the library's default."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {"name": "prices", "task": "regression", "hidden": [64, 64], "lr": 0.1},
                {"name": "digits", "input_shape": [8, 8], "network": [{"conv": 8}, "relu", "flatten"]},
            ]
        },
    )

    drift: DriftSpec = DriftSpec()
    backbone: ModelName | None = None  # type: ignore[assignment]  # here its name, which the server opens
    """Name of a frozen backbone, a file in the folder `BNP_BACKBONES` of the server, such as
    `digits.safetensors`. The model learns on its features: `network` and `hidden` are those of the head."""
    backbone_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the backbone. The server adds it when it creates the model, and uses no other backbone."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the estimator's constructor."""
        return self.model_dump(
            exclude={*_Named.model_fields, "drift", "backbone", "backbone_sha256"}, exclude_none=True
        )


class LearnAnswer(Schema):
    """Result of learning a sample."""

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
    step: int
    """Number of samples learned, this one included."""
    prediction: Target | None = _GIVEN
    loss: float | None = _LOSS
    duplicate: bool
    """Whether the id had been learned before, so that nothing changed."""


class PredictAnswer(Schema):
    """Prediction; ``probabilities`` for classification only."""

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
    step: int
    """Number of samples learned before the prediction."""
    prediction: Target | None
    """Null before the first label."""
    probabilities: dict[str, float] | None = None
    """By class, written as in JSON."""
    id: str | None
    interval: Annotated[tuple[float, float], WithJsonSchema(_TWO_NUMBERS)] | None = None
    """Low and high, if requested; null before 20 errors have been observed."""
    novelty: float | None = None
    """Share of ordinary samples that are at least as unusual, in (0, 1], if requested: small for an unusual
    sample."""
    unknown: list[str] = []
    """Features of `x` that the prediction ignores: the model has never learned the name or the string value.
    Absent if there are none."""


class ExplainAnswer(Schema):
    """How much each feature moved a prediction: `output` = `baseline` + the sum of `contributions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": DEFAULT_MODEL,
                    "step": 1042,
                    "prediction": "setosa",
                    "label": "setosa",
                    "output": 2.25,
                    "baseline": 0.25,
                    "contributions": {"sepal length": 1.5, "sepal width": -0.5, "garden": 1.0},
                }
            ]
        }
    )

    model: str
    step: int
    """Number of samples learned before the prediction."""
    prediction: Target | None
    """Null before the first label."""
    label: ClassLabel | None = None
    """Class that is explained; null before the first label, absent for regression."""
    output: float
    """Log odds of the class, or the predicted number."""
    baseline: float
    """The same with all features missing, so that each is at its running mean."""
    contributions: dict[str, float] | list[Any]
    """By feature of the model; for a model with an input shape nested lists of this shape."""
    unknown: list[str] = []
    """Features of `x` that the prediction ignores, as in `PredictAnswer`. Absent if there are none."""


class Importance(Schema):
    """Running importance of a feature."""

    feature: str
    """Name; of a model with an input shape the position, such as `0, 3, 7`."""
    importance: float
    """Mean absolute contribution to the log odds of the predicted class, or to the predicted number."""
    share: float
    """Share in the sum over all features."""


class Evidence(Schema):
    """Evidence of a string or a word, from the samples that had it."""

    feature: str
    value: str
    samples: float
    """Weight of the samples that had the value; at most 1,000, because older ones count less."""
    label: ClassLabel | None
    """Class for which the value speaks most; null for regression."""
    strength: float
    """By how much the value raises the log odds of this class, or the target of a regression."""


class EvidenceAnswer(Schema):
    """Evidence of the strings and words of a sample, the strongest first, at most 20."""

    model: str
    step: int
    evidence: list[Evidence]


class ModelSummary(Schema):
    """Model in a list."""

    name: str
    task: Task
    step: int | None
    """Null if the model was not in memory since the server started."""
    state: Literal["ready", "rebuilding", "failed", "stored"]
    """stored: the model is not in memory. The next request to it loads it."""


class ModelList(Schema):
    """Models, in order of creation."""

    models: list[ModelSummary]


class CopyWeight(Schema):
    """Expert of the mixture, and its weight in the prediction."""

    expert: str = ""
    """Name in plain words."""
    kind: str = "network"
    """"network", "linear", "neighbours", "bins", or "stack", which combines all others."""
    lr: float | None
    """Learning rate; null for neighbours and the stack."""
    replay: int
    """Number of samples that it replays after each new one."""
    averages: bool
    """Whether it predicts with the running mean of its weights."""
    weight: float
    """The weights of all experts have the sum 1."""


class DriftReport(Schema):
    """Drift detection of a model, and its results."""

    setting: DriftSpec
    detections: int
    """Number of detected drifts."""
    last_step: int | None
    """Number of samples learned at the last drift."""
    actions: int
    """Number of responses to drift."""
    due: bool
    """Whether a response is pending."""


class UpgradeProgress(Schema):
    """Progress of an upgrade."""

    learner: int
    """Generation of the learner after the upgrade."""
    done: int
    """Number of events relearned."""
    events: int
    """Number of events to relearn, 0 before they are counted."""


class IngestState(Schema):
    """Partition of a topic from which a model learns."""

    topic: str
    """Kind of the broker, and topic, stream or subject."""
    partition: int | None
    """Null until the broker was reached."""
    position: int | None
    """Position of the next message, as stored with the model."""
    lag: int | None
    """Number of messages that are not learned yet."""
    learned: int
    """Number of messages learned since the start of the server."""
    refused: int
    """Number of messages refused since the start of the server."""
    state: Literal["running", "waiting", "log_gap"]
    """waiting: for the broker, the model or the event log. log_gap: messages are missing; see
    `POST /models/{m}/ingest`."""
    reason: str | None = None
    """Why it does not run."""


class IngestPosition(Schema):
    """Position from which a partition is to go on."""

    topic: str
    """As in `ingest` of the model."""
    partition: Annotated[int, Field(ge=0, lt=2**31)] = 0
    position: Annotated[int, Field(ge=0, lt=2**63)]
    """Position of the next message to learn."""


class IngestReport(Schema):
    """Partitions from which a model learns."""

    ingest: list[IngestState]


class ModelDescription(Schema):
    """Model: its specification and its state."""

    name: str
    spec: ModelSpec
    step: int
    classes: list[ClassLabel]
    """In order of arrival; empty for regression."""
    features: list[str]
    """Columns, in order of arrival."""
    fields: dict[str, int] = {}
    """Number of values of each feature with strings or words; empty until a feature has more values than
    columns, or words."""
    recycled_values: int = 0
    """Number of values of strings and words that made room for others, because of `max_values`."""
    ignored_features: int
    """Number of values ignored because all columns are taken."""
    parameters: int
    device: str
    engine: str
    mixture: list[CopyWeight]
    """Experts of the mixture, with their weights."""
    leading: str | None = None
    """What leads the mixture, and why that matters; null for a single expert."""
    sequence: int
    """Number of the last event of the log in the state."""
    pending: int
    """Number of predictions that wait for their label."""
    importances: list[Importance] = []
    """Features with the greatest running importance, at most 20, the greatest first."""
    drift: DriftReport
    upgrade: UpgradeProgress | None = None
    """Progress of an upgrade; null without one."""
    ingest: list[IngestState] = []
    """Partitions of topics from which the model learns (`BNP_INGEST`)."""
    state: State
    versions: dict[str, str]

    @model_validator(mode="after")
    def _of_earlier_server(self) -> ModelDescription:
        if missing := EARLIER.keys() - self.spec.model_fields_set:
            self.spec = self.spec.model_copy(update={name: EARLIER[name] for name in missing})
        return self


class IntervalScores(Schema):
    """Intervals of a regression: each was predicted before its sample was learned."""

    n: int
    """Number of intervals."""
    coverage: float | None
    """Share of them that contained the target; null without any."""
    width: float | None
    """Mean width, in units of the target."""


class Intervals(Schema):
    """Intervals of a regression over three spans of samples."""

    level: float
    """Coverage that the intervals aim at."""
    cumulative: IntervalScores
    window: IntervalScores
    """The latest 1,000 to 1,009 samples."""
    recent: IntervalScores
    """The latest 100 to 109 samples."""


class Scores(Schema):
    """Prequential metrics: each sample is predicted before it is learned."""

    n: int
    """Number of scored samples."""
    cumulative: dict[str, float | None]
    window: dict[str, float | None]
    """The same over the last `size` samples."""
    intervals: Intervals | None = None
    """Predictive intervals; absent unless the model is a regression with `intervals`."""


class Fingerprint(Schema):
    """Digests of the state of a model."""

    step: int
    sha256: str
    """Digest of the model, its prequential metrics and its drift detector."""
    model_sha256: str
    """Digest of the model alone, as `fingerprint()` of the estimator."""


class CheckpointAnswer(Schema):
    """Checkpoint."""

    checkpoint: str
    """Name."""
    step: int
    time: str
    """Time of the checkpoint."""
    bytes: int
    current: bool
    """Whether a rollback to it is possible."""


class CheckpointList(Schema):
    """Checkpoints, newest first."""

    checkpoints: list[CheckpointAnswer]


class RollbackAnswer(Schema):
    """State of a model after a rollback."""

    model: str
    step: int
    branch: int
    """Number of the new branch of the history."""


class ForgetAnswer(Schema):
    """Result of unlearning."""

    model: str
    forgotten: int
    """Number of deleted events; 0 if all were deleted before."""
    rebuilding: bool
    """Whether the model is still being rebuilt, or data of the samples may still be on the disk."""


class UpgradeAnswer(Schema):
    """Upgrade of a model."""

    model: str
    learner: int
    """Generation of the learner after the upgrade."""
    rebuilding: bool
    """Whether the samples are being relearned; false if the model was of this generation before."""


class ShadowComparison(Schema):
    """Comparison of a shadow with its champion, on samples that both predicted before they learned them."""

    n: int
    """Number of samples, since the creation of the shadow or the latest promotion."""
    champion: dict[str, float | None]
    """Accuracy and LogLoss, or MAE and RMSE, of the champion; null without samples."""
    shadow: dict[str, float | None]
    """The same of the shadow."""
    difference: float | None
    """Mean loss of the shadow minus that of the champion: negative if the shadow is better. The loss is the
    log loss, at most 9.2 nats; of a regression the absolute error in standard deviations of the targets, at
    most 4."""
    low: float
    """Lower end of the interval of the difference. It holds at all times together, so that the comparison may
    be read after each sample."""
    high: float
    """Upper end."""
    confidence: float
    """Probability that the interval holds at all times."""
    verdict: Literal["better", "worse", "undecided"]
    """Of the shadow; decided once the interval excludes 0."""


class ShadowAnswer(Schema):
    """Shadow of a model."""

    name: str
    spec: ModelSpec
    step: int
    """Number of samples learned."""
    behind: int
    """Number of events that its champion has applied, and the shadow has not."""
    skipped: int
    """Number of samples that it could not learn, and its champion could."""
    failure: str | None
    """Why it no longer learns."""
    comparison: ShadowComparison


class ShadowList(Schema):
    """Shadows of a model, in order of creation."""

    model: str
    task: Task
    champion: str
    """Name that the champion has as a shadow, after a promotion."""
    step: int
    """Step of the champion."""
    shadows: list[ShadowAnswer]


class PromoteAnswer(Schema):
    """Model after a promotion."""

    model: str
    champion: str
    """Name of the shadow that is the champion now."""
    shadow: str
    """Name of the former champion, which is a shadow now."""
    step: int
    """Number of samples that the new champion has learned."""


class DeleteAnswer(Schema):
    """Deletion of a model whose data cannot be erased now: the disk is full, or a program reads the log."""

    model: str
    erased: Literal[False]
    """The server erases the data as soon as it can, and logs a line when all is erased."""


class ClusterShard(Schema):
    """Shard of a cluster: the models whose names have the same remainder."""

    shard: int
    """CRC-32 of the name of a model, modulo the number of shards."""
    epoch: int
    """Number of times that a process became its owner."""
    owner: str | None
    """Node that learns its models; null while it has none."""
    address: str | None
    """URL of this node."""
    models: int
    """Number of models."""
    lag_ms: float | None
    """Age of the newest event that this node has not applied, in milliseconds; null if it does not follow the
    shard.
    """


class ClusterNode(Schema):
    """Process of a cluster."""

    node: str
    """Name."""
    role: Role
    address: str | None
    """URL at which it serves."""
    seen_seconds: float
    """Seconds since its last sign of life."""
    owned: list[int]
    """Shards that it owns."""
    staleness_ms: float | None
    """By how much its predictions lag behind the log, in milliseconds; null for an owner."""
    failed: list[str] = []
    """Models that it cannot restore from the log, or cannot follow: at most 100."""


class ClusterDescription(Schema):
    """Cluster as one of its nodes sees it; without a cluster this node alone, and no shards."""

    node: str
    """Name of the node that answers."""
    role: Role
    shards: list[ClusterShard]
    nodes: list[ClusterNode]


class Health(Schema):
    """State of the server."""

    status: Literal["alive", "ready", "owner", "replica"]
    detail: str | None = None
    """What does not work, although the server is ready."""
