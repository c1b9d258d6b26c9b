"""The log in PostgreSQL: ownership of shards, lost connections, crashes of the server, and a full disk."""

from __future__ import annotations

import contextlib
import inspect
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch

from service.errors import (
    DamagedEventError,
    FencedError,
    LogAheadError,
    LogWentBackError,
    ModelExistsError,
    NotOwnerError,
    OutcomeUnknownError,
    OwnershipLostError,
    StorageFailedError,
    StorageFullError,
)
from service.storage.interfaces import LAST, Advance, Checkpoints, Event, EventLog, Group, Record, Segment
from service.storage.postgres import PostgresLog
from service.storage.postgres_checkpoints import PostgresCheckpoints
from service.storage.postgres_tables import shard_of
from tests.support.postgres import Cut, PostgresServer, Proxy, running
from tests.support.programs import ROOT

SHARDS = 4
STATE: dict[str, Any] = {"step": 3, "tensors": {"w": torch.tensor([1.0, -0.0])}}

Open = Callable[..., PostgresLog]


@pytest.fixture
def schema(postgres: PostgresServer) -> str:
    return postgres.schema()


@pytest.fixture
def start(postgres: PostgresServer, schema: str) -> Iterator[Open]:
    """Open logs of one cluster."""
    with contextlib.ExitStack() as stack:

        def open_(shards: list[int] | None = None, *, port: int | None = None, **options: Any) -> PostgresLog:
            url = postgres.url(schema, port)
            log = PostgresLog(url, shards, of=SHARDS, **{"wait": 0.5, "patience": 10.0, **options})
            stack.callback(log.close)
            return log

        yield open_


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(postgres.port)) as proxy:
        yield proxy


def learn(body: bytes) -> Event:
    return Event("learn", body)


def append(log: EventLog, model: int, *bodies: bytes) -> int:
    [last] = log.append([Group(model, 0, [learn(body) for body in bodies])])
    return last


def records(log: EventLog, model: int) -> list[Record]:
    return list(log.read(model, [Segment(0, model, LAST)]))


def bodies(log: EventLog, model: int) -> list[bytes]:
    return [record.event.body for record in records(log, model)]


# Ownership.

CREATE = Event("create", b"{}", step=0)
#: Each method of the log and of the checkpoints that writes.
WRITES: dict[str, Callable[[PostgresLog, Checkpoints, int], object]] = {
    "create": lambda log, _, __: log.create(CREATE, "another"),
    "append": lambda log, _, model: append(log, model, b"2"),
    "append with a position": lambda log, _, model: log.append(
        [Group(model, 0, [], [Advance("kafka:t", 0, None, 5)])]
    ),
    "correct": lambda log, _, model: log.correct(model, {model + 1: "refused"}, {}),
    "flush": lambda log, _, __: log.flush(),
    "forget": lambda log, _, model: log.forget(model, 0, Event("forget", b"[]"), [model + 1]),
    "erase": lambda log, _, __: log.erase(),
    "prune": lambda log, _, model: log.prune(model, model + 3, 0, 0, 0.0),
    "drop": lambda log, _, model: log.drop(model),
    "probe": lambda log, _, __: log.probe(),
    "checkpoints.save": lambda _, store, model: store.save(model, 0, model, 0, model, STATE),
    "checkpoints.delete": lambda _, store, model: store.delete(store.list(model)[0]),
    "checkpoints.drop": lambda _, store, model: store.drop(model),
    "checkpoints.tidy": lambda _, store, model: store.tidy([model]),
}
READS = {
    *(
        "models",
        "changes",
        "imports",
        "read",
        "read_runs",
        "headers",
        "count",
        "find",
        "at_step",
        "checksum",
        "unerased",
    ),
    *("forgotten", "first_kept", "positions", "head", "latest_model", "now", "size", "length", "close"),
    *("checkpoints.models", "checkpoints.list", "checkpoints.load", "checkpoints.place"),
}


def test_every_method_is_known_to_read_or_to_write() -> None:
    methods = {name for name, _ in inspect.getmembers(EventLog) if not name.startswith("_")}
    methods |= {
        f"checkpoints.{name}" for name, _ in inspect.getmembers(Checkpoints) if not name.startswith("_")
    }
    assert methods == READS | {name.split(" with ")[0] for name in WRITES}


@pytest.mark.parametrize("name", sorted(WRITES))
def test_a_former_owner_writes_nothing(postgres: PostgresServer, schema: str, start: Open, name: str) -> None:
    lost: list[OwnershipLostError] = []
    former = start(relaxed=True, lose=lost.append, lease=600.0)
    model = former.create(CREATE, "m")
    append(former, model, b"0", b"1", b"2")
    PostgresCheckpoints(former).save(model, 0, model + 1, 1, model + 1, STATE)
    former.forget(model, 0, Event("forget", b"[]"), [model + 3])
    owner = start([])
    with pytest.raises(NotOwnerError, match="belongs to another server"):
        owner.claim(0)
    for shard in range(SHARDS):
        owner.claim(shard, force=True)
    before = postgres.contents(schema)
    for _ in range(2):
        with pytest.raises(FencedError, match="another server has claimed"):
            WRITES[name](former, PostgresCheckpoints(former), model)
    assert postgres.contents(schema) == before
    assert len(lost) == 1
    assert append(owner, model, b"3") == model + 5


@pytest.mark.parametrize("shard", range(SHARDS))
def test_of_several_groups_none_is_kept_if_one_is_fenced(start: Open, shard: int) -> None:
    log, other = start(lease=600.0), start([])
    names = {shard_of(name, SHARDS): name for name in map(str, range(20))}
    models = [log.create(CREATE, names[each]) for each in range(SHARDS)]
    assert [log.shard(model) for model in models] == [0, 1, 2, 3]
    other.claim(shard, force=True)
    with pytest.raises(FencedError):
        log.append([Group(model, 0, [learn(b"x")]) for model in models])
    assert [bodies(other, model) for model in models] == [[]] * SHARDS


def test_an_idle_owner_learns_that_it_is_fenced(start: Open) -> None:
    lost = threading.Event()
    former = start(lease=0.3, lose=lambda _: lost.set())
    start([]).claim(1, force=True)
    assert lost.wait(20)
    with pytest.raises(FencedError):
        former.probe()


def test_a_released_shard_is_claimed_at_once_and_the_others_stay(start: Open) -> None:
    log, other = start(), start([])
    names = {shard_of(name, SHARDS): name for name in map(str, range(20))}
    models = [log.create(CREATE, names[each]) for each in range(SHARDS)]
    append(log, models[1], b"0")
    log.release(1)
    other.claim(1)
    assert [record.model for record in other.models()] == [models[1]]
    assert append(other, models[1], b"1") == models[1] + 2
    assert append(log, models[0], b"1") == models[0] + 1
    assert bodies(log, models[1]) == [b"0", b"1"], "any process reads"
    for write in (lambda: log.create(CREATE, names[1]), lambda: log.drop(models[1])):
        with pytest.raises(NotOwnerError, match="does not own shard 1"):
            write()
    assert [record.model for record in log.models()] == [models[0], *models[2:]]


def test_the_session_of_a_killed_process_gives_its_shards_up(
    postgres: PostgresServer, schema: str, start: Open, tmp_path: Path
) -> None:
    code = f"""
from service.storage.postgres import PostgresLog
from service.storage.interfaces import Event, Group
log = PostgresLog({postgres.url(schema)!r}, of={SHARDS}, owner="the first", address="http://first")
model = log.create(Event("create", b""), "m")
print(model, flush=True)
while True:
    log.append([Group(model, 0, [Event("learn", b"x")])])
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    model = int(process.stdout.readline())
    with pytest.raises(
        NotOwnerError, match=r"shard \d belongs to another server \(the first, http://first\)"
    ):
        start(wait=0.0)
    process.kill()
    process.wait()
    process.stdout.close()
    log = start(wait=15.0)
    assert [record.seq for record in records(log, model)] == [*range(model + 1, log.head(model) + 1)]


def test_a_name_is_unique_in_the_cluster(start: Open) -> None:
    log = start()
    model = log.create(CREATE, "m")
    with pytest.raises(ModelExistsError):
        log.create(CREATE, "m")
    log.drop(model)
    assert log.create(CREATE, "m") > model


def test_the_number_of_shards_never_changes(postgres: PostgresServer, schema: str, start: Open) -> None:
    assert start().shards == SHARDS
    with pytest.raises(StorageFailedError, match="4 shards, not 5"):
        PostgresLog(postgres.url(schema), [], of=5)
    postgres.execute("UPDATE cluster SET format = 9", schema)
    with pytest.raises(StorageFailedError, match="format 9"):
        start([])


def test_an_altered_row_is_found_by_its_number(postgres: PostgresServer, schema: str, start: Open) -> None:
    log = start()
    model = log.create(CREATE, "m")
    append(log, model, b"0", b"1")
    postgres.execute(f"UPDATE event SET body = 'x' WHERE seq = {model + 2}", schema)  # noqa: S608
    with pytest.raises(DamagedEventError, match=f"--skip {model}:{model + 2}"):
        records(log, model)
    log.correct(model, {model + 2: "damaged"}, {})
    assert [record.refused for record in records(log, model)] == [None, "damaged"]


def test_a_relaxed_commit_is_on_the_disk_after_a_flush(postgres: PostgresServer, start: Open) -> None:
    log = start(relaxed=True)
    model = log.create(CREATE, "m")
    append(log, model, b"0")
    [(committed,)] = postgres.execute("SELECT pg_current_wal_insert_lsn()")
    log.flush()
    [(flushed,)] = postgres.execute(f"SELECT pg_current_wal_flush_lsn() >= '{committed}'")
    assert flushed


def test_an_erasure_waits_for_transactions_that_read_the_rows(
    postgres: PostgresServer, schema: str, start: Open
) -> None:
    log = start()
    model = log.create(CREATE, "m")
    append(log, model, b"0", b"1")
    with contextlib.closing(psycopg.connect(postgres.url(schema))) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT count(*) FROM event").fetchall()
        log.forget(model, 0, Event("forget", b"[]"), [model + 1])
        with pytest.raises(StorageFailedError, match="still reads 1 removed rows"):
            log.erase()
        assert log.unerased
    log.erase()
    assert not log.unerased


# Lost connections.


#: Methods that log an event, and a text that they send last.
LOGGED: dict[str, tuple[Callable[[PostgresLog, int], object], bytes]] = {
    "append": (lambda log, model: append(log, model, b"first", b"the last"), b"the last"),
    "append with a position": (
        lambda log, model: log.append([Group(model, 0, [learn(b"x")], [Advance("kafka:t", 0, None, 5)])]),
        b"COMMIT",
    ),
    "a position": (
        lambda log, model: log.append([Group(model, 0, [], [Advance("kafka:t", 0, None, 5)])]),
        b"COMMIT",
    ),
    "create": (lambda log, _: log.create(CREATE, "another"), b"COMMIT"),
    "forget": (lambda log, model: log.forget(model, 0, Event("forget", b"[]"), [model + 1]), b"COMMIT"),
    "drop": (lambda log, model: log.drop(model), b"COMMIT"),
    "correct": (lambda log, model: log.correct(model, {model + 1: "refused"}, {}), b"COMMIT"),
    "prune": (lambda log, model: log.prune(model, model + 3, 1, LAST, 0.0), b"COMMIT"),
}


@pytest.mark.parametrize("answered", [False, True], ids=["before the commit", "after the commit"])
@pytest.mark.parametrize("name", sorted(LOGGED))
def test_a_commit_counts_once_if_the_connection_is_lost(
    postgres: PostgresServer, start: Open, proxy: Proxy, name: str, answered: bool
) -> None:
    seen: list[list[tuple[Any, ...]]] = []
    for schema in (postgres.schema(), postgres.schema()):
        log = PostgresLog(postgres.url(schema, proxy.port), of=SHARDS, lease=600.0)
        model = log.create(CREATE, "m")
        append(log, model, b"0", b"1", b"2")
        assert log.length == 4
        write, text = LOGGED[name]
        cut = Cut(proxy, text, answered=answered) if seen else None
        write(log, model)
        assert cut is None or cut.done
        rows = (
            "SELECT model, seq, branch, kind, id, body, refused, step, count FROM event ORDER BY model, seq"
        )
        seen.append(postgres.execute(rows, schema) + postgres.execute("TABLE source", schema))
        assert log.length == sum(len(row) == 9 for row in seen[-1])
        log.close()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_that_cannot_be_looked_up_is_an_error(start: Open, proxy: Proxy, committed: bool) -> None:
    lost: list[OwnershipLostError] = []
    log = start(port=proxy.port, patience=0.5, lease=600.0, lose=lost.append)
    model = log.create(CREATE, "m")
    append(log, model, b"0")
    Cut(proxy, b"the last", answered=committed, refuse=True)
    with pytest.raises(OutcomeUnknownError, match="send them again with the same ids"):
        append(log, model, b"the last")
    with pytest.raises(StorageFailedError, match="cannot be reached"):
        append(log, model, b"2")
    proxy.refusing = False
    if committed:
        with pytest.raises(LogAheadError, match="Start the server again"):
            append(log, model, b"2")
        assert len(lost) == 1
    else:
        assert append(log, model, b"2") == model + 2
        assert not lost
    log.close()
    again = start()
    assert bodies(again, model) == [b"0", b"the last" if committed else b"2"]
    assert append(again, model, b"3") == model + 3


def test_a_log_that_went_back_ends_the_owner(
    postgres: PostgresServer, schema: str, start: Open, proxy: Proxy
) -> None:
    lost: list[OwnershipLostError] = []
    log = start(port=proxy.port, lease=600.0, lose=lost.append)
    model = log.create(CREATE, "m")
    append(log, model, b"0", b"1")
    postgres.execute(f"DELETE FROM event WHERE seq = {model + 2}", schema)  # noqa: S608
    proxy.cut()
    for _ in range(2):
        with pytest.raises(LogWentBackError, match=f"ends at event {model + 1} .* are lost"):
            append(log, model, b"2")
    assert len(lost) == 1
    log.close()
    assert append(start(), model, b"2") == model + 2


def test_reads_go_on_after_a_lost_connection(start: Open, proxy: Proxy) -> None:
    log = start(port=proxy.port)
    model = log.create(CREATE, "m")
    append(log, model, *[b"%d" % i for i in range(1500)])
    reading = iter(log.read(model, [Segment(0, model, LAST)]))
    next(reading)
    proxy.cut()
    assert [record.event.body for record in reading] == [b"%d" % i for i in range(1, 1500)]


def test_a_read_up_to_a_known_event_takes_one_query(start: Open, proxy: Proxy) -> None:
    log = start(port=proxy.port)
    model = log.create(CREATE, "m")
    last = append(log, model, *[b"%d" % i for i in range(20)])
    sent: list[bytes] = []

    def note(_: int, data: bytes) -> bool:
        sent.append(data)
        return False  # it cuts nothing

    proxy.before = note
    assert len(list(log.read(model, [Segment(0, model, last)]))) == 20
    assert b"".join(sent).count(b"ORDER BY seq LIMIT") == 1
    assert len(list(log.read(model, [Segment(0, model, last - 5)]))) == 15
    assert b"".join(sent).count(b"ORDER BY seq LIMIT") == 2


# Crashes, load and a full disk.


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server of the test's own."""
    with running(fsync="on") as server:
        yield server


def test_crashes_of_the_server_lose_no_event_and_repeat_none(own: PostgresServer) -> None:
    log = PostgresLog(own.url(), of=SHARDS, patience=30.0, lease=1.0)
    models = [log.create(CREATE, name) for name in "ab"]
    ended = threading.Event()
    done: dict[int, list[bytes]] = {model: [] for model in models}

    def write(model: int) -> None:
        while not ended.is_set():
            body = b"%d" % len(done[model])
            append(log, model, body)
            done[model].append(body)

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.3)
        before = len(done[models[0]])
        own.restart("immediate")
        while len(done[models[0]]) < before + 5:
            time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    log.close()
    with contextlib.closing(PostgresLog(own.url())) as log:
        for model in models:
            found = records(log, model)
            assert [record.event.body for record in found] == done[model]
            assert [record.seq for record in found] == [*range(model + 1, log.head(model) + 1)]


def test_four_shards_commit_at_once(start: Open) -> None:
    logs = [start([shard]) for shard in range(SHARDS)]
    models = [log.create(CREATE) for log in logs]

    def write(log: PostgresLog, model: int) -> None:
        for i in range(100):
            append(log, model, b"%d" % i)

    threads = [threading.Thread(target=write, args=each) for each in zip(logs, models, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log, model in zip(logs, models, strict=True):
        assert log.head(model) == model + 100
        assert log.length == 101
        for reader in logs:
            assert bodies(reader, model) == [b"%d" % i for i in range(100)]
    assert len({*models}) == SHARDS


@pytest.fixture
def small_disk(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Mount a small disk, and make a tablespace `small` on it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(contextlib.closing(_Folder())).path)
        mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        (folder / "space").mkdir()
        shutil.chown(folder / "space", "postgres")
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{folder / 'space'}'")
        yield folder


class _Folder:
    """Temporary folder that another user can enter."""

    def __init__(self) -> None:
        self.path = Path("/tmp") / f"bnp-small-{time.monotonic_ns()}"  # noqa: S108
        self.path.mkdir()

    def close(self) -> None:
        self.path.rmdir()


def test_on_a_full_disk_nothing_is_kept(postgres: PostgresServer, schema: str, small_disk: Path) -> None:
    url = f"{postgres.url(schema)}%20-cdefault_tablespace%3Dsmall"
    rng = random.Random(1)  # noqa: S311
    (small_disk / "ballast").write_bytes(bytes(2**20))
    with contextlib.closing(PostgresLog(url, of=1)) as log:
        model = log.create(CREATE, "m")
        kept: list[bytes] = []

        def fill() -> None:
            while len(kept) < 2000:
                append(log, model, b"%d" % len(kept), rng.randbytes(5000))
                kept.append(b"%d" % len(kept))

        with pytest.raises(StorageFullError, match="free some space"):
            fill()
        for _ in range(3):
            with pytest.raises(StorageFullError):
                append(log, model, b"more", *[rng.randbytes(5000)] * 200)
        head = log.head(model)
        assert head == model + 2 * len(kept)
        assert bodies(log, model)[::2] == kept
        (small_disk / "ballast").unlink()
        assert append(log, model, b"room") == head + 1
        assert bodies(log, model)[-1] == b"room"
    postgres.execute(f"DROP SCHEMA {schema} CASCADE")
    postgres.execute("DROP TABLESPACE small")
