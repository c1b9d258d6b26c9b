"""Runs of samples: their encoding in one row of the log, and how a row is divided.

The body of a run begins with its *head*: the form of the lines, their number, and for each line where it
ends, where its name (id and digest) ends, and a CRC-32 of both. All lines follow, each with a line break, and
all names. So line k is found without reading the others, the lines are NDJSON, and damage is found by line.
The checksum of the row covers the head, and by the CRCs the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple
from zlib import crc32

from bnp_online.lines import Lines

from .interfaces import LARGEST_RUN, LONGEST_RUN, Event, Form, Run

#: Form and number of the lines. For each line follow three numbers of 32 bits; see `Packed`.
_START = struct.Struct(">BH")
_ENTRY = 12


def gather(events: Sequence[Event | Run]) -> list[Event | Run]:
    r"""Return events with those samples in runs that follow one another; earlier runs remain.

    A sample whose body has a line break remains alone: a client may send indented JSON.

    Examples
    --------
    >>> samples = [Event("learn", b'{"x":{"a":%d},"y":1}' % i, step=i) for i in range(1, 4)]
    >>> [each.samples for each in gather([*samples, Event("patch", b"{}"), samples[0]])]
    [3, 1, 1]
    """
    if len(events) < 2:
        return [*events]
    found: list[Event | Run] = []
    some: list[Event] = []
    size = 0
    for event in events:
        sample = event if isinstance(event, Event) and _may_be_in_run(event) else None
        if some and not (
            sample and size < LARGEST_RUN and len(some) < LONGEST_RUN and _follows(some[-1], sample)
        ):
            found += _together(some)
            some, size = [], 0
        if sample:
            some.append(sample)
            size += len(sample.body)
        else:
            found.append(event)
    return found + _together(some)


def _may_be_in_run(event: Event) -> bool:
    return event.kind == "learn" and (event.id is None) == (event.digest is None) and b"\n" not in event.body


def _follows(before: Event, event: Event) -> bool:
    """Return whether an event has the next step and the same form."""
    step = before.step
    return event.step == (None if step is None else step + 1) and _form(event) is _form(before)


def _together(events: list[Event]) -> list[Event | Run]:
    if len(events) < 2:
        return [*events]
    names = {
        i: (each.id, each.digest)
        for i, each in enumerate(events)
        if each.id is not None and each.digest is not None
    }
    return [Run(Lines.of(each.body for each in events), names, events[-1].step, _form(events[0]))]


def _form(event: Event) -> Form:
    return Form.ARRAYS if event.body[:1] == b"[" else Form.OBJECTS


class Piece(NamedTuple):
    """Events that remain of a run after a change, and stay together.

    Attributes
    ----------
    begin, end : int
        Their positions in the run; `end` is that after the last one.
    refused : str or None
        Error code, if the model refused the event. It is alone then.
    step : int or None
        Step of the model after the last event.
    """

    begin: int
    end: int
    refused: str | None
    step: int | None


def pieces(
    first: int,
    count: int,
    step: int | None,
    gone: Collection[int] = (),
    refused: Mapping[int, str] | None = None,
    steps: Mapping[int, int] | None = None,
) -> list[Piece]:
    """Return the pieces of a run after some of its events were removed, refused, or got another step.

    Parameters
    ----------
    first, count, step
        Number of its first event, number of its events, and step after the last one.
    gone : collection of int
        Numbers of the removed events.
    refused, steps : dict
        Error codes and other steps, by number.

    Examples
    --------
    >>> pieces(11, 5, 25, gone=[12], steps={13: 22, 14: 23, 15: 24})
    [Piece(begin=0, end=1, refused=None, step=21), Piece(begin=2, end=5, refused=None, step=24)]
    """
    refused, steps = refused or {}, steps or {}
    found: list[Piece] = []
    for i in range(count):
        seq = first + i
        if seq in gone:
            continue
        code = refused.get(seq)
        now = None if code is not None else steps.get(seq, None if step is None else step - count + i + 1)
        last = found[-1] if found else None
        if last is not None and last.end == i and code is last.refused is None and _continues(last.step, now):
            found[-1] = last._replace(end=i + 1, step=now)
        else:
            found.append(Piece(i, i + 1, code, now))
    return found


def _continues(before: int | None, now: int | None) -> bool:
    return now == (None if before is None else before + 1)


class Packed(NamedTuple):
    """A run in the form of its row.

    Attributes
    ----------
    form : int
        See `Form`.
    ends, name_ends : sequence of int
        Where each line ends among the lines, without its line break, and each name among the names. An event
        without an id has an empty name.
    checks : sequence of int
        CRC-32 of each line and its name.
    lines, names : memoryview or bytes
        All lines, each with a line break, and all names.
    """

    form: int
    ends: Sequence[int]
    name_ends: Sequence[int]
    checks: Sequence[int]
    lines: bytes | memoryview
    names: bytes | memoryview

    @classmethod
    def of(cls, run: Run) -> Packed:
        """Return a run as it is stored."""
        names = [_pack_name(*run.names[i]) if i in run.names else b"" for i in range(len(run.lines))]
        lines = run.lines
        begin, ends = lines.bounds[0] + 1, lines.bounds[1:]
        checks = [*map(crc32, lines)]
        if run.names:
            checks = [*map(crc32, names, checks)]
        name_ends = [*accumulate(map(len, names))]
        return cls(run.form, [end - begin for end in ends], name_ends, checks, lines.text, b"".join(names))

    @classmethod
    def read(cls, body: bytes, count: int) -> Packed | None:
        """Return the run in a body; None if the body is no run of `count` events."""
        if len(body) < (start := head_size(count)) or _START.unpack_from(body)[1] != count:
            return None
        numbers = struct.unpack_from(f">{3 * count}I", body, _START.size)
        ends, name_ends, checks = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        content = memoryview(body)[start:]
        if len(content) != ends[-1] + 1 + name_ends[-1]:
            return None
        return cls(body[0], ends, name_ends, checks, content[: ends[-1] + 1], content[ends[-1] + 1 :])

    def head(self) -> bytes:
        """Return the head."""
        count = len(self.ends)
        numbers = struct.pack(f">{3 * count}I", *self.ends, *self.name_ends, *self.checks)
        return _START.pack(self.form, count) + numbers

    def body(self) -> bytes:
        """Return the body."""
        return b"".join((self.head(), self.lines, self.names))

    def _each(self) -> Lines:
        return Lines(bytes(self.lines), [0, *(end + 1 for end in self.ends)])

    def line(self, i: int) -> bytes:
        """Return a line."""
        return bytes(self.lines[self.ends[i - 1] + 1 if i else 0 : self.ends[i]])

    def name(self, i: int) -> bytes:
        """Return the name of a line."""
        return bytes(self.names[self.name_ends[i - 1] if i else 0 : self.name_ends[i]])

    def is_intact(self, i: int) -> bool:
        """Return whether a line and its name are as they were stored."""
        return crc32(self.name(i), crc32(self.line(i))) == self.checks[i]

    def damaged(self) -> int | None:
        """Return the position of the first line that is not as it was stored; None if all are."""
        checks = [*map(crc32, self._each())]
        if self.names:
            checks = [crc32(self.name(i), check) for i, check in enumerate(checks)]
        pairs = zip(checks, self.checks, strict=True)
        return next((i for i, (found, stored) in enumerate(pairs) if found != stored), None)

    def cut(self, begin: int, end: int) -> Packed:
        """Return a part of the run; damage remains damage."""
        start, name_start = (self.ends[begin - 1] + 1, self.name_ends[begin - 1]) if begin else (0, 0)
        return Packed(
            self.form,
            [each - start for each in self.ends[begin:end]],
            [each - name_start for each in self.name_ends[begin:end]],
            self.checks[begin:end],
            self.lines[start : self.ends[end - 1] + 1],
            self.names[name_start : self.name_ends[end - 1]],
        )

    def unpack(self, step: int | None) -> Run:
        """Return the run, with the step after its last event."""
        lines = self._each()
        names = {}
        if self.names:
            names = {i: _unpack_name(name) for i in range(len(lines)) if (name := self.name(i))}
        return Run(lines, names, step, Form(self.form))

    def identify(self, i: int) -> tuple[str | None, bytes | None]:
        """Return id and digest of a line."""
        name = self.name(i)
        return _unpack_name(name) if name else (None, None)


def head_size(count: int) -> int:
    """Return the size of the head of a run."""
    return _START.size + _ENTRY * count


def shares(head: bytes, count: int) -> Iterator[int]:
    """Return the bytes that each event of a run takes, of its head; see `retention`."""
    numbers = struct.unpack_from(f">{2 * count}I", head, _START.size)
    lines = pairwise((-1, *numbers[:count]))
    names = pairwise((0, *numbers[count:]))
    return (b - a + d - c + _ENTRY for (a, b), (c, d) in zip(lines, names, strict=True))


def _pack_name(identifier: str, digest: bytes) -> bytes:
    return b"".join((bytes((len(digest),)), digest, identifier.encode()))


def _unpack_name(name: bytes) -> tuple[str, bytes]:
    end = 1 + name[0]
    return name[end:].decode(), name[1:end]
