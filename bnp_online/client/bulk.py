"""Many samples: successive requests of lines, each line with an id, what is unanswered sent again."""

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
#: Lines, and about how many bytes, of one request.
LINES, BYTES = 1000, 2**22
#: Refusals that a summary keeps; the others are counted.
KEPT = 100

Outcome: TypeAlias = LearnAnswer | ServerError


class Sample(NamedTuple):
    """A sample to learn; without an id it is given one."""

    x: Any
    y: Any
    id: str | None = None
    w: float = 1.0


@dataclass
class LearnSummary:
    """What became of many samples.

    Attributes
    ----------
    learned : int
        Samples learned; those are counted in that turned out to be learned already.
    duplicates : int
        Of these: by an attempt whose answer was lost, or under an id that was known.
    refused : int
        Samples that the model did not take.
    refusals : list of (int, ServerError)
        The first hundred of these: which (from 0), and why.
    step : int or None
        How many samples the model has learned with the last.
    """

    learned: int = 0
    duplicates: int = 0
    refused: int = 0
    refusals: list[tuple[int, ServerError]] = field(default_factory=list)
    step: int | None = None

    def tell(
        self, outcomes: Sequence[Outcome], progress: Callable[[Sequence[Outcome]], None] | None = None
    ) -> None:
        """Take in what became of the next samples, and pass it on."""
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
    """Collects samples into requests of bounded size.

    Parameters
    ----------
    model : str
        Who learns.
    size : int
        Most lines of one request.
    """

    def __init__(self, model: str, size: int = LINES) -> None:
        if not 1 <= size <= LINES:
            raise ValueError(f"size is 1 to {LINES}, not {size}")
        self._model = model
        self._size = size
        self._bytes = 0
        self._lines: list[bytes] = []

    def add(self, sample: Sample | tuple[Any, Any]) -> bool:
        """Take a sample or a pair (x, y); return whether it is time to `take` them."""
        x, y, id, w = Sample(*sample)
        self._lines.append(encode(learn_body(x, y, self._model, id, w)))
        self._bytes += len(self._lines[-1])
        return len(self._lines) >= self._size or self._bytes >= BYTES

    def take(self) -> list[bytes]:
        """Return the lines collected, and begin anew."""
        lines, self._lines, self._bytes = self._lines, [], 0
        return lines


def learn_lines(lines: Sequence[bytes], patience: float) -> Steps[list[Outcome]]:
    """Send lines until each is answered, and return what became of each, in order.

    Raises
    ------
    ServerError
        If the server refuses the request as a whole.
    NoAnswerError
        If answers did not come, and patience is at its end.

    Notes
    -----
    What the server could not do just then is sent again by itself, after the lines that followed it.
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
    """Note what became of the lines that were sent, and return why one of them must be sent again."""
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
        raise UnexpectedAnswerError("the server answered fewer lines than it was sent")
    return late


def _outcomes(body: bytes) -> Iterator[Outcome]:
    """Read the answers that came in full: the last is cut off where a connection broke."""
    for line in body.split(b"\n")[:-1]:
        try:
            yield LearnAnswer.model_validate_json(line)
        except ValidationError:
            yield server_error(0, read_json(line))
