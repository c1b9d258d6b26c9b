"""Number of threads that learn one model."""

from __future__ import annotations

import os

from .errors import ConfigurationError

#: Environment variable of the number.
VARIABLE = "BNP_THREADS"
MOST = 256
_set: list[int] = []


def threads() -> int:
    """Return the number of threads that learn a model: that of `set_threads`, or `BNP_THREADS`, or 1.

    The networks of a large mixture are divided among them. The bits of the results do not depend on it. A
    model has the number of the time when it was made, loaded, or got its latest feature or class.

    Raises
    ------
    ConfigurationError
        If the variable is not an integer from 1 to 256.
    """
    if _set:
        return _set[0]
    value = os.environ.get(VARIABLE, "1")
    if not value.isdecimal() or not 1 <= int(value) <= MOST:
        raise ConfigurationError(VARIABLE, f"is {value!r}, not an integer from 1 to {MOST}")
    return int(value)


def set_threads(count: int | None) -> None:
    """Set the number of threads that learn a model, in place of `BNP_THREADS`; None for the variable again.

    Raises
    ------
    ConfigurationError
        If it is not from 1 to 256.
    """
    if count is not None and not 1 <= count <= MOST:
        raise ConfigurationError("count", f"is {count}, not an integer from 1 to {MOST}")
    _set[:] = [] if count is None else [count]
