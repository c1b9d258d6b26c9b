"""Marks in the history of a model: what happened to it, from the log and the checkpoints."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..storage import event_codec
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Record, contains

Mark: TypeAlias = dict[str, Any]
"""Kind, step, time in seconds since 1970, and what the kind has in addition."""

#: Greatest number of marks of one kind: the latest.
_MOST = 256


def logged_marks(history: History) -> list[Mark]:
    """Return drift actions, rollbacks, unlearnings, upgrades, imports and promotions, by kind.

    The step of an unlearning is None, since the log does not have it. Of the other branches, only rollbacks
    and unlearnings are included, which explain the present state.
    """
    log, model, segments = history.log, history.model, history.segments()
    actions = [each for each in log.changes(model, "action") if contains(segments, each.branch, each.seq)]
    upgrades = [each for each in log.changes(model, "upgraded") if contains(segments, each.branch, each.seq)]
    imports = [each for each in log.imports(model) if history.counts(each)]
    promotions = [each for each in log.changes(model, "promote") if contains(segments, each.branch, each.seq)]
    return [
        *({"kind": "action", **_action(each), "time": each.time} for each in actions[-_MOST:]),
        *_steps("rollback", log.changes(model, "rollback")),
        *(
            {"kind": "unlearning", "step": None, "time": each.time, "events": _removed(each)}
            for each in log.changes(model, "forget")[-_MOST:]
        ),
        *_steps("upgrade", upgrades),
        *({"kind": "import", "step": each.step, "time": each.time} for each in imports[-_MOST:]),
        *(
            {"kind": "promotion", "step": each.event.step, "time": each.time, "shadow": _promoted(each)}
            for each in promotions[-_MOST:]
        ),
    ]


def checkpoint_marks(checkpoints: Sequence[Checkpoint]) -> list[Mark]:
    """Return the marks of checkpoints."""
    return [
        {"kind": "checkpoint", "step": each.step, "time": each.time, "checkpoint": each.name}
        for each in checkpoints[:_MOST]
    ]


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


def _steps(kind: str, records: Sequence[Record]) -> list[Mark]:
    return [{"kind": kind, "step": each.event.step, "time": each.time} for each in records[-_MOST:]]


def _action(record: Record) -> Mark:
    body: Mark = event_codec.loads(record.event.body)
    return {"step": body["step"], "action": body["action"]}


def _promoted(record: Record) -> str:
    name: str = event_codec.loads(record.event.body)["name"]
    return name


def _removed(record: Record) -> int:
    return len(json.loads(record.event.body)["events"])
