"""Checkpoints in PostgreSQL, beside the event log."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from typing import Any

from bnp_online import checkpoint as format_
from bnp_online.errors import CheckpointError

from .interfaces import Checkpoint
from .postgres import PostgresLog
from .postgres_connection import Connection, Integers

_FIELDS = "name, model, branch, seq, step, head, time, octet_length(state)"


class PostgresCheckpoints:
    """Checkpoints of the shards of a log; implements `Checkpoints`.

    Parameters
    ----------
    log : PostgresLog
        The log. A process that does not own the shard of a model can read its checkpoints only.
    """

    def __init__(self, log: PostgresLog) -> None:
        self._log = log

    def save(
        self, model: int, branch: int, seq: int, step: int, head: int, state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write a state, and return its checkpoint."""
        name = f"step{step}-branch{branch}-event{seq}-head{head}"
        content, now = format_.dumps(state), self._log.now()
        shard = self._log.shard(model)

        def write(connection: Connection) -> int:
            connection.execute(
                "INSERT INTO checkpoint VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %b) "
                "ON CONFLICT (shard, model, name) DO UPDATE SET state = excluded.state, time = excluded.time",
                (shard, model, name, branch, seq, step, head, now, content),
            )
            return 0

        self._log.change(model, write)
        return Checkpoint(name, model, branch, seq, step, head, now, len(content))

    def models(self) -> builtins.list[int]:
        """Return the numbers of the models that have checkpoints, in order."""
        query = "SELECT DISTINCT model FROM checkpoint WHERE shard = ANY(%s) ORDER BY model"
        return [model for (model,) in self._log.query(query, Integers(self._log.owned))]

    def list(self, model: int) -> builtins.list[Checkpoint]:
        """Return the checkpoints of a model, newest first."""
        where = "WHERE shard = %s AND model = %s ORDER BY seq DESC, head DESC"
        query = f"SELECT {_FIELDS} FROM checkpoint {where}"  # noqa: S608
        return [Checkpoint(*row) for row in self._log.query(query, self._log.shard(model), model)]

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        query = "SELECT state FROM checkpoint WHERE shard = %s AND model = %s AND name = %s"
        rows = self._log.query(query, self._log.shard(checkpoint.model), checkpoint.model, checkpoint.name)
        if not rows:
            raise CheckpointError(f"checkpoint {checkpoint.name} of model {checkpoint.model} does not exist")
        return format_.loads(rows[0][0])

    def delete(self, checkpoint: Checkpoint) -> None:
        """Remove a checkpoint."""
        self._delete(checkpoint.model, "AND name = %s", checkpoint.name)

    def drop(self, model: int) -> None:
        """Remove all checkpoints of a model."""
        self._delete(model, "")

    def tidy(self, deleted: Iterable[int]) -> None:
        """Remove the checkpoints of deleted models, which a killed server left."""
        for model in deleted:
            self.drop(model)

    def place(self, model: int) -> str:
        """Return where the checkpoints of a model are, for messages."""
        return f"the table checkpoint_{self._log.shard(model)}"

    def _delete(self, model: int, condition: str, *parameters: Any) -> None:
        query = f"DELETE FROM checkpoint WHERE shard = %s AND model = %s {condition}"  # noqa: S608
        values = (self._log.shard(model), model, *parameters)
        self._log.change(model, lambda connection: connection.execute(query, values).rowcount)
