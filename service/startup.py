"""The start of a server: its data folder is opened, and every model is brought to where it was."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import IO

from service.errors import DamagedEventError, NotKeptError, StorageError
from service.history import History
from service.hosted import HostedModel
from service.progress import progress
from service.recovery import Recovery
from service.settings import Settings
from service.store.files import CheckpointFiles
from service.store.folder import FolderInUseError, lock
from service.store.sqlite import SqliteLog

#: What keeps a server from starting, and says what to do.
START_ERRORS = (FolderInUseError, StorageError, DamagedEventError, NotKeptError, OSError)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a server stands on.

    Attributes
    ----------
    folder : file
        The data folder is this server's until it is closed.
    log, checkpoints
        What is in it.
    models : list of (History, Recovery, HostedModel)
        As they were when the last server ended, and what brought them there.
    """

    folder: IO[str]
    log: SqliteLog
    checkpoints: CheckpointFiles
    models: list[tuple[History, Recovery, HostedModel]]

    def close(self) -> None:
        """Let go of the data folder."""
        self.log.close()
        self.folder.close()


def open_folder(settings: Settings) -> Opened:
    """Open the data folder; what was not learned from the log yet is learned now, with a progress bar.

    Raises
    ------
    FolderInUseError
        If another server uses it.
    StorageError
        If it cannot be read or written.
    DamagedEventError, NotKeptError
        If a model cannot be brought to where it was.
    """
    folder = lock(settings.data_dir)
    try:
        log = SqliteLog(settings.data_dir, relaxed=settings.durability == "relaxed")
        checkpoints = CheckpointFiles(settings.data_dir / "checkpoints")
        made = log.models()
        checkpoints.tidy({record.model for record in made})
        models = [_recover(History(log, record.model), checkpoints, settings) for record in made]
    except BaseException:
        folder.close()
        raise
    return Opened(folder, log, checkpoints, models)


def _recover(
    history: History, checkpoints: CheckpointFiles, settings: Settings
) -> tuple[History, Recovery, HostedModel]:
    for kept in history.tainted(checkpoints.list(history.model)):
        checkpoints.delete(kept)  # a server that was killed while it unlearned has left it
    recovery = Recovery(history, checkpoints, settings)
    model = recovery.base()
    start, left = model.step, recovery.left(model)
    with progress(f"replaying {model.name}", left) as advance:
        model = recovery.run_on(model, advance=advance)
    _logger.info("model %r is at step %d: %d, and %d events", model.name, model.step, start, left)
    return history, recovery, model
