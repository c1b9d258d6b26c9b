"""Consumer of a topic, with a source in memory and a real server."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from service.errors import StorageFullError
from service.ingest.consumer import Consumer, Models
from service.ingest.source import Bounds, End, Gap, Item, Message, SourceError
from service.source_urls import SourceUrl
from service.storage.interfaces import Group
from tests.support.running import Server, serving
from tests.support.server_process import logged, wait_until

URL = "kafka://localhost/t?dead=dead"


class Memory:
    """A source of the messages of partition 0, and of other items that a test gives."""

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages = messages
        self._next = 0
        self.ends = {0: Bounds(0, 1000)}
        self.given: deque[Sequence[Item]] = deque()
        self.read_items = 0
        self.assigned: list[dict[int, int]] = []
        self.dead: list[tuple[str, int, str]] = []
        self.refuse_dead = False

    async def open(self) -> None:
        """Connect to nothing."""

    async def bounds(self) -> dict[int, Bounds]:
        return self.ends

    async def assign(self, positions: Mapping[int, int]) -> None:
        self.assigned.append(dict(positions))
        self._next = positions.get(0, len(self._messages))

    async def read(self) -> Sequence[Item]:
        await asyncio.sleep(0.002)
        if self.given:
            items = self.given.popleft()
        else:
            items = self._messages[self._next : self._next + 25]
            self._next += len(items)
        self.read_items += len(items)
        return items

    async def send(self, topic: str, message: Message, code: str, why: str) -> None:
        if self.refuse_dead:
            raise SourceError("the dead-letter topic is full")
        self.dead.append((topic, message.position, code))

    async def report(self, positions: Mapping[int, int]) -> None:
        """Tell nobody."""

    async def close(self) -> None:
        """Disconnect from nothing."""


def server(folder: Path, **settings: Any) -> AbstractContextManager[Server]:
    return serving(folder, default_model='{"hidden": [4], "replay": 0}', **settings)


def start(server: Server, source: Memory) -> Consumer:
    """Start a consumer of a source, with the default model."""
    registry = server.registry

    async def go() -> Consumer:
        models = Models(registry.load, registry.owned)
        url, settings = SourceUrl.parse(URL), server.app.state.settings
        consumer = Consumer(url, source, models, settings, server.app.state.bodies, registry.fair_turns)
        consumer.start()
        return consumer

    return server.on_loop(go())


def message(position: int, n: int | None = None, partition: int = 0, y: Any = 1) -> Message:
    value = json.dumps({"x": {"n": position if n is None else n}, "y": y}).encode()
    return Message(partition, position, value, 1000 - position)


def position(consumer: Consumer, partition: int = 0) -> int | None:
    state = consumer.partitions.get(partition)
    return None if state is None else state.next


def numbers(folder: Path) -> list[int]:
    return [body["x"]["n"] for kind, _, body, _ in logged(folder) if kind == "learn"]


def test_positions_that_compaction_or_transactions_leave_out_are_no_gap(tmp_path: Path) -> None:
    source = Memory()
    with server(tmp_path) as one:
        consumer = start(one, source)
        source.given += [
            [message(0), message(5), message(17)],
            [Message(0, 20, None), message(21)],
            [End(0, 30)],
        ]
        wait_until(lambda: position(consumer) == 30)
        [shown] = consumer.report()
        assert (shown["learned"], shown["lag"], shown["state"]) == (4, 0, "running")
        one.on_loop(consumer.close())
        source.ends = {0: Bounds(30, 30)}  # retention has removed all: nothing is missing
        consumer = start(one, source)
        wait_until(lambda: len(source.assigned) == 2)
        assert source.assigned == [{0: 0}, {0: 30}]
        one.on_loop(consumer.close())
    assert numbers(tmp_path) == [0, 5, 17, 21]


def test_a_gap_while_it_runs_stops_one_partition(tmp_path: Path) -> None:
    source = Memory()
    source.ends = {0: Bounds(0, 10), 1: Bounds(0, 10)}
    with server(tmp_path) as one:
        consumer = start(one, source)
        source.given += [
            [message(0), Gap(0, Bounds(7, 10))],
            [message(8)],
            [message(n, partition=1) for n in range(4)],
        ]
        wait_until(lambda: position(consumer, 1) == 4)
        assert [each["state"] for each in consumer.report()] == ["log_gap", "running"]
        assert position(consumer) == 1
        one.on_loop(consumer.resume(0, 7))
        source.given += [[message(n) for n in range(7, 10)]]
        wait_until(lambda: position(consumer) == 10)
        assert source.assigned[-1] == {0: 7, 1: 4}
        assert [each["state"] for each in consumer.report()] == ["running", "running"]
        one.on_loop(consumer.close())
    assert sorted(numbers(tmp_path)) == sorted([0, 0, 1, 2, 3, 7, 8, 9])


def test_a_topic_that_was_created_anew_is_a_gap(tmp_path: Path) -> None:
    source = Memory()
    with server(tmp_path) as one:
        consumer = start(one, source)
        source.given += [[message(n) for n in range(20)]]
        wait_until(lambda: position(consumer) == 20)
        one.on_loop(consumer.close())
        source.ends = {0: Bounds(0, 3)}
        consumer = start(one, source)
        wait_until(lambda: [each["state"] for each in consumer.report()] == ["log_gap"])
        assert "created anew" in consumer.report()[0]["reason"]
        one.on_loop(consumer.close())


def test_a_new_partition_is_read_from_its_start(tmp_path: Path) -> None:
    source = Memory()
    with server(tmp_path) as one:
        consumer = start(one, source)
        source.given += [[message(n) for n in range(3)]]
        wait_until(lambda: position(consumer) == 3)
        source.ends = {0: Bounds(0, 1000), 1: Bounds(4, 1000)}
        consumer._refresh_at = 0.0
        wait_until(lambda: source.assigned[-1] == {0: 3, 1: 4})
        source.given += [[message(4, 100, partition=1)], [message(3)]]
        wait_until(lambda: (position(consumer), position(consumer, 1)) == (4, 5))
        one.on_loop(consumer.close())
    assert numbers(tmp_path) == [0, 1, 2, 100, 3]


def test_messages_whose_commit_failed_are_read_again(tmp_path: Path, monkeypatch: Any) -> None:
    source = Memory([message(n) for n in range(100)])
    with server(tmp_path, group_size=8) as one:
        log = one.registry.get().history.log
        append, failures = log.append, [3, 5, 6]

        def fail(groups: Sequence[Group]) -> list[int]:
            failures[:] = [each - 1 for each in failures]
            if 0 in failures:
                raise StorageFullError("the disk is full")
            return append(groups)

        monkeypatch.setattr(log, "append", fail)
        consumer = start(one, source)
        wait_until(lambda: position(consumer) == 100)
        one.on_loop(consumer.close())
    assert numbers(tmp_path) == list(range(100))


def test_messages_that_the_model_refuses_are_dead_before_their_position_is_stored(tmp_path: Path) -> None:
    source = Memory([message(n, y="a label" if n % 10 == 5 else n % 2) for n in range(60)])
    source.refuse_dead = True
    with server(tmp_path, group_size=8) as one:
        consumer = start(one, source)
        wait_until(lambda: consumer.report()[0]["state"] == "waiting" and len(source.assigned) > 2)
        assert position(consumer) == 0
        assert "full" in str(consumer.fault)
        source.refuse_dead = False
        wait_until(lambda: position(consumer) == 60)
        assert source.dead == [("dead", n, "label_type") for n in range(5, 60, 10)]
        assert consumer.partitions[0].refused == {"label_type": 6}
        one.on_loop(consumer.close())
    assert numbers(tmp_path) == [n for n in range(60) if n % 10 != 5]


def test_messages_wait_for_the_model(tmp_path: Path) -> None:
    source = Memory()
    with server(tmp_path, queue_size=32, group_size=8) as one:
        consumer = start(one, source)
        wait_until(lambda: bool(source.assigned))
        with one.held():
            source.given += [[message(n)] for n in range(500)]
            wait_until(lambda: source.read_items >= 4)
            worker = one.registry.get()
            wait_until(lambda: not worker.idle)
            assert source.read_items <= 16 + 8, "streams use at most half of the queue"
        wait_until(lambda: position(consumer) == 500)
        one.on_loop(consumer.close())
    assert numbers(tmp_path) == list(range(500))
