"""Learning of a stream of samples, in this process or by a model of a server."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import bnp_online as bnp
from bnp_online.client import Client, Sample, ServerError
from bnp_online.client.bulk import LINES, Outcome
from bnp_online.client.errors import (
    AlreadyLabelledError,
    ConflictError,
    InvalidRequestError,
    UnknownIdError,
)
from bnp_online.client.schemas import ModelSpec
from bnp_online.errors import BNPError, NonFiniteStateError, SampleError
from bnp_online.evaluation.prequential import PrequentialMetrics
from bnp_online.files import Samples
from bnp_online.values import ExpertPredictions, SampleRows, Vector

from ..problems import task_problem
from .blocks import FileBlocks
from .output import CommandError, file_errors
from .report import Report

if TYPE_CHECKING:
    from bnp_online.files import Row

Estimator: TypeAlias = bnp.BNPClassifier | bnp.BNPRegressor
#: Takes the number of samples learned so far.
Advance: TypeAlias = Callable[[int], None]

#: Errors about one sample, after which learning goes on.
_SAMPLE_ERRORS = (SampleError, NonFiniteStateError, InvalidRequestError, ConflictError, UnknownIdError)


class Local:
    """Estimator in this process: predicts a sample on arrival, and learns it when its label arrives."""

    def __init__(self, estimator: Estimator, *, late: bool) -> None:
        self._estimator = estimator
        self._late = late
        self.scores = PrequentialMetrics(estimator.task)
        self._predictions: dict[int, tuple[Any, ExpertPredictions | None]] = {}

    def predict(self, row: Row) -> None:
        """Predict a sample."""
        given = self._estimator.predict_experts_one(row.x) if self._late else None
        self._predictions[row.number] = self._estimator.predict(row.x), given

    def learn(self, row: Row) -> Any:
        """Learn a sample, score its prediction, and return the prediction."""
        prediction, given = self._predictions.pop(row.number)
        self._estimator.learn_one(row.x, row.y, w=row.w, given=given)
        self.scores.update(row.y, *prediction)
        return prediction[0]

    def learn_rows(self, rows: SampleRows) -> list[tuple[Any, Any]]:
        """Predict, learn and score samples up to one that must be learned alone.

        Returns
        -------
        list of tuple
            Target and prediction of each learned sample.
        """
        learned: list[tuple[Any, Any]] = []
        while len(learned) < len(rows.targets) and self._estimator.knows(rows):
            part = rows.part(len(learned), len(rows.targets))
            count, outputs = self._estimator.learn_rows(part)
            if not count:
                break
            learned += self._scored(part.targets[:count], outputs)
        return learned

    def _scored(self, targets: Vector, outputs: Vector) -> list[tuple[Any, Any]]:
        if isinstance(self._estimator, bnp.BNPClassifier):
            codes, labels = targets.astype(np.int64), self._estimator.labels
            scored = self.scores.update_classes(codes, labels, outputs)
            return [*zip([labels[code] for code in codes.tolist()], scored.predictions, strict=True)]
        pairs = [*zip(targets.tolist(), outputs[:, 0].tolist(), strict=True)]
        for y, prediction in pairs:
            self.scores.update(y, prediction)
        return pairs


class Remote:
    """Model of a server, with labels that arrive later."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        self._run = uuid.uuid4().hex

    def _id(self, row: Row) -> str:
        return row.id or f"{self._run}-{row.number}"

    def predict(self, row: Row) -> None:
        """Predict a sample; the server keeps the prediction."""
        self._client.predict_one(row.x, model=self._model, id=self._id(row))

    def learn(self, row: Row) -> Any:
        """Send the label of a sample, and return the prediction that was made for it."""
        try:
            return self._client.label(self._id(row), row.y, model=self._model).prediction
        except AlreadyLabelledError:
            if row.id is not None:
                raise
            return None  # the id was generated here: an earlier attempt was learned, its response was lost


def make_estimator(spec: ModelSpec) -> Estimator:
    """Return a new estimator."""
    if spec.backbone is not None:
        message = "--spec: backbone names a file of a server: give --url, or use bnp_online.load_backbone"
        raise CommandError(message, 2)
    if (problem := task_problem(spec)) is not None:
        raise CommandError(f"--spec: {problem[0]}", 2)
    make = bnp.BNPClassifier if spec.task == "classification" else bnp.BNPRegressor
    try:
        return make(**spec.options())
    except BNPError as error:
        raise CommandError(f"--spec: {error}", 2) from None


def load_estimator(file: Path) -> Estimator:
    """Return the estimator in a file."""
    with file_errors(file):
        try:
            return bnp.load(file)
        except BNPError:
            raise CommandError(
                f"{file} is not a model file, or is damaged: give a file that --save or `export` wrote"
            ) from None


def learn_here(
    rows: Iterable[Row], estimator: Estimator, report: Report, delay: int | None, advance: Advance
) -> None:
    """Learn a stream with an estimator in this process; each label arrives `delay` samples late."""
    learner = Local(estimator, late=delay is not None)
    if delay is None and isinstance(rows, Samples):
        _learn_file(rows, learner, FileBlocks(rows, estimator), report, advance)
    else:
        _learn(rows, learner, report, delay, advance)
    report.metrics = learner.scores.report()["cumulative"]


def learn_at_server(
    rows: Iterable[Row],
    client: Client,
    model: str,
    report: Report,
    delay: int | None,
    advance: Advance,
    size: int = LINES,
) -> None:
    """Learn a stream with a model of a server.

    Without a delay, each request has up to `size` samples with their labels. With a delay, each label arrives
    `delay` samples after its sample.
    """
    if delay is None:
        _learn_requests(rows, client, model, report, advance, size)
    else:
        _learn(rows, Remote(client, model), report, delay, advance)
    report.metrics = client.metrics(model).cumulative


def _learn(
    rows: Iterable[Row], learner: Local | Remote, report: Report, delay: int | None, advance: Advance
) -> None:
    events = _events(_valid(rows, report), delay)
    start = time.perf_counter()
    unpredicted: set[int] = set()
    for row, labelled in events:
        if labelled and row.number in unpredicted:
            unpredicted.remove(row.number)
            continue
        try:
            if labelled:
                report.count(row.y, learner.learn(row))
                advance(report.learned)
            else:
                learner.predict(row)
        except _SAMPLE_ERRORS as error:
            report.refuse(row.number, f"is invalid: {error}")
            if not labelled:
                unpredicted.add(row.number)
    report.seconds = time.perf_counter() - start


def _learn_file(rows: Samples, learner: Local, blocks: FileBlocks, report: Report, advance: Advance) -> None:
    """Learn a file, in blocks where its lines are alike: the result is that of `_learn`."""
    start = time.perf_counter()
    while True:
        if (block := blocks.read()) is not None:
            learned = learner.learn_rows(block)
            rows.skip(len(learned))
            for y, prediction in learned:
                report.count(y, prediction)
            advance(report.learned)
            if len(learned) == len(block.targets):
                continue
        row = next(rows, None)
        if row is None:
            break
        if row.error is not None:
            report.refuse(row.number, row.error)
            continue
        try:
            learner.predict(row)
            report.count(row.y, learner.learn(row))
        except _SAMPLE_ERRORS as error:
            report.refuse(row.number, f"is invalid: {error}")
        else:
            blocks.note(row)
            advance(report.learned)
    report.seconds = time.perf_counter() - start


def _learn_requests(
    rows: Iterable[Row], client: Client, model: str, report: Report, advance: Advance, size: int
) -> None:
    start = time.perf_counter()
    sent: deque[tuple[int, Any]] = deque()  # numbers and targets of the rows without an answer yet

    def samples() -> Iterator[Sample]:
        for row in _valid(rows, report):
            sent.append((row.number, row.y))
            yield Sample(row.x, row.y, row.id, row.w)

    def count(outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            number, y = sent.popleft()
            if isinstance(outcome, ServerError):
                report.refuse(number, f"is invalid: {outcome.message}")
            else:
                report.count(y, outcome.prediction)
        advance(report.learned)

    client.learn_many(samples(), model=model, size=size, progress=count)
    report.seconds = time.perf_counter() - start


def _valid(rows: Iterable[Row], report: Report) -> Iterator[Row]:
    for row in rows:
        if row.error is None:
            yield row
        else:
            report.refuse(row.number, row.error)


def _events(rows: Iterable[Row], delay: int | None) -> Iterator[tuple[Row, bool]]:
    """Return each sample twice: on arrival with False, and when its label arrives with True."""
    if delay is None:
        return ((row, labelled) for row in rows for labelled in (False, True))
    from river import stream  # late: it imports pandas and scikit-learn

    pairs: Any = ((row, row.y) for row in rows)  # it takes any type for x
    questions = stream.simulate_qa(pairs, moment=None, delay=delay, copy=False)
    return ((row, y is not None) for _, row, y in questions)
