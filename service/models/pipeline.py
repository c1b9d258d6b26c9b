"""Pipeline of a model: check, log, apply.

The pipeline has two steps. One checks a group of requests and sends its events to the log. Meanwhile the
other applies the previous group. They follow these rules:

- Events are applied in the order of the log. An event is on the disk before it is applied.
- A failed commit refuses the requests of its group and does not change the model. The pipeline still applies
  later groups that are already checked. Their check assumed that the refused samples are learned. The next
  check therefore waits until these groups are applied, and starts from the model. The same holds after every
  outcome that validation did not expect.
- A sample for which the GPU has too little free memory is refused, and the model goes on. One of a message
  has no client that could repeat it: it is tried again until there is memory.
- A sample that makes the predictions non-finite is refused. The pipeline rebuilds the state before the call
  from the log, and applies the next `CAREFUL` entries one at a time. Nothing reads the model during the
  rebuild.
- An operation on the whole model runs after all earlier groups are applied, and before the check of any later
  group.
- An unexpected error ends both steps. `Worker` then answers all requests with `ModelFailedError`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from bnp_online.errors import DeviceMemoryError

from ..blocks import Block
from ..errors import REFUSALS, BatchRefusedError, NotReadyError, StorageError
from ..storage.event_codec import Pending, dumps
from ..storage.history import History
from ..storage.interfaces import Advance, Event, Group, Run
from ..storage.log_writer import LogWriter
from ..storage.runs import gather
from ..telemetry.traces import group_span
from .block_learning import apart, learn_block, refuse_in_block, rows_at_once
from .checkpointer import Checkpointer
from .divergence import apply_one_by_one
from .hosted import Applied, HostedModel, Outcome
from .queue import Job, JobQueue, Latency, Outcomes, settle
from .scheduling import SLICE, CallLength, EagerTask, FairTurns, ModelAccess
from .validation import (
    Answered,
    BlockEvent,
    Entry,
    Learn,
    PendingEvent,
    Predict,
    Request,
    SampleEvent,
    Validator,
    ids_of,
)

T = TypeVar("T")

#: Groups on their way to the log, while one is applied. They bridge a pause of the disk.
_AHEAD = 3
#: Most samples of a block that are learned while another operation waits.
_ROWS = 8
#: Calls on the event loop that a block may take; handing it to a thread takes about as long as one.
_CALLS = 2
#: Most samples of a small block, and calls that it may take, without a turn between them. Streams for many
#: models have many of them. Threads would compete with the event loop, and others would wait for all turns.
_SMALL, _SMALL_CALLS = 32, 4
#: Seconds between two attempts to apply a message, and between two log messages, if a GPU lacks memory.
_RETRY, _REPORT = 1.0, 10.0
#: Entries that are applied one at a time after a model diverged.
CAREFUL = 1000

_logger = logging.getLogger(__name__)


class Logged(NamedTuple):
    """A group that was checked.

    Attributes
    ----------
    jobs : list of Job
        Jobs of its requests.
    entries : list of Entry
        One per request.
    last : Future or None
        Number of the last event in the log, or the error of the commit; None without events.
    time : float
        Time of logging.
    """

    jobs: list[Job]
    entries: list[Entry]
    last: asyncio.Future[int | StorageError] | None
    time: float = 0.0


class Pipeline:
    """Takes jobs from the queue, checks their requests, logs them, applies them and answers.

    Parameters
    ----------
    model : HostedModel
        The model. The pipeline may replace it.
    history, log_writer, checkpointer
        Log and checkpoints of the model.
    queue : JobQueue
        Jobs of the model.
    access : ModelAccess
        Exclusive access to the model.
    fair_turns : FairTurns
        Turns on the event loop.
    rebuild : callable
        Returns the model after the event with a given number, from the log.
    on_drift : callable
        Called with ``"drift"``, ``step``, ``detector`` and ``action`` after a drift was detected, and with
        ``"action"``, ``step`` and ``action`` after an action was taken and logged.

    Attributes
    ----------
    model : HostedModel
        The current model.
    diverged : bool
        Whether the state is being rebuilt, so that nothing may read it.
    discarded : bool
        Whether the model was deleted: no further job is taken.
    refusals : Counter of str
        Number of requests refused after queueing, by error code.
    in_blocks : int
        Number of samples that were learned in blocks.
    predict_length, learn_length : CallLength
        Samples that fit into a call.
    learn_latency, predict_latency : Latency
        Time from queueing to the answer, for samples and for predictions that are logged.
    """

    def __init__(
        self,
        model: HostedModel,
        history: History,
        log_writer: LogWriter,
        checkpointer: Checkpointer,
        queue: JobQueue,
        access: ModelAccess,
        fair_turns: FairTurns,
        rebuild: Callable[[int], HostedModel],
        on_drift: Callable[..., None],
    ) -> None:
        self.model = model
        self._history = history
        self._log_writer = log_writer
        self._checkpointer = checkpointer
        self._queue = queue
        self._access = access
        self._fair_turns = fair_turns
        self._rebuild = rebuild
        self._on_drift = on_drift
        self.diverged = self.discarded = False
        self.refusals: Counter[str] = Counter()
        self.in_blocks = 0
        self.learn_latency, self.predict_latency = Latency(), Latency()
        self.predict_length = CallLength()
        self.learn_length = CallLength()
        self._shortage_at = 0.0  # time of the next log message
        self._careful = 0  # entries to apply one at a time
        self._groups: deque[Logged] = deque()  # checked and not applied; the first may be in application
        self._applied: deque[list[Entry]] = deque()
        self._progress: asyncio.Future[None] | None = None  # done once a further group is applied
        self._checked = False  # whether no further group follows
        self._ended = asyncio.Event()
        self._check = EagerTask(self._check_waiting, self._ended.set)
        self._apply = EagerTask(self._apply_logged, self._ended.set)
        self._validator: Validator | None = None
        self._unexpected = False  # whether validation knows of samples that the model never learned

    async def run(self) -> None:
        """Process jobs until the queue is closed and empty, or the model is deleted or fails."""
        if self._checkpointer.due:  # after a long replay: a kill now must not repeat it
            await self._access.run(self._keep)
        self._queue.on_change = self._check.wake
        self._check.wake()
        try:
            await self._ended.wait()
        finally:
            await self._check.stop()
            await self._apply.stop()

    async def _check_waiting(self) -> None:
        """Check the jobs that wait, and run operations."""
        queue = self._queue
        while queue.waiting and not self.discarded:
            if queue.operation_is_next or self._unexpected:
                await self._wait_for_groups(0)  # every group is applied
                self._validator, self._unexpected = None, False
            jobs = queue.take()
            if (operation := jobs[0].operation) is not None:
                queue.answer([await self._operate(operation)])
            else:
                self._add_group(await self._check_jobs(jobs))
                if len(self._groups) > _AHEAD + 1:
                    await self._wait_for_groups(_AHEAD + 1)
        if queue.closed or self.discarded:
            self._checked = True
            self._end()

    def _add_group(self, group: Logged) -> None:
        """Apply a group once its events are on the disk."""
        self._groups.append(group)
        if group.last is None:
            self._apply.wake()
        else:
            group.last.add_done_callback(self._apply.start, context=self._apply.context)

    async def _wait_for_groups(self, most: int) -> None:
        """Wait until at most `most` groups are not applied."""
        while len(self._groups) > most:
            self._progress = asyncio.get_running_loop().create_future()
            await self._progress

    def _end(self) -> None:
        if self._checked and not self._groups:
            self._ended.set()

    async def _operate(self, operation: Callable[[], Any]) -> Any:
        try:
            return await self._access.run(operation, pool=self._access.threads.storage)
        except REFUSALS as error:
            return error

    def _current_validator(self) -> Validator:
        """Return the validator, which knows what was applied."""
        validator = self._validator
        if validator is None:
            validator = self._validator = self.model.validator(self._predict, self.refusals)
        while self._applied:
            validator.settle(self._applied.popleft())
        return validator

    async def _check_jobs(self, jobs: list[Job]) -> Logged:
        """Check the requests of jobs, and send their events to the log."""
        requests = [each for job in jobs for each in job.parts]
        ids = {each for request in requests for each in ids_of(request)}
        validator = self._current_validator()
        if ids:
            try:
                validator.look_up(*await asyncio.to_thread(self._history.look_up, ids))
            except StorageError as error:
                return Logged(jobs, [Answered(error)] * sum(len(job.requests) for job in jobs), None)
        entries: list[Entry] = []
        for some in apart(requests, Block):
            if isinstance(some, Block):
                entries += validator.take_block(some)
            else:
                entries += await self._check_requests(validator, some)
        if jobs[0].advances:
            return self._log_messages(jobs[0], entries)
        return self._log(jobs, entries)

    def _log(self, jobs: list[Job], entries: list[Entry], *, wake: bool = True) -> Logged:
        """Send the events of requests that were checked to the log."""
        events = [entry.event for entry in entries if isinstance(entry, PendingEvent)]
        now = self._history.log.now()
        return Logged(jobs, entries, self._append(events, now, wake=wake) if events else None, now)

    def take_at_once(self, request: Learn, *, reserved: bool, wake: bool) -> Outcomes | None:
        """Check a sample without an id now, and send its event to the log; see `_check_jobs`.

        Parameters
        ----------
        request : Learn
            The sample.
        reserved : bool
            Whether capacity was reserved for it.
        wake : bool
            As for `LogWriter.submit`.

        Returns
        -------
        Future or None
            Its outcome; None if it must be queued, because others wait or an operation runs.
        """
        if self._unexpected or self.discarded or self._check.busy or self._access.locked():
            return None
        if len(self._groups) > _AHEAD:
            return None
        job = self._queue.take_at_once(request, reserved=reserved)
        if job is not None:
            self._add_group(self._log([job], self._current_validator().take((request,)), wake=wake))
        return None if job is None else job.outcomes

    async def _check_requests(self, validator: Validator, requests: Sequence[Request]) -> list[Entry]:
        short = self.predict_length.short or Predict not in map(type, requests)
        entries: list[Entry] = []
        for start in range(0, len(requests), SLICE):
            if len(requests) > SLICE:
                await self._fair_turns.next()
            part = requests[start : start + SLICE]
            if short and not self._access.locked():
                entries += validator.take(part)
            else:
                entries += await self._access.run(partial(validator.take, part), short=short)
        return entries

    def _log_messages(self, job: Job, entries: list[Entry]) -> Logged:
        """Send the events of messages to the log, with the positions after them."""
        refused = [isinstance(entry, Answered) and isinstance(entry.value, Exception) for entry in entries]
        if job.whole and any(refused):
            self._unexpected = True  # the validator counts the others as learned
            kept = BatchRefusedError("another message of the batch is refused: this one is not learned yet")
            return Logged(
                [job], [e if no else Answered(kept) for e, no in zip(entries, refused, strict=True)], None
            )
        events = [entry.event for entry in entries if isinstance(entry, PendingEvent)]
        now = self._history.log.now()
        return Logged([job], entries or [Answered({})], self._append(events, now, job.advances), now)

    def _append(
        self,
        events: list[Event | Run],
        now: float | None = None,
        advances: Sequence[Advance] = (),
        *,
        wake: bool = True,
    ) -> asyncio.Future[int | StorageError]:
        history = self._history
        branch = history.branches[-1].number
        group = Group(history.model, branch, gather(events), advances, now)
        return self._log_writer.submit(group, wake=wake)

    def commit(self) -> None:
        """Let the log commit what was submitted without a wake."""
        self._log_writer.wake()

    def read(self, function: Callable[[HostedModel], T]) -> T:
        """Return the result of a function of the model; call it with exclusive access.

        Raises
        ------
        NotReadyError
            If the state is being rebuilt.
        """
        if self.diverged:
            raise NotReadyError("the model diverged and its state is being rebuilt: try again")
        return function(self.model)

    def _predict(self, request: Predict) -> Pending:
        return self.read(lambda model: model.predict_pending(request))

    async def _apply_logged(self) -> None:
        """Apply the groups whose events are on the disk, and answer their jobs."""
        groups = self._groups
        while groups and ((last := groups[0].last) is None or last.done()):
            group = groups[0]
            entries = group.entries if last is None else self._number(group, last.result())
            with group_span(self.model.name, group.jobs):
                if not (self._is_short(entries) and await self._apply_sample(entries)):
                    await self._apply_entries(entries, deque(group.jobs))
            self._count(entries)  # a checkpoint before a drift action does not include the whole group
            if self._checkpointer.due:
                await self._access.run(self._keep)
            if self._validator is not None and self._validator.remembers:
                self._applied.append(group.entries)
            groups.popleft()
            if self._progress is not None:
                settle(self._progress, None)
                self._progress = None
        self._end()

    def _is_short(self, entries: Sequence[Entry]) -> bool:
        """Return whether entries are one sample, which is learned at once on the event loop."""
        if len(entries) > 1 or type(entries[0]) is not SampleEvent or not self.learn_length.short:
            return False
        return not (self._careful or self.model.drift.due or self._access.locked())

    async def _apply_sample(self, entries: Sequence[Entry]) -> bool:
        """Apply a sample in a short call, and answer its job; return whether there was memory for it."""
        before = self.model.sequence
        applied = self._apply_now(entries)
        if applied is None:
            applied = await self._apply_again(entries, before)
        if applied.shortage is not None:
            return False
        await self._note(applied)
        self._answer(applied.outcomes)
        return True

    def _number(self, group: Logged, last: int | StorageError) -> list[Entry]:
        """Return the entries with the numbers of their events; after a failed commit, return refusals."""
        entries, messages = group.entries, bool(group.jobs[0].advances)
        if len(entries) == 1 and isinstance(entries[0], PendingEvent) and not isinstance(last, StorageError):
            entries[0].seq, entries[0].time = last, group.time
            return entries
        events = [entry for entry in entries if isinstance(entry, PendingEvent)]
        if not isinstance(last, StorageError):
            for event in reversed(events):
                event.seq, event.time = last, group.time
                last -= event.event.samples
            return entries
        self._unexpected = True
        for event in events:
            event.refuse(last)
        return [
            each
            for entry in entries
            for each in (
                [Answered(last)] * entry.size if messages or isinstance(entry, PendingEvent) else [entry]
            )
        ]

    def _count(self, entries: list[Entry]) -> None:
        """Count the logged events of a group."""
        count = size = 0
        for entry in entries:
            if isinstance(entry, PendingEvent):
                count += entry.event.samples
                size += entry.event.size
        if count:
            self._checkpointer.add(count, size)

    async def _apply_entries(self, entries: list[Entry], jobs: deque[Job]) -> None:
        """Apply entries in short calls, and answer each job as soon as its entries are applied."""
        outcomes: list[Outcome] = []
        repeats = bool(jobs and jobs[0].advances)
        for some in apart(entries, BlockEvent):
            if isinstance(some, BlockEvent):
                apply = self._apply_block(some)
            else:
                apply = self._apply_each(some, repeats=repeats)
            async for applied in apply:
                outcomes += applied.outcomes
                await self._note(applied)
                while jobs and len(outcomes) >= jobs[0].size:
                    size = jobs.popleft().size
                    self._answer(outcomes[:size])
                    del outcomes[:size]

    async def _note(self, applied: Applied) -> None:
        """Record what was unexpected, drifts and drift actions."""
        if applied.refused or applied.steps:
            await self._correct(applied)
        for step in applied.drifts:
            setting = self.model.drift.setting
            self._on_drift("drift", step=step, detector=setting.detector, action=setting.action)
        if self.model.acted:
            await self._log_actions(self.model)

    async def _apply_each(self, entries: Sequence[Entry], *, repeats: bool = False) -> AsyncIterator[Applied]:
        """Apply entries; if the GPU has too little free memory for one, try again or refuse it."""
        start = 0
        while start < len(entries):
            if len(entries) > SLICE:
                await self._fair_turns.next()
            applied = await self._apply_part(entries[start : start + self._most()])
            start += len(applied.outcomes)
            yield applied
            if applied.shortage is None:
                continue
            self._report_shortage(applied.shortage)
            entry = entries[start]
            if repeats:
                await self._wait_for_memory(applied.shortage)
            elif isinstance(entry, PendingEvent):
                start += 1
                refuse = partial(self.model.refuse, entry, applied.shortage)
                yield await self._access.run(refuse, short=True)

    def _report_shortage(self, error: DeviceMemoryError) -> None:
        if time.monotonic() >= self._shortage_at:
            self._shortage_at = time.monotonic() + _REPORT
            _logger.warning("model %r: %s", self.model.name, error)

    async def _wait_for_memory(self, error: DeviceMemoryError) -> None:
        """Wait before another attempt to apply the message of a partition; raise if the server ends."""
        if self._queue.closed:
            raise error  # the log has the sample: the next start applies it
        await asyncio.sleep(_RETRY)

    async def _apply_block(self, event: BlockEvent) -> AsyncIterator[Applied]:
        """Apply a block: together as far as possible, else each sample alone."""
        start = 0
        while start < event.size:
            before = self.model.sequence
            if not self._careful and rows_at_once(self.model, event):
                most, end = self.learn_length.samples, event.size
                calls = _SMALL_CALLS if event.size <= _SMALL else _CALLS
                short = self.learn_length.short and event.size <= calls * most
                if short:
                    end = min(end, start + most)
                    if start and event.size > _SMALL:
                        await self._fair_turns.next()
                if short and not self._access.locked():
                    applied = self._apply_rows(event, start, end)
                else:
                    apply = partial(self._apply_rows, event, start, end)
                    applied = await self._access.run(apply, short=short)
                if applied is None:
                    restore = partial(self._restore, before)
                    await self._access.run(restore, pool=self._access.threads.maintenance)
                else:
                    start += len(applied.outcomes)
                    self.in_blocks += applied.learned
                    yield applied
                    if applied.shortage is not None:
                        self._report_shortage(applied.shortage)
                        refuse = partial(refuse_in_block, self.model, event, start, applied.shortage)
                        yield await self._access.run(refuse, short=True)
                        start += 1
                continue
            one = self.model.estimator.knows(event.block.rows) and not self._careful  # before a drift action
            stop = start + 1 if one else event.size
            samples, refused = self.model.samples_of(event, start, stop)
            if refused:
                await self._correct(Applied(refused=refused))
            async for applied in self._apply_each(samples):
                yield applied
            event.settle(samples)
            start = stop

    def _apply_rows(self, event: BlockEvent, start: int, end: int) -> Applied | None:
        """Apply samples of a block until another operation waits; return None if the model diverged."""
        applied, stop, waiting = Applied(), start, self._access.waiting
        while stop < end and (most := rows_at_once(self.model, event)):
            begun, few = time.perf_counter(), bool(waiting[0])  # few, so that learning does not stand still
            most = min(most, _ROWS, self.learn_length.samples) if few else most
            to = min(end, stop + most)
            learned = learn_block(self.model, event, stop, to, applied, None if few else waiting)
            if learned is None:
                self._diverge()
                return None
            if learned:
                self.learn_length.add(learned, time.perf_counter() - begun, self.model.call_seconds)
            stop += learned
            if waiting[0] or not learned:
                break
        return applied

    def _most(self) -> int:
        """Return how many entries fit into a call; the call ends where a drift action can be due."""
        samples, drift = self.learn_length.samples, self.model.drift
        return min(samples, drift.steps_to_action(self.model.step)) if drift.acts else samples

    async def _apply_part(self, part: Sequence[Entry]) -> Applied:
        drift, before = self.model.drift, self.model.sequence
        if drift.due and drift.ready(self.model.step) and SampleEvent in map(type, part):
            await self._access.run(self._checkpoint)
        if not self._careful:
            if (short := self.learn_length.short) and not self._access.locked():
                applied = self._apply_now(part)
            else:
                applied = await self._access.run(partial(self._apply_now, part), short=short)
            if applied is not None:
                return applied
            return await self._apply_again(part, before)
        return await self._access.run(partial(self._apply_carefully, part))

    async def _apply_again(self, part: Sequence[Entry], before: int) -> Applied:
        """Apply entries one by one, from the state after an event: the model diverged."""
        restore = partial(self._restore, before)
        await self._access.run(restore, pool=self._access.threads.maintenance)
        return await self._access.run(partial(self._apply_carefully, part))

    def _apply_now(self, part: Sequence[Entry]) -> Applied | None:
        """Apply entries in one call; return None if the model diverged."""
        model, start = self.model, time.perf_counter()
        applied = model.apply(part)
        if not model.is_sound(part):
            self._diverge()
            return None
        if applied.learned or applied.predicted:
            count = applied.learned or applied.predicted
            self.learn_length.add(count, time.perf_counter() - start, model.call_seconds)
        return applied

    def _diverge(self) -> None:
        _logger.warning("model %r diverged: its state is rebuilt from the log", self.model.name)
        self.diverged, self._careful = True, CAREFUL

    def _restore(self, sequence: int) -> None:
        """Rebuild the model after an event."""
        self._unexpected = True
        try:
            self.replace(self._rebuild(sequence))
        finally:
            self.diverged = False

    def _apply_carefully(self, part: Sequence[Entry]) -> Applied:
        self._careful = max(0, self._careful - len(part))
        self.model, applied = apply_one_by_one(self.model, part)
        return applied

    def _checkpoint(self) -> None:
        """Take a checkpoint before a drift action, unless there is one of this state."""
        if self._checkpointer.changed:
            self._keep()

    def _keep(self) -> None:
        try:
            self._checkpointer.keep(self.model)
        except DeviceMemoryError as error:  # the next group tries again; the log has all samples
            self._report_shortage(error)

    def replace(self, model: HostedModel) -> None:
        """Put another model in place; call it with exclusive access."""
        self.model = model
        self.learn_length.forget()
        self.predict_length.forget()

    async def _correct(self, applied: Applied) -> None:
        """Record unexpected refusals and steps in the log."""
        self._unexpected = True
        self.refusals.update(applied.refused.values())
        try:
            await asyncio.to_thread(self._checkpointer.correct, applied.refused, applied.steps)
        except StorageError as error:  # the next checkpoint or recovery records them
            _logger.warning("model %r: cannot record refused events in the log: %s", self.model.name, error)

    async def _log_actions(self, model: HostedModel) -> None:
        """Log drift actions that were taken; after an error the next group tries again."""
        actions = model.acted[:]
        last = await self._append([Event("action", dumps(action)) for action in actions])
        self._checkpointer.add(len(actions), 0)
        if isinstance(last, StorageError):
            _logger.warning("model %r: cannot log a drift action: %s", model.name, last)
        else:
            del model.acted[: len(actions)]
            for action in actions:
                self._on_drift("action", step=action["step"], action=action["action"])

    def _answer(self, outcomes: list[Outcome]) -> None:
        """Answer the oldest job that was taken."""
        granted = sum(not isinstance(outcome, Exception) for outcome in outcomes)
        job = self._queue.answer(outcomes)
        if granted and job.parts:
            latency = self.predict_latency if isinstance(job.parts[0], Predict) else self.learn_latency
            latency.add(time.perf_counter() - job.start, granted)
