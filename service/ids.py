"""What a model remembers by id, each bounded: samples learned, and predictions that wait for their label.

The two have nothing to do with each other: a learn and a prediction may have the same id.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.errors import AlreadyLabelledError, IdConflictError, UnknownIdError


def digest(x: Any, *rest: Any) -> bytes:
    """Return a digest of a body: equal for equal bodies, in whatever order the keys of `x` stand.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}, "cat") == digest({"b": 2, "a": 1}, "cat")
    True
    >>> digest({"a": 1}, 1) == digest({"a": 1}, True)
    False
    """
    canonical = sorted(x.items()) if isinstance(x, dict) else x
    return hashlib.blake2b(repr((canonical, rest)).encode(), digest_size=16).digest()


@dataclass(slots=True)
class Learned:
    """A sample that was learned under an id; `step` is None until it has been."""

    digest: bytes
    step: int | None = None


class LearnedIds:
    """The newest `limit` ids under which samples were learned."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, Learned] = OrderedDict()

    def get(self, identifier: str) -> Learned | None:
        """Return what was learned under an id."""
        return self._entries.get(identifier)

    def add(self, identifier: str, learned: Learned) -> None:
        """Remember an id; beyond the limit the oldest is forgotten."""
        self._entries[identifier] = learned
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)


def same(learned: Learned, of: bytes) -> Learned:
    """Return `learned` if it is of the same body.

    Raises
    ------
    IdConflictError
        If it is of another.
    """
    if learned.digest != of:
        raise IdConflictError("this id was used with another body: an id stands for one sample", "id")
    return learned


@dataclass(slots=True)
class Pending:
    """A prediction that waits for its label, or, once `labelled`, only the trace that it had one."""

    x: Any
    digest: bytes
    answer: dict[str, Any]
    expires: float
    labelled: bool = False


class PendingPredictions:
    """The newest `limit` predictions, each for `ttl` seconds.

    Parameters
    ----------
    limit : int
        Beyond it the oldest go first.
    ttl : float
        Seconds.
    clock : callable
        Seconds from any start; it must never go back.
    """

    def __init__(self, limit: int, ttl: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, Pending] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def repeated(self, identifier: str, x: Any) -> dict[str, Any] | None:
        """Return the answer that was given under an id, None if there was none.

        A client that lost an answer may ask again, and gets the prediction that will be scored.

        Raises
        ------
        IdConflictError
            If that was for another `x`.
        AlreadyLabelledError
            If it has had its label.
        """
        pending = self._find(identifier)
        if pending is None:
            return None
        if pending.digest != digest(x):
            raise IdConflictError("a prediction for another x waits under this id", "id")
        return _unlabelled(pending).answer

    def add(self, identifier: str, x: Any, answer: dict[str, Any]) -> None:
        """Keep a prediction for its label."""
        self._entries[identifier] = Pending(x, digest(x), answer, self._clock() + self._ttl)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, identifier: str) -> Pending:
        """Return the prediction that waits under an id.

        Raises
        ------
        UnknownIdError
            If none does, any more.
        AlreadyLabelledError
            If it has had its label.
        """
        pending = self._find(identifier)
        if pending is None:
            raise UnknownIdError("no prediction waits under this id: it was never made, or has expired", "id")
        return _unlabelled(pending)

    def _find(self, identifier: str) -> Pending | None:
        now = self._clock()
        while self._entries and next(iter(self._entries.values())).expires <= now:
            self._entries.popitem(last=False)
        return self._entries.get(identifier)


def _unlabelled(pending: Pending) -> Pending:
    if pending.labelled:
        raise AlreadyLabelledError("the prediction under this id has had its label", "id")
    return pending
