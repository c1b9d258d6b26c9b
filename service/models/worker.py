"""The single writer of a model: one task that takes what waits, keeps the order, and answers.

Requests put jobs into a queue and await their answers. The task takes a bounded group of them: it checks the
group, has it logged, and applies it in short calls, between which predictions are answered. All see the model
between two steps, never half of one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from ..errors import (
    REFUSALS,
    ModelFailedError,
    NotReadyError,
    RequestError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
)
from ..storage.event_codec import Pending
from ..storage.history import History
from ..storage.log_writer import LogWriter
from .checkpointer import Checkpointer
from .divergence import Guard
from .hosted import Answer, Applied, HostedModel, Outcome
from .journal import Group, Journal
from .latency import Latency
from .queue import Capacity, Exclusive, Job, JobQueue, Outcomes
from .reads import Reads
from .scheduling import SLICE, FairTurns, ModelAccess
from .validation import Entry, Learn, Predict, Request, SampleEvent, Validator

T = TypeVar("T")

#: Groups that may be on their way to the log while one is applied: the disk pauses now and then.
_AHEAD = 3

_logger = logging.getLogger(__name__)


class Worker:
    """The writer of a model, and the queue before it.

    Must be made on a running event loop, and called from that loop alone.

    Parameters
    ----------
    model : HostedModel
        From now on only what has its turn here touches it, except for reading its counters.
    history : History
        Of the model.
    log_writer : LogWriter
        Writes the log.
    checkpointer : Checkpointer
        Of the model's checkpoints.
    fair_turns : FairTurns
        Of the server.
    rebuild : callable
        Returns the model as it was after an event, by its number.
    queue_size : int
        Samples that may wait; and as many predictions.
    group_size : int
        Samples that are logged and learned together at most.
    tell : callable
        Called when the loss was found to have risen, with what is to be told of it by name.

    Attributes
    ----------
    reads : Reads
        Predictions and questions, which go before samples.
    durations : Durations
        From when samples were queued until they were learned.
    refusals : Counter of str
        Samples that were refused once they had been queued, by the code of the error.
    """

    def __init__(
        self,
        model: HostedModel,
        history: History,
        log_writer: LogWriter,
        checkpointer: Checkpointer,
        fair_turns: FairTurns,
        rebuild: Callable[[int], HostedModel],
        queue_size: int,
        group_size: int,
        tell: Callable[..., None],
    ) -> None:
        self.model = model
        self._tell = tell
        self.history = history
        self._rebuild = rebuild
        self._guard = Guard()
        self._journal = Journal(history, log_writer)
        self._checkpointer = checkpointer
        self._fair_turns = fair_turns
        self._access = ModelAccess(f"model-{model.name}")
        self.reads = Reads(
            self._access, fair_turns, self._require_open, self._look, Capacity(queue_size), group_size
        )
        self.latency = Latency()
        self._jobs = JobQueue(queue_size, group_size)
        self._logged: asyncio.Queue[Group | None] = asyncio.Queue(_AHEAD)
        self._applied: deque[list[Entry]] = deque()
        self._validator: Validator | None = None
        self._surprised = False  # what was admitted since then may have been checked against what never was
        self.refusals: Counter[str] = Counter()
        self._refusal: Callable[[], RequestError] | None = None
        self._discarded = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_report)

    @property
    def failed(self) -> bool:
        """Whether the writer ended with an error that nobody foresaw."""
        return self._refusal == self._failure

    @property
    def state(self) -> str:
        """What becomes of requests: ``"ready"``, ``"rebuilding"`` without forgotten samples, ``"failed"``."""
        if self.failed:
            return "failed"
        return "rebuilding" if self._checkpointer.paused or self.poisoned else "ready"

    @property
    def poisoned(self) -> bool:
        """Whether the state is being brought back to before a sample that poisoned it."""
        return self._guard.poisoned

    @property
    def queue_depth(self) -> int:
        """How many samples and questions wait."""
        return self.reads.waiting + self.samples_waiting

    @property
    def samples_waiting(self) -> int:
        """How many samples wait, or whatever else has its turn among them."""
        return self._jobs.items

    async def learn(self, request: Request) -> Answer:
        """Learn a sample, or keep a prediction; returns once that is logged and applied."""
        self._require_open()
        return cast(Answer, await self._jobs.enter(request))

    async def exclusive(self, do: Callable[[], T]) -> T:
        """Return what `do` does to the model between two groups, when its turn comes."""
        self._require_open()
        return cast(T, await self._jobs.insist(Exclusive(do)))

    async def queue_samples(self, requests: Sequence[Request]) -> tuple[int, Outcomes]:
        """Queue many at once, and wait where `learn` refuses: until there is room for at least one.

        Returns
        -------
        int
            How many of them are queued: the first ones for which there is room.
        Future
            For each of those in order its answer, or what refused it.
        """
        some = requests[: await self._jobs.room()]
        self._require_open()
        return len(some), self._jobs.add(some)

    async def close(self) -> None:
        """Answer all that waits, refuse what comes later, and end the task."""
        self._refusal = self._refusal or (lambda: ShuttingDownError("the server is shutting down"))
        await self._end()

    async def delete(self, do: Callable[[], None]) -> None:
        """Delete the model by `do` when its turn comes, and end the task.

        All that waits behind it learns that the model is gone; if `do` raises, nothing has changed.
        """
        if self.failed:  # it has no turns any more
            await asyncio.to_thread(do)
        else:
            await self.exclusive(partial(self._delete, do))
        await self._end()

    def _delete(self, do: Callable[[], None]) -> None:
        do()
        name = self.model.name
        self._refusal = lambda: UnknownModelError(f"model {name!r} was deleted", "model")
        self._discarded = True

    async def _end(self) -> None:
        self._jobs.ring()
        await asyncio.wait([self._task])
        await self._access.close()

    def _require_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal()

    def _look(self, read: Callable[[HostedModel], T]) -> T:
        """Return what `read` makes of the model; called in the model's turn."""
        if self._refusal is not None and (self.failed or self._discarded):
            raise self._refusal()
        if self.poisoned:
            raise NotReadyError("the state of the model is being brought back: try again")
        return read(self.model)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._admit_all())
                tasks.create_task(self._apply_all())
        finally:
            # Reached by an unforeseen error too, which is then reported.
            self._abandon()

    async def _admit_all(self) -> None:
        """Check what waits and have it logged, group by group, while the group before is applied."""
        while await self._jobs.wait(over=lambda: self._refusal is not None) and not self._discarded:
            if self._jobs.exclusive or self._surprised:
                await self._logged.join()  # all that was admitted is applied
                self._validator, self._surprised = None, False
            jobs = self._jobs.take()
            if isinstance(first := jobs[0].items[0], Exclusive):
                self._jobs.answer([await self._try(first.do)])
            else:
                entries = await self._admit([item for job in jobs for item in job.items])
                await self._logged.put(self._journal.group(jobs, entries))
        await self._logged.put(None)

    async def _try(self, do: Callable[[], Any]) -> Any:
        try:
            return await self._access.run(do)
        except REFUSALS as error:
            return error

    async def _admit(self, requests: list[Any]) -> list[Entry]:
        """Check the requests of a group; others have a turn between them."""
        validator = self._validator = self._validator or self.model.validator(self._predict, self.refusals)
        while self._applied:
            validator.settle(self._applied.popleft())
        ids = {request.id for request in requests if isinstance(request, Learn) and request.id is not None}
        try:
            known, forgotten = await asyncio.to_thread(self.history.look_up, ids) if ids else ({}, set())
        except StorageError as error:
            return [error] * len(requests)
        validator.look_up(known, forgotten)
        short = self.reads.short or not any(isinstance(request, Predict) for request in requests)
        entries: list[Entry] = []
        for start in range(0, len(requests), SLICE):
            if len(requests) > SLICE:
                await self._fair_turns.next()
            take = partial(validator.take, requests[start : start + SLICE])
            entries += await self._access.run(take, short=short)
        return entries

    def _predict(self, request: Predict) -> Pending:
        return self._look(lambda model: model.predict_pending(request))

    async def _apply_all(self) -> None:
        """Apply what is logged, group by group, and answer."""
        while (group := await self._logged.get()) is not None:
            if await group.logged() is not None:
                self._surprised = True
            jobs, outcomes = deque(group.jobs), list[Outcome]()
            async for applied in self._apply(group.entries):
                outcomes += applied.outcomes
                while jobs and len(outcomes) >= (size := len(jobs[0].items)):
                    self._answer(jobs.popleft(), outcomes[:size])
                    del outcomes[:size]
            if self._checkpointer.due(self.model):
                await self._access.run(partial(self._checkpointer.keep, self.model))
            self._applied.append(group.entries)
            self._logged.task_done()

    async def _apply(self, entries: list[Entry]) -> AsyncIterator[Applied]:
        """Apply a group that was logged, in short calls; yields what came of the next requests."""
        start = 0
        while start < len(entries):
            if len(entries) > SLICE:
                await self._fair_turns.next()
            part = entries[start : start + self.model.room]
            if self.model.drift.ready(self.model.step) and any(
                isinstance(each, SampleEvent) for each in part
            ):
                await self._access.run(self._keep_before_action)
            applied = await self._apply_part(part)
            self._surprised = self._surprised or applied.surprising
            self.refusals.update(applied.refused.values())
            await self._journal.correct(applied)
            for step in applied.drifts:
                setting = self.model.drift.setting
                self._tell(step=step, detector=setting.detector, action=setting.action)
            await self._journal.note_actions(self.model)
            yield applied
            start += len(part)

    async def _apply_part(self, part: Sequence[Entry]) -> Applied:
        before = self.model.sequence
        if not self._guard.careful:
            apply = partial(self._guard.apply, self.model, part)
            applied = await self._access.run(apply, short=self.model.call_length.short)
            if applied is not None:
                return applied
            await self._access.run(partial(self._bring_back, before))
        return await self._access.run(partial(self._apply_carefully, part))

    def _bring_back(self, sequence: int) -> None:
        self._surprised = True  # what was admitted since then was checked against a model that is no more
        with self._guard.bringing_back():
            self.model = self._rebuild(sequence)

    def _apply_carefully(self, part: Sequence[Entry]) -> Applied:
        self.model, applied = self._guard.apply_carefully(self.model, part)
        return applied

    def _keep_before_action(self) -> None:
        if self._checkpointer.changed(self.model):
            self._checkpointer.keep(self.model)

    def _answer(self, job: Job, outcomes: list[Outcome]) -> None:
        """Answer a job, the oldest."""
        self._jobs.answer(outcomes)
        granted = sum(not isinstance(outcome, Exception) for outcome in outcomes)
        if granted:
            latency = self.reads.latency if isinstance(job.items[0], Predict) else self.latency
            latency.note(time.perf_counter() - job.start, granted)

    def _abandon(self) -> None:
        if self._refusal is None:
            self._refusal = self._failure
            _logger.critical("the writer of model %r ended with an error", self.model.name)
        self._jobs.abandon(self._refusal)

    def _failure(self) -> RequestError:
        return ModelFailedError(f"model {self.model.name!r} failed, the log says why: delete it", "model")


def _report(task: asyncio.Task[None]) -> None:
    """Let the loop report an error that nobody foresaw."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else [error]:
        context = {"message": "the writer of a model ended", "exception": each, "task": task}
        task.get_loop().call_exception_handler(context)
