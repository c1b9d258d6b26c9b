"""Many samples: requests of lines or rows, in which those without an answer are sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from .errors import InvalidSampleError, ServerError, UnavailableError, UnexpectedAnswerError, server_error
from .exchange import Patience, Reply, Request, Steps, encode, read_json, refusal
from .frames import MEDIA_TYPE, Roles, TableBatch
from .schemas import LearnAnswer, PredictAnswer

M = TypeVar("M", bound=BaseModel)

NDJSON = "application/x-ndjson"
#: Largest number of lines, and approximate number of bytes, of one request.
LINES, BYTES = 1000, 2**22
#: Largest number of refusals in a summary.
KEPT = 100

Outcome: TypeAlias = LearnAnswer | ServerError
Predicted: TypeAlias = PredictAnswer | ServerError


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
        Number of samples that the server refused, or that the client could not send.
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one request.

    Attributes
    ----------
    first : int
        Number of the first sample, from 0, among all samples.
    lines : list of bytes or InvalidSampleError
        The samples as JSON; an error for each that cannot be sent.
    """

    first: int
    lines: list[bytes | InvalidSampleError]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def refused(self) -> dict[int, InvalidSampleError]:
        """Errors of the samples that cannot be sent, by position."""
        return {i: line for i, line in enumerate(self.lines) if isinstance(line, InvalidSampleError)}

    def content(self, positions: Sequence[int]) -> bytes:
        """Return the body of a request with some of the samples."""
        lines = (self.lines[i] for i in positions)
        return b"\n".join(line for line in lines if isinstance(line, bytes))


class Lines:
    """Collection of samples into requests of bounded size.

    Parameters
    ----------
    body : callable
        Returns the JSON of a sample; raises InvalidSampleError if it cannot be sent.
    size : int
        Largest number of lines in one request.
    """

    def __init__(self, body: Callable[[Any], dict[str, Any]], size: int = LINES) -> None:
        if not 1 <= size <= LINES:
            raise ValueError(f"size is 1 to {LINES}, not {size}")
        self._body = body
        self._size = size
        self._first = 0
        self._bytes = 0
        self._lines: list[bytes | InvalidSampleError] = []

    def add(self, sample: Any) -> bool:
        """Add a sample; return whether the request is full."""
        try:
            line = encode(self._body(sample))
        except InvalidSampleError as error:
            self._lines.append(error)
        else:
            self._lines.append(line)
            self._bytes += len(line)
        return len(self._lines) >= self._size or self._bytes >= BYTES

    def take(self) -> Batch:
        """Return the collected samples, and start a new collection."""
        batch = Batch(self._first, self._lines)
        self._first += len(self._lines)
        self._lines, self._bytes = [], 0
        return batch


def learn_lines(batch: Batch, model: str, patience: float) -> Steps[list[LearnAnswer | ServerError]]:
    """Learn the samples of a batch; see `_send_lines`."""
    return _send_lines(Request("POST", "/learn", b"", NDJSON, model), LearnAnswer, batch, patience)


def predict_lines(
    batch: Batch, model: str, patience: float, min_step: int | None = None
) -> Steps[list[PredictAnswer | ServerError]]:
    """Predict the samples of a batch; see `_send_lines`."""
    request = Request("POST", "/predict", b"", NDJSON, model, reads=True, min_step=min_step)
    return _send_lines(request, PredictAnswer, batch, patience)


def learn_table(
    batch: TableBatch, roles: Roles, model: str, patience: float
) -> Steps[list[LearnAnswer | ServerError]]:
    """Learn the rows of a frame; see `_send_lines`."""
    names = {"target": roles.target, "id": roles.id}
    if roles.weight in batch.table.column_names:
        names["weight"] = roles.weight
    path = f"/models/{quote(model, safe='')}/learn?{urlencode(names)}"
    return _send_lines(Request("POST", path, b"", MEDIA_TYPE, model), LearnAnswer, batch, patience)


def predict_table(
    batch: TableBatch, model: str, patience: float, min_step: int | None = None
) -> Steps[list[PredictAnswer | ServerError]]:
    """Predict the rows of a frame; see `_send_lines`."""
    path = f"/models/{quote(model, safe='')}/predict"
    request = Request("POST", path, b"", MEDIA_TYPE, model, reads=True, min_step=min_step)
    return _send_lines(request, PredictAnswer, batch, patience)


def _send_lines(
    request: Request, answer: type[M], batch: Batch | TableBatch, patience: float
) -> Steps[list[M | ServerError]]:
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
    outcomes: dict[int, M | ServerError] = {**batch.refused}
    attempts = Patience(patience)
    while left := [i for i in range(len(batch)) if i not in outcomes]:
        before = len(outcomes)
        reply = yield replace(request, content=batch.content(left))
        assert reply is not None  # noqa: S101 (the protocol of the generator)
        late = _take_in(reply, answer, left, outcomes)
        if len(outcomes) == len(batch):
            break
        if len(outcomes) > before:
            attempts.renew()
        wait = attempts.pause(reply)
        if wait is None:
            raise late or refusal(reply)
        yield wait
    for i, outcome in outcomes.items():
        if isinstance(outcome, ServerError):
            outcome.row = batch.first + i
    return [outcomes[i] for i in range(len(batch))]


def _take_in(
    reply: Reply, answer: type[M], sent: Sequence[int], outcomes: dict[int, M | ServerError]
) -> ServerError | None:
    """Store the outcomes of sent lines; return the error of a line that must be sent again, if any."""
    if reply.status != 200:
        error = refusal(reply)
        if isinstance(error, UnavailableError):
            return error
        if reply.broken is None:
            raise error
        return None
    late = None
    for i, outcome in zip(sent, _outcomes(reply.body, answer), strict=False):
        if isinstance(outcome, UnavailableError):
            late = outcome
        else:
            outcomes[i] = outcome
    if late is None and reply.broken is None and any(i not in outcomes for i in sent):
        raise UnexpectedAnswerError("the server answered fewer lines than the request has")
    return late


def _outcomes(body: bytes, answer: type[M]) -> Iterator[M | ServerError]:
    """Yield the complete answers; a broken connection cuts off the last one."""
    for line in body.split(b"\n")[:-1]:
        try:
            yield answer.model_validate_json(line)
        except ValidationError:
            yield server_error(0, read_json(line))
