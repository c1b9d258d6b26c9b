"""Log writer: group commit, a log that fails, the end of the thread, closing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from service.errors import PositionMovedError, StorageError, StorageFailedError, StorageFullError
from service.storage.interfaces import Event, EventLog, Group
from service.storage.log_writer import Logged, LogWriter
from service.telemetry.metrics import LogMetrics


class Commits:
    """The part of a log that the writer uses: commits that wait or fail on request."""

    def __init__(self) -> None:
        self.commits: list[list[bytes]] = []
        self.arrived = threading.Semaphore(0)
        self.error: Exception | None = None
        self._open = threading.Event()
        self._open.set()
        self._head = 0

    def hold(self) -> None:
        """Let commits wait until `open`."""
        self._open.clear()

    def open(self) -> None:
        """Let commits go on."""
        self._open.set()

    def append(self, groups: Sequence[Group]) -> list[int]:
        self.arrived.release()
        self._open.wait(30)
        if self.error is not None:
            raise self.error
        if moved := [i for i, group in enumerate(groups) if group.events[0] == Event("learn", b"moved")]:
            raise PositionMovedError(moved[:2])  # others may follow from the first
        self.commits.append([event.body for g in groups for event in g.events if isinstance(event, Event)])
        numbers = []
        for group in groups:
            self._head += len(group.events)
            numbers.append(self._head)
        return numbers


class Writer:
    """A log writer with such a log, and its metrics."""

    def __init__(self) -> None:
        self.log = Commits()
        self._registry = CollectorRegistry()
        self.writer = LogWriter(cast(EventLog, self.log), LogMetrics(self._registry))

    def submit(self, *bodies: bytes, model: int = 1) -> asyncio.Future[int | StorageError]:
        """Queue a group; the future has the number of its last event, or the error of the commit."""
        return self.writer.submit(Group(model, 0, [Event("learn", body) for body in bodies]))

    async def hold_first(self) -> asyncio.Future[int | StorageError]:
        """Begin a commit that waits, so that what comes next waits behind it."""
        self.log.hold()
        first = self.submit(b"first")
        await asyncio.to_thread(self.log.arrived.acquire)
        return first

    async def close(self) -> None:
        self.log.open()
        await asyncio.to_thread(self.writer.close)

    def value(self, name: str) -> float | None:
        return self._registry.get_sample_value(name)


def run(test: Callable[[Writer], Awaitable[None]]) -> None:
    """Run a test with a log writer of its own, on an event loop."""

    async def go() -> None:
        under_test = Writer()
        async with asyncio.timeout(30.0):
            try:
                await test(under_test)
            finally:
                await under_test.close()

    asyncio.run(go())


def test_a_group_is_answered_with_the_number_of_its_last_event() -> None:
    async def test(under_test: Writer) -> None:
        assert await under_test.submit(b"1", b"2") == 2
        assert await under_test.submit(b"3") == 3

    run(test)


def test_groups_that_wait_are_one_commit_in_order() -> None:
    async def test(under_test: Writer) -> None:
        first = await under_test.hold_first()
        waiting = [
            under_test.submit(b"2", model=1),
            under_test.submit(b"3", b"4", model=2),
            under_test.submit(b"5", model=1),
        ]
        under_test.log.open()
        assert await asyncio.gather(first, *waiting) == [1, 2, 4, 5]
        assert under_test.log.commits == [[b"first"], [b"2", b"3", b"4", b"5"]]
        assert under_test.value("bnp_log_commit_duration_seconds_count") == 2

    run(test)


def test_groups_of_one_pass_of_the_event_loop_are_one_commit() -> None:
    async def test(under_test: Writer) -> None:
        first = under_test.submit(b"1", model=1)
        time.sleep(0.01)  # the thread could begin a commit
        second = under_test.submit(b"2", model=2)
        assert [await first, await second] == [1, 2]
        assert await under_test.submit(b"3") == 3
        assert under_test.log.commits == [[b"1", b"2"], [b"3"]]

    run(test)


def test_a_commit_is_limited_to_256_groups() -> None:
    async def test(under_test: Writer) -> None:
        first = await under_test.hold_first()
        waiting = [under_test.submit(b"%d" % number) for number in range(300)]
        under_test.log.open()
        assert await asyncio.gather(first, *waiting) == list(range(1, 302))
        assert [len(commit) for commit in under_test.log.commits] == [1, 256, 44]

    run(test)


def test_a_single_sample_does_not_wait_for_the_results_of_large_groups() -> None:
    async def test(writer: Writer) -> None:
        answered: list[str] = []

        def note(logged: Logged, name: str) -> Logged:
            logged.add_done_callback(lambda _: answered.append(name))
            return logged

        await writer.hold_first()
        for i in range(100):
            last = note(writer.submit(*[b"line"] * 40), f"large {i}")
        single = note(writer.submit(b"single"), "single")
        writer.log.open()
        await asyncio.gather(single, last)
        assert answered.index("single") <= 1
        assert [each for each in answered if each != "single"] == [f"large {i}" for i in range(100)]

    run(test)


def test_a_failed_commit_refuses_all_its_groups_and_the_next_one_is_tried() -> None:
    async def test(under_test: Writer) -> None:
        first = await under_test.hold_first()
        waiting = [under_test.submit(b"2"), under_test.submit(b"3")]
        under_test.log.error = error = StorageFullError("the disk is full")
        under_test.log.open()
        assert await first is error
        assert await asyncio.gather(*waiting) == [error, error]
        assert under_test.value("bnp_log_commit_failures_total") == 2
        under_test.log.error = None
        assert await under_test.submit(b"4") == 1
        assert under_test.log.commits == [[b"4"]]

    run(test)


def test_groups_whose_position_has_moved_are_refused_and_the_others_committed() -> None:
    async def test(under_test: Writer) -> None:
        assert isinstance(await under_test.submit(b"moved"), PositionMovedError)
        under_test.log.arrived.acquire()
        first = await under_test.hold_first()
        waiting = [under_test.submit(body) for body in (b"moved", b"2", b"moved", b"3", b"moved")]
        under_test.log.open()
        outcomes = await asyncio.gather(first, *waiting)
        assert [type(each) for each in outcomes[1::2]] == [PositionMovedError] * 3
        assert outcomes[::2] == [1, 2, 3]
        assert under_test.log.commits == [[b"first"], [b"2", b"3"]]
        assert under_test.value("bnp_log_commit_failures_total") == 0

    run(test)


def test_a_failure_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def test(under_test: Writer) -> None:
        under_test.log.error = StorageFullError("the disk is full")
        for _ in range(3):
            await under_test.submit(b"x")
        under_test.log.error = None
        for _ in range(3):
            await under_test.submit(b"x")

    with caplog.at_level(logging.WARNING):
        run(test)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "WARNING"]
    assert "the disk is full" in caplog.records[0].getMessage()


def test_an_unexpected_error_ends_the_thread_and_refuses_what_waits_and_what_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    async def test(under_test: Writer) -> None:
        first = await under_test.hold_first()
        waiting = [under_test.submit(b"2"), under_test.submit(b"3")]
        under_test.log.error = ZeroDivisionError("a bug")
        under_test.log.open()
        outcomes = await asyncio.gather(first, *waiting)
        assert [type(outcome) for outcome in outcomes] == [StorageFailedError] * 3
        assert isinstance(await under_test.submit(b"4"), StorageFailedError)
        assert under_test.log.commits == []

    run(test)
    assert [report.exc_type for report in reported] == [ZeroDivisionError]


def test_closing_commits_what_waits_and_refuses_what_comes_later() -> None:
    async def test(under_test: Writer) -> None:
        first = await under_test.hold_first()
        second = under_test.submit(b"2")
        closing = asyncio.ensure_future(asyncio.to_thread(under_test.writer.close))
        while not isinstance(late := await _soon(under_test.submit(b"late")), StorageFailedError):
            assert late is None  # the thread of `close` has not begun
        under_test.log.open()
        await closing
        assert (await first, await second) == (1, 2)
        assert under_test.log.commits[0] == [b"first"]
        assert under_test.log.commits[1][0] == b"2"

    run(test)


async def _soon(logged: asyncio.Future[int | StorageError]) -> int | StorageError | None:
    """Return the outcome of a submission that is refused at once, None if it waits."""
    await asyncio.sleep(0.01)
    return logged.result() if logged.done() else None


def test_closing_an_idle_writer_ends_its_thread() -> None:
    async def test(under_test: Writer) -> None:
        await under_test.submit(b"1")
        await under_test.close()
        assert isinstance(await under_test.submit(b"2"), StorageFailedError)

    run(test)


def test_a_closed_event_loop_does_not_end_the_thread() -> None:
    under_test = Writer()

    async def begin() -> None:
        await under_test.hold_first()

    asyncio.run(begin())
    under_test.log.open()  # the outcome of the first commit has no loop any more

    async def go_on() -> None:
        try:
            async with asyncio.timeout(30.0):
                assert await under_test.submit(b"2") == 2
        finally:
            await under_test.close()

    asyncio.run(go_on())
