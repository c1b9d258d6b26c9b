"""Cluster: the processes that share an event log in PostgreSQL, its shards, and wishes where they should be.

The processes decide nothing together: each one reads these tables, and claims or releases shards.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from ..errors import StorageError, StorageFailedError
from .postgres import PostgresLog
from .postgres_announcements import PERIOD, SILENCE, Announcer, Follower
from .postgres_connection import Connection, Integers, Reconnecting, connect, translated
from .postgres_shards import BEAT, LIVE
from .postgres_tables import STATE, check, make

#: Longest name of a node, in bytes.
LONGEST_NAME = 250

_NODES = """
SELECT name, role, address, greatest(extract(epoch FROM now() - seen), 0)::float8, detail
FROM node ORDER BY name
"""
#: The shards whose advisory lock a session has; see `postgres_shards`.
_LOCKED = """
SELECT (objid::bigint) AS shard FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND classid = 'shard'::regclass::oid
"""
_SHARDS = f"""
WITH locked AS MATERIALIZED ({_LOCKED}),
counted AS (SELECT shard, count(name) AS models FROM model GROUP BY shard)
SELECT shard.shard, epoch, owner, address, shard.shard IN (SELECT shard FROM locked),
    extract(epoch FROM expires - now())::float8, coalesce(models, 0)
FROM shard LEFT JOIN counted ON counted.shard = shard.shard ORDER BY shard.shard
"""  # noqa: S608
_BEAT = """
INSERT INTO node VALUES (%s, %s, %s, now(), %s::text::jsonb) ON CONFLICT (name) DO UPDATE
SET role = excluded.role, address = excluded.address, seen = excluded.seen, detail = excluded.detail
"""
_OLD = "DELETE FROM node WHERE seen < now() - interval '1 hour'"
_WISHES = "SELECT shard, node FROM move"
_WISH = "INSERT INTO move VALUES (%s, %s) ON CONFLICT (shard) DO UPDATE SET node = excluded.node"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """Process of a cluster.

    Attributes
    ----------
    name, role, address : str
        Name, ``owner``, ``standby`` or ``replica``, and the URL at which it serves.
    seen_seconds : float
        Time since its last heartbeat.
    detail : dict
        What it tells about itself.
    """

    name: str
    role: str
    address: str
    seen_seconds: float
    detail: Mapping[str, Any]

    @property
    def live(self) -> bool:
        """Whether its last heartbeat is recent."""
        return self.seen_seconds < LIVE


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard of a cluster, and its owner.

    Attributes
    ----------
    shard : int
        Number.
    epoch : int
        Number of its claims.
    owner, address : str or None
        Name and address of the process that claimed it last; None if it was released since, or never claimed.
    held : bool
        Whether a session has its lock. Otherwise a process can claim it, also if `owner` is set: that one has
        ended, or has lost its connection.
    lease_seconds : float or None
        Time until the lease of the owner expires, negative afterwards; None without an owner.
    models : int
        Number of its models.
    """

    shard: int
    epoch: int
    owner: str | None
    address: str | None
    held: bool
    lease_seconds: float | None
    models: int

    @property
    def free(self) -> bool:
        """Whether a process can claim it: no session has its lock."""
        return not self.held

    @property
    def leased(self) -> bool:
        """Whether an owner has it by its lease, though perhaps not its lock."""
        return self.owner is not None and self.lease_seconds is not None and self.lease_seconds > 0

    @property
    def expired(self) -> bool:
        """Whether a process may claim it by force: a session has its lock, and does not extend its lease."""
        return self.held and (self.lease_seconds is None or self.lease_seconds < 0)


def create(url: str, shards: int) -> bool:
    """Create the tables of a cluster; return False, and change nothing, if there are some.

    Raises
    ------
    StorageFailedError
        If the server cannot be reached, or refuses.
    """
    with translated(), contextlib.closing(connect(url, "bnp-online cluster")) as connection:
        return make(connection, shards)


def spread(shards: Sequence[Shard], nodes: Sequence[str], away: str) -> dict[int, str]:
    """Return the node to which each shard of one node should go, so that the others have as many models each.

    Parameters
    ----------
    shards : sequence of Shard
        All shards.
    nodes : sequence of str
        The other nodes, at least one.
    away : str
        The node that gives its shards up.
    """
    loads = {
        node: (sum(each.models for each in mine), len(mine))
        for node in nodes
        for mine in [[each for each in shards if each.owner == node]]
    }
    moves: dict[int, str] = {}
    for each in sorted(shards, key=lambda each: (-each.models, each.shard)):
        if each.owner == away:
            node = min(nodes, key=lambda node: (*loads[node], node))
            models, count = loads[node]
            loads[node] = models + each.models, count + 1
            moves[each.shard] = node
    return moves


class Cluster:
    """Nodes, shards and wishes of a cluster, in the tables.

    Parameters
    ----------
    url : str
        ``postgresql://…``, also with several hosts.
    patience : float
        Seconds for which the server may not answer.

    Raises
    ------
    StorageFailedError
        If the server cannot be reached, or has no tables of this version.
    """

    def __init__(self, url: str, *, patience: float = 10.0) -> None:
        self._session = Reconnecting(partial(connect, url, "bnp-online cluster", relaxed=True), patience)
        if self._session.query("SELECT to_regclass('cluster') IS NULL") == [(True,)]:
            self.close()
            raise StorageFailedError(
                "the store has no tables of a cluster: `bnp-online cluster init` creates them"
            )
        try:
            #: Number of shards.
            self.count = check(self._session.query(STATE))
        except BaseException:
            self.close()
            raise

    def nodes(self, *, live: bool = False) -> list[Node]:
        """Return the nodes by name, or only those with a recent heartbeat.

        A node that closes is removed. One that was killed is removed after an hour.
        """
        nodes = [Node(*row) for row in self._session.query(_NODES)]
        return [node for node in nodes if node.live or not live]

    def shards(self) -> list[Shard]:
        """Return all shards in order, by one query."""
        return [Shard(*row) for row in self._session.query(_SHARDS)]

    def wishes(self) -> dict[int, str]:
        """Return the node at which each shard with a wish should be.

        The owner releases the shard, and the node claims it. The claim removes the wish.
        """
        return dict(self._session.query(_WISHES))

    def wish(self, moves: Mapping[int, str]) -> None:
        """Wish that shards go to nodes; replaces earlier wishes for them."""

        def write(connection: Connection) -> None:
            for shard, node in sorted(moves.items()):
                connection.execute(_WISH, (shard, node))

        self._write(write)

    def withdraw(self, shards: Sequence[int]) -> None:
        """Remove the wishes for shards."""
        self._write(
            lambda connection: connection.execute(
                "DELETE FROM move WHERE shard = ANY(%s)", (Integers(shards),)
            )
        )

    def _write(self, work: Callable[[Connection], object]) -> None:
        """Commit writes, which are repeated if the connection was lost."""
        until = time.monotonic() + self._session.patience
        with self._session.lock, translated():
            while True:
                connection = self._session.get(until)
                try:
                    with connection.transaction():
                        work(connection)
                except psycopg.OperationalError as error:
                    if not self._session.is_lost(error):
                        raise
                else:
                    return

    @property
    def reconnected(self) -> float:
        """Time of `time.monotonic` at which a lost connection was opened again."""
        return self._session.reopened

    def close(self) -> None:
        """Close the connection."""
        with self._session.lock:
            self._session.close()


class Membership(Cluster):
    """Node of a cluster: heartbeats, announcements of its events, and those of others.

    One thread sends a heartbeat every second, and announces the events of the shards that the log owns. A
    second one follows the other owners, if `follow` is set.

    Parameters
    ----------
    url : str
        As for the log.
    log : PostgresLog
        Log of this process. Its owner name must be `name`: wishes name it.
    name, role, address : str
        See `Node`. Names of nodes must differ.
    detail : callable, optional
        Returns what each heartbeat tells about this node, as a dict for JSON. Called from the thread.
    follow : bool
        Whether to follow the shards of other owners.
    changed : callable, optional
        Called with new numbers of events; see `Follower`.
    beaten : callable, optional
        Called from the thread after each heartbeat, with the wishes. It must not raise.

    Attributes
    ----------
    name, role, address : str
        As given; `role` may be changed, and is told with the next heartbeat.
    wished : dict of int to str
        The wishes at the last heartbeat; see `wishes`.
    beat : float
        Time of `time.monotonic` of the last heartbeat.
    follower : Follower or None
        Events of the shards of other owners: its `heads`, `heard` and `connected`.
    """

    def __init__(
        self,
        url: str,
        log: PostgresLog,
        *,
        name: str,
        role: str,
        address: str,
        detail: Callable[[], Mapping[str, Any]] = dict,
        follow: bool = False,
        changed: Callable[[dict[int, int]], None] | None = None,
        beaten: Callable[[Mapping[int, str]], None] | None = None,
    ) -> None:
        if len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"the name of a node has at most {LONGEST_NAME} bytes")
        super().__init__(url)
        self.name, self.role, self.address = name, role, address
        self.wished: dict[int, str] = {}
        self.beat = time.monotonic()
        self._detail = detail
        self._beaten = beaten
        self._news = log.news
        self._announcer = Announcer(name, log)
        self._sending = Reconnecting(partial(connect, url, "bnp-online node", relaxed=True), patience=0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-node", daemon=True)
        self.follower = (
            Follower(partial(connect, url, "bnp-online follows"), log, changed) if follow else None
        )
        try:
            with self._connected() as connection:
                connection.execute(_OLD)
                self._heartbeat(connection)
            if self.follower is not None:
                self.follower.start()
        except BaseException:
            self._end()
            raise
        self._thread.start()

    def close(self) -> None:
        """Remove the node, and end the threads."""
        self._ended.set()
        self._news.arrived.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(StorageError), self._connected() as connection:
            connection.execute("DELETE FROM node WHERE name = %s", (self.name,))
        self._end()

    def _end(self) -> None:
        if self.follower is not None:
            self.follower.close()
        self._sending.close()
        super().close()

    def _run(self) -> None:
        failed = False
        while not self._ended.is_set():
            try:
                with self._connected() as connection:
                    self._announcer.announce(connection)
                    if time.monotonic() >= self.beat + BEAT:
                        self._heartbeat(connection)
                failed = False
            except StorageError as error:
                if not failed:
                    _logger.warning("this node cannot tell others that it is live: %s", error)
                failed = True
                self._ended.wait(SILENCE)
            self._ended.wait(PERIOD)
            self._news.arrived.wait(SILENCE - PERIOD)

    def _heartbeat(self, connection: Connection) -> None:
        detail = json.dumps({**self._detail()})
        connection.execute(_BEAT, (self.name, self.role, self.address, detail))
        self.wished = dict(connection.execute(_WISHES).fetchall())
        self.beat = time.monotonic()
        if self._beaten is not None:
            self._beaten(self.wished)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Return the connection for heartbeats and announcements."""
        with self._sending.lock, translated():
            connection = self._sending.get(0.0)
            try:
                yield connection
            except psycopg.OperationalError as error:
                self._sending.is_lost(error)
                raise
