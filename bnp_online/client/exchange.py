"""One call as steps: what to send, how long to wait, what came of it. Nothing here does I/O.

A generator yields a `Request` to be sent, whose `Reply` it is given, or a number of seconds to wait; it
returns the answer. So a client that blocks and one that awaits share all that is decided.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import NoAnswerError, UnexpectedAnswerError, server_error

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

#: Seconds of the first pause, doubled with each; and of the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: A server, or what stands before it, that may do it later.
RETRIED = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Request:
    """What to send."""

    method: str
    path: str
    content: bytes | None = None
    media_type: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those of its body."""
        return {} if self.media_type is None else {"content-type": self.media_type}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes
    ----------
    status : int
        0 if nothing came.
    body : bytes
        As far as it came.
    broken : str or None
        What broke it off.
    sent : bool
        Whether the server may have seen the request.
    retry_after : str or None
        The header.
    """

    status: int
    body: bytes = b""
    broken: str | None = None
    sent: bool = True
    retry_after: str | None = None


Steps: TypeAlias = Generator[Request | float, Reply | None, T]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    Attributes
    ----------
    repeatable : bool
        Whether it may be sent again though it may have been done: its answer was lost.
    """

    request: Request
    read: Callable[[bytes], T]
    repeatable: bool = True


class Patience:
    """Decides, after each failure, how long to wait before the next attempt, or to give up.

    Parameters
    ----------
    seconds : float
        For how long to go on trying, from the first failure on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._pause = _FIRST_PAUSE

    def renew(self) -> None:
        """Begin anew: an attempt brought something."""
        self._end, self._pause = None, _FIRST_PAUSE

    def pause(self, reply: Reply | None = None) -> float | None:
        """Return the seconds to wait, or None to give up: the server wants more time than there is."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        # Clients that failed together should not come back together.
        wait = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if reply is not None and reply.retry_after is not None and reply.retry_after.isdecimal():
            wait = max(wait, float(reply.retry_after))
        return wait if now + wait <= self._end else None


def exchange(call: Call[T], patience: float) -> Steps[T]:
    """Send a request until it is answered.

    Raises
    ------
    ServerError
        If the server refuses it.
    NoAnswerError
        If no answer came, and patience is at its end or it may not be sent again.
    UnexpectedAnswerError
        If the answer cannot be read.
    """
    attempts = Patience(patience)
    while True:
        reply = yield call.request
        assert reply is not None  # noqa: S101 (the protocol of the generator)
        if reply.broken is None and reply.status not in RETRIED:
            return read_reply(reply, call.read)
        again = call.repeatable or not reply.sent or (reply.broken is None and reply.status in (429, 503))
        wait = attempts.pause(reply) if again else None
        if wait is None:
            raise refusal(reply)
        yield wait


def read_reply(reply: Reply, read: Callable[[bytes], T]) -> T:
    """Return the answer in a reply, or raise what it says."""
    if not 200 <= reply.status < 300:
        raise refusal(reply)
    return read(reply.body)


def refusal(reply: Reply) -> Exception:
    """Return the error that a reply stands for."""
    if reply.broken is not None:
        return NoAnswerError(reply.broken)
    return server_error(reply.status, read_json(reply.body))


def read_json(body: bytes) -> Any:
    """Return the JSON in a body, None if it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def reader(model: type[M]) -> Callable[[bytes], M]:
    """Return what reads a body as a pydantic model."""

    def read(body: bytes) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise UnexpectedAnswerError(f"the answer is no {model.__name__}: {error}") from None

    return read


def encode(value: Any) -> bytes:
    """Return JSON; NumPy's scalars and arrays count as Python's.

    NaN and infinity are written as Python does: the server refuses them, and names the place.
    """
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(
            f"{value!r} of type {type(value).__name__} cannot be sent: make it a number or a string"
        )
    return tolist()
