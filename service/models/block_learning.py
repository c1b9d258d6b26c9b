"""Learning of blocks: predict, score, learn and answer a part of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import orjson

from bnp_online import BNPClassifier
from bnp_online.errors import DeviceMemoryError, NonFiniteStateError
from bnp_online.learner import REFUSED
from bnp_online.values import Array, Flag, Vector

from ..errors import code_of
from .hosted import Applied, HostedModel
from .validation import BlockEvent, Entry

T = TypeVar("T")


def apart(items: Iterable[Any], kind: type[T]) -> Iterator[T | list[Any]]:
    """Yield the items of one type alone, and the others between them together."""
    for is_alone, some in groupby(items, lambda each: isinstance(each, kind)):
        if is_alone:
            yield from some
        else:
            yield [*some]


def apply_entries(model: HostedModel, entries: Sequence[Entry]) -> Applied | None:
    """Apply logged events in order, up to one for which the GPU has too little free memory.

    Returns
    -------
    Applied or None
        The result; None if no prediction is finite after one of the events.
    """
    total = Applied()
    for some in apart(entries, BlockEvent):
        if isinstance(some, BlockEvent):
            if not _apply_block(model, some, total):
                return None
        else:
            total.add(model.apply(some))
            if not model.is_sound(some):
                return None
        if total.shortage is not None:
            break
    return total


def _apply_block(model: HostedModel, event: BlockEvent, total: Applied) -> bool:
    """Apply a block; return whether predictions are finite after it."""
    start = 0
    while start < event.size:
        rows = rows_at_once(model, event)
        if rows:
            before = len(total.outcomes)
            if learn_block(model, event, start, start + rows, total) is None:
                return False
            if total.shortage is not None:
                return True
            start += len(total.outcomes) - before
        else:
            stop = start + 1 if model.estimator.knows(event.block.rows) else event.size
            samples, refused = model.samples_of(event, start, stop)
            total.refused |= refused
            total.add(model.apply(samples))
            if not model.is_sound(samples):
                return False
            if total.shortage is not None:
                return True
            start = stop
    return True


def rows_at_once(model: HostedModel, event: BlockEvent) -> int:
    """Return how many samples of a block may be learned in one call.

    It is 0 if the next one must be applied alone: a drift action is due, or it has unknown columns.
    """
    drift = model.drift
    if (drift.due and drift.ready(model.step)) or not model.estimator.knows(event.block.rows):
        return 0
    return min(event.size, drift.steps_to_action(model.step)) if drift.acts else event.size


def learn_block(
    model: HostedModel, event: BlockEvent, start: int, stop: int, applied: Applied, pause: Flag | None = None
) -> int | None:
    """Predict, score and learn samples of a block, up to the first that is refused, or a pause.

    Parameters
    ----------
    model : HostedModel
        The model, which knows their columns and labels.
    event : BlockEvent
        The block, with its number in the log.
    start, stop : int
        Positions of the samples in the block.
    applied : Applied
        Gets the results: each answer is a line of JSON.
    pause : Flag, optional
        Another thread sets it to end the call early.

    Returns
    -------
    int or None
        Number of samples that were learned; None if no prediction is finite after the last one. It is 0 after
        a refusal, and if the GPU has too little free memory (`Applied.shortage`).
    """
    step, rows = model.step, event.block.rows.part(start, stop)
    model.begin_call()
    try:
        count, outputs = model.estimator.learn_rows(rows, pause)
    except DeviceMemoryError as error:  # nothing has changed
        applied.shortage = error
        return 0
    targets = rows.targets[:count]
    if count:
        if not model.estimator.is_finite(Array(rows.values[count - 1])):
            return None
        times = event.times_of(start, start + count)
        score = _score_classes if rows.labels else _score_numbers
        first = event.number(start)
        applied.outcomes += score(model, targets, outputs, step, times, applied.drifts, first)
        applied.learned += count
        model.sequence = event.number(start + count - 1)
        model.note_shares(step + 1, times)
    if count and event.step(start) != step + 1:
        applied.steps.update((event.number(start + i), step + 1 + i) for i in range(count))
    for i, named in event.named.items():
        if start <= i < start + count:
            named.step = step + 1 + i - start
    if not count:
        applied.add(refuse_in_block(model, event, start, NonFiniteStateError(REFUSED)))
    return count


def refuse_in_block(model: HostedModel, event: BlockEvent, position: int, error: Exception) -> Applied:
    """Refuse a logged sample of a block that is not applied; it changes nothing."""
    model.sequence = event.number(position)
    if position in event.named:
        event.named[position].refusal = error
    return Applied([error], {model.sequence: code_of(error)})


def _score_classes(
    model: HostedModel,
    targets: Vector,
    outputs: Vector,
    step: int,
    times: list[float],
    drifts: list[int],
    first: int,
) -> list[bytes]:
    """Score the predictions of a classification, of consecutive events from `first`; return the answers."""
    estimator = model.estimator
    assert isinstance(estimator, BNPClassifier)  # noqa: S101 (there are labels)
    codes, labels = targets.astype(np.int64), estimator.labels
    predictions, losses = model.score.update_classes(codes, labels, outputs)
    plain = model.baselines.update_many(codes, labels)
    model.count(losses)
    right = (outputs.argmax(axis=1) == codes).tolist()
    model.history.add_many(step + 1, times, right, losses, plain)
    if model.ledger is not None:
        model.ledger.add_many(first, right, losses, [0.0] * len(losses))
    _note_drifts(model, model.drift.see_many(losses, step + 1), step, times, drifts)
    tokens = {label: orjson.dumps(label) for label in {*predictions}}
    return _answers(model.name, step, [tokens[label] for label in predictions], losses)


def _score_numbers(
    model: HostedModel,
    targets: Vector,
    outputs: Vector,
    step: int,
    times: list[float],
    drifts: list[int],
    first: int,
) -> list[bytes]:
    """Score the predictions of a regression, of consecutive events from `first`; return the answers."""
    numbers, predictions = targets.tolist(), outputs[:, 0]
    losses, variances = model.score.update_numbers(numbers, predictions.tolist())
    plain = model.baselines.update_numbers(numbers)
    model.count(losses)
    errors, intervals = np.abs(targets - predictions).tolist(), model.take_intervals()
    model.history.add_many(step + 1, times, errors, losses, plain, intervals if len(intervals) else None)
    if model.ledger is not None:
        model.ledger.add_many(first, errors, losses, numbers)
    _note_drifts(model, model.drift.see_many(losses, step + 1, variances), step, times, drifts)
    return _answers(model.name, step, _numbers(np.ascontiguousarray(predictions)), losses)


def _note_drifts(
    model: HostedModel, detected: Sequence[int], step: int, times: Sequence[float], drifts: list[int]
) -> None:
    """Add the steps at which a drift was detected, of samples that were learned after a step."""
    drifts += detected
    model.history.drifts.extend((at, times[at - step - 1]) for at in detected)


def _numbers(values: Sequence[float] | Vector) -> list[bytes]:
    """Return numbers as JSON."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",") if len(values) else []


def _answers(name: str, step: int, predictions: Iterable[bytes], losses: list[float]) -> list[bytes]:
    """Return the answers of samples that were learned after a step."""
    head = b'{"model":' + orjson.dumps(name) + b',"step":'
    steps = range(step + 1, step + 1 + len(losses))
    return [
        b'%b%d,"prediction":%b,"loss":%b,"duplicate":false}\n' % (head, at, prediction, loss)
        for at, prediction, loss in zip(steps, predictions, _numbers(losses), strict=True)
    ]
