"""Learning of many samples: requests of NDJSON lines, in which unanswered lines are sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from .calls import learn_body
from .errors import ServerError, UnavailableError, UnexpectedAnswerError, server_error
from .exchange import Patience, Reply, Request, Steps, encode, read_json, refusal
from .schemas import LearnAnswer

NDJSON = "application/x-ndjson"
#: Largest number of lines, and approximate number of bytes, of one request.
LINES, BYTES = 1000, 2**22
#: Largest number of refusals in a summary.
KEPT = 100

Outcome: TypeAlias = LearnAnswer | ServerError


class Sample(NamedTuple):
    """Sample to learn; a sample without an id gets a random one."""

    x: Any
    y: Any
    id: str | None = None
    w: float = 1.0


@dataclass
class LearnSummary:
    """Result of learning many samples.

    Attributes
    ----------
    learned : int
        Number of samples learned, duplicates included.
    duplicates : int
        Number of samples that the server had learned before: their id was known, or the response to an
        earlier attempt was lost.
    refused : int
        Number of samples that the server refused.
    refusals : list of (int, ServerError)
        Indices (from 0) and errors of the first hundred refused samples.
    step : int or None
        Number of samples that the model has learned.
    """

    learned: int = 0
    duplicates: int = 0
    refused: int = 0
    refusals: list[tuple[int, ServerError]] = field(default_factory=list)
    step: int | None = None

    def tell(
        self, outcomes: Sequence[Outcome], progress: Callable[[Sequence[Outcome]], None] | None = None
    ) -> None:
        """Add the outcomes of the next samples, and report them to `progress`."""
        if outcomes and progress is not None:
            progress(outcomes)
        for outcome in outcomes:
            if isinstance(outcome, ServerError):
                if self.refused < KEPT:
                    self.refusals.append((self.learned + self.refused, outcome))
                self.refused += 1
            else:
                self.learned += 1
                self.duplicates += outcome.duplicate
                self.step = outcome.step


class Lines:
    """Collection of samples into requests of bounded size.

    Parameters
    ----------
    model : str
        Name of the model.
    size : int
        Largest number of lines in one request.
    """

    def __init__(self, model: str, size: int = LINES) -> None:
        if not 1 <= size <= LINES:
            raise ValueError(f"size is 1 to {LINES}, not {size}")
        self._model = model
        self._size = size
        self._bytes = 0
        self._lines: list[bytes] = []

    def add(self, sample: Sample | tuple[Any, Any]) -> bool:
        """Add a sample or a pair (x, y); return whether the request is full."""
        x, y, id, w = Sample(*sample)
        self._lines.append(encode(learn_body(x, y, self._model, id, w)))
        self._bytes += len(self._lines[-1])
        return len(self._lines) >= self._size or self._bytes >= BYTES

    def take(self) -> list[bytes]:
        """Return the collected lines, and start a new collection."""
        lines, self._lines, self._bytes = self._lines, [], 0
        return lines


def learn_lines(lines: Sequence[bytes], patience: float) -> Steps[list[Outcome]]:
    """Send lines until every line has an answer, and return the outcomes in order.

    Raises
    ------
    ServerError
        If the server refuses the whole request.
    NoAnswerError
        If answers are missing when `patience` has passed.

    Notes
    -----
    A line that the server could not process at the time is sent again after the lines that followed it.
    """
    outcomes: dict[int, Outcome] = {}
    attempts = Patience(patience)
    while left := [i for i in range(len(lines)) if i not in outcomes]:
        reply = yield Request("POST", "/learn", b"\n".join(lines[i] for i in left), NDJSON)
        assert reply is not None  # noqa: S101 (the protocol of the generator)
        late = _take_in(reply, left, outcomes)
        if len(outcomes) == len(lines):
            break
        if len(outcomes) > len(lines) - len(left):
            attempts.renew()
        wait = attempts.pause(reply)
        if wait is None:
            raise late or refusal(reply)
        yield wait
    return [outcomes[i] for i in range(len(lines))]


def _take_in(reply: Reply, sent: Sequence[int], outcomes: dict[int, Outcome]) -> ServerError | None:
    """Store the outcomes of sent lines; return the error of a line that must be sent again, if any."""
    if reply.status != 200:
        error = refusal(reply)
        if isinstance(error, UnavailableError):
            return error
        if reply.broken is None:
            raise error
        return None
    late = None
    for i, outcome in zip(sent, _outcomes(reply.body), strict=False):
        if isinstance(outcome, UnavailableError):
            late = outcome
        else:
            outcomes[i] = outcome
    if late is None and reply.broken is None and any(i not in outcomes for i in sent):
        raise UnexpectedAnswerError("the server answered fewer lines than the request has")
    return late


def _outcomes(body: bytes) -> Iterator[Outcome]:
    """Yield the complete answers; a broken connection cuts off the last one."""
    for line in body.split(b"\n")[:-1]:
        try:
            yield LearnAnswer.model_validate_json(line)
        except ValidationError:
            yield server_error(0, read_json(line))
