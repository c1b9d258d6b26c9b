"""The single writer of a model: one task that takes what waits, keeps the order, and answers.

Requests put jobs into a queue and await their answers. The task takes a bounded group of them: it checks the
group, has it logged, and applies it in short calls, between which predictions are answered. All see the model
between two steps, never half of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from service.admission import Admitted, Entry, Fresh, Kept, Learn, Predict, Request
from service.committer import Committer
from service.durations import Durations
from service.errors import (
    REFUSALS,
    ModelFailedError,
    NotReadyError,
    RequestError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
)
from service.events import dumps
from service.history import History
from service.hosted import Answer, Applied, HostedModel, Outcome
from service.jobs import Exclusive, Job, Outcomes, Room, settle
from service.keeper import Keeper
from service.reads import Reads
from service.soundness import Guard
from service.store.base import Event
from service.turns import Turns

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Learner:
    """The writer of a model, and the queue before it.

    Must be made on a running event loop, and called from that loop alone.

    Parameters
    ----------
    model : HostedModel
        From now on only what has its turn here touches it, except for reading its counters.
    history : History
        Of the model.
    committer : Committer
        Writes the log.
    keeper : Keeper
        Of the model's checkpoints.
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
        committer: Committer,
        keeper: Keeper,
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
        self._committer = committer
        self._keeper = keeper
        self._group_size = group_size
        self._turns = Turns(f"model-{model.name}")
        self.reads = Reads(self._turns, self._require_open, self._look, Room(queue_size), group_size)
        self.durations = Durations()
        self._room = Room(queue_size)
        self._jobs: deque[Job] = deque()  # a job leaves it when it is answered, whatever ends the task
        self._bell = asyncio.Event()
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
        return "rebuilding" if self._keeper.paused or self.poisoned else "ready"

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
        return self._room.taken

    async def learn(self, request: Request) -> Answer:
        """Learn a sample, or keep a prediction; returns once that is logged and applied."""
        self._require_open()
        self._room.enter()
        [outcome] = await self._add(request)
        if isinstance(outcome, Exception):
            raise outcome
        return cast(Answer, outcome)

    async def exclusive(self, do: Callable[[], T]) -> T:
        """Return what `do` does to the model between two groups, when its turn comes."""
        self._require_open()
        self._room.take(1)
        [outcome] = await self._add(Exclusive(do))
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    async def queue_samples(self, requests: Sequence[Request]) -> tuple[int, Outcomes]:
        """Queue many at once, and wait where `learn` refuses: until there is room for at least one.

        Returns
        -------
        int
            How many of them are queued: the first ones for which there is room.
        Future
            For each of those in order its answer, or what refused it.
        """
        count = min(len(requests), await self._room.wait_for_share(), self._group_size)
        self._require_open()
        self._room.take(count)
        return count, self._add(*requests[:count])

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
        self._bell.set()
        await asyncio.wait([self._task])
        await self._turns.close()

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

    def _add(self, *items: Request | Exclusive) -> Outcomes:
        job = Job(items, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._bell.set()
        return job.outcomes

    async def _run(self) -> None:
        try:
            while await self._wait():
                await self._next_group()
        finally:
            # Reached by an unforeseen error too, which is then reported.
            self._abandon()

    async def _wait(self) -> bool:
        """Wait for jobs; return False when the task is to end."""
        while not (self._jobs or self._refusal):
            self._bell.clear()
            await self._bell.wait()
        return bool(self._jobs) and not self._discarded

    async def _next_group(self) -> None:
        """Do what is next: something exclusive, or a group of samples."""
        if isinstance(first := self._jobs[0].items[0], Exclusive):
            self._answer(self._jobs[0], [await self._try(first.do)])
            return
        group = self._group()
        entries = await self._log(await self._admit([item for job in group for item in job.items]))
        outcomes: list[Outcome] = []
        async for applied in self._apply(entries):
            outcomes += applied.outcomes
            while group and len(outcomes) >= (size := len(group[0].items)):
                self._answer(group.popleft(), outcomes[:size])
                del outcomes[:size]
        if self._keeper.due(self.model):
            await self._turns.run(partial(self._keeper.keep, self.model))

    async def _try(self, do: Callable[[], Any]) -> Any:
        try:
            return await self._turns.run(do)
        except REFUSALS as error:
            return error

    def _group(self) -> deque[Job]:
        """Return the oldest jobs, of as many samples as a group may have, but at least one job."""
        group: deque[Job] = deque()
        left = self._group_size
        for job in self._jobs:
            left -= len(job.items)
            if isinstance(job.items[0], Exclusive) or (group and left < 0):
                break
            group.append(job)
        return group

    async def _admit(self, requests: list[Any]) -> list[Entry]:
        """Check the requests of a group; others have a turn between them."""
        ids = {request.id for request in requests if isinstance(request, Learn) and request.id is not None}
        try:
            known, forgotten = await asyncio.to_thread(self.history.look_up, ids) if ids else ({}, set())
        except StorageError as error:
            return [error] * len(requests)
        entries: list[Entry] = []
        parts = self.model.admit(requests, known, forgotten, self.refusals)
        short = self.reads.short or not any(isinstance(request, Predict) for request in requests)
        while part := await self._turns.run(partial(next, parts, None), short=short):
            entries += part
            await asyncio.sleep(0)
        return entries

    async def _log(self, entries: list[Entry]) -> list[Entry]:
        """Return a group once it is logged; what could not be is refused."""
        logged = [entry for entry in entries if isinstance(entry, Admitted | Kept)]
        if not logged:
            return entries
        outcome = await self._commit([entry.event for entry in logged])
        if isinstance(outcome, StorageError):
            return [outcome if isinstance(entry, Admitted | Kept | Fresh) else entry for entry in entries]
        for seq, entry in enumerate(logged, outcome - len(logged) + 1):
            entry.seq = seq
        return entries

    async def _commit(self, events: Sequence[Event]) -> int | StorageError:
        """Return the number of the last event, or why none is kept."""
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[int | StorageError] = loop.create_future()

        def done(outcome: int | StorageError) -> None:
            with contextlib.suppress(RuntimeError):  # a closed loop: the server was killed, nobody waits
                loop.call_soon_threadsafe(settle, kept, outcome)

        self._committer.submit(self.history.group(events), done)
        return await kept

    async def _apply(self, entries: list[Entry]) -> AsyncIterator[Applied]:
        """Apply a group that was logged, in short calls; yields what came of the next requests."""
        start = 0
        while start < len(entries):
            part = entries[start : start + self.model.room]
            if self.model.drift.ready(self.model.step) and any(isinstance(each, Admitted) for each in part):
                await self._turns.run(self._keep_before_action)
            applied = await self._apply_part(part)
            await self._correct(applied)
            await self._note(applied)
            yield applied
            await asyncio.sleep(0)
            start += len(part)

    async def _apply_part(self, part: Sequence[Entry]) -> Applied:
        before = self.model.sequence
        if not self._guard.careful:
            apply = partial(self._guard.apply, self.model, part)
            applied = await self._turns.run(apply, short=self.model.pace.short)
            if applied is not None:
                return applied
            await self._turns.run(partial(self._bring_back, before))
        return await self._turns.run(partial(self._apply_carefully, part))

    def _bring_back(self, sequence: int) -> None:
        with self._guard.bringing_back():
            self.model = self._rebuild(sequence)

    def _apply_carefully(self, part: Sequence[Entry]) -> Applied:
        self.model, applied = self._guard.apply_carefully(self.model, part)
        return applied

    def _keep_before_action(self) -> None:
        if self._keeper.changed(self.model):
            self._keeper.keep(self.model)

    async def _note(self, applied: Applied) -> None:
        """Tell of drifts that were found, and note in the log what was done about one."""
        setting = self.model.drift.setting
        for step in applied.drifts:
            self._tell(step=step, detector=setting.detector, action=setting.action)
        if noted := self.model.acted[:]:
            outcome = await self._commit([Event("action", dumps(done)) for done in noted])
            if isinstance(outcome, StorageError):  # the next group tries again
                _logger.warning("an action could not be noted in the log: %s", outcome)
            else:
                del self.model.acted[: len(noted)]

    async def _correct(self, applied: Applied) -> None:
        """Note in the log what came out otherwise than was expected when it was logged."""
        if not applied.refused and not applied.steps:
            return
        self.refusals.update(applied.refused.values())
        try:
            await asyncio.to_thread(self.history.log.correct, applied.refused, applied.steps)
        except StorageError as error:  # a restart would find out by itself
            _logger.warning("a refusal could not be noted in the log: %s", error)

    def _answer(self, job: Job, outcomes: list[Any]) -> None:
        """Answer the oldest job."""
        self._jobs.popleft()
        self._room.free(len(job.items))
        settle(job.outcomes, outcomes)
        granted = sum(not isinstance(outcome, Exception) for outcome in outcomes)
        if granted and not isinstance(first := job.items[0], Exclusive):
            durations = self.reads.durations if isinstance(first, Predict) else self.durations
            durations.note(time.perf_counter() - job.start, granted)

    def _abandon(self) -> None:
        if self._refusal is None:
            self._refusal = self._failure
            _logger.critical("the writer of model %r ended with an error", self.model.name)
        while self._jobs:
            self._answer(self._jobs[0], [self._refusal() for _ in self._jobs[0].items])

    def _failure(self) -> RequestError:
        return ModelFailedError(f"model {self.model.name!r} failed, the log says why: delete it", "model")


def _report(task: asyncio.Task[None]) -> None:
    """Let the loop report an error that nobody foresaw."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "the writer of a model ended", "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
