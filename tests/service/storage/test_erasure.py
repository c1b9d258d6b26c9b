"""Erasure: after it, no file has a byte of what was removed."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.errors import StorageError, StorageFailedError, StorageFullError
from service.storage.interfaces import LAST, Event, Group, Segment
from service.storage.runs import gather
from service.storage.sqlite import SqliteLog
from service.storage.sqlite_erasure import Erasure, FileInUseError
from service.storage.sqlite_pages import DamagedPageError, SqlitePages
from service.storage.sqlite_tables import UNERASED
from tests.support.sqlite_file import remnants

#: Number of random sequences of operations; a longer run sets the variable.
TRIALS = int(os.environ.get("BNP_TEST_ERASURE_TRIALS", "3"))
MARKER = re.compile(rb"#[0-9a-f]{12}#")


class Markers:
    """Values that occur once, so that their bytes can be found in a file."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (reproducible)
        self.removed: set[bytes] = set()

    def new(self) -> bytes:
        return b"#%012x#" % self.random.getrandbits(48)

    def left(self, folder: Path) -> dict[bytes, str]:
        """Return the removed values that a file of the folder still has, with its name."""
        found = {}
        for path in folder.rglob("*"):
            if path.is_file():
                for marker in self.removed & set(MARKER.findall(path.read_bytes())):
                    found[marker] = path.name
        return found


def unused(path: Path) -> dict[int, bytes]:
    """Return the bytes other than zero that SQLite does not use, by page, if all are in the file.

    The pages of the marks are omitted: they have only numbers, and change after an erasure.
    """
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT rootpage FROM sqlite_master WHERE name <> 'unerased'"
        roots = [1, *(root for (root,) in database.execute(query))]
    return remnants(path, roots)


class Database:
    """SQLite file with a table, an index with random keys, and a connection that keeps pages in memory."""

    def __init__(self, path: Path, page_size: int = 4096, auto_vacuum: str = "INCREMENTAL") -> None:
        self.path = path
        self.writing, self.reading = threading.Lock(), threading.Lock()
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (f"page_size = {page_size}", f"auto_vacuum = {auto_vacuum}", "journal_mode = WAL"):
            self.connection.execute(f"PRAGMA {pragma}").fetchall()
        self.connection.execute("PRAGMA secure_delete = ON").fetchall()
        self.connection.executescript(
            f"""
            CREATE TABLE t (n INTEGER PRIMARY KEY, k BLOB, v BLOB);
            CREATE INDEX i ON t (k);
            CREATE TABLE probe (only INTEGER PRIMARY KEY, time REAL NOT NULL);
            {UNERASED}
            """
        )
        self.connection.execute("SELECT count(*) FROM t").fetchall()
        self.erasure = Erasure(path, self.writing, self.reading)

    def rows(self) -> list[tuple[int, bytes, bytes]]:
        return self.connection.execute("SELECT n, k, v FROM t ORDER BY n").fetchall()

    def remove(self, n: int) -> None:
        with self.writing:
            self.connection.execute("BEGIN")
            self.connection.execute("DELETE FROM t WHERE n = ?", (n,))
            self.erasure.mark(self.connection)
            self.connection.execute("COMMIT")

    def erase(self) -> None:
        self.erasure.erase(lambda: None)

    def marked(self) -> bool:
        marks = self.connection.execute("SELECT * FROM unerased").fetchall()
        assert self.erasure.pending or not marks
        return bool(marks)

    def close(self) -> None:
        self.connection.close()
        self.erasure.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def make_(*args: object, **options: object) -> Database:
        made.append(Database(tmp_path / f"{len(made)}.sqlite3", *args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_
    for each in made:
        each.close()


def work(database: Database, markers: Markers, operations: int) -> None:
    """Insert, change and delete rows with values of all sizes, some over many pages."""
    draw = markers.random
    numbers = [n for n, _, _ in database.rows()]

    def value() -> bytes:
        size = draw.choice([1, 2, 5, 20, 400, 3000] if draw.random() < 0.1 else [1, 2, 5, 20])
        return b"".join(markers.new() + bytes(draw.randrange(3)) for _ in range(size))

    with database.writing:
        database.connection.execute("BEGIN")
        for _ in range(operations):
            if not numbers or draw.random() < 0.6:
                row = (markers.new(), value())
                database.connection.execute("INSERT INTO t (k, v) VALUES (?, ?)", row)
                ((n,),) = database.connection.execute("SELECT last_insert_rowid()")
                numbers.append(n)
                continue
            n = draw.choice(numbers)
            ((k, v),) = database.connection.execute("SELECT k, v FROM t WHERE n = ?", (n,))
            if draw.random() < 0.5:
                database.connection.execute("DELETE FROM t WHERE n = ?", (n,))
                numbers.remove(n)
                new = b""
            else:  # a shorter, a longer, or another value
                new = v[: draw.choice([0, 18, len(v) // 2, len(v)])] + draw.choice([b"", value()])
                database.connection.execute("UPDATE t SET k = ?, v = ? WHERE n = ?", (markers.new(), new, n))
            markers.removed |= {*MARKER.findall(k), *MARKER.findall(v)} - {*MARKER.findall(new)}
        database.erasure.mark(database.connection)
        database.connection.execute("COMMIT")


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_after_an_erasure_the_file_has_only_the_rows_that_exist(
    make: Callable[..., Database], page_size: int
) -> None:
    found = 0
    for seed in range(TRIALS):
        database, markers = make(page_size), Markers(seed)
        for _ in range(3):
            work(database, markers, 600)
            before = database.rows()
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            found += len(unused(database.path))
            database.erase()
            assert markers.left(database.path.parent) == {}
            assert unused(database.path) == {}
            assert database.rows() == before
            assert not database.marked()
        database.close()
        database.path.unlink()
    assert found > 0, "SQLite itself left remnants"


def test_a_connection_does_not_write_remnants_again_from_its_memory(
    make: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, markers = make(), Markers(0)
    work(database, markers, 800)
    database.connection.execute("PRAGMA cache_size = -100000")
    assert database.rows()  # now all pages are in memory
    monkeypatch.setattr("service.storage.sqlite_erasure._SLICE", 15)
    alone, written = database.erasure._alone, 0

    @contextmanager
    def then_write() -> Iterator[sqlite3.Connection]:
        nonlocal written
        with alone() as connection:
            yield connection
        for n, _, _ in database.rows():
            written += database.connection.execute(
                "UPDATE t SET k = ? WHERE n = ?", (os.urandom(8), n)
            ).rowcount

    monkeypatch.setattr(database.erasure, "_alone", then_write)
    database.erase()
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert written > 2 * len(database.rows())
    assert markers.left(database.path.parent) == {}


def test_a_large_row_that_becomes_shorter_leaves_nothing(make: Callable[..., Database]) -> None:
    """A row with a run of many samples, of which some are unlearned: it is written again without them."""
    database, markers = make(), Markers(0)
    samples = [markers.new() for _ in range(10_000)]
    for n in range(3):
        database.connection.execute("INSERT INTO t VALUES (?, ?, ?)", (n, markers.new(), b"".join(samples)))
    for size in (9_000, 1_000, 250, 10, 0):
        gone = set(samples[size:])
        for n in range(3):
            database.connection.execute("UPDATE t SET v = ? WHERE n = ?", (b"".join(samples[:size]), n))
        database.erasure.mark(database.connection)
        markers.removed |= gone
        database.erase()
        assert markers.left(database.path.parent) == {}
        assert unused(database.path) == {}


def test_threads_write_and_read_while_rows_are_erased(make: Callable[..., Database]) -> None:
    database, markers = make(), Markers(0)
    work(database, markers, 3000)
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            with database.writing:
                written += 1
                database.connection.execute(
                    "INSERT INTO t (k, v) VALUES (?, ?)", (os.urandom(14), b"later %d" % written * 20)
                )
                assert database.connection.execute("SELECT sum(length(v)) FROM t").fetchone()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            for n in database_numbers(database)[:30]:
                remove_marked(database, markers, n)
            database.erase()
            with database.writing, database.reading:
                assert markers.left(database.path.parent) == {}
    finally:
        stop.set()
        thread.join()
    assert len([v for _, _, v in database.rows() if v.startswith(b"later")]) == written
    database.close()
    unused(database.path)


def database_numbers(database: Database) -> list[int]:
    with database.writing:
        return [n for n, _, v in database.rows() if not v.startswith(b"later")]


def remove_marked(database: Database, markers: Markers, n: int) -> None:
    with database.writing:
        ((k, v),) = database.connection.execute("SELECT k, v FROM t WHERE n = ?", (n,)).fetchall()
    database.remove(n)
    markers.removed |= {*MARKER.findall(k), *MARKER.findall(v)}


def test_an_erasure_that_ends_at_any_write_leaves_a_valid_file(
    make: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, markers = make(1024), Markers(0)
    work(database, markers, 1500)
    before, write, failed = database.rows(), os.pwrite, 0
    for stop in range(10_000):
        left = stop

        def pwrite(file: int, data: bytes, offset: int) -> int:
            nonlocal left
            left -= 1
            if left < 0:  # a part of the bytes is written
                write(file, data[: len(data) // 2], offset)
                raise OSError(errno.EIO, "input/output error")
            return write(file, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            try:
                database.erase()
            except OSError:
                failed += 1
            else:
                break
        assert database.marked()
        unused(database.path)  # checks the integrity
        assert database.rows() == before
        database.erasure.mark(database.connection)
    assert failed > 3
    assert markers.left(database.path.parent) == {}


@pytest.mark.parametrize(("kept", "shorter"), [(90, False), (10, True)])
def test_free_pages_are_returned_when_they_are_many_and_many_at_a_time(
    make: Callable[..., Database], monkeypatch: pytest.MonkeyPatch, kept: int, shorter: bool
) -> None:
    database = make()
    database.connection.execute("PRAGMA synchronous = OFF")
    for n in range(100):
        database.connection.execute("INSERT INTO t VALUES (?, ?, ?)", (n, b"", os.urandom(200_000)))
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = database.path.stat().st_size
    database.connection.execute("DELETE FROM t WHERE n >= ?", (kept,))
    connect, connections = database.erasure._connect, 0

    def counted() -> sqlite3.Connection:
        nonlocal connections
        connections += 1
        return connect()

    monkeypatch.setattr(database.erasure, "_connect", counted)
    database.erasure.shrink()
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert (database.path.stat().st_size < 0.2 * size) == shorter
    assert database.path.stat().st_size == size or shorter
    assert connections < 10  # of thousands of pages
    assert len(database.rows()) == kept


def test_a_file_without_a_pointer_map_is_copied(make: Callable[..., Database]) -> None:
    database, markers = make(auto_vacuum="NONE"), Markers(0)
    for _ in range(2):  # the copy has a pointer map
        work(database, markers, 1000)
        before = database.rows()
        database.erase()
        assert markers.left(database.path.parent) == {}
        assert database.rows() == before
    assert database.connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_process_that_reads_the_file_postpones_the_erasure(make: Callable[..., Database]) -> None:
    database, markers = make(), Markers(0)
    work(database, markers, 1000)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        database.remove(database.rows()[0][0])
        with pytest.raises(FileInUseError, match="another process"):
            database.erase()
        assert database.marked()
        database.connection.execute("DELETE FROM t WHERE n = 1")  # others go on
        reader.execute("COMMIT")
    database.erase()
    assert markers.left(database.path.parent) == {}


def test_a_damaged_page_is_not_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.sqlite3")
    work(database, Markers(0), 1000)
    database.close()
    pages = SqlitePages(database.path)
    number = pages.unclean()[0]
    with database.path.open("r+b") as file:
        file.seek((number - 1) * 4096 + 5)
        file.write((4000).to_bytes(2, "big"))  # the cells would begin behind the first ones
    before = database.path.read_bytes()
    assert number in pages.unclean()
    with pytest.raises(DamagedPageError, match=f"page {number}"):
        pages.clean([number])
    pages.close()
    assert database.path.read_bytes() == before


# The event log.


def learn(markers: Markers) -> Event:
    draw = markers.random
    body = b"".join(markers.new() for _ in range(draw.choice([1, 1, 3, 3, 8, 8, 30, 400])))
    return Event("learn", body, markers.new().decode(), markers.new(), None)


def content(log: SqliteLog, model: int) -> list[tuple[int, bytes, str | None, bytes | None]]:
    records = log.read(model, [Segment(branch, 0, LAST) for branch in range(3)])
    samples = (r for r in records if r.event.kind == "learn")
    return sorted((r.seq, r.event.body, r.event.id, r.event.digest) for r in samples)


class RandomLog:
    """Event log with random operations, and what it must contain."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.markers = Markers(seed)
        self.models: dict[int, list[tuple[int, bytes, str | None, bytes | None]]] = {}
        self.log = SqliteLog(folder, relaxed=True)

    def run(self, operations: int) -> None:
        draw = self.markers.random
        for _ in range(operations):
            kind = draw.choices(
                [self.append, self.forget, self.drop, self.prune, self.create, self.reopen],
                [60, 20, 1, 4, 3, 1],
            )[0]
            if kind == self.create or self.models:
                kind()
            if draw.random() < 0.02:
                self.check()
        self.check()

    def create(self) -> None:
        body = self.markers.new()
        self.models[self.log.create(Event("create", body))] = []

    def append(self) -> None:
        model = self.markers.random.choice([*self.models])
        events = [learn(self.markers) for _ in range(self.markers.random.randrange(1, 40))]
        some = gather(events) if self.markers.random.random() < 0.5 else events
        (last,) = self.log.append([Group(model, self.markers.random.randrange(3), some)])
        numbers = range(last - len(events) + 1, last + 1)
        self.models[model] += [(n, e.body, e.id, e.digest) for n, e in zip(numbers, events, strict=True)]

    def forget(self) -> None:
        model = self.markers.random.choice([*self.models])
        rows = self.markers.random.sample(self.models[model], min(len(self.models[model]), 15))
        self.log.forget(model, 0, Event("forget", b"{}"), [row[0] for row in rows])
        self.take(model, rows)

    def take(self, model: int, rows: list[tuple[int, bytes, str | None, bytes | None]]) -> None:
        for _, body, id_, digest in rows:
            self.markers.removed |= {*MARKER.findall(body), str(id_).encode(), digest or b""}
        self.models[model] = [row for row in self.models[model] if row not in rows]

    def drop(self) -> None:
        model = self.markers.random.choice([*self.models])
        self.log.drop(model)
        self.take(model, self.models[model])
        del self.models[model]

    def prune(self) -> None:
        model = self.markers.random.choice([*self.models])
        rows = self.models[model]
        newest = self.markers.random.randrange(50, 300)
        self.log.prune(model, LAST, newest, size=LAST, since=0.0)
        self.take(model, sorted(rows)[: max(0, len(rows) - newest)])

    def reopen(self) -> None:
        """Close the log; or leave it as a killed server does, with its write-ahead log."""
        if self.markers.random.random() < 0.5:
            self.log.close()
        else:
            away = self.folder.with_name(f"{self.folder.name}+")
            shutil.copytree(self.folder, away)
            self.log.close()
            shutil.rmtree(self.folder)
            away.rename(self.folder)
        self.log = SqliteLog(self.folder, relaxed=True)
        assert not self.log.unerased, "a start finishes the erasure"
        assert self.markers.left(self.folder) == {}

    def check(self) -> None:
        self.log.erase()
        assert self.markers.left(self.folder) == {}
        assert not self.log.unerased
        for model, rows in self.models.items():
            assert content(self.log, model) == sorted(rows)


@pytest.mark.parametrize("seed", range(TRIALS))
def test_nothing_removed_is_in_a_file_after_random_operations(tmp_path: Path, seed: int) -> None:
    """Search for every id, body and digest that was removed: by unlearning, deletion or retention."""
    trial = RandomLog(tmp_path / "data", seed)
    trial.run(350)
    assert len(trial.markers.removed) > 2_000
    trial.forget()
    trial.check()
    trial.log.close()
    assert unused(trial.folder / "events.sqlite3") == {}


def test_a_folder_of_an_earlier_version_is_erased_at_its_first_start(tmp_path: Path) -> None:
    trial = RandomLog(tmp_path, 0)
    for _ in range(5):
        trial.create()
    for _ in range(200):
        trial.append()
        trial.forget()
    trial.log.close()
    with closing(sqlite3.connect(tmp_path / "events.sqlite3")) as database:
        database.execute("DROP TABLE unerased")
    assert trial.markers.left(tmp_path) != {}
    trial.log = SqliteLog(tmp_path)
    trial.check()
    trial.log.close()


def test_a_start_without_removals_does_not_search_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = RandomLog(tmp_path, 0)
    trial.create()
    trial.append()
    trial.log.close()
    monkeypatch.setattr(SqlitePages, "unclean", lambda pages: pytest.fail("the file was searched"))
    SqliteLog(tmp_path).close()


def test_an_erasure_without_room_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = RandomLog(tmp_path, 0)
    trial.create()
    for _ in range(30):
        trial.append()
        trial.forget()

    def full(pages: SqlitePages, numbers: list[int]) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SqlitePages, "clean", full)
        with pytest.raises(StorageFullError, match="free some space"):
            trial.log.erase()
        assert trial.log.unerased
        trial.append()
        trial.log.close()
        trial.log = SqliteLog(tmp_path)  # starts nevertheless
        assert trial.log.unerased
    trial.check()
    trial.log.close()


def test_another_reader_postpones_the_erasure_of_the_log(tmp_path: Path) -> None:
    trial = RandomLog(tmp_path, 0)
    trial.create()
    trial.append()
    with closing(sqlite3.connect(tmp_path / "events.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM event").fetchone()
        trial.forget()
        with pytest.raises(StorageFailedError, match="another process") as caught:
            trial.log.erase()
        assert isinstance(caught.value, StorageError)
        trial.append()
    trial.check()
    trial.log.close()
