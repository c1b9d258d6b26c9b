"""Audit log: one line for each change of a model, with the name of the API key and the id of the request."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Name of the API key whose request changes a model; empty without a request or without keys."""

_logger = logging.getLogger("service.audit")


def audit(change: str, model: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a change of a model. Call it as soon as the change is in the log of events.

    Parameters
    ----------
    change : str
        Noun and participle, as ``model created``.
    model : str
        Name of the model.
    level : int
        Level of the line.
    **fields
        What changed: steps, numbers and settings; never samples or their ids.
    """
    if name := CALLER.get():
        fields["key"] = name
    _logger.log(level, change, extra={"fields": {"model": model, **fields}})
