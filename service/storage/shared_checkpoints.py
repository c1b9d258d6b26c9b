"""Checkpoints outside the database of a log in PostgreSQL: in a shared folder or an object store.

The log decides who may write: a process that does not own the shard of a model is refused.
"""

from __future__ import annotations

import builtins
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnp_online import checkpoint as format_

from ..errors import StorageError, StorageFailedError, StorageFullError
from .checkpoints import NO_ROOM, CheckpointFiles, described
from .interfaces import Checkpoint, Checkpoints
from .postgres import PostgresLog

_logger = logging.getLogger(__name__)


def open_shared(place: str, log: PostgresLog, *, write: bool = True) -> FencedCheckpoints:
    """Open the checkpoints in a folder, or at a URL as ``s3://bucket/folder``.

    Parameters
    ----------
    place : str
        The folder or URL.
    log : PostgresLog
        The log.
    write : bool
        Whether this process will write checkpoints.

    Raises
    ------
    StorageFailedError
        If they cannot be read, or not be written.
    """
    inner = at(place)
    try:
        inner.probe(write=write)
    except StorageError as error:
        raise StorageFailedError(f"BNP_CHECKPOINTS: {error}") from error
    checkpoints = FencedCheckpoints(inner, log)
    checkpoints.remove_later()
    return checkpoints


def at(place: str) -> CheckpointFiles | CheckpointObjects:
    """Return the checkpoints in a folder or at a URL, which anyone may write."""
    folder = place.removeprefix("file://")
    return CheckpointObjects(place) if "://" in folder else CheckpointFiles(Path(folder))


class FencedCheckpoints:
    """Checkpoints that only the owner of a model writes and deletes; implements `Checkpoints`.

    Parameters
    ----------
    inner : Checkpoints
        The checkpoints of all models of the cluster.
    log : PostgresLog
        The log.
    """

    def __init__(self, inner: Checkpoints, log: PostgresLog) -> None:
        self._inner = inner
        self._log = log

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a state, and return its checkpoint."""
        self._log.require(model)
        return self._inner.save(model, branch, seq, step, head, state)

    def models(self) -> builtins.list[int]:
        """Return the numbers of the models of the shards that have checkpoints, in order."""
        return [model for model in self._inner.models() if self._log.owns(model)]

    def list(self, model: int) -> builtins.list[Checkpoint]:
        """Return the checkpoints of a model, newest first."""
        return self._inner.list(model)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        return self._inner.load(checkpoint)

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint."""
        self._log.require(checkpoint.model)
        self._inner.delete(checkpoint)

    def drop(self, model: int) -> None:
        """Remove all checkpoints of a model."""
        self._log.require(model)
        self._inner.drop(model)

    def tidy(self, deleted: Iterable[int]) -> None:
        """Remove the checkpoints of deleted models. Another process may just write a file: those stay."""
        for model in deleted:
            self.drop(model)

    def place(self, model: int) -> str:
        """Return where the checkpoints of a model are, for messages."""
        return self._inner.place(model)

    def remove_later(self) -> None:
        """Remove checkpoints with events that the log lacks: it continues from an older copy of itself."""
        made = {record.model for record in self._log.models()}
        for model in self.models():
            later = [each for each in self.list(model) if model in made and each.head > self._log.head(model)]
            for each in later:
                _logger.error(
                    "the log ends at event %d of model %d, and checkpoint %s includes later ones: it is "
                    "removed, and the samples after the end of the log are lost",
                    *(self._log.head(model), model, each.name),
                )
                self.delete(each)


class CheckpointObjects:
    """Checkpoints in an object store; implements `Checkpoints`. An object is complete or does not exist.

    Parameters
    ----------
    url : str
        ``s3://bucket/folder``, or a URL of another protocol of fsspec.

    Raises
    ------
    StorageFailedError
        If the package for the protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # only here: it is optional

        with _translated(url):
            files, self._root = fsspec.core.url_to_fs(url.rstrip("/"), use_listings_cache=False)
            self._files: Any = files
        self._url = url.rstrip("/")

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a state, and return its checkpoint."""
        name = f"step{step}-branch{branch}-event{seq}-head{head}"
        with _translated(self._url):
            path = f"{self._root}/{model}/{name}.safetensors"
            self._files.pipe_file(path, format_.dumps(state))
            return self._described(model, self._files.info(path))

    def probe(self, *, write: bool) -> None:
        """Raise `StorageError` if no object can be listed, or, with `write`, written and deleted."""
        self._ls(self._root)
        if write:
            path = f"{self._root}/probe-{secrets.token_hex(8)}"
            with _translated(self._url):
                self._files.pipe_file(path, b"")
                self._files.rm_file(path)

    def models(self) -> builtins.list[int]:
        """Return the numbers of the models that have checkpoints, in order."""
        names = (each["name"].rstrip("/").rpartition("/")[2] for each in self._ls(self._root))
        return sorted(int(name) for name in names if name.isdecimal())

    def list(self, model: int) -> builtins.list[Checkpoint]:
        """Return the checkpoints of a model, newest first."""
        objects = [
            each for each in self._ls(f"{self._root}/{model}") if each["name"].endswith(".safetensors")
        ]
        found = [self._described(model, each) for each in objects]
        return sorted(found, key=lambda checkpoint: (checkpoint.seq, checkpoint.head), reverse=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        with _translated(self._url):
            return format_.loads(self._files.cat_file(self._path(checkpoint)))

    def content(self, checkpoint: Checkpoint) -> bytes:
        """Return the content of a checkpoint as it is stored."""
        with _translated(self._url):
            return bytes(self._files.cat_file(self._path(checkpoint)))

    def put(self, checkpoint: Checkpoint, content: bytes) -> None:
        """Store a copy of a checkpoint of another store."""
        with _translated(self._url):
            self._files.pipe_file(self._path(checkpoint), content)

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint."""
        with _translated(self._url):
            if self._files.exists(self._path(checkpoint)):
                self._files.rm_file(self._path(checkpoint))

    def drop(self, model: int) -> None:
        """Remove all checkpoints of a model."""
        for checkpoint in self.list(model):
            self.delete(checkpoint)

    def tidy(self, deleted: Iterable[int]) -> None:
        """Remove the checkpoints of deleted models."""
        for model in deleted:
            self.drop(model)

    def place(self, model: int) -> str:
        """Return where the checkpoints of a model are, for messages."""
        return f"{self._url}/{model}"

    def _path(self, checkpoint: Checkpoint) -> str:
        return f"{self._root}/{checkpoint.model}/{checkpoint.name}.safetensors"

    def _ls(self, path: str) -> builtins.list[dict[str, Any]]:
        with _translated(self._url):
            try:
                return list(self._files.ls(path, detail=True))
            except FileNotFoundError:  # none was taken
                return []

    def _described(self, model: int, info: Mapping[str, Any]) -> Checkpoint:
        name = str(info["name"]).rpartition("/")[2].removesuffix(".safetensors")
        return described(model, name, self._files.modified(info["name"]).timestamp(), int(info["size"]))


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate errors of the object store."""
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise StorageFullError(f"the checkpoints in {url} cannot be written: free some space") from error
        raise StorageFailedError(f"the checkpoints in {url} cannot be read or written: {error}") from error
