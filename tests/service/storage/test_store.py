"""What every store must do, with real files; `test_runs` adds what it must do with runs.

To put another event log to this suite, add a place for it to `tests.support.stores.LOGS`; for checkpoints, to
`STORES`.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from bnp_online.errors import CheckpointError
from service.errors import DamagedEventError, PositionMovedError, StorageFailedError, StorageFullError
from service.storage import retention
from service.storage.checkpoints import CheckpointFiles
from service.storage.data_dir import FolderInUseError, lock
from service.storage.interfaces import (
    LAST,
    Advance,
    Branch,
    Checkpoints,
    Event,
    EventLog,
    Group,
    Position,
    Record,
    Segment,
    contains,
    lineage,
)
from service.storage.rows import DAMAGED
from service.storage.shared_checkpoints import open_shared
from service.storage.sqlite import SqliteLog
from tests.support.stores import (
    Folder,
    Open,
    Place,
    Schema,
    append,
    bodies,
    contents,
    everything,
    learn,
    no_room,
    samples,
)


class Shared(Schema):
    """Checkpoints of such a log in a folder or an object store."""

    def __init__(self, request: pytest.FixtureRequest, protocol: str = "") -> None:
        super().__init__(request)
        self._place = f"{protocol}{request.getfixturevalue('tmp_path') / 'shared'}"

    def checkpoints(self) -> Checkpoints:
        super().checkpoints()
        return open_shared(self._place, self.opened[-1])

    @contextmanager
    def no_room(self) -> Iterator[None]:
        full = OSError(errno.ENOSPC, "No space left on device")
        with no_room(), mock.patch.object(MemoryFileSystem, "pipe_file", side_effect=full):
            yield


STORES: dict[str, Callable[[pytest.FixtureRequest], Folder | Schema]] = {
    "files": Folder,
    "postgres": Schema,
    "shared folder": Shared,
    "objects": partial(Shared, protocol="memory://"),
}


def test_events_come_back_as_they_were_in_order_and_after_reopening(reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b'{"name": "a"}'))
    events = [
        Event("learn", b"\x00\xff" + bytes(range(256)), "id\x00 with NUL and é中", b"\x00digest", 1),
        Event("predict", b"", None, None, None),
        Event("import", b"x" * 300_000, None, None, 7),
    ]
    last = append(log, model, 0, events)
    for _ in range(2):
        assert [r.event for r in everything(log, model)] == [Event("create", b'{"name": "a"}'), *events]
        records = everything(log, model)
        assert [r.seq for r in records] == [model, last - 2, last - 1, last]
        assert {(r.model, r.branch, r.refused) for r in records} == {(model, 0, None)}
        assert log.head(model) == last
        log = reopen()
    assert append(log, model, 0, [learn(b"more")]) == last + 1


def test_models_have_numbers_of_their_own(log: EventLog) -> None:
    first, second = (log.create(Event("create", name)) for name in (b"a", b"b"))
    for i in range(5):
        append(log, (first, second)[i % 2], 0, [learn(b"%d" % i)])
    assert [r.seq for r in log.models()] == [first, second]
    assert bodies(everything(log, first)) == [b"a", b"0", b"2", b"4"]
    assert bodies(everything(log, second)) == [b"b", b"1", b"3"]
    assert samples(log, first) == [b"0", b"2", b"4"]
    assert log.count(first, [Segment(0, first, LAST)]) == 3
    assert [event.kind for event in log.headers(first, [Segment(0, 0, LAST)], 2)] == ["create", "learn"]


def test_many_events_are_read_across_pages(log: EventLog) -> None:
    model = log.create(Event("create", b""))
    append(log, model, 0, [learn(b"%d" % i) for i in range(2500)])
    assert samples(log, model) == [b"%d" % i for i in range(2500)]


def test_large_events_are_read_across_pages_that_are_limited_in_bytes(log: EventLog) -> None:
    model = log.create(Event("create", b""))
    body = bytes(2**20)
    for i in range(100):
        append(log, model, 0, [learn(body + b"%d" % i)])
    tracemalloc.start()
    try:
        read = [record.event.body[2**20 :] for record in log.read(model, [Segment(0, model, LAST)])]
        listed = log.headers(model, [Segment(0, 0, LAST)], 1000)
        found = log.at_step(model, 1), log.find(model, [])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == [b"%d" % i for i in range(100)]
    assert len(listed) == 101
    assert found == ([], [])
    assert peak < 20 * 2**20


@given(
    st.lists(st.one_of(st.just("learn"), st.floats(0, 1, exclude_max=True)), max_size=25),
    st.integers(0, 30),
)
def test_lineage_is_what_a_list_that_is_cut_back_holds(steps: list[str | float], after: int) -> None:
    """A model of the log: a plain list of (branch, number), cut back by each rollback."""
    kept, branches, seq = [(0, 1)], [Branch(0, None, 0, 1)], 1
    everything = kept[:]
    for step in steps:
        seq += 1
        if isinstance(step, float):
            parent, fork = kept[int(step * len(kept))]
            kept = kept[: kept.index((parent, fork)) + 1]
            branches.append(Branch(len(branches), parent, fork, seq))
        kept.append((len(branches) - 1, seq))
        everything.append(kept[-1])
    segments = lineage(branches, after)
    got = [e for e in everything if contains(segments, *e)]
    assert got == [e for e in kept if e[1] > after]
    assert all(a.upto <= b.after for a, b in itertools.pairwise(segments))


def test_a_model_has_branches(reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b"c"))
    last = append(log, model, 0, [learn(b"0"), learn(b"1"), learn(b"2")])
    append(log, model, 1, [Event("rollback", b"r")])
    append(log, model, 1, [learn(b"3"), Event("patch", b"p")])
    append(log, model, 2, [Event("rollback", b"s")])
    log = reopen()
    segments = [Segment(0, 0, last - 1), Segment(1, last - 1, LAST)]
    assert bodies(list(log.read(model, segments))) == [b"c", b"0", b"1", b"r", b"3", b"p"]
    assert log.count(model, segments) == 6
    assert bodies(log.changes(model, "rollback")) == [b"r", b"s"]
    assert bodies(log.changes(model, "patch")) == [b"p"]
    assert log.changes(model, "action") == []


def test_events_are_found_by_id_and_by_step(log: EventLog) -> None:
    model, other = (log.create(Event("create", b"")) for _ in "ab")
    append(log, model, 0, [learn(b"0", 1, "a"), learn(b"1", 2), Event("label", b"2", "a", None, 3)])
    append(log, other, 0, [learn(b"3", 1, "a")])
    first, second, labelled = everything(log, model)[1:]
    assert [event.seq for event in log.find(model, {"a", "b"})] == [first.seq, labelled.seq]
    assert log.find(model, []) == []
    assert [event.seq for event in log.at_step(model, 2)] == [second.seq]
    assert log.at_step(model, 9) == []


def test_what_came_of_events_can_be_noted(reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    last = append(log, model, 0, [learn(b"0", 1), learn(b"1", 2), learn(b"2", 3)])
    log.correct(model, {last - 1: "non_finite_state"}, {last: 2})
    for _ in range(2):
        noted = [(r.refused, r.event.step) for r in everything(log, model)[1:]]
        assert noted == [(None, 1), ("non_finite_state", None), (None, 2)]
        assert [event.seq for event in log.at_step(model, 2)] == [last]
        log = reopen()


def test_a_group_is_kept_whole_or_not_at_all(log: EventLog) -> None:
    model = log.create(Event("create", b""))
    before, head = everything(log, model), log.head(model)
    with pytest.raises(StorageFailedError):
        append(log, model, 0, [learn(b"0"), Event("learn", b"1", 1j)])  # type: ignore[arg-type]  # refused half-way
    assert (everything(log, model), log.head(model)) == (before, head)
    assert append(log, model, 0, [learn(b"1")]) == head + 1


def test_positions_are_stored_with_the_events_of_their_messages(reopen: Open) -> None:
    log = reopen()
    one, other = log.create(Event("create", b"")), log.create(Event("create", b""))
    assert log.positions(one) == []
    begin = [Advance("kafka:t", 0, None, 7), Advance("kafka:t", 1, None, 2**40)]
    assert log.append([Group(one, 0, [], begin)]) == [log.head(one)]
    head, length = log.head(one), log.length
    assert log.append(
        [
            Group(one, 0, [learn(b"a"), learn(b"b")], [Advance("kafka:t", 0, 7, 9)]),
            Group(other, 0, [learn(b"c")]),
            Group(one, 0, [learn(b"d")], [Advance("kafka:t", 0, 9, 12), Advance("nats:s", 0, None, 1)]),
        ]
    ) == [head + 2, log.head(other), head + 3]
    expected = [Position("kafka:t", 0, 12), Position("kafka:t", 1, 2**40), Position("nats:s", 0, 1)]
    for _ in range(2):
        assert log.positions(one) == expected
        assert (log.positions(other), log.length) == ([], length + 4)
        log = reopen()
    append(log, one, 1, [Event("rollback", b"r")])
    log.forget(one, 1, Event("forget", b"f"), [head + 1])
    assert log.positions(one) == expected, "they stay after a rollback and after unlearning"
    log.drop(one)
    log.erase()
    assert log.positions(one) == []


@pytest.mark.parametrize("before", [None, 6, 8])
def test_a_position_that_another_consumer_has_moved_refuses_all_groups(
    log: EventLog, before: int | None
) -> None:
    model, other = log.create(Event("create", b"")), log.create(Event("create", b""))
    log.append([Group(model, 0, [learn(b"a")], [Advance("kafka:t", 0, None, 7)])])
    heads, length = (log.head(model), log.head(other)), log.length
    groups = [
        Group(other, 0, [learn(b"x")], [Advance("kafka:t", 0, None, 3)]),
        Group(model, 0, [learn(b"y")] * 20, [Advance("kafka:t", 0, before, 9)]),
        Group(other, 0, [learn(b"z")]),
    ]
    for some in (groups, [Group(model, 0, [], [Advance("kafka:t", 0, before, 9)])]):
        with pytest.raises(PositionMovedError) as moved:
            log.append(some)
        assert list(moved.value.groups) == [some.index(next(g for g in some if g.model == model))]
        assert (log.head(model), log.head(other)) == heads
        assert (log.positions(model), log.positions(other)) == ([Position("kafka:t", 0, 7)], [])
        assert samples(log, model) == [b"a"]
    log.append([groups[0], groups[2]])
    assert log.length == length + 2


def test_without_room_nothing_is_kept_and_with_room_it_goes_on(reopen: Open, place: Place) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    head = log.head(model)
    with place.no_room():
        for _ in range(3):
            with pytest.raises(StorageFullError, match="free some space"):
                append(log, model, 0, [learn(b"x" * 100_000)])
        with pytest.raises(StorageFullError):
            log.create(Event("create", b"y" * 100_000))
        assert log.head(model) == head
        assert bodies(everything(log, model)) == [b""]  # reading goes on
    assert append(log, model, 0, [learn(b"room")]) == head + 1
    log = reopen()
    assert bodies(everything(log, model)) == [b"", b"room"]


def test_threads_share_a_log(log: EventLog) -> None:
    models = [log.create(Event("create", b"")) for _ in range(4)]

    def write(model: int) -> None:
        for i in range(50):
            append(log, model, 0, [learn(b"%d" % i), learn(b"+")])

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        records = everything(log, model)[1:]
        assert bodies(records) == [b for i in range(50) for b in (b"%d" % i, b"+")]
        assert [record.seq for record in records] == list(range(model + 1, log.head(model) + 1))


def test_forgetting_leaves_no_trace_of_the_content(reopen: Open, place: Place) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    secret, name = b"Secret-Content-" * 20, "secret-name-of-an-event"
    last = append(log, model, 0, [learn(b"kept", 1, "k"), learn(secret, 2, name), learn(b"later", 3)])
    start = append(log, model, 1, [Event("rollback", b"r")])
    assert secret in place.contents()
    assert name.encode() in place.contents()
    number = log.forget(model, 1, Event("forget", b"[1]"), [last - 1])
    log.erase()
    assert number == start + 1
    for _ in range(2):
        assert secret not in place.contents()
        assert b"Secret-Content" not in place.contents()
        assert name.encode() not in place.contents()
        assert log.forgotten(model, {name, "k"}) == {name}
        assert log.find(model, {name}) == []
        assert bodies(list(log.read(model, [Segment(0, 0, LAST)]))) == [b"", b"kept", b"later"]
        assert [r.event.kind for r in everything(log, model)][-2:] == ["rollback", "forget"]
        log = reopen()


def test_dropping_leaves_no_trace_of_a_model(reopen: Open, place: Place) -> None:
    log = reopen()
    model = log.create(Event("create", b"Secret-Spec"))
    other = log.create(Event("create", b"other"))
    append(log, model, 0, [learn(b"Secret-Content %d" % i, None, f"Secret-Id-{i}") for i in range(2500)])
    kept = append(log, other, 0, [learn(b"kept")])
    size = place.size(log)
    log.drop(model)
    assert log.unerased
    log.erase()
    assert not log.unerased
    assert place.size(log) < size / 2
    for _ in range(2):
        assert [r.seq for r in log.models()] == [other]
        assert b"Secret" not in place.contents()
        assert everything(log, other)[-1].seq == kept
        assert log.latest_model == other
        log = reopen()
    assert log.create(Event("create", b"new")) == other + 1  # a number is never given twice


def test_pruning_removes_old_samples_and_shrinks_the_log(reopen: Open, place: Place) -> None:
    log = reopen()
    model = log.create(Event("create", b"c"))
    last = append(log, model, 0, [learn(b"old" * 300)] * 3000)
    append(log, model, 0, [Event("patch", b"p"), learn(b"new")])
    size = place.size(log)
    assert log.first_kept(model) == 0
    assert log.prune(model, last + 1, newest=10**6, size=LAST, since=0.0) == 0
    assert log.prune(model, last + 1, newest=1, size=LAST, since=0.0) == 2999
    assert place.size(log) < size / 3
    assert log.prune(model, last + 1, newest=0, size=LAST, since=0.0) == 1
    assert log.prune(model, last, newest=0, size=LAST, since=0.0) == 0
    for _ in range(2):
        assert log.first_kept(model) == last + 1
        assert bodies(everything(log, model)) == [b"c", b"p", b"new"]
        log = reopen()


def test_a_log_at_its_limit_does_not_grow(tmp_path: Path) -> None:
    log, sizes = SqliteLog(tmp_path, relaxed=True), []
    model = log.create(Event("create", b"c"))
    for _ in range(40):
        last = append(log, model, 0, [learn(os.urandom(1500)) for _ in range(150)])
        log.prune(model, last + 1, newest=1000, size=LAST, since=0.0)
        sizes.append((tmp_path / "events.sqlite3").stat().st_size)
    assert len(everything(log, model)) == 1001
    assert max(sizes[20:]) <= 1.1 * sizes[19] <= 1.5 * 1150 * 2048
    log.close()


def test_pruning_by_size(reopen: Open, place: Place) -> None:
    log = reopen()
    model, other = (log.create(Event("create", b"c")) for _ in "ab")
    append(log, model, 0, [learn(b"0" * 10_000) for _ in range(10)])
    append(log, other, 0, [learn(b"0" * 10_000) for _ in range(10)])
    last = append(log, model, 0, [Event("predict", b"1" * 10_000, f"p{i}") for i in range(10)])
    append(log, model, 0, [learn(b"2" * 10_000)])
    size = place.size(log)
    assert log.prune(model, last + 1, newest=LAST, size=10**6, since=0.0) == 0
    assert log.prune(model, last + 1, newest=LAST, size=55_000, since=0.0) == 15
    for _ in range(2):
        assert place.size(log) < size - 140_000
        assert [record.event.body[:1] for record in everything(log, model)] == [b"c", *[b"1"] * 5, b"2"]
        assert len(everything(log, other)) == 11
        assert log.prune(model, last + 1, newest=LAST, size=55_000, since=0.0) == 0
        log = reopen()
    assert log.prune(model, last + 1, newest=LAST, size=0, since=0.0) == 5


def test_pruning_removes_old_imports_and_keeps_changes_of_the_model(log: EventLog, place: Place) -> None:
    model = log.create(Event("create", b"c"))
    last = append(
        log,
        model,
        0,
        [Event("import", b"f" * 10**6), Event("patch", b"p"), learn(b"0"), Event("import", b"g")],
    )
    assert log.prune(model, last + 1, newest=2, size=LAST, since=0.0) == 1
    assert bodies(everything(log, model)) == [b"c", b"p", b"0", b"g"]
    assert place.size(log) < 10**6


@pytest.mark.parametrize("seed", range(5))
def test_pruning_retains_the_newest_events_within_the_limits(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """With several models and branches, rollbacks and unlearning between the prunings."""
    monkeypatch.setattr(retention, "_LONGEST", 40)
    monkeypatch.setattr(retention, "_SMALL", 5)
    rng, branch = random.Random(seed), 0  # noqa: S311
    model, other = (log.create(Event("create", b"c")) for _ in "ab")
    for turn in range(60):
        branch += rng.random() < 0.1
        events = [
            learn(b"v" * rng.choice((1, 100, 1000)), id=f"{turn} {i}") for i in range(rng.randrange(1, 9))
        ]
        last = append(log, rng.choice((model, other)), branch, events)
        kept = [
            record
            for record in everything(log, model, branches=branch + 1)
            if record.event.kind == "learn" and record.seq < last
        ]
        if rng.random() < 0.2 and kept:
            gone = rng.choice(kept)
            log.forget(model, branch, Event("forget", b"f"), [gone.seq])
            kept.remove(gone)
        if rng.random() < 0.5:
            newest, size = rng.choice((5, 40, LAST)), rng.choice((3000, 20_000, LAST))
            retained: list[Record] = []
            for record in reversed(kept):
                taken = sum(len(r.event.body) + 2 * len(r.event.id or "") + 160 for r in [*retained, record])
                if len(retained) == newest or taken > size:
                    break
                retained.append(record)
            assert log.prune(model, last, newest, size, 0.0) == len(kept) - len(retained)
            now = [r.seq for r in everything(log, model, branches=branch + 1) if r.event.kind == "learn"]
            assert [seq for seq in now if seq < last] == [r.seq for r in reversed(retained)]


def test_pruning_by_age(log: EventLog) -> None:
    model = log.create(Event("create", b"c"))
    for i in range(20):
        append(log, model, 0, [learn(b"%d" % i)])
    times = [record.time for record in everything(log, model)]
    assert log.prune(model, log.head(model), newest=100, size=LAST, since=times[8]) == 7
    assert samples(log, model) == [b"%d" % i for i in range(7, 20)]
    assert (
        log.prune(model, log.head(model), newest=100, size=LAST, since=times[-1] + 1.0) == 12
    )  # never the last itself
    assert samples(log, model) == [b"19"]


def test_the_clock_never_goes_back(reopen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    first = everything(log, model)[0].time
    assert abs(first - time.time()) < 60
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    for _ in range(2):
        append(log, model, 0, [learn(b"")])
        times = [record.time for record in everything(log, model)]
        assert times == sorted(times)
        assert log.now() >= times[-1]
        log = reopen()


def test_the_log_says_whether_it_can_be_written(log: EventLog, place: Place) -> None:
    log.probe()
    log.probe()
    with place.no_room(), pytest.raises(StorageFullError):
        log.probe()


# What is SQLite's own.


@pytest.mark.parametrize("column", ["body", "id", "kind", "time", "digest", "checksum"])
def test_a_row_that_was_altered_is_found_by_its_number(tmp_path: Path, column: str) -> None:
    log = SqliteLog(tmp_path)
    model = log.create(Event("create", b""))
    last = append(log, model, 0, [learn(b"0", 1, "a"), learn(b"1", 2, "b"), learn(b"2", 3, "c")])
    log.close()
    database = sqlite3.connect(tmp_path / "events.sqlite3")
    value = {"kind": "label", "id": "z", "time": 5.0}.get(column, b"other")
    change = f"UPDATE event SET {column} = ? WHERE seq = ?"  # noqa: S608 (names of this test's own)
    database.execute(change, (value, last - 1))
    database.commit()
    database.close()
    log = SqliteLog(tmp_path)
    assert bodies(everything(log, model, upto=last - 2)) == [b"", b"0"]
    with pytest.raises(DamagedEventError, match=f"event {last - 1} .*--skip {model}:{last - 1}$") as caught:
        everything(log, model)
    assert (caught.value.model, caught.value.seq) == (model, last - 1)
    log.correct(model, {last - 1: DAMAGED}, {})
    assert [r.refused for r in everything(log, model)] == [None, None, DAMAGED, None]
    log.close()


def test_a_file_of_another_format_is_refused_by_its_version(tmp_path: Path) -> None:
    SqliteLog(tmp_path).close()
    database = sqlite3.connect(tmp_path / "events.sqlite3")
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(StorageFailedError, match="format 9"):
        SqliteLog(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageFailedError, match="not a database"):
        SqliteLog(tmp_path)


def test_what_a_killed_server_left_of_a_dropped_model_goes_at_the_next_start(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path)
    model = log.create(Event("create", b""))
    append(log, model, 0, [learn(b"Secret-Content")])
    log.drop(model)
    log.close()
    assert b"Secret-Content" in contents(tmp_path)
    log = SqliteLog(tmp_path)
    assert log.models() == []
    log.close()
    assert b"Secret-Content" not in contents(tmp_path)


def test_a_folder_belongs_to_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with lock(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}.*BNP_DATA_DIR"):
            lock(folder)
    lock(folder).close()


# Checkpoints.

STATE: dict[str, Any] = {"step": 3, "tensors": {"w": torch.tensor([1.0, -0.0]), "n": torch.tensor(3)}}


@pytest.fixture(params=sorted(STORES))
def stored(request: pytest.FixtureRequest) -> Folder | Schema:
    return STORES[request.param](request)


@pytest.fixture
def store(stored: Folder | Schema) -> Checkpoints:
    return stored.checkpoints()


def test_states_come_back_the_newest_first(store: Checkpoints) -> None:
    assert store.list(1) == []
    for seq in (9, 100, 20):
        made = store.save(1, 2, seq, seq // 2, seq + 1, STATE)
        assert (made.model, made.branch, made.seq, made.step, made.head) == (1, 2, seq, seq // 2, seq + 1)
        assert abs(made.time - time.time()) < 60
    store.save(2, 0, 5, 5, 5, STATE)
    listed = store.list(1)
    assert [c.seq for c in listed] == [100, 20, 9]
    assert made in listed
    got = store.load(made)
    assert got["step"] == 3
    assert got["tensors"]["w"].numpy().tobytes() == STATE["tensors"]["w"].numpy().tobytes()
    store.delete(made)
    store.delete(made)
    assert [c.seq for c in store.list(1)] == [100, 9]
    store.drop(1)
    store.drop(1)
    assert (store.list(1), len(store.list(2))) == ([], 1)


def test_a_checkpoint_needs_room(store: Checkpoints, stored: Folder | Schema) -> None:
    kept = store.save(1, 0, 1, 1, 1, STATE)
    with stored.no_room(), pytest.raises(StorageFullError, match="free some space"):
        store.save(1, 0, 2, 2, 2, STATE)
    assert store.list(1) == [kept]


@pytest.mark.parametrize("harm", ["cut", "altered", "emptied"])
def test_a_harmed_file_is_found_when_it_is_loaded(tmp_path: Path, harm: str) -> None:
    store = CheckpointFiles(tmp_path)
    made = store.save(1, 0, 7, 3, 8, STATE)
    (path,) = tmp_path.rglob("*.safetensors")
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-3], "altered": data[:-1] + b"?", "emptied": b""}[harm])
    (listed,) = store.list(1)
    assert (listed.seq, listed.step, listed.head) == (7, 3, 8)
    with pytest.raises(CheckpointError):
        store.load(made)


def test_files_that_are_left_over_are_tidied_away(tmp_path: Path) -> None:
    store = CheckpointFiles(tmp_path)
    kept, gone = (store.save(model, 0, 1, 1, 1, STATE) for model in (1, 2))
    half = tmp_path / "1" / f".{kept.name}.safetensors.1234"
    half.write_bytes(b"half")
    (tmp_path / "1" / "notes.txt").write_text("a stranger's")
    store.tidy([2])
    assert store.list(gone.model) == []
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == [
        "notes.txt",
        f"{kept.name}.safetensors",
    ]
