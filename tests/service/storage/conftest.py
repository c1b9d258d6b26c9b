"""Fixtures of the tests that every event log must pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.storage.interfaces import EventLog
from tests.support.stores import LOGS, Open, Place


@pytest.fixture(params=sorted(LOGS))
def place(request: pytest.FixtureRequest) -> Place:
    return LOGS[request.param](request)


@pytest.fixture
def reopen(place: Place) -> Iterator[Open]:
    """Close the open log, if there is one, and open another."""
    opened: list[EventLog] = []

    def open_() -> EventLog:
        if opened:
            opened[-1].close()
        opened.append(place.log())
        return opened[-1]

    yield open_
    length = opened[-1].length
    opened[-1].close()
    again = place.log()
    assert again.length == length, "whatever a test did, the log knows how many events it has"
    again.close()


@pytest.fixture
def log(reopen: Open) -> EventLog:
    return reopen()
