"""JSON schemas of the Open Inference Protocol, as pydantic models; see `service.schemas`."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from ...schemas import Schema

DataType: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES",
]  # fmt: skip
#: Parameters of extensions: those that are unknown are ignored.
Options: TypeAlias = dict[str, bool | int | float | str]


class Protocol(Schema):
    """Base of requests: no conversion between types; further fields are extensions, and ignored."""

    model_config = ConfigDict(strict=True)


class InputTensor(Protocol):
    """Values of one feature, or of whole samples."""

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: DataType
    parameters: Options | None = None
    """`binary_data_size`: number of bytes of the tensor behind the JSON, in place of `data`."""
    data: list[Any] | None = None
    """Values in row-major order, flat or in nested lists. null is a missing value."""


class RequestedOutput(Protocol):
    """An output to return."""

    name: str
    parameters: Options | None = None
    """`binary_data`: whether to return it behind the JSON, and not in `data`."""


class InferBody(Protocol):
    """Samples to predict."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "sepal length", "shape": [2], "datatype": "FP64", "data": [5.1, 6.3]},
                        {"name": "garden", "shape": [2], "datatype": "BYTES", "data": ["north", "south"]},
                    ]
                }
            ]
        }
    )

    inputs: list[InputTensor]
    id: str | None = Field(default=None, max_length=256)
    """Returned with the response."""
    outputs: list[RequestedOutput] | None = None
    """By default all outputs."""
    parameters: Options | None = None
    """`binary_data_output`: whether to return all outputs behind the JSON."""


class OutputTensor(Schema):
    """Values of one output."""

    name: str
    datatype: DataType
    shape: list[int]
    data: list[Any] | None = None
    parameters: Options | None = None


class InferAnswer(Schema):
    """Predictions of samples."""

    model_name: str
    outputs: list[OutputTensor]
    id: str | None = None


class TensorDescription(Schema):
    """Name, type and shape of a tensor; -1 is any length."""

    name: str
    datatype: DataType
    shape: list[int]


class InferenceModel(Schema):
    """Inputs and outputs of a model."""

    name: str
    platform: str
    inputs: list[TensorDescription]
    """The features so far, or the array of a model with an `input_shape`."""
    outputs: list[TensorDescription]


class InferenceServer(Schema):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class Live(Schema):
    """The server responds."""

    live: bool


class Ready(Schema):
    """The server, or the model, can predict."""

    ready: bool
    name: str | None = None
    """Name of the model."""
