"""Reading of the events that a follower applies."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from service.models.following import plain_news
from service.storage.interfaces import Event, Kind, Record

#: Bytes of an event.
SIZE = 300_000


class Events:
    """History with events of one kind from a number on, which notes what is read."""

    def __init__(self, kind: Kind = "learn", size: int = SIZE) -> None:
        self._event = Event(kind, b"x" * size)
        self.read_last = 0
        self.worker: Any = SimpleNamespace(history=self)

    def read(self, after: int, upto: int) -> Iterator[Record]:
        for seq in range(after + 1, upto + 1):
            self.read_last = seq
            yield Record(seq, 1, 0, 0.0, None, self._event)


def test_few_large_events_are_read_at_once() -> None:
    events = Events()
    assert [record.seq for record in plain_news(events.worker, 10, 2000)] == [11, 12, 13, 14]
    assert events.read_last == 14
    assert [record.seq for record in plain_news(events.worker, 14, 16)] == [15, 16]


def test_a_thousand_small_events_are_read_at_once() -> None:
    assert [record.seq for record in plain_news(Events(size=10).worker, 10, 2000)] == [*range(11, 1011)]


@pytest.mark.parametrize("kind", ["forget", "import", "rollback"])
def test_other_events_are_not_applied_to_the_state_as_it_is(kind: Kind) -> None:
    assert plain_news(Events(kind).worker, 10, 12) == []


def test_a_log_that_lacks_events_is_not_applied_to_the_state_as_it_is() -> None:
    assert plain_news(Events().worker, 12, 10) == []
