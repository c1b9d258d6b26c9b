"""What an operator does to a model as a whole: checkpoints, rollback, unlearning, import, limits."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from functools import partial
from typing import Any

from bnp_online import checkpoint as file_format

from ..errors import (
    NotKeptError,
    RebuildingError,
    ShuttingDownError,
    StorageError,
    UnknownCheckpointError,
    UnknownIdError,
)
from ..schemas import ModelPatch
from ..settings import Settings
from ..storage import event_codec
from ..storage.interfaces import LAST, Branch, Checkpoint, Event, Record, Segment
from .checkpointer import Checkpointer
from .feed import Feed
from .hosted import HostedModel
from .recovery import Recovery, Replay, imported
from .spec_limits import check_change, complete
from .worker import Worker

_logger = logging.getLogger(__name__)


class Operations:
    """Changes a model as a whole, one change at a time; meanwhile it goes on learning and predicting.

    A state that has to be rebuilt is rebuilt beside the model, from a checkpoint and the log, and takes its
    place between two groups of samples.

    Parameters
    ----------
    worker : Worker
        The model's writer; the history changes in its turns alone.
    checkpointer : Checkpointer
        Of its checkpoints.
    recovery : Recovery
        Rebuilds it.
    settings : Settings
        The limits.
    feed : Feed
        Where a rollback is told.
    """

    def __init__(
        self, worker: Worker, checkpointer: Checkpointer, recovery: Recovery, settings: Settings, feed: Feed
    ) -> None:
        self._worker = worker
        self._history = worker.history
        self._checkpointer = checkpointer
        self._recovery = recovery
        self._settings = settings
        self._feed = feed
        self._one_at_a_time = asyncio.Lock()
        self._rebuilding: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def rebuilding(self) -> bool:
        """Whether the model still includes samples that are being unlearned."""
        return self._checkpointer.paused

    @property
    def replay(self) -> Replay:
        """The last replay of the model's log: at the start, for a rollback, or without what was forgotten."""
        return self._recovery.latest

    async def close(self) -> None:
        """Stop rebuilding: the next start does it from the log."""
        self._closing = True
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.wait([self._rebuilding])

    async def keep_last(self) -> None:
        """Take a checkpoint of a model whose writer has ended, if it has moved since the last one."""
        if not self._checkpointer.changed(self._worker.model):
            return
        try:
            await asyncio.wrap_future(self._checkpointer.take(self._worker.model))
        except StorageError as error:  # the next start replays the log instead
            _logger.warning("model %r ends without a checkpoint: %s", self._worker.model.name, error)

    async def drop(self) -> None:
        """Remove the checkpoints of a model that was deleted."""
        await asyncio.to_thread(self._checkpointer.drop)

    def _go_on(self, done: int) -> None:
        """Stop a replay in another thread, which cannot be cancelled."""
        if self._closing:
            raise ShuttingDownError("the server is shutting down")

    async def checkpoint(self) -> Checkpoint:
        """Take a checkpoint; returns once it is on the disk."""
        return await asyncio.wrap_future(await self._worker.exclusive(self._take))

    def _take(self) -> Future[Checkpoint]:
        if self.rebuilding:  # looked at in the model's turn, where forgetting begins
            raise RebuildingError("the model is being rebuilt without forgotten samples: try again later")
        return self._checkpointer.take(self._worker.model)

    async def checkpoints(self) -> list[tuple[Checkpoint, bool]]:
        """Return what is kept, the newest first, and whether it is of the branch that counts."""
        kept = await asyncio.to_thread(self._checkpointer.list)
        usable = set(await asyncio.to_thread(self._history.states, kept))
        return [(each, each in usable) for each in kept]

    async def roll_back(self, step: int | None, name: str | None) -> HostedModel:
        """Go back to the state after `step` samples, or to a checkpoint, exactly.

        Raises
        ------
        UnknownCheckpointError
            If there is no such step or checkpoint on the way to the model as it is.
        NotKeptError
            If what is needed to rebuild it is no longer kept.
        """
        async with self._one_at_a_time:
            await self._rebuilt()
            branch, seq = await asyncio.to_thread(self._target, step, name)
            model = await asyncio.to_thread(self._recovery.run, seq, self._go_on)
            await self._worker.exclusive(partial(self._take_back, model, branch, seq))
            self._feed.publish("rollback", model.name, step=model.step, branch=self._history.branch)
            return model

    def _target(self, step: int | None, name: str | None) -> tuple[int, int]:
        """Return the branch and the number of the event to go back to."""
        if name is not None:
            usable = self._history.states(self._checkpointer.list())
            found = [(kept.branch, kept.seq) for kept in usable if kept.name == name]
        else:
            found = [(record.branch, record.seq) for record in self._history.at_step(step or 0)]
        if not found:
            what, field = (f"checkpoint {name[:80]!r}", "checkpoint") if name else (f"step {step}", "step")
            raise UnknownCheckpointError(f"the branch that counts has no {what} that is kept", field)
        return found[-1]

    def _take_back(self, model: HostedModel, branch: int, seq: int) -> None:
        model.sequence = self._history.roll_back(branch, seq, model.step)
        model.drift.dismiss()
        self._worker.model = model
        self._checkpointer.begin(model)

    async def forget(self, ids: list[str]) -> int:
        """Unlearn samples by their ids; return how many events are gone.

        From here on they are out of the log, and no restart brings them back. The model goes on with them
        until it is rebuilt.

        Raises
        ------
        UnknownIdError
            If one of the ids stands for nothing; nothing was forgotten.
        NotKeptError
            If the log does not reach back far enough to rebuild the model without them.
        """
        async with self._one_at_a_time:
            gone, counted = await self._worker.exclusive(partial(self._forget, ids))
            if counted and (self._rebuilding is None or self._rebuilding.done()):
                self._rebuilding = asyncio.create_task(self._rebuild())
            elif not counted:
                await asyncio.to_thread(self._checkpointer.purge)
            return gone

    def _forget(self, ids: list[str]) -> tuple[int, bool]:
        """Remove the events; return how many, and whether the model includes any of them."""
        records = self._history.find(ids)
        missing = set(ids) - {record.event.id for record in records} - self._history.forgotten(ids)
        if missing:
            name = min(missing)
            if self._history.pruned:
                raise NotKeptError(f"the log has no event {name!r}: it may lie further back than that goes")
            raise UnknownIdError(f"the log has no event {name!r}", "ids")
        if not records:
            return 0, False
        counted = [record for record in records if self._history.counts(record)]
        if counted and not self._recovery.reaches(counted[0].seq - 1):
            raise NotKeptError("the log does not reach back to a state before these samples")
        self._history.forget(records)
        self._checkpointer.paused = self._checkpointer.paused or bool(counted)
        return len(records), bool(counted)

    async def _rebuild(self) -> None:
        """Bring a state from before what was forgotten to where the model is, and put it in its place."""
        swapped = False
        while not swapped:
            version = self._history.version
            try:
                model = await asyncio.to_thread(self._recovery.run, None, self._go_on)
                swapped = await self._worker.exclusive(partial(self._swap, model, version))
            except StorageError as error:
                _logger.warning("rebuilding %r goes on later: %s", self._worker.model.name, error)
                await asyncio.sleep(1.0)
        await asyncio.to_thread(self._checkpointer.purge)
        self._checkpointer.paused = False

    def _swap(self, model: HostedModel, version: int) -> bool:
        """Catch up with what was learned meanwhile; False if more was forgotten meanwhile."""
        if version != self._history.version:
            return False
        model = self._recovery.run_on(model)
        self._worker.model = model
        self._checkpointer.begin(model)
        return True

    async def _rebuilt(self) -> None:
        if self._rebuilding is not None:
            await asyncio.wait([self._rebuilding])

    async def import_(self, body: bytes) -> HostedModel:
        """Put a model that an estimator wrote in the place of this one; its score begins anew."""
        async with self._one_at_a_time:
            await self._rebuilt()
            spec, settings, clock = self._worker.model.spec, self._settings, self._history.log.now
            admit = partial(complete, settings=settings)
            model = await asyncio.to_thread(imported, body, spec.name, spec.drift, settings, clock, admit)
            await self._worker.exclusive(partial(self._take_over, model, body))
            return model

    def _take_over(self, model: HostedModel, body: bytes) -> None:
        (model.sequence,) = self._history.log.append(
            [self._history.group([Event("import", body, step=model.step)])]
        )
        self._worker.model = model
        self._checkpointer.begin(model)

    async def branches(self) -> list[Branch]:
        """Return the branches of the model's history; the last is the one that counts."""
        return self._history.branches[:]

    async def events(self, branch: int | None, after: int, limit: int) -> list[Record]:
        """Return events of a branch, or by default those that count, from after a number on."""
        log, segments = self._history.log, self._history.segments(after)
        if branch is not None:
            segments = [Segment(branch, after, LAST)]
        return await asyncio.to_thread(lambda: list(log.read(self._history.model, segments, limit)))

    async def patch(self, changes: ModelPatch) -> HostedModel:
        """Change what may change while a model lives.

        Raises
        ------
        InvalidSpecError
            If a limit is beyond the server's, or below what the model has.
        """
        async with self._one_at_a_time:
            return await self._worker.exclusive(partial(self._patch, changes.model_dump(exclude_none=True)))

    def _patch(self, changes: dict[str, Any]) -> HostedModel:
        model = self._worker.model
        check_change(model.spec, {k: v for k, v in changes.items() if k != "drift"}, self._settings)
        before, drift = {name: getattr(model.spec, name) for name in changes}, model.drift
        model.patch(changes)  # before it is logged: it may be refused
        try:
            event = Event("patch", event_codec.dumps(changes))
            (model.sequence,) = self._history.log.append([self._history.group([event])])
        except StorageError:
            model.patch(before)
            model.drift = drift
            raise
        return model


def export(model: HostedModel) -> bytes:
    """Return the estimator as the bytes of a file that `bnp_online.load` reads."""
    return file_format.dumps(model.estimator.state_dict())
