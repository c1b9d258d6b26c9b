"""Commits in PostgreSQL, each exactly once.

The outcome of a commit during which the connection was lost is looked up in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import psycopg

from ..errors import LogAheadError, ModelExistsError, OwnershipLostError, StorageFailedError
from .postgres_connection import Connection, Reconnecting, translated, unknown

_AHEAD = (
    "the log has events that this process did not apply: a commit succeeded whose outcome was unknown. Start "
    "the server again: it continues from the log"
)


class Proof(NamedTuple):
    """An event that the log has if, and only if, a commit succeeded."""

    shard: int
    model: int
    seq: int
    checksum: bytes

    def holds(self, connection: Connection) -> bool:
        """Return whether the log has the event."""
        query = f"SELECT checksum FROM event_{self.shard} WHERE model = %s AND seq = %s"  # noqa: S608
        found = connection.execute(query, (self.model, self.seq), binary=True).fetchone()
        return found is not None and found[0] == self.checksum


class PositionProof(NamedTuple):
    """A position that is stored if a commit succeeded. Only the owner of the model changes it."""

    model: int
    topic: str
    partition: int
    next: int

    def holds(self, connection: Connection) -> bool:
        """Return whether the position is stored."""
        query = "SELECT next FROM source WHERE model = %s AND topic = %s AND partition = %s"
        found = connection.execute(query, (self.model, self.topic, self.partition)).fetchone()
        return found == (self.next,)


class Commits:
    """Commits of one connection.

    Parameters
    ----------
    open_ : callable
        Opens the connection, and checks that the log has all events that were committed.
    patience : float
        Seconds for which the server may not answer.
    lose : callable
        Called with the error by which this process stops to own its shards.

    Attributes
    ----------
    lost : OwnershipLostError or None
        That error. All later commits raise it.
    """

    def __init__(
        self, open_: Callable[[], Connection], patience: float, lose: Callable[[OwnershipLostError], None]
    ) -> None:
        self.connection = Reconnecting(open_, patience)
        self.lost: OwnershipLostError | None = None
        self._lose = lose
        self._doubt: Proof | None = None

    def run(
        self,
        work: Callable[[Connection], int],
        proof: Proof | PositionProof | None = None,
        *,
        one_statement: bool = False,
    ) -> int:
        """Commit the writes of a function, and return what the function returned.

        Parameters
        ----------
        work : callable
            Executes the writes. It is called again if the connection was lost and they were not committed.
        proof : Proof or PositionProof, optional
            Event or position that shows whether they were. Without it, the writes may be repeated.
        one_statement : bool
            Whether `work` executes one statement, which commits by itself. The number is 0 if the connection
            was lost after the commit.

        Raises
        ------
        OutcomeUnknownError
            If the server did not answer in time after the connection was lost.
        OwnershipLostError
            If another process owns a shard, or the log is not as this process left it.
        """
        with self.connection.lock, translated():
            if self.lost is not None:
                raise self.lost
            try:
                return self._run(work, proof, one_statement)
            except OwnershipLostError as error:
                self.lose(error)
                raise

    def lose(self, error: OwnershipLostError) -> None:
        """Refuse all later commits."""
        if self.lost is None:
            self.lost = error
            self._lose(error)

    def settle(self) -> None:
        """Look up the events of an earlier commit whose outcome was unknown."""
        if self._doubt is not None:
            self.run(lambda _: 0)

    def _run(
        self, work: Callable[[Connection], int], proof: Proof | PositionProof | None, one_statement: bool
    ) -> int:
        until = time.monotonic() + self.connection.patience
        result, sent = 0, False
        while True:
            try:
                connection = self.connection.get(until)
            except StorageFailedError as error:
                if not sent or isinstance(error, OwnershipLostError):
                    raise
                self._doubt = proof if isinstance(proof, Proof) else None  # else this process lacks nothing
                raise unknown(error) from error
            try:
                self._settle(connection)
                if sent and proof and proof.holds(connection):
                    return result
                sent = True
                with nullcontext() if one_statement else connection.transaction():
                    result = work(connection)
                return result  # noqa: TRY300, RET504 (also if the answer to the COMMIT is lost)
            except psycopg.OperationalError as error:
                if not self.connection.is_lost(error):
                    raise
            except psycopg.errors.UniqueViolation as error:
                return self._conflict(connection, proof, result, error)

    def _settle(self, connection: Connection) -> None:
        """Find out whether the log has the events of an earlier commit whose outcome was unknown."""
        if self._doubt is not None and self._doubt.holds(connection):
            raise LogAheadError(_AHEAD)
        self._doubt = None

    @staticmethod
    def _conflict(
        connection: Connection,
        proof: Proof | PositionProof | None,
        result: int,
        error: psycopg.errors.UniqueViolation,
    ) -> int:
        """Handle a number that the log has already: an earlier attempt has committed meanwhile."""
        if error.diag.constraint_name == "model_name_key":
            raise ModelExistsError("another model of the cluster has this name", "name") from error
        if proof is None:
            raise error
        if proof.holds(connection):
            return result
        raise LogAheadError(_AHEAD) from error
