"""Logs of format 1 are converted at the first start, whatever interrupts it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from service.errors import IncompleteLogError
from service.storage import high_water, sqlite_conversion
from service.storage.interfaces import LAST, Event, Group, Segment
from service.storage.rows import to_row
from service.storage.sqlite import FILE, SqliteLog
from tests.support.programs import ROOT

#: Tables of format 1.
TABLES = """
CREATE TABLE event (
    seq INTEGER PRIMARY KEY, model INTEGER NOT NULL, branch INTEGER NOT NULL, kind TEXT NOT NULL,
    time REAL NOT NULL, id TEXT, digest BLOB, body BLOB NOT NULL, checksum BLOB NOT NULL, refused TEXT,
    step INTEGER
);
CREATE INDEX event_history ON event (model, branch, seq);
CREATE INDEX event_id ON event (model, id) WHERE id IS NOT NULL;
CREATE INDEX event_step ON event (model, step) WHERE step IS NOT NULL;
CREATE INDEX event_special ON event (model, kind) WHERE kind NOT IN ('learn', 'label', 'predict');
CREATE TABLE forgotten (model INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (model, id)) WITHOUT ROWID;
CREATE TABLE pruned (model INTEGER PRIMARY KEY, before INTEGER NOT NULL);
CREATE TABLE probe (only INTEGER PRIMARY KEY, time REAL NOT NULL);
CREATE TABLE unerased (removal INTEGER PRIMARY KEY);
PRAGMA user_version = 1;
"""
CREATION = b'{"name": "m"}'
#: Events of two models in turn. Samples of the first before event 5 were pruned.
ROWS = [
    (1, 1, 0, Event("create", CREATION)),
    (2, 2, 0, Event("create", b'{"name": "other"}')),
    *(
        (seq, 1 + seq % 2, 0, Event("learn", b"%d" % seq * 50, str(seq), b"d", seq // 2))
        for seq in range(5, 40)
    ),
    (40, 1, 1, Event("rollback", b'{"parent": 0, "fork": 20}', step=10)),
    (41, 1, 1, Event("learn", b"after", "41", b"d", 11)),
    (42, 2, 0, Event("import", b"i" * 100_000, None, None, 30)),
]
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from service.storage import sqlite_conversion
from service.storage.sqlite import SqliteLog
sqlite_conversion._EVENTS = 4
from tests.support.crash_points import install
install({point})
SqliteLog(Path({folder!r})).close()
"""


def earlier(folder: Path) -> Path:
    """Write a log of format 1."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.executescript(TABLES)
        for row in ROWS:
            values = to_row(*row[:3], 5.0, row[3])[:-1]
            database.execute(f"INSERT INTO event VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        database.execute("INSERT INTO pruned VALUES (1, 5)")
        database.execute("PRAGMA journal_mode = WAL")
        database.commit()
    (folder / high_water.NAME).write_text("42")
    return folder


def check(log: SqliteLog) -> None:
    """Check that a log has what `earlier` wrote, and goes on."""
    assert [record.model for record in log.models()] == [1, 2]
    for model in (1, 2):
        branches = [Segment(branch, 0, LAST) for branch in (0, 1)]
        found = [(each.seq, each.model, each.branch, each.event) for each in log.read(model, branches)]
        assert found == [row for row in ROWS if row[1] == model]
        assert log.count(model, branches) == len(found)
        assert log.head(model) == 42
    assert [each.seq for each in log.find(1, ["10", "41", "7"])] == [10, 41]
    assert [each.seq for each in log.at_step(2, 5)] == [11]
    assert [each.step for each in log.at_step(2, 5)] == [5]
    assert log.checksum(1, 41) == to_row(41, 1, 1, 5.0, ROWS[-2][3])[8]
    assert log.checksum(2, 41) is None
    assert (log.first_kept(1), log.first_kept(2)) == (5, 0)
    assert log.append([Group(1, 1, [Event("learn", b"")] * 2), Group(2, 0, [Event("learn", b"")])]) == [
        44,
        43,
    ]
    assert log.create(Event("create", b"{}")) == 43
    assert log.append([Group(43, 0, [Event("learn", b"")])]) == [44]
    assert log.length == len(ROWS) + 5


def test_events_keep_their_numbers_and_later_ones_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_conversion, "_EVENTS", 7)
    folder = earlier(tmp_path / "data")
    with closing(SqliteLog(folder, known=42, heads={1: 41, 2: 42})) as log:
        check(log)
    assert "restore the backup" in caplog.text
    caplog.clear()
    with closing(SqliteLog(folder, known=46, heads={1: 44, 2: 43, 43: 44})) as log:
        assert (log.head(1), log.head(2), log.head(43), log.latest_model) == (44, 43, 44, 43)
    assert not caplog.text
    SqliteLog(tmp_path).close()
    assert tables(folder) == tables(tmp_path)


def tables(folder: Path) -> set[tuple[str, str]]:
    """Return the tables and indexes of a log, with their columns."""
    with closing(sqlite3.connect(folder / FILE)) as database:
        found = database.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
        ).fetchall()
        return {
            (name, repr(sorted(row[1:3] for row in database.execute(f"PRAGMA {kind}_info({name})"))))
            for kind, name in found
        }


def test_a_kill_at_any_write_repeats_nothing_and_loses_nothing(tmp_path: Path) -> None:
    folder, original = tmp_path / "data", earlier(tmp_path / "original")
    ends = []
    for point in range(1, 80, 3):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        program = PROGRAM.format(root=str(ROOT), point=point, folder=str(folder))
        ends.append(subprocess.run([sys.executable, "-c", program], check=False).returncode)
        with closing(SqliteLog(folder)) as log:
            check(log)
        if ends[-1] == 0:
            break
    assert ends[-1] == 0
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert len(ends) > 10


def test_a_log_that_lacks_events_is_refused_as_it_is(tmp_path: Path) -> None:
    folder = earlier(tmp_path / "data")
    for known, heads in ((43, {}), (42, {1: 50}), (42, {7: 43})):
        before = (folder / FILE).read_bytes()
        with pytest.raises(IncompleteLogError, match="ends at event 42"):
            SqliteLog(folder, known=known, heads=heads)
        assert (folder / FILE).read_bytes() == before
