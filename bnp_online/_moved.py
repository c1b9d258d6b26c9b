"""Former places of modules, importable for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any


def names_of(place: str, former: str) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that takes names from `place`, with a DeprecationWarning."""

    def __getattr__(name: str) -> Any:  # noqa: N807 (the name that Python looks up)
        value = getattr(import_module(place), name)
        warnings.warn(f"{former}.{name} is now {place}.{name}", DeprecationWarning, stacklevel=2)
        return value

    return __getattr__
