"""Learning a stream, here or on a server, with labels that come at once or later."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import bnp_online as bnp
from bnp_online.client import Client, Sample, ServerError
from bnp_online.client.bulk import KEPT, LINES, Outcome
from bnp_online.client.errors import AlreadyLabelledError, ConflictError, InvalidRequestError, UnknownIdError
from bnp_online.errors import BNPError, NonFiniteStateError, SampleError
from bnp_online.evaluation.prequential import PrequentialMetrics

from ..schemas import ModelSpec
from .output import CommandError
from .samples import Line

Estimator: TypeAlias = bnp.BNPClassifier | bnp.BNPRegressor
Advance: TypeAlias = Callable[[int], None]

#: What a server may say of one sample, after which the next may fare better.
_OF_ONE_SAMPLE = (InvalidRequestError, ConflictError, UnknownIdError)


@dataclass
class Report:
    """What became of a stream."""

    learned: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def refuse(self, number: int, reason: object) -> None:
        """Note a sample that was not learned."""
        self.refused += 1
        if self.refused <= KEPT:
            self.refusals.append(f"sample {number} {reason}")


class Pupil(Protocol):
    """Who learns: predicts a sample when it comes, and learns it when its label does."""

    def ask(self, line: Line) -> None:
        """Predict a sample, to be scored when its label comes."""

    def tell(self, line: Line) -> None:
        """Learn the label of a sample that was asked."""


class Local:
    """An estimator in this process, and its prequential score."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        self.scores = PrequentialMetrics(estimator.task)
        self._waiting: dict[int, Any] = {}

    def ask(self, line: Line) -> None:
        """Predict."""
        self._waiting[line.number] = self.estimator.predict(line.x)

    def tell(self, line: Line) -> None:
        """Score the prediction, and learn."""
        prediction = self._waiting.pop(line.number)
        self.estimator.learn_one(line.x, line.y, w=line.w)
        self.scores.update(line.y, *prediction)


class Remote:
    """A model of a server, whose labels come later."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._run = uuid.uuid4().hex

    def _id(self, line: Line) -> str:
        return line.id or f"{self._run}-{line.number}"

    def ask(self, line: Line) -> None:
        """Predict; the server keeps the prediction."""
        self._client.predict_one(line.x, model=self._model, id=self._id(line))

    def tell(self, line: Line) -> None:
        """Send the label."""
        try:
            self._client.label(self._id(line), line.y, model=self._model)
        except AlreadyLabelledError:
            if line.id is not None:
                raise
            # An id of this run: it was learned by an attempt whose answer was lost.


def make_estimator(spec: ModelSpec, load: Path | None) -> Estimator:
    """Return the estimator in a file, or a new one."""
    with library_errors():
        if load is not None:
            return bnp.load(load)
        make = bnp.BNPClassifier if spec.task == "classification" else bnp.BNPRegressor
        return make(**spec.options())


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Let what the library refuses be said as a command says it."""
    try:
        yield
    except BNPError as error:
        raise CommandError(str(error)) from None


def teach(lines: Iterable[Line], pupil: Pupil, delay: int | None, advance: Advance) -> Report:
    """Let somebody learn a stream, each label `delay` samples late, as in `evaluate.prequential`."""
    report, start = Report(), time.perf_counter()
    unasked: set[int] = set()
    for line, told in _questions(_sound(lines, report), delay):
        if told and line.number in unasked:
            unasked.remove(line.number)
            continue
        try:
            if told:
                pupil.tell(line)
                report.learned += 1
                advance(report.learned)
            else:
                pupil.ask(line)
        except (SampleError, NonFiniteStateError, *_OF_ONE_SAMPLE) as error:
            report.refuse(line.number, error)
            if not told:
                unasked.add(line.number)
    report.seconds = time.perf_counter() - start
    return report


def teach_at_once(
    lines: Iterable[Line], client: Client, model: str, advance: Advance, size: int = LINES
) -> Report:
    """Let a model of a server learn a stream, each label with its sample, `size` samples a request."""
    report, start = Report(), time.perf_counter()
    sent: deque[int] = deque()  # numbers of the samples that are not answered yet

    def samples() -> Iterator[Sample]:
        for line in _sound(lines, report):
            sent.append(line.number)
            yield Sample(line.x, line.y, line.id, line.w)

    def count(outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            number = sent.popleft()
            if isinstance(outcome, ServerError):
                report.refuse(number, outcome)
            else:
                report.learned += 1
        advance(report.learned)

    client.learn_many(samples(), model=model, size=size, progress=count)
    report.seconds = time.perf_counter() - start
    return report


def _sound(lines: Iterable[Line], report: Report) -> Iterator[Line]:
    for line in lines:
        if line.error is None:
            yield line
        else:
            report.refuse(line.number, line.error)


def _questions(lines: Iterable[Line], delay: int | None) -> Iterator[tuple[Line, bool]]:
    """Yield each sample twice: when it comes, and when its label does."""
    if delay is None:
        for line in lines:
            yield line, False
            yield line, True
        return
    from river import stream  # late: it imports pandas and scikit-learn

    pairs: Any = ((line, line.y) for line in lines)  # it takes anything for x
    for _, line, y in stream.simulate_qa(pairs, moment=None, delay=delay, copy=False):
        yield line, y is not None
