"""Headers of predictions: how much the model had learned, and how much it must have learned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..errors import NotThereYetError, RequestError
from ..models.worker import Worker

MIN_STEP = b"bnp-min-step"
"""Request header: the number of samples that the model must have learned before the prediction."""
STEP = "BNP-Step"
STALENESS = "BNP-Staleness-Ms"

#: Seconds for which a request waits for a step, and between two looks.
_PATIENCE, _PAUSE = 1.0, 0.005
#: Digits of the largest number that any client of JSON holds exactly.
_DIGITS = 16


def min_step(headers: Mapping[bytes, bytes]) -> int:
    """Return the step in the header `BNP-Min-Step`.

    Raises
    ------
    RequestError
        If it is not a number.
    """
    given = headers[MIN_STEP]
    if not given.isdigit() or len(given) > _DIGITS:
        raise RequestError("the header BNP-Min-Step must be a number of samples, 0 or more", "BNP-Min-Step")
    return int(given)


async def wait_for_step(get: Callable[[], Awaitable[Worker]], step: int) -> Worker:
    """Wait up to a second until a model has learned `step` samples, and return its worker.

    Parameters
    ----------
    get : callable
        Returns the worker of the model, which may leave the memory meanwhile.
    step : int
        Number of samples.

    Raises
    ------
    NotThereYetError
        If it has not by then.
    """
    end = asyncio.get_running_loop().time() + _PATIENCE
    while (worker := await get()).model.step < step:
        if asyncio.get_running_loop().time() >= end:
            raise NotThereYetError(
                f"the model {worker.model.name!r} has learned {worker.model.step} samples here, and "
                f"BNP-Min-Step requires {step}: try again, or ask the owner of the model; after a rollback, "
                "omit the header",
                "BNP-Min-Step",
            )
        await asyncio.sleep(_PAUSE)
    return worker


class Freshness:
    """Headers of the response to predictions of one or several models."""

    def __init__(self) -> None:
        self._steps: dict[Worker, int] = {}
        self._as_of: list[float] = []

    def add(self, worker: Worker) -> None:
        """Add the model of a prediction, before the prediction."""
        if worker not in self._steps:
            self._steps[worker] = worker.model.step
            if (since := as_of(worker)) is not None:
                self._as_of.append(since)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers; `BNP-Step` for one model only, as it was when the first prediction began."""
        found = (
            [(b"bnp-step", b"%d" % step) for step in self._steps.values()] if len(self._steps) == 1 else []
        )
        return [*found, _staleness(min(self._as_of))] if self._as_of else found


def as_of(worker: Worker) -> float | None:
    """Return the time of `time.monotonic` at which the state of a model was that of the log; None if it is.

    The state may advance during a prediction. So the time before it counts.
    """
    return None if worker.staleness is None else time.monotonic() - worker.staleness()


def headers_of_answer(answer: Mapping[str, Any], since: float | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of the response with one prediction; `since` is `as_of` before it."""
    found = [(b"bnp-step", b"%d" % answer["step"])]
    if since is not None:
        found.append(_staleness(since))
    return found


def _staleness(since: float) -> tuple[bytes, bytes]:
    return b"bnp-staleness-ms", b"%.1f" % (1000.0 * (time.monotonic() - since))


#: Documentation of the headers, as of `fastapi.routing.APIRoute`.
PARAMETER: dict[str, Any] = {
    "name": "BNP-Min-Step",
    "in": "header",
    "description": "Number of samples that the model must have learned, such as the step in the answer of "
    "`POST /learn`: read your own writes. The server waits for it for a second.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**_DIGITS - 1},
}
RESPONSE_HEADERS: dict[str, Any] = {
    STEP: {
        "description": "Number of samples that the model had learned. For an array or lines: at least that "
        "many; absent if they name several models.",
        "schema": {"type": "integer", "minimum": 0},
    },
    STALENESS: {
        "description": "Milliseconds by which the model may lag behind the log; from a standby or replica.",
        "schema": {"type": "number", "minimum": 0},
    },
}
