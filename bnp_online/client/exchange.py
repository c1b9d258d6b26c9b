"""Exchange of one call with the server, without I/O: requests, pauses and the reading of replies.

A generator yields a `Request`, and takes its `Reply`; or it yields a number of seconds to wait. It returns
the answer. The blocking and the asynchronous client run the same generators.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import NoAnswerError, UnexpectedAnswerError, server_error
from .schemas import NAME_PATTERN

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_NAME = re.compile(NAME_PATTERN)
#: Seconds of the first pause, which doubles each time, and of the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: Statuses of a server, or a proxy, that may succeed later.
RETRIED = (421, 429, 502, 503, 504)
#: Those of a server that has changed nothing.
_REFUSED = (421, 429, 503)


@dataclass(frozen=True, slots=True)
class Request:
    """HTTP request.

    Attributes
    ----------
    method, path : str
        Method and path.
    content, media_type : bytes and str, optional
        The body.
    model : str, optional
        Name of the model; the header of this name lets a proxy route the request.
    reads : bool
        Whether it is a prediction that every node may answer.
    min_step : int, optional
        Number of samples that the model must have learned.
    base : str
        URL of the node; by default that of the client.
    """

    method: str
    path: str
    content: bytes | None = None
    media_type: str | None = None
    model: str | None = None
    reads: bool = False
    min_step: int | None = None
    base: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the request."""
        found = {} if self.media_type is None else {"content-type": self.media_type}
        if self.model is not None and _NAME.fullmatch(self.model):
            found["BNP-Model"] = self.model
        if self.min_step is not None:
            found["BNP-Min-Step"] = str(self.min_step)
        return found


@dataclass(frozen=True, slots=True)
class Reply:
    """HTTP reply, as far as it arrived.

    Attributes
    ----------
    status : int
        HTTP status; 0 without a reply.
    body : bytes
        Received part of the body.
    broken : str or None
        Reason why the reply is incomplete.
    sent : bool
        Whether the server may have received the request.
    retry_after : str or None
        Header ``Retry-After``.
    owner : str or None
        Header ``BNP-Owner``: URL of the node that owns the model.
    """

    status: int
    body: bytes = b""
    broken: str | None = None
    sent: bool = True
    retry_after: str | None = None
    owner: str | None = None


Steps: TypeAlias = Generator[Request | float, Reply | None, T]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """Request, with the reader of its answer.

    Attributes
    ----------
    repeatable : bool
        Whether the request may be sent again after its response was lost.
    """

    request: Request
    read: Callable[[bytes], T]
    repeatable: bool = True


class Patience:
    """Pauses between attempts, within a time limit.

    Parameters
    ----------
    seconds : float
        Time limit, from the first failure.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._pause = _FIRST_PAUSE

    def renew(self) -> None:
        """Restart the time limit after partial success."""
        self._end, self._pause = None, _FIRST_PAUSE

    def pause(self, reply: Reply | None = None) -> float | None:
        """Return the seconds to wait before the next attempt; None when they exceed the time limit."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        # Random, so that clients do not retry at the same time.
        wait = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if reply is not None and reply.retry_after is not None and reply.retry_after.isdecimal():
            wait = max(wait, float(reply.retry_after))
        return wait if now + wait <= self._end else None


def exchange(call: Call[T], patience: float) -> Steps[T]:
    """Send a request until it has an answer.

    Raises
    ------
    ServerError
        If the server refuses the request.
    NoAnswerError
        If no answer arrives within `patience`, or the request may not be repeated.
    UnexpectedAnswerError
        If the answer is not one of this API.
    """
    attempts = Patience(patience)
    while True:
        reply = yield call.request
        assert reply is not None  # noqa: S101 (the protocol of the generator)
        if reply.broken is None and reply.status not in RETRIED:
            return read_reply(reply, call.read)
        again = call.repeatable or not reply.sent or refused_unchanged(reply)
        wait = attempts.pause(reply) if again else None
        if wait is None:
            raise refusal(reply)
        yield wait


def refused_unchanged(reply: Reply) -> bool:
    """Return whether a server has refused a request for now, and certainly changed nothing."""
    if reply.broken is not None or reply.status not in _REFUSED:
        return False
    body = read_json(reply.body)
    error = body.get("error") if isinstance(body, dict) else None
    return not (isinstance(error, dict) and error.get("code") == "outcome_unknown")


def read_reply(reply: Reply, read: Callable[[bytes], T]) -> T:
    """Return the answer in a reply, or raise its error."""
    if not 200 <= reply.status < 300:
        raise refusal(reply)
    return read(reply.body)


def refusal(reply: Reply) -> Exception:
    """Return the error in a reply."""
    if reply.broken is not None:
        return NoAnswerError(reply.broken)
    return server_error(reply.status, read_json(reply.body))


def read_json(body: bytes) -> Any:
    """Return the JSON in a body; None if the body is not JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def reader(model: type[M]) -> Callable[[bytes], M]:
    """Return a reader of bodies as instances of a pydantic model."""

    def read(body: bytes) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise UnexpectedAnswerError(f"the answer is not a {model.__name__}: {error}") from None

    return read


def encode(value: Any) -> bytes:
    """Return a value as JSON; NumPy scalars and arrays are converted.

    NaN and infinity, in a specification of a model, are written as Python writes them; the server refuses
    them and names the field.
    """
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(
            f"{value!r} of type {type(value).__name__} cannot be sent: convert it to a number or a string"
        )
    return tolist()
