"""Worker of a model: its single writer, and the reads between steps."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

from bnp_online.values import Label

from ..blocks import Block
from ..errors import REFUSALS, ModelFailedError, RequestError, ShuttingDownError, UnknownModelError
from ..storage.history import History
from ..storage.interfaces import Advance
from ..storage.log_writer import LogWriter
from .checkpointer import Checkpointer
from .hosted import Answer, HostedModel, Outcome
from .pipeline import Pipeline
from .queue import Capacity, JobQueue, Latency, Outcomes
from .scheduling import SLICE, FairTurns, ModelAccess
from .threads import Threads
from .validation import Learn, Request, Requests

T = TypeVar("T")


class Asked(NamedTuple):
    """A sample to predict, with the level of the interval, if any, and whether the novelty is wanted."""

    x: Any
    level: float | None = None
    novelty: bool = False


class Explained(NamedTuple):
    """A sample to explain, and the class; None stands for the predicted one."""

    x: Any
    label: Label | None = None


_logger = logging.getLogger(__name__)


def _shutting_down() -> RequestError:
    return ShuttingDownError("the server is shutting down")


class Worker:
    """Writer of a model: a queue, a pipeline, and predictions, which have priority over samples.

    Construct it on a running event loop, and call it from this loop.

    Parameters
    ----------
    model : HostedModel
        The model. After construction, only code with exclusive access uses it. Its counters can be read at
        any time.
    history : History
        History of the model.
    log_writer : LogWriter
        Writer of the log.
    checkpointer : Checkpointer
        Checkpoints of the model.
    threads : Threads
        Threads of all models.
    fair_turns : FairTurns
        Turns on the event loop, shared by all models.
    rebuild : callable
        Returns the model after the event with a given number, from the log.
    queue_size : int
        Number of samples that may wait, and of predictions.
    group_size : int
        Largest number of samples that are logged together.
    on_drift : callable
        Called after a drift was detected, and after an action was taken; see `Pipeline`.

    Attributes
    ----------
    learn_latency, predict_latency : Latency
        Time from queueing to the answer, of samples and of predictions.
    refusals : Counter of str
        Number of samples refused after queueing, by error code.
    guard : callable or None
        Called before each read in a cluster; raises if the state may be too old.
    staleness : callable or None
        Returns the seconds by which the state lags behind the log, of a model of another process.
    """

    def __init__(
        self,
        model: HostedModel,
        history: History,
        log_writer: LogWriter,
        checkpointer: Checkpointer,
        threads: Threads,
        fair_turns: FairTurns,
        rebuild: Callable[[int], HostedModel],
        queue_size: int,
        group_size: int,
        on_drift: Callable[..., None],
    ) -> None:
        self.history = history
        self._checkpointer = checkpointer
        self._fair_turns = fair_turns
        self._group_size = group_size
        self._access = ModelAccess(threads)
        self._queue = JobQueue(queue_size, group_size)
        self._reads = Capacity(queue_size)
        self._pipeline = Pipeline(
            model,
            history,
            log_writer,
            checkpointer,
            self._queue,
            self._access,
            fair_turns,
            rebuild,
            on_drift,
        )
        self._predict_length = self._pipeline.predict_length
        self.refusals: Counter[str] = self._pipeline.refusals
        self.learn_latency: Latency = self._pipeline.learn_latency
        self.predict_latency: Latency = self._pipeline.predict_latency
        self._refusal: Callable[[], RequestError] | None = None
        self._unfinished: Callable[[], RequestError] | None = None  # for jobs that were taken
        self._learn_refusal: Callable[[], RequestError] | None = None  # at least while there is a refusal
        self.guard: Callable[[], None] | None = None
        self.staleness: Callable[[], float] | None = None
        self._users = 0
        # A model outlives the request that created it, and its log lines do not have that request's id.
        self._task = asyncio.create_task(self._run(), context=Context())
        self._task.add_done_callback(report_error)

    @property
    def model(self) -> HostedModel:
        """The current model. An operation may replace it."""
        return self._pipeline.model

    @model.setter
    def model(self, model: HostedModel) -> None:
        self._pipeline.replace(model)

    @property
    def fair_turns(self) -> FairTurns:
        """Turns on the event loop."""
        return self._fair_turns

    @property
    def learns_in_short_calls(self) -> bool:
        """Whether the event loop itself learns a sample; a thread does it if the model is new or large."""
        return self._pipeline.learn_length.short

    @property
    def predicts_in_short_calls(self) -> bool:
        """Whether the event loop itself predicts a sample."""
        return self._predict_length.short

    @property
    def in_blocks(self) -> int:
        """Number of samples that were learned in blocks."""
        return self._pipeline.in_blocks

    @property
    def failed(self) -> bool:
        """Whether the writer ended with an unexpected error."""
        return self._refusal == self._failure

    @property
    def diverged(self) -> bool:
        """Whether the state is being rebuilt, because a sample made the predictions non-finite."""
        return self._pipeline.diverged

    @property
    def state(self) -> str:
        """``"ready"``, ``"failed"``, or ``"rebuilding"``: unlearning, upgrade, or after a divergence."""
        if self.failed:
            return "failed"
        return "rebuilding" if self.rebuilding or self.history.upgrading is not None else "ready"

    @property
    def rebuilding(self) -> bool:
        """Whether the state is not yet what the log says, after unlearning or a divergence."""
        return self._checkpointer.unlearning or self.diverged

    @property
    def samples_waiting(self) -> int:
        """Number of samples and operations that wait."""
        return self._queue.items

    @property
    def queue_depth(self) -> int:
        """Number of samples, operations and reads that wait."""
        return self._reads.taken + self._queue.items

    @property
    def resting(self) -> bool:
        """Whether nothing waits for the model or uses it, so that it may be removed from memory."""
        return not (self._users or self.queue_depth or self._access.locked() or self.state != "ready")

    def enter_use(self) -> None:
        """Keep the model in memory until `leave_use`, though nothing waits for it; see `Uses`."""
        self._users += 1

    def leave_use(self) -> None:
        """End what `enter_use` began."""
        self._users -= 1

    async def learn(self, request: Request) -> Answer:
        """Learn a sample or store a prediction for its label; return when the event is logged and applied."""
        if self._learn_refusal is not None:
            raise self._learn_refusal()
        [outcome] = await self._queue.add_request(request)
        if isinstance(outcome, Exception):
            raise outcome
        answer: Answer = outcome
        return answer

    def reserve(self) -> None:
        """Take capacity for one sample of `queue_reserved`.

        Raises
        ------
        RequestError
            As `learn`, before the sample is queued.
        """
        self.require_owned()
        self._queue.reserve()

    def release(self, count: int) -> None:
        """Give back capacity for samples that are not queued."""
        self._queue.release(count)

    def queue_reserved(self, requests: Requests) -> Outcomes:
        """Queue samples for which capacity was reserved; return the future of their outcomes.

        Raises
        ------
        RequestError
            If another process owns the model by now, or if it is closed.
        """
        self.require_owned()
        taken = self.take_at_once(requests, reserved=True)
        return self._queue.add_reserved(requests) if taken is None else taken

    def take_at_once(
        self, requests: Sequence[Any] | Block, *, reserved: bool = False, wake: bool = True
    ) -> Outcomes | None:
        """Take one sample without an id at once, and return the future of its outcome.

        It is None if there are other requests, or if the sample must be queued: others wait, an operation
        runs, another process owns the model by now, or it is closed. Without `wake`, `commit` must follow.
        """
        if self._learn_refusal is not None or len(requests) != 1 or isinstance(requests, Block):
            return None
        request = requests[0]
        if type(request) is not Learn or request.id is not None:
            return None
        return self._pipeline.take_at_once(request, reserved=reserved, wake=wake)

    def commit(self) -> None:
        """Let the log commit what was taken without a wake, of any model."""
        self._pipeline.commit()

    async def queue_samples(self, requests: Requests) -> tuple[int, Outcomes]:
        """Queue requests or a block of a stream; wait until at least one sample may be queued.

        Returns
        -------
        int
            Number of queued requests, counted from the first.
        Future
            Their outcomes: answers and errors, in order.
        """
        some = requests[: await self._queue.wait_for_share(len(requests))]
        self.require_owned()
        return len(some), self._queue.add_requests(some)

    async def wait_for_share(self, wanted: int) -> int:
        """Wait until a stream may queue samples, as many as it wants if possible; return how many."""
        share = await self._queue.wait_for_share(wanted)
        self.require_owned()
        return share

    def queue_messages(
        self, requests: Sequence[Request], advances: Sequence[Advance], *, whole: bool = False
    ) -> Outcomes:
        """Queue the samples of messages, at most as many as `wait_for_share` returned.

        Parameters
        ----------
        requests : sequence of Request
            The samples; may be empty.
        advances : sequence of Advance
            Positions that are stored in the commit of the samples.
        whole : bool
            Whether nothing is committed if a sample is refused before the commit. The outcome of the other
            samples is `BatchRefusedError` then.

        Returns
        -------
        Future
            The outcomes, one for each sample, or one if there is none. If the commit fails, each outcome is
            the error.
        """
        self.require_owned()
        return self._queue.add_messages(requests, advances, whole=whole)

    async def exclusive(self, operation: Callable[[], T]) -> T:
        """Run an operation on the whole model between two groups of samples, and return its result.

        It has the context variables of the request, for the log.
        """
        self._require_open()
        [outcome] = await self._queue.add_operation(partial(copy_context().run, operation))
        if isinstance(outcome, Exception):
            raise outcome
        result: T = outcome
        return result

    @property
    def idle(self) -> bool:
        """Whether a read would be answered at once."""
        return self._refusal is None and not (self.diverged or self._access.locked())

    async def ask(self, read: Callable[[HostedModel], T], *, short: bool = False) -> T:
        """Return the result of a function that reads the model between two steps.

        A short function runs on the event loop.
        """
        self._require_readable()
        with self._reads.place():
            answer: T = await self._access.run(partial(self._read, read), short=short)
            return answer

    async def predict(self, asked: Asked) -> Answer:
        """Predict a sample between two steps."""
        self._require_readable()
        with self._reads.place():
            return await self._predict(asked)

    async def explain(self, asked: Explained) -> Answer:
        """Explain the prediction for a sample between two steps."""
        self._require_readable()
        with self._reads.place():
            return await self._explain(asked)

    async def queue_predictions(self, samples: Sequence[Asked] | Block) -> tuple[int, Outcomes]:
        """Queue predictions of a stream; as `queue_samples`."""
        if isinstance(samples, Block):
            return await self._queue_reads(samples, self._predict_block)
        return await self._queue_reads(samples, partial(self._read_all, self._predict))

    async def queue_explanations(self, samples: Sequence[Explained]) -> tuple[int, Outcomes]:
        """Queue explanations of a stream; as `queue_samples`."""
        return await self._queue_reads(samples, partial(self._read_all, self._explain))

    async def _queue_reads(
        self, samples: Sequence[Any] | Block, read: Callable[[Any], Awaitable[list[Outcome]]]
    ) -> tuple[int, Outcomes]:
        wanted = min(len(samples), self._group_size)
        count = min(wanted, await self._reads.wait_for_share(wanted))
        self._require_readable()
        self._reads.taken += count
        return count, asyncio.create_task(self._read_queued(samples[:count], read))

    async def _read_queued(
        self, samples: Any, read: Callable[[Any], Awaitable[list[Outcome]]]
    ) -> list[Outcome]:
        try:
            return await read(samples)
        finally:
            self._reads.free(len(samples))

    async def _predict_block(self, block: Block) -> list[Outcome]:
        """Predict samples in calls of about the same length; other operations run between them."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(block):
            part = block[len(outcomes) : len(outcomes) + self._predict_length.samples]
            await self._fair_turns.next()
            start = time.perf_counter()
            read = partial(self._read, partial(self._predict_rows, part))
            answers = await self._access.run(read, short=self._predict_length.short)
            if answers is None:
                samples = [Asked(part.decoded(i)[0]) for i in range(len(part))]
                outcomes += await self._read_all(self._predict, samples)
            else:
                outcomes += answers
                self.predict_latency.add(time.perf_counter() - start, len(part))
        return outcomes

    def _predict_rows(self, block: Block, model: HostedModel) -> list[Answer] | None:
        start = time.perf_counter()
        answers = model.predict_block(block)
        if answers is not None:
            self._predict_length.add(len(block), time.perf_counter() - start, model.call_seconds)
        return answers

    async def _read_all(self, read: Callable[[T], Awaitable[Answer]], samples: Sequence[T]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for i, asked in enumerate(samples):
            if i % SLICE == 0:
                await self._fair_turns.next()
            try:
                outcomes.append(await read(asked))
            except REFUSALS as error:
                outcomes.append(error)
        return outcomes

    async def _predict(self, asked: Asked) -> Answer:
        start = time.perf_counter()
        read = partial(self._read, partial(self._predict_now, asked))
        answer: Answer = await self._access.run(read, short=self._predict_length.short)
        self.predict_latency.add(time.perf_counter() - start)
        return answer

    def _predict_now(self, asked: Asked, model: HostedModel) -> Answer:
        start = time.perf_counter()
        answer = model.predict(asked.x, level=asked.level, novelty=asked.novelty)
        self._predict_length.add(1, time.perf_counter() - start, model.call_seconds)
        return answer

    async def _explain(self, asked: Explained) -> Answer:
        """Explain in a thread: an explanation takes as long as several predictions."""
        read = partial(self._read, lambda model: model.explain(asked.x, asked.label))
        answer: Answer = await self._access.run(read, short=False)
        return answer

    def _read(self, read: Callable[[HostedModel], T]) -> T:
        if self._refusal is not None and (self.failed or self._pipeline.discarded):
            raise self._refusal()
        return self._pipeline.read(read)

    def _require_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal()

    def _require_readable(self) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if self.guard is not None:
            self.guard()

    def require_owned(self) -> None:
        """Raise unless this process owns the model, and it is open."""
        if self._learn_refusal is not None:
            raise self._learn_refusal()

    def follow(self, refusal: Callable[[], RequestError]) -> None:
        """Refuse samples with an error: another process owns the model. Construct the worker just before."""
        self._learn_refusal = refusal

    def lead(self) -> None:
        """Learn samples: this process owns the model now."""
        self._learn_refusal = self._refusal

    def _refuse(self, refusal: Callable[[], RequestError]) -> None:
        self._refusal = self._learn_refusal = refusal

    async def close(self, refusal: Callable[[], RequestError] = _shutting_down) -> None:
        """Refuse new requests with an error, answer all that wait, and end the writer."""
        self._refuse(self._refusal or refusal)
        await self._end()

    def lose(self, refusal: Callable[[], RequestError], unfinished: Callable[[], RequestError]) -> None:
        """Refuse all requests, because the process is about to end.

        Parameters
        ----------
        refusal : callable
            Error for requests that have not reached the log.
        unfinished : callable
            Error for requests that may have reached it, if the pipeline fails.
        """
        self._unfinished = unfinished
        self._refuse(refusal)
        self._queue.refuse_waiting(refusal)

    async def delete(self, delete: Callable[[], None]) -> None:
        """Delete the model as an operation, and end the writer.

        Later requests get `UnknownModelError`. If `delete` raises, nothing changes.
        """
        if self.failed:  # the pipeline has ended
            await asyncio.to_thread(delete)
        else:
            await self.exclusive(partial(self._delete, delete))
        await self._end()

    def _delete(self, delete: Callable[[], None]) -> None:
        delete()
        name = self.model.name
        self._refuse(lambda: UnknownModelError(f"model {name!r} was deleted", "model"))
        self._pipeline.discarded = True

    async def _end(self) -> None:
        self._queue.close()
        await asyncio.wait([self._task])
        await self._access.close()

    async def _run(self) -> None:
        try:
            await self._pipeline.run()
        finally:  # after an unexpected error too, which `report_error` reports
            refusal = self._refusal
            if refusal is None:
                self._refuse(refusal := self._failure)
                _logger.critical("model %r failed with an unexpected error", self.model.name)
            self._queue.abandon(self._unfinished or refusal)

    def _failure(self) -> RequestError:
        name = self.model.name
        return ModelFailedError(
            f"model {name!r} failed: see the log of the server, and start the server again to restore it",
            "model",
        )


class Uses:
    """Block during which models stay in memory, though nothing waits for them.

    Parameters
    ----------
    *workers : Worker
        The first models.
    """

    def __init__(self, *workers: Worker) -> None:
        self._workers: list[Worker] = []
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """Keep a further model."""
        worker.enter_use()
        self._workers.append(worker)

    def __enter__(self) -> Uses:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.leave_use()
        self._workers.clear()


def report_error(task: asyncio.Task[None]) -> None:
    """Pass an unexpected error of a task to the exception handler of the event loop."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else [error]:
        context = {"message": "a task of a model ended", "exception": each, "task": task}
        task.get_loop().call_exception_handler(context)
