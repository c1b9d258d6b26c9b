"""The models of a server, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import cast

from starlette.types import Scope

from ..auth.guard import require_model
from ..auth.keys import Key
from ..errors import ModelExistsError, TooManyModelsError, UnknownModelError
from ..schemas import DEFAULT_MODEL, ModelSpec
from ..settings import Settings
from ..storage.history import History
from ..storage.interfaces import Checkpoint, Checkpoints, Event, EventLog
from ..storage.log_writer import LogWriter
from ..telemetry.metrics import LogMetrics
from .checkpointer import Checkpointer
from .feed import Feed, Listener
from .hosted import HostedModel
from .operations import Operations
from .recovery import Recovery
from .scheduling import FairTurns
from .score_history import ScoreHistory
from .spec_limits import complete
from .worker import Worker


class Registry:
    """Creates, finds and deletes models, each with its own writer.

    Parameters
    ----------
    settings : Settings
        The limits.
    log, checkpoints : EventLog, Checkpoints
        Of all models.
    metrics : LogMetrics
        Where commits are timed and counted.
    """

    def __init__(
        self, settings: Settings, log: EventLog, checkpoints: Checkpoints, metrics: LogMetrics
    ) -> None:
        self.settings = settings
        self._log = log
        self._checkpoints = checkpoints
        self._log_writer = LogWriter(log, metrics)
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self.fair_turns = FairTurns()
        self._workers: dict[str, Worker] = {}
        self._operations: dict[str, Operations] = {}
        self._changing = asyncio.Lock()
        self.feed = Feed(lambda: [worker.model for worker in self])
        self.score_history = ScoreHistory(lambda: self)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, name: str | None = None) -> Worker:
        """Return the writer of a model; None stands for the default one.

        Raises
        ------
        UnknownModelError
            If there is none of this name.
        """
        worker = self._workers.get(DEFAULT_MODEL if name is None else name)
        if worker is None:
            raise UnknownModelError(
                f"there is no model {name or DEFAULT_MODEL!r:.80}: POST /models makes one", "model"
            )
        return worker

    def operations(self, name: str) -> Operations:
        """Return what changes a model as a whole; raises as `get`."""
        self.get(name)
        return self._operations[name]

    async def probe(self) -> None:
        """Raise `StorageError` if nothing can be logged now."""
        await asyncio.to_thread(self._log.probe)

    async def create(self, spec: ModelSpec) -> Worker:
        """Make a model and start its writer.

        Raises
        ------
        ModelExistsError, TooManyModelsError, InvalidSpecError
            Nothing was made.
        ConfigurationError
            The library cannot make it.
        StorageError
            It cannot be logged.
        """
        async with self._changing:
            if spec.name in self._workers:
                raise ModelExistsError(
                    f"there is a model {spec.name!r}: delete it, or take another name", "name"
                )
            if len(self._workers) >= self.settings.max_models:
                raise TooManyModelsError(f"the server has {len(self._workers)} models (BNP_MAX_MODELS)")
            return self.serve(*await asyncio.to_thread(self._make, complete(spec, self.settings)))

    def _make(self, spec: ModelSpec) -> tuple[History, Recovery, HostedModel]:
        model = HostedModel(spec, self.settings, self._log.now)  # before it is logged: it may be refused
        model.sequence = self._log.create(Event("create", spec.model_dump_json().encode(), step=0))
        history = History(self._log, model.sequence)
        return history, Recovery(history, self._checkpoints, self.settings), model

    def serve(self, history: History, recovery: Recovery, model: HostedModel) -> Worker:
        """Start the writer of a model that the log has."""
        settings, name = self.settings, model.name
        checkpointer = Checkpointer(
            history, self._checkpoints, settings, self._executor, partial(self._tell, name)
        )
        checkpointer.begin(model)
        queue, group = settings.queue_size, settings.group_size
        tell = partial(self.feed.publish, "drift", name)
        worker = Worker(
            model, history, self._log_writer, checkpointer, self.fair_turns, recovery.run, queue, group, tell
        )
        self._workers[name] = worker
        self._operations[name] = Operations(worker, checkpointer, recovery, settings, self.feed)
        return worker

    def _tell(self, name: str, kept: Checkpoint) -> None:
        self.feed.publish("checkpoint", name, checkpoint=kept.name, step=kept.step)

    async def delete(self, name: str) -> None:
        """Delete a model and every trace of what it learned; what waits behind that is refused.

        Raises
        ------
        UnknownModelError
            If there is none of this name.
        StorageError
            If that cannot be logged; the model is as it was.
        """
        async with self._changing:
            worker, operations = self.get(name), self.operations(name)
            await operations.close()
            await worker.delete(partial(self._log.drop, worker.history.model))
            del self._workers[name], self._operations[name]
            await operations.drop()

    async def close(self) -> None:
        """Answer all that waits, keep a checkpoint of every model that has moved, and end all threads."""
        await self.score_history.close()
        async with self._changing:
            await asyncio.gather(*(self._close(worker) for worker in self))
            await asyncio.to_thread(self._executor.shutdown)
            await asyncio.to_thread(self._log_writer.close)

    async def _close(self, worker: Worker) -> None:
        operations = self._operations[worker.model.name]
        await operations.close()
        await worker.close()
        if not worker.failed:
            await operations.keep_last()


class Models:
    """The models of a server as far as one key reaches: the only way to them from a request.

    Parameters
    ----------
    registry : Registry
        All of them.
    caller : Key
        The key; see `Key.models`.
    """

    def __init__(self, registry: Registry, caller: Key) -> None:
        self.settings = registry.settings
        self.fair_turns = registry.fair_turns
        self._registry = registry
        self._caller = caller

    def __iter__(self) -> Iterator[Worker]:
        return (worker for worker in self._registry if self._caller.covers(worker.model.name))

    def get(self, name: str | None = None) -> Worker:
        """Return the writer of a model; None stands for the default one.

        Raises
        ------
        ForbiddenError
            If the key is not for this model, whether it is there or not.
        UnknownModelError
            If there is none of this name.
        """
        if self._caller.models is not None:  # few keys are restricted, and this runs for each sample
            require_model(self._caller, DEFAULT_MODEL if name is None else name)
        return self._registry.get(name)

    def operations(self, name: str) -> Operations:
        """Return what changes a model as a whole; raises as `get`."""
        require_model(self._caller, name)
        return self._registry.operations(name)

    def listen(self, name: str | None, after: str | None) -> AbstractContextManager[Listener]:
        """Listen to what happens in a model, or in all; raises as `get`."""
        if name is not None:
            self.get(name)
        return self._registry.feed.listen(
            lambda model: self._caller.covers(model) and name in (None, model), after
        )

    @property
    def feed(self) -> Feed:
        """What happens in all models."""
        return self._registry.feed

    @property
    def score_history(self) -> ScoreHistory:
        """How the scores of all models came to be."""
        return self._registry.score_history

    async def probe(self) -> None:
        """See that the log can be written; raises as `Registry.probe`."""
        await self._registry.probe()

    async def create(self, spec: ModelSpec) -> Worker:
        """Make a model and start its writer; raises as `Registry.create`, and `ForbiddenError`."""
        require_model(self._caller, spec.name)
        return await self._registry.create(spec)

    async def delete(self, name: str) -> None:
        """Delete a model; raises as `Registry.delete`, and `ForbiddenError`."""
        require_model(self._caller, name)
        await self._registry.delete(name)


def models_of(scope: Scope) -> Models:
    """Return the models of the server that a request came to, as far as its key reaches."""
    return Models(cast(Registry, scope["app"].state.models), cast(Key, scope["caller"]))
