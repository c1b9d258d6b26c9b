"""Operations on a whole model: checkpoint, rollback, unlearning, import, change of limits."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from typing import Any

from bnp_online import checkpoint as file_format

from ..errors import (
    DamagedEventError,
    ModelFailedError,
    NotKeptError,
    RebuildingError,
    RequestError,
    ShuttingDownError,
    StorageError,
    UnknownCheckpointError,
    UnknownIdError,
    UnknownModelError,
)
from ..schemas import ModelPatch, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.interfaces import LAST, Branch, Checkpoint, Event, Header, Segment
from ..telemetry.audit import audit
from . import report
from .checkpointer import Checkpointer
from .feed import Feed
from .hosted import HostedModel, Replay
from .marks import Mark, marks_of
from .model_file import imported
from .recovery import Recovery
from .removals import Removals
from .shadowing import Shadowing
from .spec_limits import check_change, complete
from .threads import Threads
from .upgrading import Progress, Upgrading
from .worker import Worker, report_error

#: Seconds between two attempts to rebuild a model: they double, from the first value to the second.
_SHORTEST, _LONGEST = 1.0, 60.0

#: Kinds of events with a sample.
_SAMPLES = ("learn", "label")

_logger = logging.getLogger(__name__)


class Operations:
    """Operations on one model, one at a time. The model learns and predicts meanwhile.

    Another thread rebuilds a state from a checkpoint and the log. The state then replaces the model between
    two groups of samples.

    Parameters
    ----------
    worker : Worker
        Worker of the model. The history changes only in `Worker.exclusive`.
    checkpointer : Checkpointer
        Checkpoints of the model.
    recovery : Recovery
        Rebuilds the model.
    threads : Threads
        Threads of all models.
    settings : Settings
        Limits.
    feed : Feed
        Takes the events of rollbacks, unlearnings and imports.
    removals : Removals
        Completes the removal of unlearned samples.
    """

    def __init__(
        self,
        worker: Worker,
        checkpointer: Checkpointer,
        recovery: Recovery,
        threads: Threads,
        settings: Settings,
        feed: Feed,
        removals: Removals,
    ) -> None:
        self._worker = worker
        self._history = worker.history
        self._checkpointer = checkpointer
        self._recovery = recovery
        self._threads = threads
        self._settings = settings
        self._feed = feed
        self._removals = removals
        self._upgrading = Upgrading(
            worker, checkpointer, recovery, threads, settings, feed, rebuilt=self._rebuilt
        )
        self._shadowing = Shadowing(worker, checkpointer, recovery.another(), settings, feed)
        self._one_at_a_time = asyncio.Lock()
        self._rebuilding: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def rebuilding(self) -> bool:
        """Whether the model still includes samples that were forgotten, or their data is not yet erased."""
        return self._checkpointer.unlearning

    @property
    def resting(self) -> bool:
        """Whether no operation is in progress, and none continues later."""
        rebuilding = self._rebuilding is not None and not self._rebuilding.done()
        changing = rebuilding or self._one_at_a_time.locked() or self.rebuilding or self.upgrading
        return not changing and self._shadowing.resting

    @property
    def replay(self) -> Replay:
        """The latest replay of the log: at the start, for a rollback, or without forgotten samples."""
        return self._worker.model.replay

    async def upgrade(self, *, kept: bool) -> bool:
        """Request an upgrade; return whether one is in progress. Raises as `Upgrading.request`."""
        async with self._one_at_a_time:
            async with self._checkpointer.retaining_all():
                asked = await self._worker.exclusive(partial(self._upgrading.request, kept=kept))
            if asked:
                self._upgrading.start()
            return asked

    async def lead(self) -> None:
        """Serve a model of another process as its owner: count its events since the newest checkpoint."""
        events = await asyncio.to_thread(self._recovery.prepare, self._worker.model)
        self._checkpointer.begin(Replay(events))
        self.resume()

    def resume(self) -> None:
        """Continue what the server before this one has not completed."""
        self._upgrading.resume()

    @property
    def upgrading(self) -> Progress | None:
        """Progress of an upgrade; None without one."""
        return self._upgrading.progress

    @property
    def status(self) -> dict[str, Any]:
        """State of the model, and progress of an upgrade, for its description."""
        progress = self.upgrading
        return {"state": self._worker.state, "upgrade": None if progress is None else progress._asdict()}

    async def close(self) -> None:
        """Stop rebuilding and upgrading. The next start goes on."""
        self._closing = True
        await self._shadowing.close()
        await self._upgrading.close()
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.wait([self._rebuilding])

    async def keep_last(self) -> None:
        """Take a checkpoint after the worker has ended, if the model changed since the latest one."""
        if not self._checkpointer.changed:
            return
        try:
            await self._checkpointer.written()
            # The models are written concurrently, so that the disk flushes several at once.
            await asyncio.wrap_future(self._checkpointer.take(self._worker.model, self._threads.storage))
        except StorageError as error:  # the next start replays the log instead
            _logger.warning(
                "cannot write the last checkpoint of model %r: %s", self._worker.model.name, error
            )

    def _stop_if_closing(self, done: int) -> None:
        """Stop a replay: its thread cannot be cancelled."""
        if self._closing:
            raise ShuttingDownError("the server is shutting down")

    async def checkpoint(self) -> Checkpoint:
        """Take a checkpoint, and return after it is on the disk."""
        kept = await asyncio.wrap_future(await self._worker.exclusive(self._take))
        audit("checkpoint taken", self._worker.model.name, step=kept.step, checkpoint=kept.name)
        return kept

    def _take(self) -> Future[Checkpoint]:
        if self._checkpointer.paused:  # checked with exclusive access, as `_forget` sets it
            raise RebuildingError("the model is being rebuilt without forgotten samples: try again later")
        return self._checkpointer.take(self._worker.model)

    async def checkpoints(self) -> list[tuple[Checkpoint, bool]]:
        """Return the checkpoints, newest first, and whether each is on the current branch."""
        kept = await asyncio.to_thread(self._checkpointer.list)
        usable = set(await asyncio.to_thread(self._history.available, kept))
        return [(each, each in usable) for each in kept]

    async def marks(self) -> list[Mark]:
        """Return what happened to the model, from the log and the usable checkpoints, without its drifts."""
        usable = [kept for kept, current in await self.checkpoints() if current]
        return await asyncio.to_thread(marks_of, self._history, usable)

    async def roll_back(self, step: int | None, name: str | None) -> tuple[int, int]:
        """Restore the exact state after `step` samples, or of a checkpoint.

        Returns
        -------
        int, int
            Step of the model, and number of the new branch.

        Raises
        ------
        UnknownCheckpointError
            If the current branch has no such step or checkpoint.
        NotKeptError
            If the log no longer has the events to rebuild the state.
        """
        async with self._one_at_a_time:
            await self._rebuilt()
            async with self._checkpointer.retaining_all():
                result = await self._roll_back(step, name)
            self._shadowing.start()
            self._feed.publish("rollback", self._worker.model.name, step=result[0], branch=result[1])
            return result

    async def _roll_back(self, step: int | None, name: str | None) -> tuple[int, int]:
        branch, seq = await asyncio.to_thread(self._target, step, name)
        model = await self._threads.maintain(partial(self._recovery.run, seq, self._stop_if_closing))
        return await self._worker.exclusive(partial(self._take_back, model, branch, seq))

    def _target(self, step: int | None, name: str | None) -> tuple[int, int]:
        """Return branch and number of the event to restore."""
        if name is not None:
            usable = self._history.available(self._checkpointer.list())
            found = [(kept.branch, kept.seq) for kept in usable if kept.name == name]
        else:
            found = [(event.branch, event.seq) for event in self._history.at_step(step or 0)]
        if not found and name is None and self._history.pruned and (step or 0) <= self._worker.model.step:
            raise NotKeptError(f"the log has no step {step}: the step may be older than the retained log")
        if not found:
            what, field = (f"checkpoint {name[:80]!r}", "checkpoint") if name else (f"step {step}", "step")
            known = "see its checkpoints" if name else f"the model is at step {self._worker.model.step}"
            raise UnknownCheckpointError(f"{what} is not available on the current branch: {known}", field)
        return found[-1]

    def _take_back(self, model: HostedModel, branch: int, seq: int) -> tuple[int, int]:
        model.sequence = self._history.roll_back(branch, seq, model.step)
        changed = {"step": model.step, "step_before": self._worker.model.step, "branch": self._history.branch}
        audit("model rolled back", model.name, **changed)
        model.drift.dismiss()
        self._worker.model = model
        self._checkpointer.begin(model.replay)
        self._checkpointer.add(1, 0)
        return model.step, self._history.branch

    async def forget(self, ids: list[str]) -> int:
        """Unlearn samples by their ids; return the number of events removed.

        Once the removal is committed, this does not raise. `rebuilding` is True until the model is rebuilt
        without the samples, and their data is erased from the disk.

        Raises
        ------
        UnknownIdError
            If an id is unknown. Nothing was forgotten.
        NotKeptError
            If the log no longer has the events to rebuild the model.
        """
        async with self._one_at_a_time:
            async with self._checkpointer.retaining_all():
                gone, counted = await self._worker.exclusive(partial(self._forget, ids))
            if gone:
                model = self._worker.model
                self._feed.publish("unlearning", model.name, step=model.step, events=gone)
            if counted and (self._rebuilding is None or self._rebuilding.done()):
                # One rebuild serves several requests: it has the context variables of none of them.
                self._rebuilding = asyncio.create_task(self._rebuild(), context=Context())
                self._rebuilding.add_done_callback(report_error)
            elif not counted:
                await self._removals.complete(self._history.model)
            return gone

    def _forget(self, ids: list[str]) -> tuple[int, bool]:
        """Remove events; return their number, and whether the model includes any of them."""
        events = self._history.find(ids)
        missing = set(ids) - {event.id for event in events} - self._history.forgotten(ids)
        if missing:
            name = min(missing)
            if self._history.pruned:
                raise NotKeptError(
                    f"the log has no event {name!r}: the event may be older than the retained log"
                )
            message = f"the log has no event {name!r}: send ids of samples that were learned"
            raise UnknownIdError(message, "ids")
        counted = [event for event in events if self._history.included(event)]
        if counted and not self._recovery.reaches(counted[0].seq):
            raise NotKeptError("the log no longer has the events to rebuild the model without these samples")
        if events:
            self._history.forget(events, self._worker.model.step)
            self._removals.add(self._history.model, self._checkpointer.purge)
            self._checkpointer.add(1, 0)
        audit("samples unlearned", self._worker.model.name, ids=len(ids), events=len(events))
        if counted:
            self._checkpointer.pause()
        return len(events), bool(counted)

    async def _rebuild(self) -> None:
        """Erase the data of forgotten samples, and put a model without them in place."""
        pause = _SHORTEST
        while True:  # again, if more is forgotten meanwhile
            await self._removals.complete(self._history.model)
            if not self._checkpointer.paused:
                return
            version = self._history.version
            try:
                model = await self._threads.maintain(partial(self._recovery.run, None, self._stop_if_closing))
                await self._worker.exclusive(partial(self._swap, model, version))
            except (UnknownModelError, ModelFailedError, ShuttingDownError):
                return  # the model is deleted, or the next start rebuilds it
            except (RequestError, DamagedEventError) as error:
                name = self._worker.model.name
                _logger.warning("cannot rebuild model %r now, trying again: %s", name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)

    def _swap(self, model: HostedModel, version: int) -> None:
        """Apply the samples learned meanwhile, and replace the model, unless the history changed."""
        if version != self._history.version:
            return
        model = self._recovery.run_on(model)
        self._worker.model = model
        self._checkpointer.begin(model.replay)
        self._checkpointer.paused = False
        audit("model rebuilt without the unlearned samples", model.name)
        if self._checkpointer.due:
            self._checkpointer.keep(model)

    async def _rebuilt(self) -> None:
        if self._rebuilding is not None:
            await asyncio.wait([self._rebuilding])

    async def import_(self, body: bytes) -> dict[str, Any]:
        """Replace the model by the estimator in a file, and return its description. Its metrics restart."""
        async with self._one_at_a_time:
            await self._rebuilt()
            spec, settings, clock = self._worker.model.spec, self._settings, self._history.log.now
            admit = partial(complete, settings=settings)
            read = partial(imported, body, spec.name, spec.drift, settings, clock, admit, device=spec.device)
            read = partial(read, untrusted=True)
            model = await self._threads.maintain(read)
            return await self._worker.exclusive(partial(self._take_over, model, body))

    def _take_over(self, model: HostedModel, body: bytes) -> dict[str, Any]:
        model.sequence = self._history.append(Event("import", body, step=model.step))
        before = self._worker.model.step
        audit("model imported", model.name, step=model.step, step_before=before, bytes=len(body))
        model.replay = self._worker.model.replay
        self._worker.model = model
        self._feed.publish("import", model.name, step=model.step)
        self._checkpointer.add(1, len(body))
        self._checkpointer.keep(model)  # no start needs the file then, and it can be pruned
        return self._describe(model)

    def _describe(self, model: HostedModel) -> dict[str, Any]:
        """Describe the model after a change, with exclusive access: a later request may be refused."""
        return {**report.describe(model), **self.status}

    async def shadows(self) -> dict[str, Any]:
        """Return the shadows of the model, and their comparisons with it."""
        return await self._shadowing.report()

    async def add_shadow(self, spec: ModelSpec) -> dict[str, Any]:
        """Create a shadow, and return its report. Raises as `Shadowing.add`."""
        async with self._one_at_a_time:
            return await self._shadowing.add(spec)

    async def delete_shadow(self, name: str) -> None:
        """Delete a shadow. Raises as `Shadowing.delete`."""
        async with self._one_at_a_time:
            await self._shadowing.delete(name)

    async def promote(self, name: str) -> dict[str, Any]:
        """Let a shadow and its champion change places. Raises as `Shadowing.promote`."""
        async with self._one_at_a_time:
            await self._rebuilt()
            async with self._checkpointer.retaining_all():
                return await self._shadowing.promote(name)

    async def branches(self) -> list[Branch]:
        """Return the branches of the history; the last is the current one."""
        return self._history.branches[:]

    async def events(self, branch: int | None, after: int, limit: int) -> list[Header]:
        """Return events after a number, of one branch or by default of the current history."""
        log, segments = self._history.log, self._history.segments(after)
        if branch is not None:
            segments = [Segment(branch, after, LAST)]
        return await asyncio.to_thread(log.headers, self._history.model, segments, limit)

    async def latest_sample(self) -> dict[str, Any]:
        """Return ``step``, and ``x`` and ``y`` of the sample learned last; None if the log lacks it."""
        found = await asyncio.to_thread(self._latest_sample, self._worker.model.step)
        audit("sample shown", self._worker.model.name, step=found["step"])
        return found

    def _latest_sample(self, step: int) -> dict[str, Any]:
        history = self._history
        first = history.samples_after()  # an earlier event of this step is of another model
        found = [each.seq for each in history.at_step(step) if each.kind in _SAMPLES and each.seq > first]
        for seq in found[-1:]:
            for record in history.read(seq - 1, seq):
                x, y, *_ = event_codec.read_sample(record.event)
                return {"step": step, "x": x, "y": y}
        return {"step": step, "x": None, "y": None}

    async def patch(self, changes: ModelPatch) -> dict[str, Any]:
        """Change limits and drift detection, and return the description of the model.

        Raises
        ------
        InvalidSpecError
            If a limit exceeds the server's, or is below the size of the model.
        """
        async with self._one_at_a_time:
            return await self._worker.exclusive(partial(self._patch, changes.model_dump(exclude_none=True)))

    def _patch(self, changes: dict[str, Any]) -> dict[str, Any]:
        model = self._worker.model
        check_change(model.spec, {k: v for k, v in changes.items() if k != "drift"}, self._settings)
        before, drift = {name: getattr(model.spec, name) for name in changes}, model.drift
        model.patch(changes)  # before the log: the model may refuse
        try:
            model.sequence = self._history.append(Event("patch", event_codec.dumps(changes)))
        except StorageError:
            model.patch(before)
            model.drift = drift
            raise
        self._checkpointer.add(1, 0)
        audit("model changed", model.name, step=model.step, changes=changes)
        return self._describe(model)

    async def export(self) -> bytes:
        """Return the estimator as the content of a file for `bnp_online.load`."""
        step, state = await self._worker.ask(lambda model: (model.step, model.estimator.copying()))
        body = await self._threads.maintain(lambda: file_format.dumps(state()))
        audit("model exported", self._worker.model.name, step=step, bytes=len(body))
        return body
