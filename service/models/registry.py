"""Registry of the models of a server, and access to them per key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, cast

from starlette.types import Scope

from ..auth.guard import require_model
from ..auth.keys import Key
from ..errors import ModelExistsError, TooManyModelsError, UnknownModelError
from ..schemas import DEFAULT_MODEL, DriftSpec, ModelSpec
from ..settings import Settings
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints, Event, EventLog
from ..storage.log_writer import LogWriter
from ..telemetry.audit import CALLER, audit
from ..telemetry.metrics import LogMetrics
from .checkpointer import Checkpointer
from .feed import Feed, Listener
from .hosted import HostedModel
from .model_file import imported
from .operations import Operations
from .readiness import Readiness
from .recovery import Recovery
from .removals import Removals
from .scheduling import FairTurns
from .score_history import ScoreHistory
from .spec_limits import complete
from .threads import Threads
from .worker import Worker


class Registry:
    """Creates, finds and deletes models. Each model has its own worker.

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
        self._checkpoints = checkpoints
        self._log_writer = LogWriter(log, metrics)
        self._threads = threads
        self._removals = Removals(log, threads.checkpoints)
        self.fair_turns = FairTurns()
        self.readiness = Readiness(log, threads.probe, lambda: self, settings.ready_timeout)
        self._workers: dict[str, Worker] = {}
        self._operations: dict[str, Operations] = {}
        self._changing = asyncio.Lock()
        self.feed = Feed(lambda: [worker.model for worker in self])
        self.score_history = ScoreHistory(lambda: self)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, name: str | None = None) -> Worker:
        """Return the worker of a model, by default of the default model.

        Raises
        ------
        UnknownModelError
            If there is no model with this name.
        """
        worker = self._workers.get(DEFAULT_MODEL if name is None else name)
        if worker is None:
            raise UnknownModelError(
                f"there is no model {name or DEFAULT_MODEL!r:.80}: create it with POST /models", "model"
            )
        return worker

    def operations(self, name: str) -> Operations:
        """Return the operations on a whole model; raises as `get`."""
        self.get(name)
        return self._operations[name]

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
        async with self._changing:
            if spec.name in self._workers:
                raise ModelExistsError(
                    f"a model {spec.name!r} exists: delete it, or use another name", "name"
                )
            if len(self._workers) >= self.settings.max_models:
                raise TooManyModelsError(f"the server has {len(self._workers)} models (BNP_MAX_MODELS)")
            return self.serve(*await asyncio.to_thread(self._make, complete(spec, self.settings)))

    async def import_(self, name: str, body: bytes) -> dict[str, Any]:
        """Replace a model by the estimator in a file, or create it, and return its description.

        Raises
        ------
        CheckpointError, StateError, InvalidSpecError
            If the file is damaged, has no estimator, or has one that the server cannot create.
        TooManyModelsError, StorageError
            As `create`.
        """
        if name not in self._workers:
            admit = partial(complete, settings=self.settings)
            read = partial(imported, body, name, DriftSpec(), self.settings, self._log.now, admit)
            model = await self._threads.maintain(
                partial(read, untrusted=True)
            )  # an invalid file creates none
            with suppress(ModelExistsError):  # created since
                await self.create(model.spec)
        return await self.operations(name).import_(body)

    def _make(self, spec: ModelSpec) -> tuple[History, Recovery, HostedModel]:
        model = HostedModel(spec, self.settings, self._log.now)  # before the log: the library may refuse it
        model.sequence = self._log.create(Event("create", spec.model_dump_json().encode(), step=0))
        audit("model created", model.name, task=spec.task)
        history = History(self._log, model.sequence, new=True)
        return history, Recovery(history, self._checkpoints, self.settings), model

    def serve(self, history: History, recovery: Recovery, model: HostedModel) -> Worker:
        """Start the worker of a logged model."""
        settings, threads, name = self.settings, self._threads, model.name
        checkpointer = Checkpointer(
            history,
            self._checkpoints,
            settings,
            threads.checkpoints,
            partial(self._tell, name),
            self._removals.waits,
        )
        checkpointer.begin(model.replay)
        queue, group = settings.queue_size, settings.group_size
        tell = partial(self._tell_drift, name)
        worker = Worker(
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
        self._workers[name] = worker
        self._operations[name] = Operations(
            worker, checkpointer, recovery, threads, settings, self.feed, self._removals
        )
        self._operations[name].resume()
        return worker

    def _tell(self, name: str, kept: Checkpoint) -> None:
        self.feed.publish("checkpoint", name, checkpoint=kept.name, step=kept.step)

    def _tell_drift(self, name: str, **data: Any) -> None:
        audit("drift detected", name, level=logging.WARNING, **data)
        self.feed.publish("drift", name, **data)

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
            worker, operations = self.get(name), self.operations(name)
            model = worker.history.model
            await worker.delete(partial(self._drop, worker))
            del self._workers[name], self._operations[name]
            self._removals.add(model, partial(self._checkpoints.drop, model))
            await operations.close()
        return await self._removals.complete(model)

    def _drop(self, worker: Worker) -> None:
        self._log.drop(worker.history.model)
        audit("model deleted", worker.model.name, step=worker.model.step)

    async def close(self) -> None:
        """Answer all waiting requests, and take a checkpoint of each changed model."""
        await self.score_history.close()
        async with self._changing:
            await asyncio.gather(*(self._close(worker) for worker in self))
            await self._removals.close()
            await asyncio.to_thread(self._log_writer.close)

    async def _close(self, worker: Worker) -> None:
        operations = self._operations[worker.model.name]
        await operations.close()
        await worker.close()
        if not worker.failed:
            await operations.keep_last()


class Models:
    """The models that one key covers. Requests reach models only through this class.

    Parameters
    ----------
    registry : Registry
        All models.
    caller : Key
        Key of the request; see `Key.models`.
    """

    def __init__(self, registry: Registry, caller: Key) -> None:
        self.settings = registry.settings
        self.fair_turns = registry.fair_turns
        self._registry = registry
        self._caller = caller

    def __iter__(self) -> Iterator[Worker]:
        return (worker for worker in self._registry if self._caller.covers(worker.model.name))

    def get(self, name: str | None = None) -> Worker:
        """Return the worker of a model, by default of the default model.

        Raises
        ------
        ForbiddenError
            If the key does not cover this name, whether or not the model exists.
        UnknownModelError
            If there is no model with this name.
        """
        if self._caller.models is not None:  # few keys are restricted, and this runs for each sample
            require_model(self._caller, DEFAULT_MODEL if name is None else name)
        return self._registry.get(name)

    def operations(self, name: str) -> Operations:
        """Return the operations on a whole model; raises as `get`."""
        self._authorize(name)
        return self._registry.operations(name)

    def listen(self, name: str | None, after: str | None) -> AbstractContextManager[Listener]:
        """Listen to the events of one model, or of all that the key covers; raises as `get`."""
        if name is not None:
            self.get(name)
        return self._registry.feed.listen(
            lambda model: self._caller.covers(model) and name in (None, model), after
        )

    @property
    def feed(self) -> Feed:
        """Events of all models."""
        return self._registry.feed

    @property
    def score_history(self) -> ScoreHistory:
        """Score history of all models."""
        return self._registry.score_history

    @property
    def readiness(self) -> Readiness:
        """Readiness of the server."""
        return self._registry.readiness

    async def create(self, spec: ModelSpec) -> Worker:
        """Create a model; raises as `Registry.create`, and `ForbiddenError`."""
        self._authorize(spec.name)
        return await self._registry.create(spec)

    async def import_(self, name: str, body: bytes) -> dict[str, Any]:
        """Replace or create a model, as `Registry.import_`; raises also `ForbiddenError`."""
        self._authorize(name)
        return await self._registry.import_(name, body)

    async def delete(self, name: str) -> bool:
        """Delete a model, as `Registry.delete`; raises also `ForbiddenError`."""
        self._authorize(name)
        return await self._registry.delete(name)

    def _authorize(self, name: str) -> None:
        """Check that the key covers a model, and let audit lines of this request name the key."""
        require_model(self._caller, name)
        CALLER.set(self._caller.name)


def models_of(scope: Scope) -> Models:
    """Return the models that the key of a request covers."""
    return Models(cast(Registry, scope["app"].state.models), cast(Key, scope["caller"]))
