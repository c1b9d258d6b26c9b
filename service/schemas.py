"""JSON schemas of the HTTP API, as pydantic models.

The client's half is in `bnp_online.client.schemas`, and available here too. Pydantic validates the
specification of a model. `service.http.requests` derives its checks of the hot routes' bodies from the
schemas, and a test compares the two. Responses are written as plain dicts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from bnp_online.client.schemas import *

_SAMPLE: JsonDict = {"sepal length": 5.1, "sepal width": 3.5, "garden": "north"}
_X = Field(
    description="An object of numbers, booleans, strings, lists of strings and nulls, or nested lists of "
    "numbers. null is a missing value. A string is a category, even if it is a date, unless the model splits "
    "it into words (`text`): send a date as a number, such as seconds since 1970. A number that is a code "
    "can be sent as a string."
)


class LearnBody(Body):
    """A sample with its label."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"x": _SAMPLE, "y": "setosa"}, {"x": _SAMPLE, "y": "setosa", "id": "e-7"}]
        }
    )

    x: Features = _X
    y: Target
    """A class (boolean, integer or string), or the number to predict."""
    model: str | None = None
    """Name of the model; by default "default"."""
    id: Identifier | None = None
    """Makes the request safe to repeat: the sample is learned once."""
    w: float | None = Field(default=None, ge=0)
    """Weight, which scales the step; 1 by default."""


class LabelBody(Body):
    """The label of an earlier prediction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "t-42", "y": "setosa"}]})

    id: Identifier
    """Id of the prediction."""
    y: Target
    model: str | None = None


class PredictBody(Body):
    """A sample without its label."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"x": _SAMPLE}, {"x": _SAMPLE, "id": "t-42"}]})

    x: Features = _X
    model: str | None = None
    id: Identifier | None = None
    """Keeps the prediction for `POST /label`."""
    interval: float | None = Field(default=None, gt=0, lt=1)
    """Coverage of a predictive interval; for regression models with `intervals`."""
    novelty: bool | None = None
    """Whether to tell how unusual the sample is."""


class ExplainBody(Body):
    """A sample whose prediction to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"x": _SAMPLE}]})

    x: Features = _X
    model: str | None = None
    label: ClassLabel | None = None
    """Class to explain; by default the predicted one."""


class EvidenceBody(Body):
    """A sample whose strings and words to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"x": _SAMPLE}]})

    x: Features = _X


class BaselineScores(Schema):
    """Scores of baselines without features, by name: majority or mean, and last."""

    n: int
    cumulative: dict[str, dict[str, float | None]]
    window: dict[str, dict[str, float | None]]


class LayerDiagnosis(Schema):
    """Input statistics of a layer; `inputs` are the raw features, before and after standardization."""

    name: str
    columns: int
    silent: int
    """Columns with almost no variance, which the other statistics leave out."""
    mean: list[float]
    """Smallest, median and largest mean of a column."""
    variance: list[float]
    """Smallest, median and largest variance of a column."""
    before: float | None
    """Ratio of the largest to the smallest mean square of a column (with the constant one)."""
    after: float | None
    """The same ratio after preconditioning; 1 is ideal."""
    sizes_before: list[float]
    """Mean squares of the columns, ascending; at most 33."""
    sizes_after: list[float]


class Confusion(Schema):
    """Confusion matrix of the latest predictions."""

    labels: list[ClassLabel]
    counts: list[list[int]]
    """Rows: true class; columns: predicted class."""
    other: int
    """Predictions of other classes."""


class Names(Schema):
    """Number of names, and the latest of them."""

    count: int
    latest: list[ClassLabel]


class FieldSize(Schema):
    """Feature with strings or words, in the sparse stage of a model."""

    name: str
    values: int
    """Number of its values."""


class Fields(Schema):
    """Features with strings or words, once one of them has more values than columns."""

    count: int
    values: int
    """Number of values of all fields."""
    largest: list[FieldSize]
    """At most 20, those with the most values first."""


class LatestSample(Schema):
    """The sample that a model learned last."""

    model: str
    step: int
    """Step of the model with this sample."""
    x: Any
    """Features; null if the log does not have the sample, for example because it was imported or pruned."""
    y: ClassLabel | float | None


class Latency(Schema):
    """Cumulative histograms of response times since the server started."""

    seconds: list[float | None]
    """Upper bounds; the last is null, which means no bound."""
    learn: list[int]
    """Single requests: all but streams."""
    predict: list[int]
    learn_streams: list[int]
    """Parts of streams, each from its arrival to its answers."""
    predict_streams: list[int]


class Moment(Schema):
    """Scores of a model at a step."""

    step: int
    scores: Scores
    recent: dict[str, float | None]
    """Accuracy and LogLoss, or MAE and RMSE, of the last 100 to 109 predictions."""
    baselines: BaselineScores
    shares: dict[str, float]
    """Weight of each kind of experts in the prediction."""


class Dashboard(Moment):
    """Everything that the dashboard shows of a model, at one moment."""

    model: str
    task: Task
    input_shape: list[int] | None
    """Shape of `x`; null if it is an object of features with names."""
    state: State
    upgrade: UpgradeProgress | None
    """Progress of an upgrade; null without one."""
    mixture: list[CopyWeight]
    """Experts of the mixture, with their weights."""
    leading: str | None
    """What leads the mixture, and why that matters; null for a single expert."""
    predicted: int
    """Predictions made."""
    time: float
    """Seconds on a clock of the server, to compute rates from counters."""
    layers: list[LayerDiagnosis]
    confusion: Confusion | None
    """Null for a regression model."""
    pairs: list[tuple[float, float]] | None
    """The latest 300 targets and their predictions; null for a classification model."""
    classes: Names
    features: Names
    means: Any
    """Running means of the latest features, as a sample: an object, or nested lists; null if unknown."""
    fields: Fields
    importances: list[Importance]
    """Features with the greatest running importance, at most 20, the greatest first."""
    recycled_values: int
    ignored_features: int
    pending: int
    queue: int
    """Requests that wait for the model."""
    parameters: int
    engine: str
    device: str
    latency: Latency | None
    """Of the whole server; null with a key for some models."""


class ModelOverview(Schema):
    """A model in the overview. Values are null if the model is not in memory, or cannot be read now."""

    name: str
    task: Task
    state: str
    step: int | None
    recent: dict[str, float | None] | None
    """Accuracy and LogLoss, or MAE and RMSE, of the latest 1,000 predictions."""
    sparkline: list[float | None]
    """Accuracy or MAE over the life of the model, in at most 32 points."""
    drift_marks: list[float]
    """Places of the latest 16 drifts on this line, from 0 to 1."""
    drifts: int | None
    """Drifts detected."""
    shares: dict[str, float] | None
    """Weight of each kind of experts in the prediction."""


class Overview(Schema):
    """All models that the key covers, in order of creation."""

    time: float
    """Seconds on a clock of the server, to compute rates from steps."""
    models: list[ModelOverview]


class Mark(Schema):
    """Something that happened to a model."""

    kind: Literal["drift", "action", "rollback", "unlearning", "checkpoint", "upgrade", "import", "promotion"]
    step: int
    """Step of the model at that moment; of a rollback, the step that it returned to; of a promotion, the step
    of the new champion. The step of an unlearning is that without the unlearned samples, or of a former
    champion the step at which it was requested."""
    time: float
    """Seconds since 1970."""
    action: str | None = None
    """The action after a drift."""
    events: int | None = None
    """Number of events that were unlearned."""
    checkpoint: str | None = None
    """Name of the checkpoint."""
    shadow: str | None = None
    """Name of the shadow that was promoted."""
    champion: str | None = None
    """Name of the champion at that moment, if another model took its place since, by a promotion or an
    import. Its steps are not those of the history."""


class IntervalHistory(Schema):
    """Intervals of a regression, of the samples since the point before; one entry per point."""

    level: float
    """Coverage that the intervals aim at."""
    n: list[int]
    coverage: list[float | None]
    width: list[float | None]


class ShareHistory(Schema):
    """Shares of the kinds of experts over the life of a model, in at most 256 points of their own."""

    step: list[int]
    time: list[float]
    shares: dict[str, list[float]]
    """Share at each point, by kind."""


class ModelHistory(Schema):
    """Scores of a model over its life, and what happened to it. All lists have one entry per point."""

    model: str
    task: Task
    model_step: int
    """Step of the model now."""
    start: int
    """Step before the first sample in the history."""
    step: list[int]
    """Last step of each point, oldest first; the last one is that of the model."""
    time: list[float]
    """Time of logging of the sample at this step, in seconds since 1970."""
    n: list[int]
    """Predictions that were scored since the point before."""
    scores: dict[str, list[float | None]]
    """Accuracy and LogLoss, or MAE and RMSE, of these predictions; null without any."""
    baselines: dict[str, dict[str, list[float | None]]]
    """The same of the baselines: the majority or the mean, and the last target."""
    intervals: IntervalHistory | None
    """Null unless the model is a regression with `intervals`."""
    experts: ShareHistory
    marks: list[Mark]
    """Drifts, actions and changes, oldest first; at most 256 of each kind."""


class ModelPatch(Body):
    """Settings that may change on a live model; omitted settings stay."""

    FIXED: ClassVar[frozenset[str]] = frozenset(ModelSpec.model_fields)
    """Fields of a specification, for the message about those that do not change."""

    max_features: MaxFeatures | None = None
    """Columns beyond this many are ignored."""
    max_classes: MaxClasses | None = None
    """Further classes are refused."""
    max_values: MaxValues | None = None
    """Beyond this many values of strings and words, a new one replaces one that was not used for long."""
    drift: DriftSpec | None = None
    """The whole drift setting; omitted fields have their defaults."""


def _document_forms(schema: JsonDict) -> None:
    """Replace the optional fields of a body, of which one is given, by a form for each of them."""
    del schema["additionalProperties"]  # each form has its own
    fields: Any = schema.pop("properties")
    schema["oneOf"] = [_form(fields, name) for name in fields]


def _form(fields: dict[str, Any], given: str) -> JsonDict:
    """Return the schema of a body with one field; the others may be null."""
    properties: JsonDict = {}
    for name, field in fields.items():
        value, null = field["anyOf"]
        about = {key: text for key, text in field.items() if key != "anyOf"}
        properties[name] = about | (value if name == given else null)
    return {
        "type": "object",
        "title": f"RollbackTo{given.title()}",
        "properties": properties,
        "required": [given],
        "additionalProperties": False,
    }


class RollbackBody(Body):
    """Target of a rollback: a step or a checkpoint."""

    model_config = ConfigDict(json_schema_extra=_document_forms)

    step: Count | None = None
    """Number of samples learned in that state."""
    checkpoint: str | None = Field(default=None, max_length=200)
    """Name of the checkpoint."""

    @model_validator(mode="after")
    def _one(self) -> RollbackBody:
        if (self.step is None) == (self.checkpoint is None):
            raise ValueError("give either a step or a checkpoint")
        return self


class ShadowSpec(ModelSpec):
    """Specification of a shadow; an omitted task or `input_shape` is that of the model."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "wider", "hidden": [200, 200]}]})

    name: ModelName
    """Name of the shadow, which no other shadow of the model has."""

    def of_model(self) -> ModelSpec:
        """Return it as the specification of a model, in which the same fields are set."""
        return ModelSpec.model_construct(self.model_fields_set, **dict(self))


class PromoteBody(Body):
    """Shadow to promote."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"shadow": "wider"}]})

    shadow: ModelName
    """Name of the shadow."""


class ForgetBody(Body):
    """Samples to unlearn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["e-7", "e-9"]}]})

    ids: list[Identifier] = Field(min_length=1, max_length=1000)
    """Ids of samples, or of labelled predictions."""


class BranchAnswer(Schema):
    """Branch of a model's history."""

    number: int
    parent: int | None
    """Number of the parent branch; null for the first."""
    fork: int
    """Number of the last event of the parent that belongs to the branch."""
    start: int
    """Number of its first event."""


class BranchList(Schema):
    """Branches of a model's history; the last is the current one."""

    branches: list[BranchAnswer]


class EventAnswer(Schema):
    """Logged event, without its sample."""

    sequence: int
    """Number of the event, increasing for each model."""
    branch: int
    kind: str
    step: int | None
    """Number of samples learned, including this one."""
    id: str | None
    time: str
    refused: str | None
    """Why the model refused the event after it was logged."""


class EventList(Schema):
    """Logged events, in order."""

    events: list[EventAnswer]


class ErrorBody(Schema):
    """Error of a request."""

    code: str
    """Error code, for programs."""
    message: str
    """What is wrong and how to correct it."""
    field: str | None
    """The part of the request at fault."""


class ErrorAnswer(Schema):
    """Body of every error; the request changed nothing."""

    error: ErrorBody


class RiverError(Schema):
    """Body of every error under `/api/`; the request changed nothing."""

    message: str
    """What is wrong and how to correct it."""


class InferenceError(Schema):
    """Body of every error under `/v2`; the request changed nothing."""

    error: str
    """What is wrong and how to correct it."""
    code: str
    """Error code, for programs."""
    field: str | None
    """The field of the request that is wrong, if it is one."""


class LineError(Schema):
    """Answer to a refused line of a stream; the line changed nothing."""

    error: ErrorBody
    line: int
    """Number of the line, from 1."""
