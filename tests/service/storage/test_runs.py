"""What every event log must do with runs: each event of one is as if it had been stored alone."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DamagedEventError, StorageFailedError, StorageFullError
from service.storage import retention
from service.storage.interfaces import (
    LARGEST_RUN,
    LAST,
    LONGEST_RUN,
    Event,
    EventLog,
    Form,
    Header,
    Record,
    Run,
    RunRecord,
    Segment,
)
from service.storage.rows import DAMAGED
from service.storage.runs import Packed, gather, pieces
from service.storage.sqlite import FILE, SqliteLog
from tests.support.programs import ROOT
from tests.support.stores import Open, Place, append, contents, everything

SEEDS = range(4)


def sample(body: bytes, step: int | None, name: str | None = None) -> Event:
    return Event("learn", body, name, None if name is None else b"\0digest of " + name.encode()[:200], step)


def run_of(count: int, step: int = 0, named: Sequence[int] = (), text: str = "line") -> Run:
    """Return a run of `count` samples after step `step`, with ids at some positions."""
    events = [
        sample(
            f"{text} {step + i + 1}".encode(), step + i + 1, f"{text}-{step + i + 1};" if i in named else None
        )
        for i in range(count)
    ]
    [run] = gather(events)
    assert isinstance(run, Run)
    return run


@dataclass
class Entry:
    """An event that a log must have."""

    seq: int
    branch: int
    refused: str | None
    event: Event


class ListLog:
    """What a log with one model must contain: a plain list of its events."""

    def __init__(self, model: int) -> None:
        self.model = model
        self.head = model
        self.entries = [Entry(model, 0, None, Event("create", b"c"))]
        self.forgotten: set[str] = set()
        self.first_kept = 0
        self.gone: set[bytes] = set()

    def add(self, branch: int, events: Sequence[Event]) -> None:
        for event in events:
            self.head += 1
            self.entries.append(Entry(self.head, branch, None, event))

    def samples(self) -> list[Entry]:
        return [each for each in self.entries if each.event.kind == "learn"]

    def remove(self, entries: Sequence[Entry]) -> None:
        for each in entries:
            self.entries.remove(each)
            self.gone |= {each.event.body, *([each.event.id.encode()] if each.event.id else [])}

    def within(self, segments: Sequence[Segment]) -> list[Entry]:
        return [
            each
            for s in segments
            for each in self.entries
            if each.branch == s.branch and s.after < each.seq <= s.upto
        ]


class Trial:
    """Random operations on a log, which must do what a list does."""

    def __init__(self, seed: int, reopen: Open, place: Place) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.reopen, self.place = reopen, place
        self.log = reopen()
        self.list = ListLog(self.log.create(Event("create", b"c")))
        self.log.create(Event("create", b"another model"))
        self.branch = self.step = self.count = 0
        self.checksums: dict[int, bytes] = {}

    def events(self) -> list[Event]:
        """Return new samples, and at times another event between them."""
        events = []
        for _ in range(self.random.choice((1, 2, 5, 12, 30))):
            self.step += 1
            self.count += 1
            name = self.random.choice(
                (None, None, f"id-{self.count}-\0é中", f"again-{self.random.randrange(9)}")
            )
            body = f"sample-{self.count}-".encode() + b"v" * self.random.choice((0, 3, 300, 5000))
            events.append(sample(self.random.choice((b"", b"[")) + body, self.step, name))
            if self.random.random() < 0.05:
                events.append(Event("patch", b"p"))
        return events

    def append(self) -> None:
        events = self.events()
        together = gather(events) if self.random.random() < 0.8 else events
        assert append(self.log, self.list.model, self.branch, [*together]) == self.list.head + len(events)
        self.list.add(self.branch, events)

    def roll_back(self) -> None:
        self.branch += 1
        self.step = self.random.randrange(self.step + 1)
        event = Event("rollback", b"r", step=self.step)
        append(self.log, self.list.model, self.branch, [event])
        self.list.add(self.branch, [event])

    def forget(self) -> None:
        known = self.list.samples()
        some = self.random.sample(known, min(len(known), self.random.choice((1, 1, 2, 7))))
        event = Event("forget", b"f")
        self.log.forget(self.list.model, self.branch, event, [each.seq for each in some])
        self.list.forgotten |= {each.event.id for each in some if each.event.id is not None}
        self.list.remove(some)
        self.list.add(self.branch, [event])

    def correct(self) -> None:
        """Shift the steps from an event on, as after an unlearning, and refuse some events."""
        known = self.list.samples()
        first = self.random.choice(known).seq
        refused = {each.seq: "no" for each in known if self.random.random() < 0.02}
        steps: dict[int, int] = {}
        for each in known:
            if each.seq in refused:
                each.refused, each.event = "no", each.event._replace(step=None)
            elif each.seq >= first and each.event.step is not None:
                each.event = each.event._replace(step=each.event.step + 1000)
                steps[each.seq] = each.event.step or 0
        self.log.correct(self.list.model, refused, steps)

    def prune(self) -> None:
        newest = self.random.choice((20, 60, 100, 10**6))
        before = self.random.randrange(self.list.model, self.list.head + 1)
        old = [each for each in self.list.samples() if each.seq < before]
        gone = old[: max(0, len(old) - newest)]
        assert self.log.prune(self.list.model, before, newest, LAST, 0.0) == len(gone)
        self.list.remove(gone)
        if gone:
            assert gone[-1].seq < self.log.first_kept(self.list.model) <= before
            self.list.first_kept = self.log.first_kept(self.list.model)

    def open_again(self) -> None:
        self.log = self.reopen()

    def check(self) -> None:
        log, model, known = self.log, self.list.model, self.list
        assert log.length == len(known.entries) + 1
        assert log.head(model) == known.head
        assert log.first_kept(model) == known.first_kept
        for _ in range(4):
            branches = self.random.sample(range(self.branch + 1), self.random.randrange(1, self.branch + 2))
            ends = sorted(self.random.choices(range(model - 1, known.head + 2), k=2))
            segments = [Segment(branch, *ends) for branch in sorted(branches)]
            expected = known.within(segments)
            found = [Entry(r.seq, r.branch, r.refused, r.event) for r in log.read(model, segments)]
            assert found == expected
            parts = [record for each in log.read_runs(model, segments) for record in each.records()]
            assert [record.seq for record in parts] == [each.seq for each in expected]
            assert log.count(model, segments) == len(expected)
            limit = self.random.choice((1, 7, 10**4))
            assert [listed(each) for each in log.headers(model, segments, limit)] == [
                header(each) for each in expected[:limit]
            ]
        names = {each.event.id for each in known.entries if each.event.id} | known.forgotten
        some = self.random.sample(sorted(names), min(len(names), 8))
        expected = [each for each in known.entries if each.event.id in some]
        assert [listed(each) for each in log.find(model, some)] == [header(each) for each in expected]
        assert log.forgotten(model, names) == known.forgotten
        steps = {each.event.step for each in known.entries if each.event.step is not None}
        for step in self.random.sample(sorted(steps), min(len(steps), 8)):
            expected = [each for each in known.entries if each.event.step == step]
            assert [listed(each) for each in log.at_step(model, step)] == [header(each) for each in expected]
        self.check_checksums()

    def check_checksums(self) -> None:
        """The checksum of an event does not change when a run is divided."""
        there = {each.seq for each in self.list.entries}
        for seq in self.random.sample(range(self.list.model, self.list.head + 1), min(10, len(there))):
            found = self.log.checksum(self.list.model, seq)
            assert (found is not None) == (seq in there)
            if found is not None:
                assert self.checksums.setdefault(seq, found) == found

    def check_contents(self) -> None:
        """Nothing of a removed event is stored."""
        self.log.erase()
        stored = self.place.contents()
        left = {body for body in self.list.gone if body.startswith((b"sample-", b"[sample-", b"id-"))}
        assert not [body for body in left if body.split(b"-v")[0].rstrip(b"v") + b"-" in stored]


def listed(each: Header) -> tuple[object, ...]:
    return each.seq, each.branch, each.kind, each.id, each.digest, each.refused, each.step


def header(each: Entry) -> tuple[object, ...]:
    event = each.event
    return each.seq, each.branch, event.kind, event.id, event.digest, each.refused, event.step


@pytest.mark.parametrize("seed", SEEDS)
def test_any_operations_do_what_they_do_with_a_list(
    seed: int, reopen: Open, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_LONGEST", 50)
    monkeypatch.setattr(retention, "_SMALL", 10)
    trial = Trial(seed, reopen, place)
    trial.append()
    for _ in range(60):
        operations = [
            trial.append,
            trial.roll_back,
            trial.forget,
            trial.correct,
            trial.prune,
            trial.open_again,
        ]
        operation = trial.random.choices(operations, [60, 6, 15, 8, 8, 3])[0]
        if trial.list.samples() or operation == trial.append:
            operation()
            trial.check()
    trial.check_contents()


def test_a_run_comes_back_as_a_run_or_as_its_part(reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    run = run_of(6, 0, [1, 4])
    last = append(log, model, 0, [run, run_of(2, 6), sample(b"alone", 9)])
    assert last == model + 9
    for _ in range(2):
        first, second, alone = log.read_runs(model, [Segment(0, model, LAST)])
        assert isinstance(first, RunRecord)
        assert (first.seq, first.run) == (model + 6, run)
        assert isinstance(second, RunRecord)
        assert [*[*second.run.lines]] == [b"line 7", b"line 8"]
        assert isinstance(alone, Record)
        [part] = log.read_runs(model, [Segment(0, model + 1, model + 4)])
        assert isinstance(part, RunRecord)
        assert (part.seq, part.run.step, part.run.form) == (model + 4, 4, Form.OBJECTS)
        assert [*part.run.lines] == [b"line 2", b"line 3", b"line 4"]
        assert part.run.names == {0: ("line-2;", b"\0digest of line-2;")}
        log = reopen()


def test_damage_is_named_by_event_and_skipped_by_event(place: Place, reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    last = append(log, model, 0, [run_of(6, 0, [2, 3])])
    place.replace(b"line 4", b"line x")
    log = reopen()
    harmed = model + 4
    assert len(everything(log, model, upto=harmed - 1)) == 4
    with pytest.raises(DamagedEventError, match=f"event {harmed} .*--skip {model}:{harmed}$"):
        everything(log, model)
    assert [*log.read(model, [Segment(0, harmed, LAST)])] != []
    assert log.checksum(model, harmed) is None
    # What divides the run leaves the damage.
    log.forget(model, 0, Event("forget", b"f"), [harmed + 2])
    with pytest.raises(DamagedEventError, match=f"event {harmed} "):
        everything(log, model)
    log.correct(model, {harmed: DAMAGED}, {})
    for _ in range(2):
        found = [(record.seq, record.refused) for record in everything(log, model)]
        assert found == [
            (seq, DAMAGED if seq == harmed else None) for seq in range(model, last + 2) if seq != harmed + 2
        ]
        log = reopen()


def test_damage_of_the_head_of_a_run_is_named_and_skipped_as_a_whole(place: Place, reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    run = run_of(3, 0, [0])
    last = append(log, model, 0, [run, sample(b"after", 4)])
    head = Packed.of(run).head()
    place.replace(head, head[:-1] + bytes([head[-1] ^ 1]))
    log = reopen()
    for asked in ([Segment(0, 0, LAST)], [Segment(0, model + 1, model + 2)]):
        with pytest.raises(
            DamagedEventError, match=f"events {model + 1} to {model + 3} .*--skip {model}:{model + 3}$"
        ):
            list(log.read(model, asked))
    with pytest.raises(DamagedEventError):
        log.forget(model, 0, Event("forget", b"f"), [model + 1])
    log.correct(model, {model + 3: DAMAGED}, {})
    for _ in range(2):
        found = [(record.seq, record.refused) for record in everything(log, model)]
        assert found == [(seq, DAMAGED if model < seq < last else None) for seq in range(model, last + 1)]
        log = reopen()
    log.forget(model, 0, Event("forget", b"f"), [model + 1])  # the others cannot be told from it
    assert [record.event.kind for record in everything(log, model)] == ["create", "learn", "forget"]
    assert log.forgotten(model, {"line-1;"}) == {"line-1;"}


def test_retention_by_size_cuts_inside_a_run(log: EventLog, place: Place) -> None:
    model = log.create(Event("create", b""))
    lines = [sample(b"%d" % i * 1000, i + 1, f"n{i}") for i in range(10)]
    for _ in range(3):
        append(log, model, 0, gather(lines))
    last = log.head(model)
    assert log.prune(model, last + 1, newest=LAST, size=40_000, since=0.0) == 0
    assert log.prune(model, last + 1, newest=LAST, size=16_800, since=0.0) == 15
    found = everything(log, model)
    assert [record.event.body[:1] for record in found[1:]] == [b"%d" % i for i in (5, 6, 7, 8, 9, *range(10))]
    assert log.prune(model, last + 1, newest=LAST, size=16_800, since=0.0) == 0
    assert (
        log.prune(model, last - 3, newest=LAST, size=1200, since=0.0) == 10
    )  # one before a checkpoint in it
    assert log.prune(model, last + 1, newest=LAST, size=0, since=0.0) == 5
    assert [record.seq for record in everything(log, model)] == [model]
    log.erase()
    assert b"8" * 1000 not in place.contents()
    assert b"n8" not in place.contents()


def test_a_deleted_model_leaves_no_run(reopen: Open, place: Place) -> None:
    log = reopen()
    model, other = log.create(Event("create", b"")), log.create(Event("create", b""))
    append(log, model, 0, [run_of(300, 0, range(300), "secret")])
    append(log, other, 0, [run_of(3, 0, [0], "kept")])
    log.drop(model)
    log.erase()
    for _ in range(2):
        assert b"secret" not in place.contents()
        assert len(log.find(other, ["kept-1;"])) == 1
        log = reopen()


def test_a_run_is_kept_whole_with_its_ids_or_not_at_all(reopen: Open, place: Place) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    text = "x" * 200
    with place.no_room(), pytest.raises(StorageFullError):
        append(log, model, 0, [run_of(4000, 0, [1], text)])
    assert (log.head(model), log.find(model, [text + "-2;"])) == (model, [])
    assert append(log, model, 0, [run_of(2, 0, [1])]) == model + 2
    assert len(log.find(model, ["line-2;"])) == 1


def test_a_log_of_before_gets_a_table_of_ids(place: Place, reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    append(log, model, 0, [sample(b"0", 1, "alone")])
    log.close()
    place.remove_names()
    log = reopen()
    append(log, model, 0, [run_of(3, 1, [0, 2])])
    found = log.find(model, ["alone", "line-2;", "line-4;"])
    assert [each.seq for each in found] == [model + 1, model + 2, model + 4]


def test_a_log_without_runs_has_the_format_of_before(place: Place, reopen: Open) -> None:
    log = reopen()
    model = log.create(Event("create", b""))
    append(log, model, 0, [sample(b"0", 1)])
    assert place.format() == 2
    append(log, model, 0, [run_of(2, 1)])
    assert place.format() == 3
    log = reopen()
    append(log, model, 0, [run_of(2, 3)])
    assert place.format() == 3
    place.set_format(4)
    with pytest.raises(
        StorageFailedError, match=r"has format 4.* this version reads formats .* 3: use the version"
    ):
        place.log()
    place.set_format(3)


@given(st.lists(st.tuples(st.sampled_from("lapn"), st.booleans()), max_size=30))
def test_gathering_changes_no_event(drawn: list[tuple[str, bool]]) -> None:
    """The events are samples in two forms, changes, and samples with a line break, some with another step."""
    events, step = [], 0
    for kind, gap in drawn:
        step += 1 + gap
        body = {"l": b'{"x":1}', "a": b"[1,2,1.0]", "p": b"{}", "n": b'{\n"x":1}'}[kind]
        events.append(Event("patch", body) if kind == "p" else sample(body, step, "id" if gap else None))
    found = gather(events)
    assert [one for each in found for one in ([each] if isinstance(each, Event) else each.events())] == events
    assert all(not isinstance(each, Run) or b"\n" not in b"".join(each.lines) for each in found)
    forms = [each.form for each in found if isinstance(each, Run)]
    assert all(form in (Form.OBJECTS, Form.ARRAYS) for form in forms)


def test_runs_are_limited() -> None:
    sizes = [each.samples for each in gather([sample(b"x", i) for i in range(2 * LONGEST_RUN + 1)])]
    assert sizes == [LONGEST_RUN, LONGEST_RUN, 1]
    large = [sample(b"x" * (LARGEST_RUN // 2), i) for i in range(5)]
    assert [each.samples for each in gather(large)] == [2, 2, 1]


@given(
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(20, 30)),
    st.sets(st.integers(5, 20)),
    st.dictionaries(st.integers(5, 20), st.just("no")),
    st.dictionaries(st.integers(5, 20), st.integers(0, 9)),
)
def test_pieces_have_every_event_with_its_step(
    count: int, step: int | None, gone: set[int], refused: dict[int, str], steps: dict[int, int]
) -> None:
    found: dict[int, tuple[str | None, int | None]] = {}
    for piece in pieces(5, count, step, gone, refused, steps):
        assert piece.refused is None or piece.end - piece.begin == 1
        for i in range(piece.begin, piece.end):
            at = None if piece.step is None else piece.step - (piece.end - 1 - i)
            assert 5 + i not in found
            found[5 + i] = piece.refused, at
    for i in range(5, 5 + count):
        if i in gone:
            assert i not in found
        elif i in refused:
            assert found[i] == ("no", None)
        else:
            assert found[i] == (None, steps.get(i, None if step is None else step - (4 + count - i)))


# What is SQLite's own.


@pytest.mark.parametrize("column", ["body", "kind", "time", "checksum", "count"])
def test_a_run_that_was_altered_is_found(tmp_path: Path, column: str) -> None:
    log = SqliteLog(tmp_path)
    model = log.create(Event("create", b""))
    last = append(log, model, 0, [run_of(5, 0)])
    log.close()
    value = {"kind": "label", "time": 5.0, "count": 4}.get(column, b"other")
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (value, last))  # noqa: S608
        database.commit()
    with closing(SqliteLog(tmp_path)) as log, pytest.raises(DamagedEventError) as caught:
        everything(log, model)
    assert (caught.value.model, caught.value.seq) == (model, last)


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from service.storage.interfaces import LAST, Event
from service.storage.sqlite import SqliteLog
from tests.support.crash_points import install
install({point})
log = SqliteLog(Path({folder!r}))
log.forget({model}, 0, Event("forget", b"f"), [{model} + 5, {model} + 33])
log.correct({model}, {{{model} + 40: "no"}}, {{{model} + i: i - 1 for i in range(41, 61)}})
log.prune({model}, {model} + 61, 48, LAST, 0.0)
log.erase()
log.close()
"""


def test_a_kill_at_any_write_divides_a_run_or_does_not(tmp_path: Path) -> None:
    """Unlearning out of two runs, a refusal inside one and retention within one, one after the other."""
    original, folder = tmp_path / "original", tmp_path / "data"
    original.mkdir()
    with closing(SqliteLog(original)) as log:
        model = log.create(Event("create", b""))
        append(log, model, 0, [run_of(30, 0, range(30)), run_of(30, 30, range(30))])
    whole = range(model + 1, model + 61)
    gone = {model + 5, model + 33}
    states = [
        [*whole],
        [*(each for each in whole if each not in gone), model + 61],
        [*(each for each in whole if each not in gone and each > model + 11), model + 61],
    ]
    ends: list[int] = []
    for point in range(1, 200, 5):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        program = PROGRAM.format(root=str(ROOT), point=point, folder=str(folder), model=model)
        ends.append(subprocess.run([sys.executable, "-c", program], check=False).returncode)
        with closing(SqliteLog(folder)) as log:
            records = everything(log, model)[1:]
            numbers = [record.seq for record in records]
            if (
                log.first_kept(model) == model + 12
            ):  # what retention has not removed yet is removed by the next
                assert [each for each in numbers if each >= model + 12] == states[2]
                assert {*numbers} <= {*states[1]}
            else:
                assert numbers in states[:2]
            for each in records:
                if each.event.kind == "learn" and each.refused is None:
                    assert each.event.body == b"line %d" % (each.seq - model)
            if numbers != states[0]:
                for name in ("line-5;", "line-33;"):
                    assert name.encode() not in contents(folder)
            ids = [f"line-{seq - model};" for seq in numbers if seq != model + 61]
            assert [each.seq for each in log.find(model, ids)] == [
                each for each in numbers if each != model + 61
            ]
            refused = [each.seq for each in records if each.refused]
            assert refused in ([], [model + 40])
            steps = [
                each.event.step for each in records if each.event.kind == "learn" and each.seq > model + 40
            ]
            assert steps == [*range(40, 60)] if refused else steps == [*range(41, 61)]
        if ends[-1] == 0:
            break
    assert ends[-1] == 0
    assert set(ends[:-1]) == {-signal.SIGKILL}
    assert len(ends) > 10
    assert numbers == states[2]
