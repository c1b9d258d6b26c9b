"""Marks in the history of a model: what happened to it, from the log and the checkpoints."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ..storage import event_codec
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Record, contains
from .hosted import ORIGINAL

Mark: TypeAlias = dict[str, Any]
"""Kind, step, time in seconds since 1970, and what the kind has in addition."""

#: Greatest number of marks of one kind: the latest.
_MOST = 256


def marks_of(history: History, checkpoints: Sequence[Checkpoint]) -> list[Mark]:
    """Return drift actions, rollbacks, unlearnings, upgrades, imports, promotions and checkpoints, by kind.

    The step of an unlearning is None: the unlearning changed the steps of the model. Of the other branches,
    only rollbacks and unlearnings are included, which explain the present state. Marks of a former champion
    have its name as ``champion``, and its steps.
    """
    log, model, segments = history.log, history.model, history.segments()

    def current(kind: Literal["action", "upgraded", "promote", "shadow", "unshadow"]) -> list[Record]:
        return [each for each in log.changes(model, kind) if contains(segments, each.branch, each.seq)]

    imports = [each for each in log.imports(model) if history.counts(each)]
    promotions = current("promote")
    replaced = promotions or imports
    shadows = [*current("shadow"), *current("unshadow")] if replaced else []
    former = _former([*promotions, *shadows], [each.seq for each in imports])
    unlearnings = log.changes(model, "forget")[-_MOST:]
    return [
        *({**_action(each), **former(each.seq), "time": each.time} for each in current("action")[-_MOST:]),
        *_steps("rollback", log.changes(model, "rollback"), former),
        *(_unlearning(each, former(each.seq)) for each in unlearnings),
        *_steps("upgrade", current("upgraded"), former),
        *(
            {"kind": "import", "step": each.step, "time": each.time, **former(each.seq)}
            for each in imports[-_MOST:]
        ),
        *(
            {**mark, "shadow": _name(each)}
            for each, mark in zip(promotions[-_MOST:], _steps("promotion", promotions, former), strict=True)
        ),
        *(
            {
                "kind": "checkpoint",
                "step": each.step,
                "time": each.time,
                "checkpoint": each.name,
                **former(each.seq),
            }
            for each in checkpoints[:_MOST]
        ),
    ]


def _former(changes: Sequence[Record], imports: Sequence[int]) -> Callable[[int], Mark]:
    """Return a function of an event that returns ``champion``, if another one took its place since.

    A champion is known by the event that created it, because its name may have been used before.

    Parameters
    ----------
    changes : sequence of Record
        Creations, deletions and promotions of shadows.
    imports : sequence of int
        Numbers of imports.
    """
    shadows: dict[str, int] = {}
    champion, name = 0, ORIGINAL
    begins, champions = [0], [(champion, name)]
    found = {each.seq: each for each in changes}
    for seq in sorted([*found, *imports]):
        if seq not in found:
            champion, name, shadows = seq, ORIGINAL, {}
        elif found[seq].event.kind == "shadow":
            shadows[_name(found[seq])] = seq
        elif found[seq].event.kind == "unshadow":
            shadows.pop(_name(found[seq]), None)
        else:
            shadows[name] = champion
            name = _name(found[seq])
            champion = shadows.pop(name, seq)  # retention may have removed its creation
        if champions[-1] != (champion, name):
            begins.append(seq)
            champions.append((champion, name))

    def former(seq: int) -> Mark:
        then = champions[bisect.bisect_right(begins, seq) - 1]
        return {} if then == champions[-1] else {"champion": then[1]}

    return former


def located(marks: Sequence[Mark], report: Mapping[str, Any]) -> list[Mark]:
    """Return marks with a step each: a missing one is that of the last point before.

    Examples
    --------
    >>> report = {"start": 0, "step": [10, 20], "time": [1.0, 2.0]}
    >>> located([{"kind": "unlearning", "step": None, "time": 1.5}], report)
    [{'kind': 'unlearning', 'step': 10, 'time': 1.5}]
    """
    steps = [report["start"], *report["step"]]
    return [
        {**each, "step": steps[bisect.bisect_right(report["time"], each["time"])]}
        if each["step"] is None
        else each
        for each in marks
    ]


def _steps(kind: str, records: Sequence[Record], former: Callable[[int], Mark]) -> list[Mark]:
    return [
        {"kind": kind, "step": each.event.step, "time": each.time, **former(each.seq)}
        for each in records[-_MOST:]
    ]


def _action(record: Record) -> Mark:
    body: Mark = event_codec.loads(record.event.body)
    return {"kind": "action", "step": body["step"], "action": body["action"]}


def _unlearning(record: Record, former: Mark) -> Mark:
    """Return the mark of an unlearning; that of a former champion has the step at which it was requested."""
    body = json.loads(record.event.body)
    step = body.get("step") if former else None  # earlier versions logged none
    events = len(body["events"])
    return {"kind": "unlearning", "step": step, "time": record.time, "events": events, **former}


def _name(record: Record) -> str:
    """Return the name of the shadow that was created, deleted or promoted."""
    name: str = event_codec.loads(record.event.body)["name"]
    return name
