"""Errors of the library.

::

    BNPError
    ├── ConfigurationError (ValueError)      an argument of a constructor is out of range
    │   └── BackboneError                    a frozen backbone is missing, differs, or cannot be used
    ├── UnsupportedLayerError (TypeError)    BNP does not cover the parameters of a layer
    ├── UnobservedLayerError (RuntimeError)  a layer has a gradient, but no observed input
    ├── SampleError (ValueError)             a sample cannot be learned or predicted
    ├── NonFiniteStateError (ArithmeticError)  a step would make the state non-finite
    ├── DeviceMemoryError (MemoryError)      the GPU has too little free memory
    ├── DeviceLostError (RuntimeError)       the GPU failed, and no later call of it can succeed
    └── StateError (ValueError)              a state does not fit the object
        └── CheckpointError                  a file is damaged, or is not a checkpoint
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class BNPError(Exception):
    """Base of the errors of this library."""


class ConfigurationError(BNPError, ValueError):
    """An argument of a constructor is out of range.

    Parameters
    ----------
    field : str
        Name of the argument.
    message : str
        What is wrong and what to do.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class BackboneError(ConfigurationError):
    """A frozen backbone is missing, is not the one of the model, or cannot be used.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__("backbone", message)

    def __reduce__(self) -> tuple[type[BackboneError], tuple[str]]:
        return type(self), (self.message,)


class UnsupportedLayerError(BNPError, TypeError):
    """BNP does not cover the parameters of a layer; list the layer in ``skip`` to leave it alone."""


class UnobservedLayerError(BNPError, RuntimeError):
    """A layer has a gradient, but no input was observed since the last ``step()``."""


class SampleError(BNPError, ValueError):
    """A sample cannot be learned or predicted; nothing has changed.

    Parameters
    ----------
    code : str
        Kind of the error: ``"invalid_feature"``, ``"non_finite_feature"``, ``"wrong_shape"``,
        ``"invalid_label"``, ``"non_finite_label"``, ``"label_type"``, ``"too_many_classes"``,
        ``"invalid_weight"``, ``"invalid_level"`` or ``"unknown_class"``.
    field : str
        The part of the sample at fault: ``"x.temperature"``, ``"y"``, ``"w"``.
    message : str
        What is wrong and what to do.
    row : int, optional
        Number of the row, from 0, in a call with many samples.
    **shown
        Values and types in the message, by their names in braces.
    """

    def __init__(self, code: str, field: str, message: str, row: int | None = None, **shown: object) -> None:
        self.code = code
        self.field = field
        self.row = row
        self._template = message
        self._shown = shown
        self.message = self._written(_in_python)
        super().__init__(code, field, self.message, row)

    def __str__(self) -> str:
        return self._located(self.message)

    def in_json(self) -> str:
        """Return the text of the error with values and types as JSON has them.

        Examples
        --------
        >>> error = SampleError("invalid_feature", "x.a", "must be a number or {none}, not {kind}",
        ...                     none=None, kind=list)
        >>> str(error)
        'x.a: must be a number or None, not list'
        >>> error.in_json()
        'x.a: must be a number or null, not array'
        """
        return self._located(self._written(_in_json))

    def _written(self, write: Callable[[object], str]) -> str:
        shown = {name: write(value) for name, value in self._shown.items()}
        return self._template.format_map(shown) if shown else self._template

    def _located(self, message: str) -> str:
        return f"{'' if self.row is None else f'row {self.row}: '}{self.field}: {message}"

    def at(self, row: int) -> SampleError:
        """Return the error with the number of its row."""
        return SampleError(self.code, self.field, self._template, row, **self._shown)


#: Names of types in JSON.
_JSON_TYPES = {
    "NoneType": "null",
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "str_": "string",
    "list": "array",
    "dict": "object",
}


def _in_python(value: object) -> str:
    return value.__name__ if isinstance(value, type) else f"{value!r:.80}"


def _in_json(value: object) -> str:
    if isinstance(value, type):
        return _JSON_TYPES.get(value.__name__, value.__name__)
    return json.dumps(value, ensure_ascii=False, default=repr)[:80]


class NonFiniteStateError(BNPError, ArithmeticError):
    """A step would make the state of the model non-finite; nothing has changed."""


class DeviceMemoryError(BNPError, MemoryError):
    """The GPU has too little free memory for a call; nothing has changed, and it can be repeated."""


class DeviceLostError(BNPError, RuntimeError):
    """The GPU failed, and no later call of this process on it can succeed: start a new process."""


class StateError(BNPError, ValueError):
    """A state does not fit the object; the object has not changed."""


class CheckpointError(StateError):
    """A file is damaged, or is not a checkpoint of this library."""
