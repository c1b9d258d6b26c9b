"""Opens the event log and the checkpoints that the settings name: the only module that knows all kinds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import StorageFailedError
from ..settings import Settings
from ..storage.checkpoints import FOLDER, CheckpointFiles
from ..storage.data_dir import lock
from ..storage.interfaces import Checkpoints, EventLog
from ..storage.sqlite import SqliteLog
from .continuation import open_log, reported
from .ending import LOST, end_process

if TYPE_CHECKING:
    from ..storage.postgres import PostgresLog
    from ..storage.postgres_cluster import Membership


@dataclass(frozen=True, slots=True)
class Store:
    """Open event log and checkpoints.

    Attributes
    ----------
    log, checkpoints
        Content of the store.
    place : str
        Where it is, for messages.
    reported : callable
        Returns a context manager that completes the messages of `IncompleteLogError`.
    close : callable
        Closes it, so that another process can open it.
    cluster : PostgresLog or None
        The log, if a `ClusterNode` is to claim its shards.
    """

    log: EventLog
    checkpoints: Checkpoints
    place: str
    reported: Callable[[], AbstractContextManager[None]]
    close: Callable[[], None]
    cluster: PostgresLog | None = None


def open_store(settings: Settings, *, serving: bool = False) -> Store:
    """Open the store of the settings, which no other process may use meanwhile.

    Parameters
    ----------
    settings : Settings
        Place of the store.
    serving : bool
        Whether a `ClusterNode` will claim the shards of a store in PostgreSQL. Otherwise all are claimed now.

    Raises
    ------
    FolderInUseError, NotOwnerError
        If another process uses it.
    StorageError
        If it cannot be read or written.
    """
    return _open_folder(settings) if settings.store is None else _open_postgres(settings, serving=serving)


@contextlib.contextmanager
def log_to_repair(settings: Settings) -> Iterator[EventLog]:
    """Open the log of the settings for the block, also a log that has lost events."""
    if settings.store is None:
        with (
            contextlib.closing(lock(settings.data_dir)),
            contextlib.closing(SqliteLog(settings.data_dir)) as log,
        ):
            yield log
    else:
        with contextlib.closing(open_store(settings)) as store:
            yield store.log


def _open_folder(settings: Settings) -> Store:
    folder = settings.data_dir
    with ExitStack() as stack:
        stack.enter_context(lock(folder))
        checkpoints = CheckpointFiles(folder / FOLDER)
        log = stack.enter_context(contextlib.closing(open_log(settings, checkpoints)))
        end = stack.pop_all().close
        return Store(log, checkpoints, str(folder), lambda: reported(folder, checkpoints), end)


def _open_postgres(settings: Settings, *, serving: bool) -> Store:
    try:
        from ..storage.postgres import PostgresLog  # only here: psycopg is optional
        from ..storage.postgres_checkpoints import PostgresCheckpoints
        from ..storage.shared_checkpoints import open_shared
    except ImportError as error:
        raise StorageFailedError(
            f"BNP_STORE needs psycopg: pip install 'bnp-online[cluster]' ({error})"
        ) from error
    assert settings.store is not None  # noqa: S101 (see `open_store`)
    log = PostgresLog(
        settings.store.get_secret_value(),
        () if serving else None,
        relaxed=settings.durability == "relaxed",
        owner=settings.node,
        address=settings.address or "",
        lease=settings.takeover_after,
        lose=partial(end_process, LOST),  # an answer that it would give now might be wrong
    )
    try:
        checkpoints: Checkpoints = PostgresCheckpoints(log)
        if settings.checkpoints is not None:
            checkpoints = open_shared(settings.checkpoints, log, write=settings.role != "replica")
        if serving:
            _require_shards(settings, log.shards)
            log.reserve(settings.node, settings.takeover_after)
    except BaseException:
        log.close()
        raise
    return Store(log, checkpoints, "the store", contextlib.nullcontext, log.close, log if serving else None)


def _require_shards(settings: Settings, count: int) -> None:
    """Raise `StorageFailedError` if the settings name a shard that the cluster does not have."""
    if settings.shards != "auto" and max(settings.shards) >= count:
        raise StorageFailedError(
            f"BNP_SHARDS has the number {max(settings.shards)}, and the cluster has {count} shards: use "
            f"numbers from 0 to {count - 1}, or auto"
        )


def join(
    settings: Settings,
    log: PostgresLog,
    detail: Callable[[], Mapping[str, Any]],
    changed: Callable[[dict[int, int]], None] | None,
) -> Membership:
    """Become a node of the cluster of a log; see `Membership`. With `changed` it follows other nodes."""
    from ..storage.postgres_cluster import Membership  # only here: psycopg is optional

    assert settings.store is not None  # noqa: S101 (its log is open)
    return Membership(
        settings.store.get_secret_value(),
        log,
        name=settings.node,
        role=settings.role,
        address=settings.address or "",
        detail=detail,
        follow=changed is not None,
        changed=changed,
    )
