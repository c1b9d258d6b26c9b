"""Data folders whose log has lost events: the refusal to start, and the ways to continue.

A log has lost events if it ends before its high-water mark or before a checkpoint, if it does not know a
model that has checkpoints, or if its file is missing or damaged. A start then refuses and changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from bnp_online.errors import StateError

from ..errors import IncompleteLogError
from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec, high_water
from ..storage.checkpoints import FOLDER, CheckpointFiles
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Event, Record, Row
from ..storage.sqlite import FILE, SqliteLog
from . import snapshot

_COMPLETE = "the log has all events of the folder, so there is nothing to repair: start the server"


class Intact(NamedTuple):
    """An intact checkpoint, and the specification of its model."""

    checkpoint: Checkpoint
    spec: ModelSpec


Newest: TypeAlias = dict[int, Intact]


def open_log(settings: Settings, checkpoints: CheckpointFiles) -> SqliteLog:
    """Open the log of a data folder, if it has all events that are known to exist.

    Raises
    ------
    IncompleteLogError
        If it lacks events. The message reports them, and the commands to continue.
    StorageFailedError
        If the log cannot be opened.
    """
    folder = settings.data_dir
    relaxed, known = settings.durability == "relaxed", high_water.read(folder)
    with reported(folder, checkpoints):
        log = SqliteLog(folder, relaxed=relaxed, known=known, heads=_known_heads(checkpoints))
        if unknown := _unknown(log, checkpoints):
            log.close()
            raise IncompleteLogError(f"the event log {folder / FILE} does not know model {unknown[0]}")
    return log


@contextlib.contextmanager
def reported(folder: Path, checkpoints: CheckpointFiles) -> Iterator[None]:
    """Complete the message of an `IncompleteLogError` by a report of the folder and the commands."""
    try:
        yield
    except IncompleteLogError as error:
        raise IncompleteLogError(f"{error}\n{_report(folder, checkpoints)}") from None


def _known_heads(checkpoints: CheckpointFiles) -> dict[int, int]:
    """Return the number of the last event that was logged when a checkpoint was taken, by model."""
    return {
        model: max(kept.head for kept in found)
        for model in checkpoints.models()
        if (found := checkpoints.list(model))
    }


def _unknown(log: SqliteLog, checkpoints: CheckpointFiles) -> list[int]:
    """Return the models that have checkpoints, and neither a creation nor a deletion in the log."""
    made = {record.model for record in log.models()}
    return [
        model
        for model in checkpoints.models()
        if model not in made and checkpoints.list(model) and not log.changes(model, "delete")
    ]


def _report(folder: Path, checkpoints: CheckpointFiles) -> str:
    lines = ["Found, and left as it is:"]
    if mark := high_water.read(folder):
        lines.append(f"  {folder / high_water.NAME}: {mark} events were logged")
    for model in checkpoints.models():
        for kept in checkpoints.list(model)[:1]:
            lines.append(
                f"  {folder / FOLDER / str(model)}: newest checkpoint at step {kept.step}, event {kept.seq}"
            )
    return "\n".join(
        [
            *lines,
            f"If {FILE} or {FILE}-wal is elsewhere, put it back. Otherwise continue with one of these",
            "commands. Each moves what it does not use to a folder aside-..., and deletes nothing.",
            "  bnp-online repair --from checkpoints   models continue from their newest checkpoints;",
            "                                         later samples, ids and earlier steps are lost",
            "  bnp-online repair --from log           models continue from the log that is there",
            "  bnp-online repair --from nothing       the next start is the first",
        ]
    )


class Aside:
    """New folder for files that a repair does not use. It is created with the first file.

    Parameters
    ----------
    folder : path
        The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = time.strftime("aside-%Y%m%dT%H%M%SZ", time.gmtime())
        names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        self.path = next(path for path in map(folder.joinpath, names) if not path.exists())

    def move(self, path: Path) -> None:
        """Move a file or a folder of the data folder, if it exists."""
        if path.exists():
            target = self.path / path.relative_to(self.folder)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.rename(target)

    def report(self) -> list[str]:
        """Return the line of a report that names the folder, if there is one."""
        if not self.path.exists():
            return []
        return [
            f"Files that are no longer used are in {self.path}. They may include samples that were or will "
            "be unlearned: delete them as soon as you do not need them."
        ]

    def move_log(self) -> None:
        """Move the log and its high-water mark."""
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", high_water.NAME):
            self.move(self.folder / name)


def from_nothing(settings: Settings) -> list[str]:
    """Set everything aside; return a report."""
    aside = Aside(settings.data_dir)
    aside.move_log()
    aside.move(settings.data_dir / FOLDER)
    if not aside.path.exists():
        raise IncompleteLogError(f"{settings.data_dir} has neither a log nor checkpoints: start the server")
    return aside.report()


def from_log(settings: Settings) -> list[str]:
    """Set the checkpoints aside that do not belong to the log; return a report.

    Raises
    ------
    IncompleteLogError
        If there is no log, or if it cannot restore a model without these checkpoints. Nothing was changed.
    """
    folder = settings.data_dir
    aside, checkpoints = Aside(folder), CheckpointFiles(folder / FOLDER)
    log = _existing_log(folder)
    if log is None:
        raise IncompleteLogError("there is no readable log: use --from checkpoints or --from nothing")
    with contextlib.closing(log):
        unknown, made = _unknown(log, checkpoints), {record.model for record in log.models()}
        unused = [
            kept
            for kept in _all(checkpoints)
            if kept.model in unknown
            or (kept.model in made and kept.head > log.head(kept.model))
            or _is_foreign(log, checkpoints, kept)
        ]
        if not unused and log.written >= high_water.read(folder):
            raise IncompleteLogError(_COMPLETE)
        said = []
        for record in log.models():
            _require_restorable(log, checkpoints, record, unused)
            name = json_name(record.event.body)
            said.append(f"model {name} continues from the log, which ends at event {log.head(record.model)}")
    for kept in unused:
        aside.move(checkpoints.path(kept))
    aside.move(folder / high_water.NAME)  # the next start writes it
    return [*said, *aside.report()]


def _require_restorable(
    log: SqliteLog, checkpoints: CheckpointFiles, made: Record, unused: list[Checkpoint]
) -> None:
    """Raise `IncompleteLogError` if the log cannot restore a model without some checkpoints."""
    history = History(log, made.model)
    kept = [each for each in checkpoints.list(made.model) if each not in unused]
    if not history.reaches(history.start) and not any(
        _load(checkpoints, each) is not None for each in history.states(kept)
    ):
        raise IncompleteLogError(
            f"the log alone cannot restore model {json_name(made.event.body)}: its older samples were "
            "removed, and no intact checkpoint belongs to the log; use --from checkpoints or --from nothing"
        )


def from_checkpoints(settings: Settings) -> list[str]:
    """Make or complete a log, so that each model continues from its newest intact checkpoint.

    Returns
    -------
    list of str
        Lines of a report.

    Raises
    ------
    IncompleteLogError
        If there is neither an intact checkpoint nor a log. Nothing was changed.
    """
    folder = settings.data_dir
    aside, checkpoints = Aside(folder), CheckpointFiles(folder / FOLDER)
    known, heads, newest = high_water.read(folder), _known_heads(checkpoints), _newest_intact(checkpoints)
    said: list[str] = []
    log = _existing_log(folder)
    if log is not None and _contradicts(log, checkpoints, newest):
        names = [json_name(record.event.body) for record in log.models() if record.model not in newest]
        said += [f"model {name} is set aside with the log" for name in names]
        log.close()
        log = None
    if log is not None and _is_complete(log, known, heads) and not _unknown(log, checkpoints):
        log.close()
        raise IncompleteLogError(_COMPLETE)
    if log is None:
        if not newest:
            raise IncompleteLogError("there is no intact checkpoint: use --from log or --from nothing")
        aside.move_log()
        log = SqliteLog(folder)
    with contextlib.closing(log):
        said += _continue(log, checkpoints, newest, heads, aside)
    return [*said, *aside.report()]


def _is_complete(log: SqliteLog, known: int, heads: Mapping[int, int]) -> bool:
    """Return whether a log has reached all known events of its models."""
    made = {record.model for record in log.models()}
    return log.written >= known and all(log.head(m) >= head for m, head in heads.items() if m in made)


def _contradicts(log: SqliteLog, checkpoints: CheckpointFiles, newest: Newest) -> bool:
    """Return whether a log is of another history than the checkpoints, or has another model of a name."""
    unknown = _unknown(log, checkpoints)
    names = {json_name(record.event.body) for record in log.models()}
    return (
        any(model <= log.latest_model for model in unknown)
        or any(newest[model].spec.name in names for model in unknown if model in newest)
        or any(_is_foreign(log, checkpoints, kept) for kept in _all(checkpoints))
    )


def _existing_log(folder: Path) -> SqliteLog | None:
    """Open the log as it is; None if it is missing or damaged."""
    if not high_water.read(folder) and not (folder / FILE).exists():
        return None
    with contextlib.suppress(IncompleteLogError):
        return SqliteLog(folder, known=1)
    return None


def _is_foreign(log: SqliteLog, checkpoints: CheckpointFiles, kept: Checkpoint) -> bool:
    """Return whether the last event of a checkpoint differs from the event of the log with its number."""
    found = log.checksum(kept.model, kept.seq)
    if found is None or log.first_kept(kept.model) > kept.seq:
        return False
    state = _load(checkpoints, kept)  # no start uses a damaged one
    return state is not None and snapshot.signature(state) not in (None, found)


def _continue(
    log: SqliteLog, checkpoints: CheckpointFiles, newest: Newest, heads: Mapping[int, int], aside: Aside
) -> list[str]:
    """Add the events to a log by which the models continue; return a report."""
    known = {record.model: json_name(record.event.body) for record in log.models()}
    names: set[str] = set()
    rows: list[Row] = []
    pruned: dict[int, int] = {}
    said: list[str] = []
    for model in sorted({*checkpoints.models()} - {*known, *newest}):
        if not log.changes(model, "delete"):  # all its checkpoints are damaged
            aside.move(checkpoints.folder(model))
    for model, (kept, spec) in sorted(newest.items(), reverse=True):
        if log.changes(model, "delete"):
            continue
        if spec.name in names:  # an earlier model of this name, which was deleted later
            aside.move(checkpoints.folder(model))
            continue
        names.add(spec.name)
        if model in known and kept.seq <= log.head(model):
            continue  # the log has all events that the checkpoint includes
        rows += _lost_rows(log, kept, spec, known=model in known)
        pruned[model] = kept.seq + 1
        said.append(f"model {spec.name} continues from step {kept.step}")
    # A change of nothing, with a number beyond all known ones.
    for model in {*known, *pruned}:
        last = max(heads.get(model, 0), log.head(model) if model in known else 0) + 1
        branch = newest[model].checkpoint.branch if model in pruned else History(log, model).branch
        rows.append((last, model, branch, Event("patch", b"{}")))
    log.restore(rows, pruned)
    others = [name for model, name in known.items() if model not in pruned]
    return [*said[::-1], *(f"model {name} continues from the log" for name in others)]


def json_name(body: bytes) -> str:
    """Return the name in the body of a creation."""
    name: str = event_codec.loads(body)["name"]
    return name


def _lost_rows(log: SqliteLog, kept: Checkpoint, spec: ModelSpec, *, known: bool) -> list[Row]:
    """Return the events of a model that a log must have before the model continues from a checkpoint.

    The creation has its number. An event with the number of the checkpoint's last event stands for the lost
    ones; for a branch that the log does not know, it is the rollback that started it.
    """
    model, branch = kept.model, kept.branch
    rows: list[Row] = []
    if not known:
        rows.append((model, model, 0, Event("create", spec.model_dump_json().encode(), step=0)))
    branches = {each.number for each in History(log, model).branches} if known else {0}
    if kept.seq != model:
        event = Event("patch", b"{}", step=kept.step)
        if branch not in branches:
            body = event_codec.dumps({"parent": 0, "fork": model})
            event = Event("rollback", body, step=kept.step)
        rows.append((kept.seq, model, branch, event))
    return rows


def _all(checkpoints: CheckpointFiles) -> list[Checkpoint]:
    return [kept for model in checkpoints.models() for kept in checkpoints.list(model)]


def _newest_intact(checkpoints: CheckpointFiles) -> Newest:
    """Return the newest intact checkpoint of each model that has one."""
    found: Newest = {}
    for kept in _all(checkpoints):
        if kept.model not in found and (state := _load(checkpoints, kept)) is not None:
            spec = snapshot.specification(state["service"]["spec"])
            found[kept.model] = Intact(kept, spec)
    return found


def _load(checkpoints: CheckpointFiles, kept: Checkpoint) -> dict[str, Any] | None:
    """Return the state in a checkpoint; None if it is damaged."""
    with contextlib.suppress(StateError, OSError):
        return checkpoints.load(kept)
    return None
