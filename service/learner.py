"""The single writer of a model: one thread that takes what waits, keeps the order, and answers.

The event loop only puts jobs into queues and awaits futures. The thread takes reads (predictions and
questions) first, then a bounded group of samples; between the short calls that learn a group it looks for
reads again, so that none waits longer than one call. All see the model between two steps, never half of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from service.admission import Admitted, Entry, Fresh, Kept, Learn, Request
from service.committer import Committer
from service.errors import (
    REFUSALS,
    ModelFailedError,
    QueueFullError,
    RequestError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
)
from service.history import History
from service.hosted import Answer, Applied, HostedModel
from service.jobs import Backlog, Job, Outcomes
from service.keeper import Keeper
from service.soundness import Guard

T = TypeVar("T")
Read: TypeAlias = Callable[[HostedModel], Any]


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Something to do in the model's thread between two groups, when its turn comes."""

    do: Callable[[], Any]


_logger = logging.getLogger(__name__)


class Learner:
    """The thread of a model, and the two queues before it.

    Must be made on a running event loop, which is the one it answers to.

    Parameters
    ----------
    model : HostedModel
        From now on only this thread touches it, except for reading its counters.
    history : History
        Of the model.
    committer : Committer
        Writes the log.
    keeper : Keeper
        Of the model's checkpoints.
    rebuild : callable
        Returns the model as it was after an event, by its number.
    queue_size : int
        Samples that may wait in each queue.
    group_size : int
        Samples that are logged and learned together at most; reads as well.
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
    ) -> None:
        self.model = model
        self.history = history
        self._rebuild = rebuild
        self._guard = Guard()
        self._committer = committer
        self._keeper = keeper
        self._group_size = group_size
        self._loop = asyncio.get_running_loop()
        self._reads: Backlog[Read] = Backlog(queue_size)
        self._writes: Backlog[Request | Exclusive] = Backlog(queue_size)
        self._bell = threading.Condition(threading.Lock())
        self._refusal: Callable[[], RequestError] | None = None
        self._discarded = False
        self._thread = threading.Thread(target=self._run, name=f"learner-{model.name}", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether the thread ended with an error that nobody foresaw."""
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
        return self._guard.rebuilding

    @property
    def queue_depth(self) -> int:
        """How many samples and questions wait."""
        return self._reads.waiting + self._writes.waiting

    async def ask(self, read: Callable[[HostedModel], T]) -> T:
        """Return what `read` makes of the model between two steps; it must not make it learn."""
        return cast(T, await self._one(self._reads, read))

    async def learn(self, request: Request) -> Answer:
        """Learn a sample, or keep a prediction; returns once that is logged and applied."""
        return cast(Answer, await self._one(self._writes, request))

    async def exclusive(self, do: Callable[[], T]) -> T:
        """Return what `do` does in the model's thread, between two groups, when its turn comes."""
        [outcome] = await self._submit(self._writes, [Exclusive(do)])
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    async def queue_reads(self, reads: Sequence[Read]) -> tuple[int, Outcomes]:
        """Queue many at once; see `queue_samples`."""
        return await self._some(self._reads, reads)

    async def queue_samples(self, requests: Sequence[Request]) -> tuple[int, Outcomes]:
        """Queue many at once, and wait where `learn` refuses: until there is room for at least one.

        Returns
        -------
        int
            How many of them are queued: the first ones for which there is room.
        Future
            For each of those in order its answer, or what refused it.
        """
        return await self._some(self._writes, requests)

    async def close(self) -> None:
        """Answer all that waits, refuse what comes later, and end the thread."""
        with self._bell:
            self._refusal = self._refusal or (lambda: ShuttingDownError("the server is shutting down"))
            self._bell.notify()
        await asyncio.to_thread(self._thread.join)

    async def delete(self, do: Callable[[], None]) -> None:
        """Delete the model by `do` when its turn comes, and end the thread.

        All that waits behind it learns that the model is gone; if `do` raises, nothing has changed.
        """

        def last() -> None:
            do()
            name = self.model.name
            with self._bell:
                self._refusal = lambda: UnknownModelError(f"model {name!r} was deleted", "model")
                self._discarded = True

        if self.failed:  # it has no turns any more
            await asyncio.to_thread(do)
        else:
            await self.exclusive(last)
            await asyncio.to_thread(self._thread.join)

    async def _one(self, backlog: Backlog[T], item: T) -> Any:
        if not backlog.room:
            waiting = backlog.waiting
            raise QueueFullError(f"{waiting} requests wait for {self.model.name!r}: try again later")
        [outcome] = await self._submit(backlog, [item])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _some(self, backlog: Backlog[T], items: Sequence[T]) -> tuple[int, Outcomes]:
        count = min(len(items), await backlog.wait_for_share(), self._group_size)
        return count, self._submit(backlog, items[:count])

    def _submit(self, backlog: Backlog[T], items: Sequence[T]) -> Outcomes:
        job = Job(items, self._loop.create_future())
        with self._bell:
            if self._refusal is not None:
                raise self._refusal()
            backlog.add(job)
            self._bell.notify()
        return job.outcomes

    def _run(self) -> None:
        try:
            while self._wait():
                self._answer_reads()
                self._learn_group()
        finally:
            # Reached by an unforeseen error too, which then goes on to `threading.excepthook`.
            self._abandon()

    def _wait(self) -> bool:
        """Wait for jobs; return False when the thread is to end."""
        with self._bell:
            while not (self._reads.jobs or self._writes.jobs or self._refusal):
                self._bell.wait()
            return bool(self._reads.jobs or self._writes.jobs) and not self._discarded

    def _answer_reads(self) -> None:
        if self._reads.jobs and (waiting := self._next(self._reads)):
            self._reply(self._reads, [(job, [self._attempt(read) for read in job.items]) for job in waiting])

    def _next(self, backlog: Backlog[T]) -> list[Job[T]]:
        return [] if self._discarded else backlog.first(self._group_size)

    def _attempt(self, read: Read) -> Any:
        try:
            return read(self.model)
        except REFUSALS as error:
            return error

    def _learn_group(self) -> None:
        """Learn a group, and answer each job as soon as all of it is applied."""
        if not (jobs := self._next(self._writes)):
            return
        if isinstance(first := jobs[0].items[0], Exclusive):
            self._reply(self._writes, [(jobs[0], [self._attempt(lambda model: first.do())])])
            return
        group = list(itertools.takewhile(lambda job: not isinstance(job.items[0], Exclusive), jobs))
        entries = self._log(self._admit([cast(Request, item) for job in group for item in job.items]))
        waiting = iter(group)
        outcomes: list[Any] = []
        job = next(waiting, None)
        for applied in self._apply(entries):
            outcomes += applied.outcomes
            answered = []
            while job is not None and len(outcomes) >= len(job.items):
                answered.append((job, outcomes[: len(job.items)]))
                del outcomes[: len(job.items)]
                job = next(waiting, None)
            self._reply(self._writes, answered)
            self._answer_reads()
        self._keeper.consider(self.model)

    def _admit(self, requests: list[Request]) -> list[Entry]:
        """Check the requests of a group; reads are answered meanwhile."""
        ids = {request.id for request in requests if isinstance(request, Learn) and request.id is not None}
        try:
            known, forgotten = self.history.learned(ids), self.history.forgotten(ids)
        except StorageError as error:
            return [error] * len(requests)
        entries: list[Entry] = []
        for part in self.model.admit(requests, known, forgotten):
            entries += part
            self._answer_reads()
        return entries

    def _log(self, entries: list[Entry]) -> list[Entry]:
        """Return a group once it is logged; what could not be is refused. Reads are answered meanwhile."""
        logged = [entry for entry in entries if isinstance(entry, Admitted | Kept)]
        if not logged:
            return entries
        outcome = self._commit(logged)
        if isinstance(outcome, StorageError):
            return [outcome if isinstance(entry, Admitted | Kept | Fresh) else entry for entry in entries]
        for seq, entry in enumerate(logged, outcome - len(logged) + 1):
            entry.seq = seq
        return entries

    def _commit(self, logged: Sequence[Admitted | Kept]) -> int | StorageError:
        outcomes: list[int | StorageError] = []

        def done(outcome: int | StorageError) -> None:
            with self._bell:
                outcomes.append(outcome)
                self._bell.notify()

        self._committer.submit(self.history.group([entry.event for entry in logged]), done)
        while True:
            with self._bell:
                while not (outcomes or (self._reads.jobs and not self._discarded)):
                    self._bell.wait()
            if outcomes:
                return outcomes[0]
            self._answer_reads()

    def _apply(self, entries: list[Entry]) -> Iterator[Applied]:
        """Apply a group that was logged, in short calls; yields what came of the next requests."""
        start = 0
        while start < len(entries):
            part = entries[start : start + self.model.pace]
            back = partial(self._rebuild, self.model.sequence)
            self.model, applied = self._guard.apply(self.model, part, back)
            self._correct(applied)
            yield applied
            start += len(part)

    def _correct(self, applied: Applied) -> None:
        """Note in the log what came out otherwise than was expected when it was logged."""
        if not applied.refused and not applied.steps:
            return
        try:
            self.history.log.correct(applied.refused, applied.steps)
        except StorageError as error:  # a restart would find out by itself
            _logger.warning("a refusal could not be noted in the log: %s", error)

    def _reply(self, backlog: Backlog[T], answers: list[tuple[Job[T], list[Any]]]) -> None:
        """Answer many jobs by waking the event loop once."""
        if not answers:
            return
        with contextlib.suppress(RuntimeError):  # a closed loop: the server was killed, nobody waits
            self._loop.call_soon_threadsafe(partial(backlog.deliver, answers))
        backlog.drop(len(answers))

    def _abandon(self) -> None:
        with self._bell:
            if self._refusal is None:
                self._refusal = self._failure
                _logger.critical("the writer of model %r ended with an error", self.model.name)
            refusal = self._refusal
        self._refuse(self._reads, refusal)
        self._refuse(self._writes, refusal)

    def _refuse(self, backlog: Backlog[T], refusal: Callable[[], RequestError]) -> None:
        self._reply(backlog, [(job, [refusal() for _ in job.items]) for job in backlog.jobs])

    def _failure(self) -> RequestError:
        return ModelFailedError(f"model {self.model.name!r} failed, the log says why: delete it", "model")
