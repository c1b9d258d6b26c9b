"""JSON schemas of the HTTP API, as pydantic models.

The client's half is in `bnp_online.client.schemas`, and available here too. Pydantic validates the spec of a
model; `service.http.requests` validates the bodies of the frequent routes by hand, and a test keeps it in
agreement with the schemas. Answers are written as plain dicts.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from bnp_online.client.schemas import *

_SAMPLE: JsonDict = {"sepal length": 5.1, "sepal width": 3.5, "garden": "north"}


class LearnBody(Body):
    """A sample with its label."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"x": _SAMPLE, "y": "setosa"}, {"x": _SAMPLE, "y": "setosa", "id": "e-7"}]
        }
    )

    x: Features = Field(description="An object of numbers, booleans, strings and nulls, or nested lists.")
    y: Target = Field(description="A class (boolean, integer or string), or the number to predict.")
    model: str | None = Field(default=None, description=f'Absent or null stands for "{DEFAULT_MODEL}".')
    id: Identifier | None = Field(
        default=None, description="Makes the request safe to repeat: it is learned once."
    )
    w: float | None = Field(default=None, ge=0, description="Scales the step; absent or null stands for 1.")


class LabelBody(Body):
    """The label of an earlier prediction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "t-42", "y": "setosa"}]})

    id: Identifier = Field(description="The id that the prediction was asked with.")
    y: Target
    model: str | None = None


class PredictBody(Body):
    """A sample without its label."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"x": _SAMPLE}, {"x": _SAMPLE, "id": "t-42"}]})

    x: Features
    model: str | None = None
    id: Identifier | None = Field(default=None, description="Keeps the prediction for `POST /label`.")
    interval: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Asks for an interval that is to hold the target this often; of a regression with "
        "`intervals`.",
    )


class BaselineScores(BaseModel):
    """Scores of predictions that need no features, by name: majority or mean, and last."""

    n: int
    cumulative: dict[str, dict[str, float | None]]
    window: dict[str, dict[str, float | None]]


class LayerDiagnosis(BaseModel):
    """The inputs of a layer; `inputs` stands for the raw features, before and after standardization."""

    name: str
    columns: int
    silent: int = Field(description="Columns without any variance to speak of; left out of what follows.")
    mean: list[float] = Field(description="Smallest, median and largest mean of a column.")
    variance: list[float] = Field(description="The same of the variances.")
    before: float | None = Field(
        description="Ratio of the largest to the smallest mean square of a column, the one of ones included."
    )
    after: float | None = Field(description="The same once the step is preconditioned; 1 is best.")
    sizes_before: list[float] = Field(description="Mean squares of the columns, ascending; at most 33.")
    sizes_after: list[float]


class Confusion(BaseModel):
    """How often which class was predicted for which, over the latest predictions."""

    labels: list[ClassLabel]
    counts: list[list[int]] = Field(description="Row by row what was the case; by column what was predicted.")
    other: int = Field(description="Predictions that concern other classes.")


class Names(BaseModel):
    """How many there are, and the latest to arrive."""

    count: int
    latest: list[ClassLabel]


class Latency(BaseModel):
    """How many requests were answered within which time since the server started."""

    seconds: list[float | None] = Field(description="Upper bounds; the last, null, is none.")
    learn: list[int]
    predict: list[int]


class Moment(BaseModel):
    """How good a model was after so many steps."""

    step: int
    scores: Scores
    baselines: BaselineScores
    mixture: list[CopyWeight]


class Dashboard(Moment):
    """All that the page shows of a model, of one moment."""

    model: str
    task: Task
    state: State
    predicted: int = Field(description="Predictions answered.")
    time: float = Field(description="Seconds on the server's clock, to make rates of what is counted.")
    layers: list[LayerDiagnosis]
    confusion: Confusion | None = Field(description="Null for a regression.")
    classes: Names
    features: Names
    ignored_features: int
    pending: int
    queue: int = Field(description="Requests that wait for the model.")
    parameters: int
    engine: str
    device: str
    latency: Latency | None = Field(description="Of the whole server; null with a key for some models.")
    drift: list[dict[str, Any]] = Field(description="Since the server started, the latest first.")
    history: list[Moment] | None = Field(
        description="Since the server started, the oldest first, at most 300; null if not asked for."
    )


class ModelPatch(Body):
    """What may change while a model lives; what is left out stays."""

    max_features: MaxFeatures | None = Field(
        default=None, description="Columns beyond this many are ignored."
    )
    max_classes: MaxClasses | None = Field(default=None, description="A further class is refused.")
    drift: DriftSpec | None = Field(
        default=None, description="The whole setting: what is left out in it has its default."
    )


class RollbackBody(Body):
    """Where to go back to: one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"step": 900}],
            "oneOf": [
                {"required": ["step"], "properties": {"step": {"type": "integer"}}},
                {"required": ["checkpoint"], "properties": {"checkpoint": {"type": "string"}}},
            ],
        }
    )

    step: Count | None = Field(default=None, description="The state after so many samples.")
    checkpoint: str | None = Field(default=None, max_length=200, description="The name of a checkpoint.")

    @model_validator(mode="after")
    def _one(self) -> RollbackBody:
        if (self.step is None) == (self.checkpoint is None):
            raise ValueError("give a step or a checkpoint, one of the two")
        return self


class ForgetBody(Body):
    """The samples to unlearn."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["e-7", "e-9"]}]})

    ids: list[Identifier] = Field(
        min_length=1, max_length=1000, description="Ids of samples, or of predictions that had their label."
    )


class BranchAnswer(BaseModel):
    """A part of a model's history."""

    number: int
    parent: int | None = Field(description="The branch that it left, null for the first.")
    fork: int = Field(description="Number of the last event of its parent that counts on it.")
    start: int = Field(description="Number of its first event.")


class BranchList(BaseModel):
    """The branches of a model's history; the last is the one that counts."""

    branches: list[BranchAnswer]


class EventAnswer(BaseModel):
    """A logged event, without the sample itself."""

    sequence: int = Field(description="Its number; they rise over all models.")
    branch: int
    kind: str
    step: int | None = Field(description="How many samples the model had learned with it.")
    id: str | None
    time: str
    refused: str | None = Field(description="Why the model did not take it after all.")


class EventList(BaseModel):
    """Logged events, in order."""

    events: list[EventAnswer]


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="A word for programs.")
    message: str = Field(description="What is wrong and what to do.")
    field: str | None = Field(description="The part of the request at fault.")


class ErrorAnswer(BaseModel):
    """The body of every error; the state of the model is as it was."""

    error: ErrorBody


class RiverError(BaseModel):
    """The body of every error under `/api/`; the state of the model is as it was."""

    message: str = Field(description="What is wrong and what to do.")


class LineError(BaseModel):
    """The answer to a line of a stream that was refused; the state of the model is as it was."""

    error: ErrorBody
    line: int = Field(description="Number of the line, from 1.")
