"""Learning of a stream of samples, in this process or by a model of a server."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import bnp_online as bnp
from bnp_online.client import Client, Sample, ServerError
from bnp_online.client.bulk import KEPT, LINES, Outcome
from bnp_online.client.errors import (
    AlreadyLabelledError,
    ConflictError,
    InvalidRequestError,
    UnknownIdError,
)
from bnp_online.client.schemas import ModelSpec
from bnp_online.errors import BNPError, NonFiniteStateError, SampleError
from bnp_online.evaluation.prequential import PrequentialMetrics

from .output import CommandError
from .samples import Line

Estimator: TypeAlias = bnp.BNPClassifier | bnp.BNPRegressor
#: Takes the number of samples learned so far.
Advance: TypeAlias = Callable[[int], None]

#: Errors about one sample, after which learning goes on.
_SAMPLE_ERRORS = (SampleError, NonFiniteStateError, InvalidRequestError, ConflictError, UnknownIdError)


@dataclass
class Report:
    """Result of learning a stream.

    Attributes
    ----------
    learned, refused : int
        Numbers of samples.
    refusals : list of str
        The first refusals, at most `KEPT`.
    seconds : float
        Duration.
    metrics : dict
        Prequential scores.
    """

    learned: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)

    def refuse(self, number: int, reason: object) -> None:
        """Count a sample that was not learned."""
        self.refused += 1
        if self.refused <= KEPT:
            self.refusals.append(f"sample {number} {reason}")

    def result(self) -> dict[str, Any]:
        """Return the result as a command prints it."""
        return {
            "learned": self.learned,
            "refused": self.refused,
            "seconds": self.seconds,
            "samples_per_second": self.learned / self.seconds,
            "metrics": self.metrics,
        }


class Local:
    """Estimator in this process: predicts a sample on arrival, and learns it when its label arrives."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self.scores = PrequentialMetrics(estimator.task)
        self._predictions: dict[int, Any] = {}

    def predict(self, line: Line) -> None:
        """Predict a sample."""
        self._predictions[line.number] = self._estimator.predict(line.x)

    def learn(self, line: Line) -> None:
        """Score the prediction of a sample, and learn the sample."""
        prediction = self._predictions.pop(line.number)
        self._estimator.learn_one(line.x, line.y, w=line.w)
        self.scores.update(line.y, *prediction)


class Remote:
    """Model of a server, with labels that arrive later."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._run = uuid.uuid4().hex

    def _id(self, line: Line) -> str:
        return line.id or f"{self._run}-{line.number}"

    def predict(self, line: Line) -> None:
        """Predict a sample; the server keeps the prediction."""
        self._client.predict_one(line.x, model=self._model, id=self._id(line))

    def learn(self, line: Line) -> None:
        """Send the label of a sample."""
        try:
            self._client.label(self._id(line), line.y, model=self._model)
        except AlreadyLabelledError:
            if line.id is not None:
                raise
            # The id was generated here: an earlier attempt was learned, and its response was lost.


def make_estimator(spec: ModelSpec, load: Path | None) -> Estimator:
    """Return the estimator in a file, or a new one."""
    with library_errors():
        if load is not None:
            return bnp.load(load)
        make = bnp.BNPClassifier if spec.task == "classification" else bnp.BNPRegressor
        return make(**spec.options())


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Report an error of the library as an error of the command."""
    try:
        yield
    except BNPError as error:
        raise CommandError(str(error)) from None


def learn_here(lines: Iterable[Line], estimator: Estimator, delay: int | None, advance: Advance) -> Report:
    """Learn a stream with an estimator in this process; each label arrives `delay` samples late."""
    learner = Local(estimator)
    report = _learn(lines, learner, delay, advance)
    report.metrics = learner.scores.report()["cumulative"]
    return report


def learn_at_server(
    lines: Iterable[Line],
    client: Client,
    model: str,
    delay: int | None,
    advance: Advance,
    size: int = LINES,
) -> Report:
    """Learn a stream with a model of a server.

    Without a delay, each request has up to `size` samples with their labels. With a delay, each label arrives
    `delay` samples after its sample.
    """
    if delay is None:
        report = _learn_requests(lines, client, model, advance, size)
    else:
        report = _learn(lines, Remote(client, model), delay, advance)
    report.metrics = client.metrics(model).cumulative
    return report


def _learn(lines: Iterable[Line], learner: Local | Remote, delay: int | None, advance: Advance) -> Report:
    report, start = Report(), time.perf_counter()
    unpredicted: set[int] = set()
    for line, labelled in _events(_valid(lines, report), delay):
        if labelled and line.number in unpredicted:
            unpredicted.remove(line.number)
            continue
        try:
            if labelled:
                learner.learn(line)
                report.learned += 1
                advance(report.learned)
            else:
                learner.predict(line)
        except _SAMPLE_ERRORS as error:
            report.refuse(line.number, error)
            if not labelled:
                unpredicted.add(line.number)
    report.seconds = time.perf_counter() - start
    return report


def _learn_requests(lines: Iterable[Line], client: Client, model: str, advance: Advance, size: int) -> Report:
    report, start = Report(), time.perf_counter()
    sent: deque[int] = deque()  # numbers of the samples without an answer yet

    def samples() -> Iterator[Sample]:
        for line in _valid(lines, report):
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


def _valid(lines: Iterable[Line], report: Report) -> Iterator[Line]:
    for line in lines:
        if line.error is None:
            yield line
        else:
            report.refuse(line.number, line.error)


def _events(lines: Iterable[Line], delay: int | None) -> Iterator[tuple[Line, bool]]:
    """Yield each sample twice: on arrival with False, and when its label arrives with True."""
    if delay is None:
        for line in lines:
            yield line, False
            yield line, True
        return
    from river import stream  # late: it imports pandas and scikit-learn

    pairs: Any = ((line, line.y) for line in lines)  # it takes any type for x
    for _, line, y in stream.simulate_qa(pairs, moment=None, delay=delay, copy=False):
        yield line, y is not None
