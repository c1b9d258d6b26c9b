"""Griffe extension: the docstrings and constructors that `bnp_online.parameters` completes at import."""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class RuntimeDocstrings(griffe.Extension):
    """Takes both from the imported class, for classes with a placeholder for their parameters."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Complete the docstring of a class, and add its constructor."""
        if cls.docstring is None or "{parameters}" not in cls.docstring.value:
            return
        runtime = griffe.dynamic_import(cls.path)
        cls.decorators = []  # Griffe would derive a constructor from the fields
        cls.labels.discard("dataclass")
        cls.docstring.value = inspect.getdoc(runtime) or ""
        kind = griffe.ParameterKind.positional_or_keyword
        parameters = [
            griffe.Parameter(each.name, annotation=each.annotation, kind=kind, default=repr(each.default))
            for each in inspect.signature(runtime).parameters.values()
        ]
        itself = griffe.Parameter("self", kind=kind)
        cls.set_member(
            "__init__", griffe.Function("__init__", parameters=griffe.Parameters(itself, *parameters))
        )
