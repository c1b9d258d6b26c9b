"""Ownership of shards in PostgreSQL.

The advisory lock of a session decides which process may claim a shard; the server releases it as soon
as the connection ends. An *epoch*, which each claim raises, decides whether a write counts: a process whose
epoch has passed is *fenced*. So two processes never both write to a shard, however long one of them was
suspended.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Callable, Collection

import psycopg

from ..errors import FencedError, NotOwnerError, OwnershipLostError, StorageError, StorageFailedError
from .postgres_connection import Connection, Integers, Reconnecting, translated

#: Locks the rows of the shards whose epochs are those of the parameters, so that no claim succeeds before the
#: end of the transaction. The order prevents a deadlock.
HELD = """
SELECT shard.shard FROM shard JOIN unnest(%s, %s) AS mine (shard, epoch)
ON shard.shard = mine.shard AND shard.epoch = mine.epoch ORDER BY shard.shard FOR SHARE OF shard
"""
_MINE = HELD.replace("SHARE", "NO KEY UPDATE")
_RENEW = f"""
WITH mine AS ({_MINE})
UPDATE shard SET expires = now() + %s * interval '1 second' FROM mine WHERE shard.shard = mine.shard
"""  # noqa: S608
_CLAIM = """
UPDATE shard SET epoch = epoch + 1, owner = %s, address = %s, expires = now() + %s * interval '1 second'
WHERE shard = %s RETURNING epoch
"""
#: A wish is fulfilled.
_MOVED = "DELETE FROM move WHERE shard = %s AND node = %s"
_RELEASE = "UPDATE shard SET owner = NULL, address = NULL, expires = NULL WHERE shard = %s AND epoch = %s"
_LEAVE = f"""
WITH mine AS ({_MINE})
UPDATE shard SET owner = NULL, address = NULL, expires = NULL FROM mine WHERE shard.shard = mine.shard
"""  # noqa: S608
#: Number of the advisory lock of a shard: those of two clusters in one database differ.
_KEY = "('shard'::regclass::oid::bigint << 32) + %s"
_TRY = f"SELECT pg_try_advisory_lock({_KEY})"
_UNLOCK = f"SELECT pg_advisory_unlock({_KEY})"
_HOLDER = f"""
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32) + objid::bigint = {_KEY} AND pid <> pg_backend_pid()
"""  # noqa: S608
_TERMINATE = f"SELECT pg_terminate_backend(pid) FROM ({_HOLDER}) AS holder"  # noqa: S608
#: The same for the name of a node.
_TRY_NAME = _TRY.replace("shard", "node")
_TERMINATE_NAME = _TERMINATE.replace("'shard'", "'node'")
_SEEN = "SELECT address, extract(epoch FROM now() - seen)::float8 FROM node WHERE name = %s"
_SEE = "UPDATE node SET seen = now() WHERE name = %s"
#: Seconds between two heartbeats of a node, and without one after which it does not count as live.
BEAT, LIVE = 1.0, 5.0
_PAUSE = 0.1
#: Seconds between two checks of the session with the locks.
_PING = 1.0

_logger = logging.getLogger(__name__)


class Ownership:
    """Shards that this process owns, and its lease on them.

    A thread extends the lease, so that a process that was fenced learns of it even if it has nothing to
    commit.

    Parameters
    ----------
    open_ : callable
        Opens a connection.
    owner, address : str
        Name of this process, and the URL at which it serves, for other processes.
    lease : float
        Seconds for which the lease is valid. Other processes may take a shard with an expired lease, though
        its session is still open.
    patience : float
        Seconds for which the server may not answer.
    lose : callable
        Called with the error by which this process stops to own its shards.
    renewed : callable
        Called after each extension of the lease.

    Attributes
    ----------
    epochs : dict of int to int
        Epoch of each shard that this process owns.
    confirmed : float
        Time of `time.monotonic` at which the last extension of the lease began.
    """

    def __init__(
        self,
        open_: Callable[[], Connection],
        *,
        owner: str,
        address: str,
        lease: float,
        patience: float,
        lose: Callable[[OwnershipLostError], None],
        renewed: Callable[[], None],
    ) -> None:
        self.epochs: dict[int, int] = {}
        self.confirmed = time.monotonic()
        self._owner, self._address, self._lease = owner, address, lease
        self._lose = lose
        self._renewed = renewed
        self._session = Reconnecting(open_, patience)
        self._connected: Connection | None = None
        self._name: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._extend, name="log-lease", daemon=True)

    def reserve(self, name: str, patience: float) -> None:
        """Take the name of a node for this process, until its session ends.

        A session that is open, though its process has shown no sign of life for `LIVE` seconds, is ended: its
        machine was lost.

        Parameters
        ----------
        name : str
            Name of the node.
        patience : float
            Seconds for which to wait for a process that has just ended.

        Raises
        ------
        StorageFailedError
            If another process has the name.
        """
        until, key = time.monotonic() + patience, zlib.crc32(name.encode())
        with self._session.lock, translated():
            connection = self._session.get(until)
            while not _first(connection, _TRY_NAME, key):
                address, silent = connection.execute(_SEEN, (name,)).fetchone() or (None, 0.0)
                if silent > LIVE:
                    connection.execute(_TERMINATE_NAME, (key,))
                elif time.monotonic() >= until:
                    other = f"another process ({address})" if address else "another process"
                    raise StorageFailedError(
                        f"{other} of the cluster has the name {name!r}: set BNP_NODE to another name for "
                        "this process, or stop the other one"
                    )
                time.sleep(_PAUSE)
            connection.execute(_SEE, (name,))
            self._connected, self._name = connection, name
        self._begin()

    def _begin(self) -> None:
        """Start the thread, unless it runs."""
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def claim(self, shard: int, patience: float, *, force: bool = False) -> None:
        """Become the owner of a shard.

        Parameters
        ----------
        shard : int
            Number of the shard.
        patience : float
            Seconds for which to wait for the lock.
        force : bool
            Whether to end the session that has the lock: its process hangs, or is cut off.

        Raises
        ------
        NotOwnerError
            If another process has the lock.
        """
        until = time.monotonic() + patience
        with self._session.lock, translated():
            connection = self._session.get(until)
            self._lock_again(connection)
            while not _first(connection, _TRY, shard):
                if force:
                    connection.execute(_TERMINATE, (shard,))
                elif time.monotonic() >= until:
                    raise NotOwnerError(self._taken(connection, shard))
                time.sleep(_PAUSE)
            values = (self._owner, self._address, self._lease, shard)
            try:
                with connection.transaction():
                    epoch = int(str(_first(connection, _CLAIM, *values)))
                    connection.execute(_MOVED, (shard, self._owner))
            except psycopg.Error:
                self._unlock(connection, shard)
                raise
            self.epochs[shard] = epoch
        self._begin()

    def _lock_again(self, connection: Connection) -> None:
        """Take the locks again in a new session.

        Another session may have one of them. That of a shard shows its claim by the epoch.
        """
        if connection is self._connected:
            return
        for shard in self.epochs:
            connection.execute(_TRY, (shard,))
        if self._name is not None and not _first(connection, _TRY_NAME, zlib.crc32(self._name.encode())):
            _logger.warning("another session has the name of this node: does another one use its BNP_NODE?")
        self._connected = connection

    @staticmethod
    def _unlock(connection: Connection, shard: int) -> None:
        with contextlib.suppress(psycopg.Error):  # the session has ended, and released the lock
            connection.execute(_UNLOCK, (shard,))

    def release(self, shard: int) -> None:
        """Give a shard up, so that another process can claim it at once."""
        with self._session.lock, translated():
            connection = self._session.get(time.monotonic() + self._session.patience)
            self._lock_again(connection)
            connection.execute(_RELEASE, (shard, self.epochs[shard]))
            del self.epochs[shard]
            self._unlock(connection, shard)

    def close(self) -> None:
        """Give all shards up, and end the session, which releases the locks."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._session.lock:
            if self._connected is not None:
                with contextlib.suppress(psycopg.Error):  # the session has ended before
                    self._connected.execute(_LEAVE, self.fence([*self.epochs]))
            self._session.close()

    def fence(self, shards: Collection[int]) -> tuple[Integers, Integers]:
        """Return the parameters of `HELD`.

        Raises
        ------
        NotOwnerError
            If this process does not own one of the shards.
        """
        for shard in shards:
            if shard not in self.epochs:
                raise NotOwnerError(f"this process does not own shard {shard}")
        return Integers(shards), Integers(self.epochs[shard] for shard in shards)

    def hold(self, connection: Connection, shards: Collection[int]) -> None:
        """Require in a transaction that this process owns shards, until the transaction ends.

        Raises
        ------
        FencedError
            If another process has claimed one of them.
        """
        if len(connection.execute(HELD, self.fence(shards)).fetchall()) != len(shards):
            raise fenced(shards)

    def renew(self) -> None:
        """Extend the lease.

        Raises
        ------
        FencedError
            If another process has claimed a shard.
        """
        with self._session.lock, translated():
            connection = self._session.get(0.0)
            self._lock_again(connection)
            shards, began = [*self.epochs], time.monotonic()
            with connection.transaction():
                connection.execute("SET LOCAL synchronous_commit = off")
                extended = connection.execute(_RENEW, (*self.fence(shards), self._lease)).rowcount
            if extended != len(shards):
                raise fenced(shards)
            self.confirmed = began  # this process may have been suspended since

    def _extend(self) -> None:
        failed = False
        period = self._lease / 3
        while not self._ended.wait(min(period, _PING)):
            try:
                if self._alive() and time.monotonic() < self.confirmed + period - _PING / 2:
                    continue
                self.renew()
                self._renewed()
                failed = False
            except OwnershipLostError as error:
                self._lose(error)
                return
            except StorageError as error:
                if not failed:
                    _logger.warning("the lease on the shards cannot be extended: %s", error)
                failed = True

    def _alive(self) -> bool:
        """Return whether the session still has the locks; otherwise `renew` takes them again."""
        with self._session.lock, translated():
            connection = self._session.get(0.0)
            try:
                connection.execute("SELECT")
            except psycopg.OperationalError as error:
                if not self._session.is_lost(error):
                    raise
                return False
            return connection is self._connected

    @staticmethod
    def _taken(connection: psycopg.Connection[tuple[object, ...]], shard: int) -> str:
        """Return the message for a shard that another process owns."""
        row = connection.execute("SELECT owner, address FROM shard WHERE shard = %s", (shard,)).fetchone()
        owner, address = row or (None, None)
        name = f"{owner or 'unknown'}, {address}" if address else owner or "unknown"
        return f"shard {shard} belongs to another server ({name}): stop all servers of this store"


def fenced(shards: Collection[int]) -> FencedError:
    """Return the error for shards of which another process has claimed one."""
    names = ", ".join(map(str, shards))
    return FencedError(f"another server has claimed shard {names}: this one must not write any more")


def _first(connection: Connection, query: str, *parameters: object) -> object:
    row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]
