"""Registry of the models of a server.

The registry knows every model of the log by its name. A model is *in memory*, with a worker, or *stored*:
then it has nothing but its checkpoints and its events. A request to a stored model loads it. With a limit of
the models in memory (``BNP_MODELS_IN_MEMORY``) the least recently used one makes room.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

from bnp_online.errors import DeviceLostError, DeviceMemoryError

from ..errors import (
    DeviceFailedError,
    ModelExistsError,
    ModelFailedError,
    NotInMemoryError,
    NotOwnerError,
    OutcomeUnknownError,
    RequestError,
    ShuttingDownError,
    TooManyModelsError,
    UnknownModelError,
)
from ..schemas import DEFAULT_MODEL, DriftSpec, ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints, Event, EventLog, Record
from ..storage.log_writer import LogWriter
from ..telemetry.audit import audit
from ..telemetry.metrics import LogMetrics
from .checkpointer import Checkpointer
from .ending import DEVICE_FAILED, end_process
from .feed import Feed
from .hosted import HostedModel
from .model_file import imported
from .operations import Operations
from .readiness import Readiness
from .recovery import UNREADABLE, Recovered, Recovery, recover
from .removals import Removals
from .scheduling import FairTurns
from .spec_limits import complete
from .threads import Threads
from .worker import Worker, report_error

#: Seconds between two attempts to store models beyond the limit.
_TRIM = 0.1
#: Seconds for the last answers before the process ends.
_ANSWERING = 0.5
#: Seconds for which a model that could not be restored is not restored again.
_FAILED = 5.0

_logger = logging.getLogger(__name__)


class Summary(NamedTuple):
    """A model in a list of all.

    Attributes
    ----------
    name, task : str
        See `ModelSpec`.
    step : int or None
        Number of samples learned; None if the model was not in memory since the start.
    state : str
        As `Worker.state`, or ``"stored"``.
    """

    name: str
    task: str
    step: int | None
    state: str


@dataclass(slots=True, eq=False)
class _Known:
    """A model of the registry.

    Attributes
    ----------
    number : int
        Number of the model.
    name, task, step
        See `Summary`; of a model in memory, as it was loaded.
    worker, operations : Worker and Operations, or None
        Of a model in memory.
    changing : Task or None
        Loads the model, or stores it.
    follow : callable or None
        Called with the worker of a model of another process, after it was loaded.
    used : int
        Rises with each use, over all models.
    failure : str or None
        Why the model could not be restored.
    again : float
        Time of `time.monotonic` before which it is not restored again.
    """

    number: int
    name: str
    task: str
    step: int | None = None
    worker: Worker | None = None
    operations: Operations | None = None
    changing: asyncio.Task[None] | None = None
    follow: Callable[[Worker], None] | None = None
    used: int = 0
    failure: str | None = None
    again: float = 0.0

    @property
    def error(self) -> ModelFailedError:
        """Error for a model that cannot be restored."""
        message = f"model {self.name!r} cannot be restored: see the log of the server"
        return ModelFailedError(message, "model")

    @property
    def resting(self) -> bool:
        """Whether the model is in memory, and nothing uses it."""
        worker, operations = self.worker, self.operations
        return worker is not None and operations is not None and worker.resting and operations.resting


class Registry:
    """Creates, finds, loads, stores and deletes models. Each model in memory has its own worker.

    Parameters
    ----------
    settings : Settings
        Limits.
    log, checkpoints : EventLog, Checkpoints
        Log and checkpoints of all models.
    metrics : LogMetrics
        Takes the duration of commits and the number of failures.
    threads : Threads
        Threads of all models.
    """

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        checkpoints: Checkpoints,
        metrics: LogMetrics,
        threads: Threads,
    ) -> None:
        self.settings = settings
        self._log = log
        self.checkpoints = checkpoints
        self._log_writer = LogWriter(log, metrics)
        self._threads = threads
        self._removals = Removals(log, threads.checkpoints)
        self.fair_turns = FairTurns()
        self.readiness = Readiness(log, threads.probe, lambda: self, settings.ready_timeout)
        self._models: dict[str, _Known] = {}
        self._numbers: dict[int, _Known] = {}  # the same models
        self._loaded: dict[int, _Known] = {}  # in memory, being loaded, or being stored
        self._uses = itertools.count(1)
        self._changing = asyncio.Lock()
        self._closed = self._lost = False
        self._trimming: asyncio.Task[None] | None = None
        #: Called with the worker of each model that this process owns.
        self.attach: Callable[[Worker], None] = _leave
        #: Returns the error for a name whose model this process may not have; None if it may.
        self.elsewhere: Callable[[str], RequestError | None] = _nowhere
        self.feed = Feed(lambda: [worker.model for worker in self])

    def __iter__(self) -> Iterator[Worker]:
        """Return the workers of the models in memory, in order of creation."""
        loaded = [self._loaded[number] for number in sorted(self._loaded)]
        return iter([known.worker for known in loaded if known.worker is not None])

    def summaries(self) -> list[Summary]:
        """Return all models, in order of creation."""
        return [_summary(known) for known in self._models.values()]

    def _find(self, name: str | None) -> _Known:
        name = DEFAULT_MODEL if name is None else name
        known = self._models.get(name)
        if known is None:
            raise self.elsewhere(name) or UnknownModelError(
                f"there is no model {name!r:.80}: create it with POST /models", "model"
            )
        return known

    def has(self, number: int) -> bool:
        """Return whether the registry knows a model, by its number."""
        return number in self._numbers

    def leads(self, number: int) -> bool:
        """Return whether the registry has a model, by its number, and this process owns it."""
        known = self._numbers.get(number)
        return known is not None and known.follow is None

    def failed(self) -> list[str]:
        """Return the names of the models that could not be restored; any thread may ask."""
        return [known.name for known in [*self._models.values()] if known.failure is not None]

    def peek(self, name: str) -> Worker:
        """Return the worker of a model, as `get`, without a use."""
        known = self._find(name)
        if known.worker is None:
            raise NotInMemoryError(f"model {name!r} is not in memory: try again", "model")
        return known.worker

    def owned(self, name: str) -> int:
        """Return the number of a model that this process owns.

        Raises
        ------
        UnknownModelError, WrongNodeError
            As `get`, if this process knows no such model.
        NotOwnerError
            If another process owns the model.
        """
        known = self._find(name)
        if known.follow is not None:
            raise NotOwnerError(f"another process owns model {name!r}", "model")
        return known.number

    def require(self, name: str) -> None:
        """Raise `UnknownModelError` unless there is a model with this name."""
        self._find(name)

    def get(self, name: str | None = None) -> Worker:
        """Return the worker of a model in memory, by default of the default model.

        Raises
        ------
        UnknownModelError
            If there is no model with this name.
        NotInMemoryError
            If the model is stored: see `load`.
        """
        known = self._models.get(DEFAULT_MODEL if name is None else name) or self._find(name)
        if known.worker is None:
            raise NotInMemoryError(f"model {known.name!r} is not in memory: try again", "model")
        known.used = next(self._uses)
        return known.worker

    def operations(self, name: str) -> Operations:
        """Return the operations on a whole model; raises as `get`."""
        self.get(name)
        return cast(Operations, self._models[name].operations)

    async def load(self, name: str | None = None) -> Worker:
        """Return the worker of a model, which is loaded if it is stored.

        Raises
        ------
        UnknownModelError
            If there is no model with this name.
        ModelFailedError
            If it cannot be restored from its checkpoints and the log.
        DeviceMemoryError
            If its GPU has too little free memory.
        StorageError
            If these cannot be read.
        """
        while True:
            known = self._find(name)
            if known.worker is not None:
                return self.get(name)
            if self._closed:
                raise ShuttingDownError("the server is shutting down")
            if known.failure is not None and time.monotonic() < known.again:
                raise known.error
            if known.changing is None:  # one task loads it for all requests, and outlives each of them
                known.changing = asyncio.create_task(self._load(known), context=Context())
                known.changing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(known.changing)

    async def _load(self, known: _Known) -> None:
        try:
            known.used = next(self._uses)
            self._loaded[known.number] = known
            await self._make_room()
            restoring = partial(self._restore, known)
            recovered = await self._threads.maintain(restoring)
            known.failure = None
            if self._models.get(known.name) is known and not self._closed:
                self.feed.add(recovered.model)
                self._serve(known, recovered)
        finally:
            known.changing = None
            self._settle(known)

    def _settle(self, known: _Known) -> None:
        """Note that a model is not loaded, unless it is in memory."""
        if known.worker is None:
            self._loaded.pop(known.number, None)

    def _restore(self, known: _Known) -> Recovered:
        try:
            owned = known.follow is None
            return recover(self._log, known.number, self.checkpoints, self.settings, shown=False, owned=owned)
        except (DeviceMemoryError, DeviceLostError):
            raise
        except UNREADABLE as error:
            if known.failure != str(error):
                _logger.critical("model %r cannot be restored: %s", known.name, error)
            known.failure, known.again = str(error), time.monotonic() + _FAILED
            raise known.error from error

    async def _make_room(self) -> None:
        """Store the least recently used models in memory that rest, down to the limit.

        If too few rest, memory holds more models than the limit for now, and a task stores them later.
        """
        limit = self.settings.models_in_memory
        while limit is not None and len(self._loaded) > limit:
            resting = [known for known in self._loaded.values() if known.resting]
            if not resting:
                if self._trimming is None:
                    self._trimming = asyncio.create_task(self._trim(), context=Context())
                    self._trimming.add_done_callback(report_error)
                return
            await self._store(min(resting, key=lambda known: known.used))

    async def _trim(self) -> None:
        await asyncio.sleep(_TRIM)
        self._trimming = None
        await self._make_room()

    async def _store(self, known: _Known) -> None:
        """Take a checkpoint of a model that has changed, and remove it from memory."""
        releasing = self._release(known, keep=True)
        known.worker = known.operations = None  # now: a later request waits until it is stored
        known.changing = storing = asyncio.create_task(releasing, context=Context())
        storing.add_done_callback(report_error)
        await asyncio.shield(storing)

    def _release(self, known: _Known, *, keep: bool) -> Coroutine[Any, Any, None]:
        worker, operations = cast(Worker, known.worker), cast(Operations, known.operations)
        return self._end(known, worker, operations, keep=keep)

    async def _end(self, known: _Known, worker: Worker, operations: Operations, *, keep: bool) -> None:
        try:
            await operations.close()
            await worker.close(
                partial(NotInMemoryError, f"model {known.name!r} is not in memory: try again", "model")
            )
            if keep and known.follow is None and not worker.failed:
                await operations.keep_last()
            known.task, known.step = worker.model.spec.task, worker.model.step
        finally:
            known.changing = None
            self._settle(known)

    async def release(self, name: str, *, keep: bool) -> None:
        """Forget a model, which another process will serve. Its log and its checkpoints stay.

        Parameters
        ----------
        name : str
            Name of the model.
        keep : bool
            Whether to take a checkpoint of a model that has changed.
        """
        known = self._models.get(name)
        while known is not None and known.changing is not None:
            await asyncio.wait([known.changing])
        if known is not None and self._models.get(name) is known:
            self._remove(known)
            if known.worker is not None:
                releasing = self._release(known, keep=keep)
                known.worker = known.operations = None
                await releasing

    def _enter(self, known: _Known) -> _Known:
        self._models[known.name] = known
        self._numbers[known.number] = known
        return known

    def _remove(self, known: _Known) -> None:
        del self._models[known.name]
        self._numbers.pop(known.number, None)

    async def create(self, spec: ModelSpec) -> Worker:
        """Create a model and start its worker.

        Raises
        ------
        ModelExistsError, TooManyModelsError, InvalidSpecError
            If the server refuses the model.
        ConfigurationError
            If the library refuses the model.
        StorageError
            If the creation cannot be logged.
        """
        if (error := self.elsewhere(spec.name)) is not None:
            raise error
        async with self._changing:
            if spec.name in self._models:
                raise ModelExistsError(
                    f"a model {spec.name!r} exists: delete it, or use another name", "name"
                )
            if len(self._models) >= self.settings.max_models:
                message = f"the server has {len(self._models)} models: delete one, or raise BNP_MAX_MODELS"
                raise TooManyModelsError(message)
            worker = self.serve(await asyncio.to_thread(self._make, complete(spec, self.settings)))
            await self._make_room()
            return worker

    async def import_(self, name: str, body: bytes) -> dict[str, Any]:
        """Replace a model by the estimator in a file, or create it, and return its description.

        Raises
        ------
        CheckpointError, StateError, InvalidSpecError
            If the file is damaged, has no estimator, or has one that the server cannot create.
        TooManyModelsError, StorageError
            As `create`.
        """
        if name not in self._models:
            admit = partial(complete, settings=self.settings)
            read = partial(imported, body, name, DriftSpec(), self.settings, self._log.now, admit)
            model = await self._threads.maintain(
                partial(read, untrusted=True)
            )  # an invalid file creates none
            with suppress(ModelExistsError):  # created since
                await self.create(model.spec)
        (await self.load(name)).require_owned()
        return await self.operations(name).import_(body)

    def _make(self, spec: ModelSpec) -> Recovered:
        model = HostedModel(spec, self.settings, self._log.now)  # before the log: the library may refuse it
        model.sequence = self._log.create(Event("create", spec.model_dump_json().encode(), step=0), spec.name)
        audit("model created", model.name, task=spec.task)
        history = History(self._log, model.sequence, new=True)
        return Recovered(history, Recovery(history, self.checkpoints, self.settings), model)

    def add(
        self, made: Record, follow: Callable[[Worker], None] | None = None, failure: str | None = None
    ) -> None:
        """Add a stored model of the log, by its creation.

        Parameters
        ----------
        made : Record
            The creation.
        follow : callable, optional
            Of a model of another process: called with its worker after it was loaded.
        failure : str, optional
            Why the model could not be restored.
        """
        spec = event_codec.loads(made.event.body)
        self._enter(_Known(made.model, spec["name"], spec["task"], follow=follow, failure=failure))

    async def lead(self, name: str) -> None:
        """Serve a model of another process as its owner: it has all events of the log."""
        known = self._find(name)
        while known.changing is not None:
            await asyncio.wait([known.changing])
        known.follow = None
        if known.worker is not None and known.operations is not None:
            await known.operations.lead()
            known.worker.lead()
            self.attach(known.worker)

    async def replace(self, name: str, recovered: Recovered) -> None:
        """Put another state of a model of another process in place, with a history of its own."""
        known = self._find(name)
        while known.changing is not None:
            await asyncio.wait([known.changing])
        if known.worker is None:
            return  # the next load recovers it
        worker, operations = known.worker, cast(Operations, known.operations)
        self._serve(known, recovered)
        await self._end(known, worker, operations, keep=False)

    def resume_removals(self) -> None:
        """Complete the removals of data of shards that were claimed."""
        self._removals.resume()

    def serve(self, recovered: Recovered) -> Worker:
        """Start the worker of a logged model."""
        model = recovered.model
        known = self._models.get(model.name) or self._enter(
            _Known(recovered.history.model, model.name, model.spec.task)
        )
        known.used = next(self._uses)
        return self._serve(known, recovered)

    def _serve(self, known: _Known, recovered: Recovered) -> Worker:
        history, recovery, model = recovered
        settings, threads, name = self.settings, self._threads, known.name
        checkpointer = Checkpointer(
            history,
            self.checkpoints,
            settings,
            threads.checkpoints,
            partial(self._tell, name),
            self._removals.waits,
        )
        checkpointer.begin(model.replay)
        self._loaded[known.number] = known
        queue, group = settings.queue_size, settings.group_size
        tell = partial(self._tell_drift, name)
        known.worker = worker = Worker(
            model,
            history,
            self._log_writer,
            checkpointer,
            threads,
            self.fair_turns,
            recovery.run,
            queue,
            group,
            tell,
        )
        known.operations = Operations(
            worker, checkpointer, recovery, threads, settings, self.feed, self._removals
        )
        if known.follow is None:
            self.attach(worker)
            known.operations.resume()
        else:
            known.follow(worker)
        return worker

    def _tell(self, name: str, kept: Checkpoint) -> None:
        self.feed.publish("checkpoint", name, checkpoint=kept.name, step=kept.step)

    def _tell_drift(self, name: str, kind: Literal["drift", "action"], **data: Any) -> None:
        if kind == "drift":
            audit("drift detected", name, level=logging.WARNING, **data)
        self.feed.publish(kind, name, **data)

    async def delete(self, name: str) -> bool:
        """Delete a model with its events and checkpoints. Later requests to it are refused.

        Returns
        -------
        bool
            Whether nothing of it is left on the disk. Otherwise the rest is erased later.

        Raises
        ------
        UnknownModelError
            If there is no model with this name.
        StorageError
            If the deletion cannot be logged. The model is unchanged.
        """
        async with self._changing:
            known = self._find(name)
            drop = partial(self._drop, known)
            try:
                worker, operations = await self.load(name), self.operations(name)
            except ModelFailedError:  # it cannot be restored
                await asyncio.to_thread(drop)
                operations = None
            else:
                if known.follow is not None:
                    worker.require_owned()
                await worker.delete(drop)
            self._remove(known)
            self._loaded.pop(known.number, None)
            self._removals.add(known.number, partial(self.checkpoints.drop, known.number))
            if operations is not None:
                await operations.close()
        return await self._removals.complete(known.number)

    def _drop(self, known: _Known) -> None:
        self._log.drop(known.number)
        step = known.step if known.worker is None else known.worker.model.step
        audit("model deleted", known.name, step=step)

    def lose(self, error: DeviceLostError) -> None:
        """Refuse all requests and end the process: a GPU failed, and only a new process can use it."""
        if self._lost:
            return
        self._lost = True
        refused = partial(DeviceFailedError, f"{error}. The server starts again: repeat the request")
        unfinished = partial(
            OutcomeUnknownError,
            f"{error}. The next start learns the sample if the log has it: send it again with the same id",
        )
        for worker in self:
            worker.lose(refused, unfinished)
        asyncio.get_running_loop().call_later(_ANSWERING, end_process, DEVICE_FAILED, error)

    async def close(self) -> None:
        """Answer all waiting requests, and take a checkpoint of each changed model."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        async with self._changing:
            known = list(self._loaded.values())
            if changing := [each.changing for each in known if each.changing is not None]:
                await asyncio.wait(changing)
            await asyncio.gather(*(self._close(each) for each in known))
            await self._removals.close()
            await asyncio.to_thread(self._log_writer.close)

    @staticmethod
    async def _close(known: _Known) -> None:
        worker, operations = known.worker, known.operations
        if worker is None or operations is None:
            return
        await operations.close()
        await worker.close()
        if known.follow is None and not worker.failed:
            await operations.keep_last()


def _leave(worker: Worker) -> None:
    """Leave a worker as it is: there is no cluster."""


def _nowhere(name: str) -> None:
    """Find each model in this process."""


def _summary(known: _Known) -> Summary:
    if known.worker is None:
        return Summary(known.name, known.task, known.step, "stored")
    model = known.worker.model
    return Summary(known.name, model.spec.task, model.step, known.worker.state)
