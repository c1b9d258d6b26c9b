"""Checkpoints as safetensors files, in one folder per model.

Each file is written under a temporary name, flushed and renamed: it is complete or does not exist.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnp_online import checkpoint as format_

from ..errors import StorageFailedError, StorageFullError, is_out_of_descriptors
from .interfaces import Checkpoint

#: Name of the folder in the data folder.
FOLDER = "checkpoints"
_NAME = re.compile(r"step(\d+)-branch(\d+)-event(\d+)-head(\d+)\.safetensors")
#: Errors of a full disk.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_logger = logging.getLogger(__name__)


class CheckpointFiles:
    """Checkpoints in a folder; implements `Checkpoints`.

    The file name has all fields of `Checkpoint`, so that choosing one needs no intact content.

    Parameters
    ----------
    folder : path
        Folder of the checkpoints. The first checkpoint creates it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a state to the disk, and return its checkpoint."""
        path = self.folder(model) / f"step{step}-branch{branch}-event{seq}-head{head}.safetensors"
        try:
            for folder in (self._folder, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            format_.save(path, state, mode=0o600)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise StorageFullError(
                    "the disk is full, the checkpoint cannot be written: free some space"
                ) from error
            raise StorageFailedError(f"the checkpoint cannot be written: {error.strerror}") from error
        return _describe(model, path)

    def probe(self, *, write: bool) -> None:
        """Raise `StorageError` if the folder cannot be read, or, with `write`, not be written."""
        try:
            if write:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=self._folder, prefix="probe-"):
                    pass
            elif self._folder.exists():
                os.listdir(self._folder)
        except OSError as error:
            deed = "written" if write else "read"
            raise StorageFailedError(
                f"the folder {self._folder} cannot be {deed}: {error.strerror}"
            ) from error

    def models(self) -> list[int]:
        """Return the numbers of the models that have a folder, in order."""
        return sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdecimal())

    def list(self, model: int) -> list[Checkpoint]:
        """Return the checkpoints of a model, newest first."""
        found: builtins.list[Checkpoint] = []
        with _readable(), contextlib.suppress(FileNotFoundError):  # none was taken, or the model was deleted
            for name in filter(_NAME.fullmatch, os.listdir(self.folder(model))):
                with contextlib.suppress(FileNotFoundError):  # another thread deletes it
                    found.append(_describe(model, self.folder(model) / name))
        return sorted(found, key=lambda checkpoint: (checkpoint.seq, checkpoint.head), reverse=True)

    def folder(self, model: int) -> Path:
        """Return the folder of a model."""
        return self._folder / str(model)

    def path(self, checkpoint: Checkpoint) -> Path:
        """Return the file of a checkpoint."""
        return self.folder(checkpoint.model) / f"{checkpoint.name}.safetensors"

    def place(self, model: int) -> str:
        """Return where the checkpoints of a model are, for messages."""
        return str(self.folder(model))

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        with _readable():
            return format_.load(self.path(checkpoint))

    def content(self, checkpoint: Checkpoint) -> bytes:
        """Return the content of a checkpoint as it is stored."""
        with _readable():
            return self.path(checkpoint).read_bytes()

    def put(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Store a copy of a checkpoint of another store."""
        path = self.path(checkpoint)
        try:
            for folder in (self._folder, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.utime(path, (checkpoint.time, checkpoint.time))
        except OSError as error:
            kind = StorageFullError if error.errno in NO_ROOM else StorageFailedError
            raise kind(f"the checkpoint cannot be written: {error.strerror}") from error

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint."""
        try:
            self.path(checkpoint).unlink(missing_ok=True)
        except OSError as error:
            raise StorageFailedError(f"the checkpoint cannot be deleted: {error.strerror}") from error

    def drop(self, model: int) -> None:
        """Remove all checkpoints of a model."""
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder(model))
        except OSError as error:
            raise StorageFailedError(f"the checkpoints cannot be deleted: {error.strerror}") from error

    def tidy(self, deleted: Iterable[int]) -> None:
        """Remove what a killed server left: partly written files, and the folders of deleted models."""
        for model in deleted:
            _logger.info("removing the checkpoints of deleted model %d", model)
            shutil.rmtree(self.folder(model), ignore_errors=True)
        for path in self._folder.glob("*/.*.safetensors.*"):
            path.unlink(missing_ok=True)


@contextmanager
def _readable() -> Iterator[None]:
    """Refuse the request if no file can be opened: this is no sign of a damaged or missing checkpoint."""
    try:
        yield
    except OSError as error:
        if is_out_of_descriptors(error):
            raise StorageFailedError("the checkpoints cannot be read: too many open files") from error
        raise


def _describe(model: int, path: Path) -> Checkpoint:
    status = path.stat()
    return described(model, path.stem, status.st_mtime, status.st_size)


def described(model: int, name: str, time: float, size: int) -> Checkpoint:
    """Return the checkpoint with a name, which has its numbers."""
    match = _NAME.fullmatch(f"{name}.safetensors")
    assert match is not None  # noqa: S101 (callers match the name first)
    step, branch, seq, head = map(int, match.groups())
    return Checkpoint(name, model, branch, seq, step, head, time, size)
