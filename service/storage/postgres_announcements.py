"""Announcements of new events in PostgreSQL, from the owners of shards to the processes that follow them.

An owner sends notifications (``NOTIFY``) on a connection of its own, since a commit with a notification would
wait for those of all other processes. A notification may be lost with a connection. So a follower reads the
tables after each connect, and those of a shard whose owner is silent.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import psycopg

from ..errors import StorageError
from .postgres_connection import Connection, Reconnecting, Texts, translated

if TYPE_CHECKING:
    from .postgres import PostgresLog

#: Least seconds between two announcements, and most.
PERIOD, SILENCE = 0.02, 0.25
#: Seconds without an announcement of its owner after which a follower reads the tables of a shard.
_DEAF = 1.0
#: Seconds between two looks at the clock of the server.
_CHECK = 1.0
#: Seconds for which `Follower.close` waits for the thread.
_CLOSING = 2.0
#: Models, or shards, in one notification: its size is limited to 8000 bytes.
_ENTRIES = 150
#: Channel of a cluster: there may be several in a database.
_CHANNEL = "SELECT 'bnp_' || 'shard'::regclass::oid"
_NOTIFY = f"SELECT pg_notify(({_CHANNEL}), payload) FROM unnest(%s) AS payload"  # noqa: S608
#: Clock of the server: those of the machines differ.
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"

_logger = logging.getLogger(__name__)


class News:
    """Numbers of committed events that were not announced yet.

    Attributes
    ----------
    arrived : threading.Event
        Set while there are some.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heads: dict[int, int] = {}
        self.arrived = threading.Event()

    def add(self, heads: Mapping[int, int]) -> None:
        """Add the number of the last event of models."""
        with self._lock:
            self._heads.update(heads)
        self.arrived.set()

    def take(self) -> dict[int, int]:
        """Return the numbers since the last call."""
        with self._lock:
            self.arrived.clear()
            heads, self._heads = self._heads, {}
        return heads


class Announcer:
    """Announcements of the shards that a process owns.

    Parameters
    ----------
    node : str
        Name of the process.
    log : PostgresLog
        Its log.
    """

    def __init__(self, node: str, log: PostgresLog) -> None:
        self._node = node
        self._log = log
        self._unsent: dict[int, int] = {}
        self._sent = 0.0
        self._connection: Connection | None = None
        self._offset = self._checked = 0.0  # from `time.monotonic` to the server's clock, at most

    def announce(self, connection: Connection) -> None:
        """Announce what was committed since the last call; without any, every `SILENCE` seconds.

        If it fails, the next call announces the same again.
        """
        if connection is not self._connection:
            self._set_clock(connection)
            self._connection = connection
        epochs = self._log.epochs  # before the events: those of a shard that is claimed now come next
        taken = time.monotonic() + self._offset
        self._unsent.update(self._log.news.take())
        if self._unsent or (epochs and time.monotonic() >= self._sent + SILENCE - PERIOD):
            connection.execute(_NOTIFY, (Texts(self._payloads(epochs, taken)),))
            self._unsent = {}
            self._sent = time.monotonic()
            if self._sent > self._checked + _CHECK:
                self._set_clock(connection)

    def _set_clock(self, connection: Connection) -> None:
        [(now,)] = connection.execute(_CLOCK).fetchall()
        self._checked = time.monotonic()
        self._offset = now - self._checked

    def _payloads(self, epochs: Mapping[int, int], taken: float) -> Iterable[str]:
        """Return the notifications, those with the shards last: a follower then knows all events of them."""
        for name, values in (("heads", self._unsent), ("shards", epochs)):
            entries = [*values.items()]
            for start in range(0, len(entries), _ENTRIES):
                some = dict(entries[start : start + _ENTRIES])
                yield json.dumps({"node": self._node, "time": taken, name: some}, separators=(",", ":"))


class Follower:
    """Numbers of the last events of models that other processes own, from announcements and from the tables.

    A thread receives the announcements from `start` to `close`.

    Parameters
    ----------
    open_ : callable
        Opens a connection.
    log : PostgresLog
        Log of this process. The shards that it owns itself are not read from the tables.
    changed : callable, optional
        Called from the thread after each change, with the models whose last event has another number and
        these numbers. It must not raise.

    Attributes
    ----------
    heads : dict of int to int
        Number of the last known event of each model, by the number of the model. A model that is missing was
        deleted, or is not known yet. A number that falls means that the log lost events (a replica with
        asynchronous replication was promoted): the state of the model must be restored from the log.
    heard : dict of int to float
        Time of `time.monotonic` at which it was last known that a shard has no events beyond `heads`: by an
        announcement of its owner, or by reading its tables. `heads` is complete for this time if `heard` is
        read before it.
    connected : float
        Time of `time.monotonic` at which the connection was opened. Shortly after it, an owner may not have
        its locks again: the server was restarted.

    Notes
    -----
    A state that includes event ``heads[model]``, of a model in shard `s`, is as of the time ``heard[s]``.
    """

    def __init__(
        self,
        open_: Callable[[], Connection],
        log: PostgresLog,
        changed: Callable[[dict[int, int]], None] | None = None,
    ) -> None:
        self.heads: dict[int, int] = {}
        self.heard: dict[int, float] = {}
        self.connected = time.monotonic()
        self._log = log
        self._changed = changed
        self._session = Reconnecting(open_, patience=0.0)
        self._listening: Connection | None = None
        self._offset = self._checked = 0.0  # from the server's clock to `time.monotonic`, at least
        self._epochs: dict[int, int] = {}
        self._models: dict[int, set[int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follow", daemon=True)

    def start(self) -> None:
        """Read the tables, then follow the announcements in a thread.

        Raises
        ------
        StorageFailedError
            If the server cannot be reached.
        """
        with translated():
            self._connect()
        self._thread.start()

    def close(self) -> None:
        """End the thread, and close the connection. It waits shortly for a server that does not answer."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING)
        self._session.close()

    def _run(self) -> None:
        failed = False
        while not self._ended.is_set():
            try:
                with translated():
                    self._listen(self._connect())
                failed = False
            except StorageError as error:
                if not failed:
                    _logger.warning("events of other processes cannot be followed: %s", error)
                failed = True
                self._ended.wait(SILENCE)

    def _connect(self) -> Connection:
        """Return the connection. Announcements may have been lost before it was opened."""
        connection = self._session.get(0.0)
        if connection is not self._listening:
            [(channel,)] = connection.execute(_CHANNEL).fetchall()
            connection.execute(f"LISTEN {channel}")
            self.connected = time.monotonic()
            self._set_clock(connection)
            self._read(range(self._log.shards))
            self._listening = connection
        return connection

    def _listen(self, connection: Connection) -> None:
        """Receive announcements for a short time, then read the tables of shards with a silent owner."""
        try:
            for note in connection.notifies(timeout=SILENCE):
                self._receive(json.loads(note.payload))
            if time.monotonic() > self._checked + _CHECK:
                self._set_clock(connection)
        except psycopg.OperationalError:
            connection.close()
            raise
        since = time.monotonic() - _DEAF
        self._read([shard for shard in range(self._log.shards) if self.heard.get(shard, 0.0) < since])

    def _set_clock(self, connection: Connection) -> None:
        self._checked = time.monotonic()
        [(now,)] = connection.execute(_CLOCK).fetchall()
        self._offset = self._checked - now

    def _receive(self, announcement: Mapping[str, Any]) -> None:
        """Take an announcement, which may have waited for long, also while this process was suspended."""
        new = {int(model): head for model, head in announcement.get("heads", {}).items()}
        heads = {model: head for model, head in new.items() if head > self.heads.get(model, 0)}
        self.heads |= heads
        taken = min(announcement["time"] + self._offset, time.monotonic())
        for name, epoch in announcement.get("shards", {}).items():
            shard = int(name)
            if epoch >= self._epochs.get(shard, 0):  # not by a former owner, which cannot know all events
                self._epochs[shard] = epoch
                self.heard[shard] = max(self.heard.get(shard, taken), taken)
        self._report(heads)

    def _read(self, shards: Iterable[int]) -> None:
        """Read the last numbers from the tables of shards."""
        owned = self._log.epochs
        for shard in shards:
            if shard in owned:
                continue
            now = time.monotonic()
            heads = self._log.heads_of(shard)
            changed = {model: head for model, head in heads.items() if self.heads.get(model) != head}
            for model in self._models.get(shard, set()) - {*heads}:
                self.heads.pop(model, None)
            self._models[shard] = {*heads}
            self.heads |= heads
            self.heard[shard] = now
            self._report(changed)

    def _report(self, heads: dict[int, int]) -> None:
        if heads and self._changed is not None:
            self._changed(heads)
