"""Tensors of the Open Inference Protocol: samples from inputs, and outputs from predictions.

A tensor is a list of values in the JSON, or bytes behind it (the extension for binary data of Triton).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import BodyTooLargeError, InvalidTypeError, MissingFieldError, RequestError
from ...models.hosted import Answer
from ..array import MOST_ITEMS
from .schemas import InferBody, InputTensor

#: NumPy's types by datatype; little-endian, as on the wire.
_TYPES: dict[str, str] = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}


class _Kind(NamedTuple):
    """Values of a datatype in JSON: their types, and their range, unless `most` is 0."""

    words: str
    types: tuple[type, ...]
    least: float = 0
    most: float = 0


def _integers(least: int, most: int) -> _Kind:
    return _Kind(f"integers from {least} to {most}", (int,), least, most)


def _floats(most: float, largest: float) -> _Kind:
    """Return the numbers that are rounded to a float: those up to `most` become its `largest` one."""
    return _Kind(f"numbers up to {largest:.7g} in size", (int, float), -most, most)


_VALUES = {
    "BYTES": _Kind("strings", (str,)),
    "BOOL": _Kind("true and false, or the bytes 1 and 0", (bool,)),
    **{f"INT{bits}": _integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": _integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    "FP16": _floats(math.nextafter(65520.0, 0.0), 65504.0),
    "FP32": _floats(2**128 - 2**103 - 1, float(np.finfo(np.float32).max)),
    "FP64": _floats(2**1024 - 2**970 - 1, float(np.finfo(np.float64).max)),
}
#: Bits of an integer whose digits are not shown.
_LONG = 256
_SIZE = struct.Struct("<I")  # of a string, before it
PREDICTION, PROBABILITIES, CLASSES = "prediction", "probabilities", "classes"


def samples_of(body: InferBody, behind: bytes, shape: Sequence[int] | None) -> list[Any]:
    """Return the samples in the inputs of a request.

    Parameters
    ----------
    body : InferBody
        The request.
    behind : bytes
        Tensors behind the JSON, in the order of the inputs.
    shape : sequence of int or None
        `input_shape` of the model; None for a model whose features have names.

    Raises
    ------
    RequestError, InvalidTypeError, MissingFieldError
        If the inputs are no samples; with the name of the field.
    BodyTooLargeError
        If there are more than 1,000 samples.
    """
    if not body.inputs:
        raise MissingFieldError("inputs is empty: send one tensor for each feature", "inputs")
    count = _count(body.inputs, shape)
    columns: dict[str, list[Any]] = {}
    for i, tensor in enumerate(body.inputs):
        values, behind = _values(tensor, behind, f"inputs[{i}]")
        if tensor.name in columns:
            raise RequestError(f"two inputs have the name {tensor.name!r:.80}", f"inputs[{i}].name")
        columns[tensor.name] = values
    if behind:
        raise RequestError(f"{len(behind)} bytes follow the last tensor: check binary_data_size", "inputs")
    if shape is not None:
        (values,) = columns.values()
        return list(_nested(values, [count, *shape]))
    names = [*columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _count(inputs: Sequence[InputTensor], shape: Sequence[int] | None) -> int:
    """Return the number of samples; raise if the shapes of the inputs are not those of the model."""
    if shape is not None and len(inputs) > 1:
        raise RequestError("the model takes arrays: send one input with all samples", "inputs")
    count = inputs[0].shape[0] if inputs[0].shape else -1
    for i, tensor in enumerate(inputs):
        found = tensor.shape
        if shape is not None and found != [count, *shape]:
            wanted = [-1, *shape]
        elif shape is None and found not in ([count], [count, 1]):
            wanted = [count] if i else [-1]
        else:
            continue
        raise RequestError(
            f"the shape of {tensor.name!r:.80} is {found}, and must be {wanted}, where -1 is the number of "
            "samples" + ("" if shape else ": one tensor for each feature, all of one length"),
            f"inputs[{i}].shape",
        )
    if not 0 <= count <= MOST_ITEMS:
        if count < 0:
            raise RequestError("the number of samples must not be negative", "inputs[0].shape")
        raise BodyTooLargeError(
            f"the request has {count} samples, and at most {MOST_ITEMS} are allowed: send several requests"
        )
    return count


def _values(tensor: InputTensor, behind: bytes, field: str) -> tuple[list[Any], bytes]:
    """Return the values of a tensor, and the bytes of the tensors after it."""
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise MissingFieldError(
                f"{field} has neither data nor binary_data_size: other extensions, such as shared memory, "
                "are not supported",
                f"{field}.data",
            )
        values = [*_flat(tensor.data)]
        _check_values(values, tensor, field)
    else:
        if type(size) is not int or not 0 <= size <= len(behind):
            raise RequestError(
                f"binary_data_size must be a number of bytes, of the {len(behind)} behind the JSON",
                f"{field}.parameters.binary_data_size",
            )
        values, behind = _unpacked(behind[:size], tensor, field), behind[size:]
    if len(values) != math.prod(tensor.shape):
        raise RequestError(
            f"the shape is {tensor.shape}, and there are {len(values)} values", f"{field}.shape"
        )
    return values, behind


def _flat(data: list[Any]) -> Iterator[Any]:
    """Return the values in nested lists; the JSON decoder has limited their depth."""
    for each in data:
        if type(each) is list:
            yield from _flat(each)
        else:
            yield each


def _check_values(values: Sequence[Any], tensor: InputTensor, field: str) -> None:
    """Raise for the first value that its datatype does not have; null is a missing value."""
    kind = _VALUES[tensor.datatype]
    if {*map(type, values)} <= {*kind.types, type(None)}:  # the usual case, in C
        given = [value for value in values if value is not None] if kind.most else ()
        if not given or (kind.least <= min(given) and max(given) <= kind.most):
            return
    for i, value in enumerate(values):
        valid = type(value) in kind.types and (not kind.most or kind.least <= value <= kind.most)
        if value is not None and not valid:
            raise _invalid(tensor, i, _shown(value), field)


def _invalid(tensor: InputTensor, i: int, shown: str, field: str) -> InvalidTypeError:
    return InvalidTypeError(
        f"value {i} of the tensor {tensor.name!r:.80} is {shown}: a tensor of type {tensor.datatype} has "
        f"{_VALUES[tensor.datatype].words}",
        f"{field}.data",
    )


def _shown(value: Any) -> str:
    """Return the beginning of a value as JSON."""
    if isinstance(value, float) and math.isinf(value):
        return "a number beyond FP64"
    if type(value) is int and value.bit_length() > _LONG:
        return f"an integer of {value.bit_length()} bits"
    written = json.dumps(value, ensure_ascii=False)
    return written if len(written) <= 80 else written[:80] + "…"


def _unpacked(raw: bytes, tensor: InputTensor, field: str) -> list[Any]:
    """Return the values in bytes; NaN is a missing value."""
    datatype = tensor.datatype
    if datatype == "BYTES":
        return [*_strings(raw, field)]
    kind = np.dtype(_TYPES[datatype])
    if len(raw) % kind.itemsize:
        raise RequestError(f"{len(raw)} bytes are no values of type {datatype}", field)
    if datatype == "BOOL" and max(raw, default=0) > 1:
        i = next(i for i, byte in enumerate(raw) if byte > 1)
        raise _invalid(tensor, i, f"the byte {raw[i]}", field)
    values: list[Any] = np.frombuffer(raw, kind).tolist()
    if kind.kind == "f":
        return [None if value != value else value for value in values]
    return values


def _strings(raw: bytes, field: str) -> Iterator[str]:
    position = 0
    while position < len(raw):
        start = position + _SIZE.size
        end = start + _SIZE.unpack_from(raw, position)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise RequestError("a string ends behind its tensor: each has its length before it", field)
        try:
            yield raw[start:end].decode()
        except UnicodeDecodeError:
            raise RequestError("a string is not UTF-8", field) from None
        position = end


def _nested(values: Sequence[Any], shape: Sequence[int]) -> Sequence[Any]:
    """Return values as nested lists of a shape."""
    for length in reversed(shape[1:]):
        values = [values[i : i + length] for i in range(0, len(values), length)]
    return values


def outputs_of(
    answers: Sequence[Answer], labels: Sequence[Any] | None
) -> dict[str, tuple[str, list[int], list[Any]]]:
    """Return datatype, shape and values of each output.

    Parameters
    ----------
    answers : sequence of dict
        Answers of the model to the samples.
    labels : sequence or None
        Classes of a classification; None for a regression.
    """
    count = len(answers)
    predictions = [answer["prediction"] for answer in answers]
    if labels is None:
        return {PREDICTION: ("FP64", [count], predictions)}
    kind = datatype_of(labels)
    probabilities = [answer["probabilities"].get(label, 0.0) for answer in answers for label in labels]
    return {
        PREDICTION: (kind, [count], predictions),
        PROBABILITIES: ("FP64", [count, len(labels)], probabilities),
        CLASSES: (kind, [len(labels)], [*labels]),
    }


def datatype_of(labels: Sequence[Any]) -> str:
    """Return the datatype of the classes of a model, which have one type."""
    kinds = {bool: "BOOL", int: "INT64"}
    return kinds.get(type(labels[0]), "BYTES") if labels else "BYTES"


def written(
    outputs: Mapping[str, tuple[str, list[int], list[Any]]], binary: Mapping[str, bool]
) -> tuple[list[dict[str, Any]], bytes]:
    """Return the outputs as JSON, and those that are binary as bytes behind it.

    Parameters
    ----------
    outputs : dict
        As `outputs_of` returns them.
    binary : dict of str to bool
        Outputs to write, and whether each is binary.
    """
    tensors, behind = [], b""
    for name, is_binary in binary.items():
        datatype, shape, values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if is_binary:
            raw = _packed(values, datatype)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            behind += raw
        else:
            tensor["data"] = values
        tensors.append(tensor)
    return tensors, behind


def _packed(values: Sequence[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(_SIZE.pack(len(raw)) + raw for raw in (value.encode() for value in values))
    return np.array(values, _TYPES[datatype]).tobytes()
