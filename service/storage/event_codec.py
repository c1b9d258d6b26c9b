"""JSON encoding of events. Each event has all that is needed to apply it again.

Numbers are read back with the same bits, and labels with the same type.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any, NamedTuple, TypeAlias

import jiter
import orjson

from .interfaces import Event

Given: TypeAlias = "tuple[Any, dict[Any, float] | None]"
"""A prediction and, for a classification, its probabilities."""


class LoggedSample(NamedTuple):
    """A sample from the log; a labelled one has its earlier prediction."""

    x: Any
    y: Any
    w: Any = 1.0
    given: Given | None = None


class Pending(NamedTuple):
    """A prediction that waits for its label: the sample, the answer, and the time at which it expires."""

    x: Any
    answer: dict[str, Any]
    expires: float


def digest(x: Any, *rest: Any) -> bytes:
    """Return a digest of a body: equal for bodies that the model takes for the same.

    It depends neither on the order of the keys of `x`, nor on whether a number is written with a fraction.

    Parameters
    ----------
    x : Any
        Features.
    *rest : Any
        Of a sample to learn its target and its weight.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}, "cat", 1) == digest({"b": 2.0, "a": 1.0}, "cat", 1.0)
    True
    >>> digest({"a": 1}, 1) == digest({"a": 1}, True)
    False
    """
    return _digest([_numbers(x), *map(_whole, rest)])


def is_digest(found: bytes | None, x: Any, *rest: Any) -> bool:
    """Return whether a digest is that of a body, from this version or an earlier one.

    Earlier versions told 1 from 1.0.
    """
    return found == digest(x, *rest) or found == _digest([x, *rest])


def _digest(body: list[Any]) -> bytes:
    return hashlib.blake2b(dumps(body, orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _numbers(value: Any) -> Any:
    """Return features with floats for integers and booleans, as the model takes them."""
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_numbers, value)]
    if isinstance(value, int):
        with contextlib.suppress(OverflowError):  # no model takes it
            return float(value)
    return value


def _whole(value: Any) -> Any:
    """Return an integer for a float without a fraction, as for a label."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def learn_event(x: Any, y: Any, w: Any, identifier: str | None, step: int, raw: bytes | None = None) -> Event:
    """Return the event of a sample; `raw` is its JSON, if the client sent it in this form."""
    body = dumps([x, y, w]) if raw is None else raw
    return Event("learn", body, identifier, None if identifier is None else digest(x, y, w), step)


def label_event(x: Any, y: Any, given: Given, identifier: str, step: int) -> Event:
    """Return the event of the label of a pending prediction."""
    prediction, probabilities = given
    return Event("label", dumps([x, y, prediction, _pairs(probabilities)]), identifier, None, step)


def predict_event(pending: Pending, identifier: str) -> Event:
    """Return the event of a prediction that waits for its label."""
    return Event("predict", encode_pending(pending), identifier)


def read_sample(event: Event) -> LoggedSample:
    """Return the sample of a ``"learn"`` or ``"label"`` event."""
    body = loads(event.body)
    if isinstance(body, dict):  # the client's JSON
        weight = body.get("w")
        return LoggedSample(body["x"], body["y"], 1.0 if weight is None else weight)
    if event.kind == "learn":
        return LoggedSample(*body)
    x, y, prediction, pairs = body
    return LoggedSample(x, y, given=(prediction, _dict(pairs)))


def encode_pending(pending: Pending) -> bytes:
    """Return the body of the event of a prediction."""
    answer = pending.answer
    if "probabilities" in answer:
        answer = {**answer, "probabilities": _pairs(answer["probabilities"])}
    return dumps([pending.x, answer, pending.expires])


def decode_pending(body: bytes) -> Pending:
    """Return the prediction in the body of an event."""
    x, answer, expires = loads(body)
    if "probabilities" in answer:
        answer = {**answer, "probabilities": _dict(answer["probabilities"])}
    return Pending(x, answer, expires)


def encode_given(given: Given) -> bytes:
    """Return a prediction with its probabilities as JSON."""
    prediction, probabilities = given
    return dumps([prediction, _pairs(probabilities)])


def decode_given(body: bytes) -> Given | None:
    """Return what `encode_given` was given; None for ``null``."""
    found = loads(body)
    return None if found is None else (found[0], _dict(found[1]))


def _pairs(probabilities: dict[Any, float] | None) -> list[Any] | None:
    """Return a dict as pairs: its keys are labels of any type, and keys in JSON are strings."""
    return None if probabilities is None else [list(pair) for pair in probabilities.items()]


def _dict(pairs: list[Any] | None) -> dict[Any, float] | None:
    return None if pairs is None else dict(pairs)


def dumps(value: Any, option: int = 0) -> bytes:
    """Return a value as JSON; numbers are read back with the same bits. A part in `bytes` is JSON already."""
    try:
        return orjson.dumps(value, option=option, default=orjson.Fragment)
    except TypeError:  # an integer of more than 64 bits, which a feature may be
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=loads
        ).encode()


def loads(body: bytes) -> Any:
    """Return the value that `dumps` was given, with lists for tuples."""
    return jiter.from_json(body, allow_inf_nan=False)
