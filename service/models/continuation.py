"""Data folders whose log has lost events: the refusal to start, and the ways to continue.

A log has lost events if it ends before its high-water mark or before a checkpoint, if it does not know a
model that has checkpoints, or if its file is missing or damaged. A start then refuses and changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnp_online.errors import StateError

from ..errors import IncompleteLogError
from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec, high_water
from ..storage.checkpoints import FOLDER, CheckpointFiles
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Event, Row
from ..storage.sqlite import FILE, SqliteLog
from . import snapshot


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
    relaxed, known = settings.durability == "relaxed", _last_known(folder, checkpoints)
    with reported(folder, checkpoints):
        log = SqliteLog(folder, relaxed=relaxed, known=known)
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


def _last_known(folder: Path, checkpoints: CheckpointFiles) -> int:
    heads = [kept.head for model in checkpoints.models() for kept in checkpoints.list(model)]
    return max(high_water.read(folder), *heads, 0, 0)


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
        lines.append(f"  {folder / high_water.NAME}: event {mark} was logged")
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


@dataclass
class Aside:
    """Folder for files that a repair does not use. It is created with the first file.

    Parameters
    ----------
    folder : path
        The data folder.
    """

    folder: Path
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.folder / time.strftime("aside-%Y%m%dT%H%M%SZ", time.gmtime())

    def move(self, path: Path) -> None:
        """Move a file or a folder of the data folder, if it exists."""
        if path.exists():
            target = self.path / path.relative_to(self.folder)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.rename(target)

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
    return [f"Moved the log and the checkpoints to {aside.path}."]


def from_log(settings: Settings) -> list[str]:
    """Set the checkpoints aside that do not belong to the log; return a report."""
    folder = settings.data_dir
    aside, checkpoints = Aside(folder), CheckpointFiles(folder / FOLDER)
    log = _existing_log(folder)
    if log is None:
        raise IncompleteLogError("there is no readable log: use --from checkpoints or --from nothing")
    with contextlib.closing(log):
        unknown = _unknown(log, checkpoints)
        for model in checkpoints.models():
            for kept in checkpoints.list(model):
                if model in unknown or kept.head > log.head or _is_foreign(log, checkpoints, kept):
                    aside.move(checkpoints.path(kept))
        head = log.head
    (folder / high_water.NAME).unlink(missing_ok=True)  # the next start writes it
    moved = f" Later checkpoints are in {aside.path}." if aside.path.exists() else ""
    return [f"The models continue from the log, which ends at event {head}.{moved}"]


def from_checkpoints(settings: Settings) -> list[str]:
    """Make or complete a log, so that each model continues from its newest intact checkpoint.

    Returns
    -------
    list of str
        Lines of a report.
    """
    folder = settings.data_dir
    aside, checkpoints = Aside(folder), CheckpointFiles(folder / FOLDER)
    last = _last_known(folder, checkpoints)
    log = _existing_log(folder)
    if log is not None and any(
        _is_foreign(log, checkpoints, kept)
        for model in checkpoints.models()
        for kept in checkpoints.list(model)
    ):
        log.close()
        log = None
    if log is None:
        aside.move_log()
        log = SqliteLog(folder)
    with contextlib.closing(log):
        said = _continue(log, checkpoints, max(last, log.head), aside)
    if aside.path.exists():
        said.append(f"Files that are no longer used are in {aside.path}.")
    return said


def _existing_log(folder: Path) -> SqliteLog | None:
    """Open the log as it is; None if it is missing or damaged."""
    if not high_water.read(folder) and not (folder / FILE).exists():
        return None
    with contextlib.suppress(IncompleteLogError):
        return SqliteLog(folder, known=1)
    return None


def _is_foreign(log: SqliteLog, checkpoints: CheckpointFiles, kept: Checkpoint) -> bool:
    """Return whether the last event of a checkpoint differs from the event of the log with its number."""
    found = log.checksum(kept.seq)
    if found is None or log.first_kept(kept.model) > kept.seq:
        return False
    try:
        return snapshot.signature(checkpoints.load(kept)) not in (None, found)
    except StateError:  # damaged: no start uses it
        return False


def _continue(log: SqliteLog, checkpoints: CheckpointFiles, last: int, aside: Aside) -> list[str]:
    known = {record.model: json_name(record.event.body) for record in log.models()}
    deleted = {model for model in checkpoints.models() if log.changes(model, "delete")}
    names: dict[str, int] = {}
    rows: list[Row] = []
    pruned: dict[int, int] = {}
    said: list[str] = []
    for model in sorted(set(checkpoints.models()) - deleted, reverse=True):
        newest = _newest_intact(checkpoints, model)
        if newest is None:
            if model not in known:
                aside.move(checkpoints.folder(model))
            continue
        kept, state = newest
        spec = ModelSpec.model_validate_json(event_codec.dumps(state["service"]["spec"]))
        if spec.name in names:  # an earlier model of this name, which was deleted later
            aside.move(checkpoints.folder(model))
            continue
        names[spec.name] = model
        if model in known and kept.head <= log.head:
            continue
        last += 1
        rows += _rows(log, kept, spec, known=model in known, number=last)
        pruned[model] = kept.seq + 1
        said.append(f"model {spec.name} continues from step {kept.step}")
    if not rows and not known:
        raise IncompleteLogError("there is no intact checkpoint: use --from log or --from nothing")
    log.restore(rows, pruned)
    others = [name for model, name in known.items() if model not in pruned]
    return [*said[::-1], *(f"model {name} continues from the log" for name in others)]


def json_name(body: bytes) -> str:
    """Return the name in the body of a creation."""
    name: str = event_codec.loads(body)["name"]
    return name


def _rows(log: SqliteLog, kept: Checkpoint, spec: ModelSpec, *, known: bool, number: int) -> list[Row]:
    """Return the events by which a model continues from a checkpoint.

    The creation has its number. An event with the number of the checkpoint's last event stands for the lost
    ones; for a branch that the log does not know, it is the rollback that started it. A change of nothing has
    a new number, beyond all known ones.
    """
    model, branch = kept.model, kept.branch
    rows: list[Row] = []
    if not known:
        rows.append((model, model, 0, Event("create", spec.model_dump_json().encode(), step=0)))
    branches = {each.number for each in History(log, model).branches} if known else {0}
    if kept.seq != model and log.checksum(kept.seq) is None:
        event = Event("patch", b"{}", step=kept.step)
        if branch not in branches:
            body = event_codec.dumps({"parent": 0, "fork": model})
            event = Event("rollback", body, step=kept.step)
        rows.append((kept.seq, model, branch, event))
    rows.append((number, model, branch, Event("patch", b"{}")))
    return rows


def _newest_intact(checkpoints: CheckpointFiles, model: int) -> tuple[Checkpoint, dict[str, Any]] | None:
    for kept in checkpoints.list(model):
        with contextlib.suppress(StateError, OSError):
            return kept, checkpoints.load(kept)
    return None
