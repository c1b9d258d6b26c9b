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
from ..storage.log_writer import Committer
from ..telemetry.metrics import LogMetrics
from .checkpointer import Keeper
from .feed import Feed, Listener
from .hosted import HostedModel
from .operations import Maintenance
from .recovery import Recovery
from .scheduling import Passes
from .score_history import Past
from .spec_limits import complete
from .worker import Learner


class Catalog:
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
        self._committer = Committer(log, metrics)
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self.passes = Passes()
        self._learners: dict[str, Learner] = {}
        self._maintenance: dict[str, Maintenance] = {}
        self._changing = asyncio.Lock()
        self.feed = Feed(lambda: [learner.model for learner in self])
        self.past = Past(lambda: self)

    def __iter__(self) -> Iterator[Learner]:
        return iter(list(self._learners.values()))

    def get(self, name: str | None = None) -> Learner:
        """Return the writer of a model; None stands for the default one.

        Raises
        ------
        UnknownModelError
            If there is none of this name.
        """
        learner = self._learners.get(DEFAULT_MODEL if name is None else name)
        if learner is None:
            raise UnknownModelError(
                f"there is no model {name or DEFAULT_MODEL!r:.80}: POST /models makes one", "model"
            )
        return learner

    def maintenance(self, name: str) -> Maintenance:
        """Return what changes a model as a whole; raises as `get`."""
        self.get(name)
        return self._maintenance[name]

    async def probe(self) -> None:
        """Raise `StorageError` if nothing can be logged now."""
        await asyncio.to_thread(self._log.probe)

    async def create(self, spec: ModelSpec) -> Learner:
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
            if spec.name in self._learners:
                raise ModelExistsError(
                    f"there is a model {spec.name!r}: delete it, or take another name", "name"
                )
            if len(self._learners) >= self.settings.max_models:
                raise TooManyModelsError(f"the server has {len(self._learners)} models (BNP_MAX_MODELS)")
            return self.serve(*await asyncio.to_thread(self._make, complete(spec, self.settings)))

    def _make(self, spec: ModelSpec) -> tuple[History, Recovery, HostedModel]:
        model = HostedModel(spec, self.settings, self._log.now)  # before it is logged: it may be refused
        model.sequence = self._log.create(Event("create", spec.model_dump_json().encode(), step=0))
        history = History(self._log, model.sequence)
        return history, Recovery(history, self._checkpoints, self.settings), model

    def serve(self, history: History, recovery: Recovery, model: HostedModel) -> Learner:
        """Start the writer of a model that the log has."""
        settings, name = self.settings, model.name
        keeper = Keeper(history, self._checkpoints, settings, self._executor, partial(self._tell, name))
        keeper.begin(model)
        queue, group = settings.queue_size, settings.group_size
        tell = partial(self.feed.publish, "drift", name)
        learner = Learner(
            model, history, self._committer, keeper, self.passes, recovery.run, queue, group, tell
        )
        self._learners[name] = learner
        self._maintenance[name] = Maintenance(learner, keeper, recovery, settings, self.feed)
        return learner

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
            learner, maintenance = self.get(name), self.maintenance(name)
            await maintenance.close()
            await learner.delete(partial(self._log.drop, learner.history.model))
            del self._learners[name], self._maintenance[name]
            await maintenance.drop()

    async def close(self) -> None:
        """Answer all that waits, keep a checkpoint of every model that has moved, and end all threads."""
        await self.past.close()
        async with self._changing:
            await asyncio.gather(*(self._close(learner) for learner in self))
            await asyncio.to_thread(self._executor.shutdown)
            await asyncio.to_thread(self._committer.close)

    async def _close(self, learner: Learner) -> None:
        maintenance = self._maintenance[learner.model.name]
        await maintenance.close()
        await learner.close()
        if not learner.failed:
            await maintenance.keep_last()


class Models:
    """The models of a server as far as one key reaches: the only way to them from a request.

    Parameters
    ----------
    catalog : Catalog
        All of them.
    caller : Key
        The key; see `Key.models`.
    """

    def __init__(self, catalog: Catalog, caller: Key) -> None:
        self.settings = catalog.settings
        self.passes = catalog.passes
        self._catalog = catalog
        self._caller = caller

    def __iter__(self) -> Iterator[Learner]:
        return (learner for learner in self._catalog if self._caller.covers(learner.model.name))

    def get(self, name: str | None = None) -> Learner:
        """Return the writer of a model; None stands for the default one.

        Raises
        ------
        ForbiddenError
            If the key is not for this model, whether it is there or not.
        UnknownModelError
            If there is none of this name.
        """
        require_model(self._caller, DEFAULT_MODEL if name is None else name)
        return self._catalog.get(name)

    def maintenance(self, name: str) -> Maintenance:
        """Return what changes a model as a whole; raises as `get`."""
        require_model(self._caller, name)
        return self._catalog.maintenance(name)

    def listen(self, name: str | None, after: str | None) -> AbstractContextManager[Listener]:
        """Listen to what happens in a model, or in all; raises as `get`."""
        if name is not None:
            self.get(name)
        return self._catalog.feed.listen(
            lambda model: self._caller.covers(model) and name in (None, model), after
        )

    @property
    def feed(self) -> Feed:
        """What happens in all models."""
        return self._catalog.feed

    @property
    def past(self) -> Past:
        """How the scores of all models came to be."""
        return self._catalog.past

    async def probe(self) -> None:
        """See that the log can be written; raises as `Catalog.probe`."""
        await self._catalog.probe()

    async def create(self, spec: ModelSpec) -> Learner:
        """Make a model and start its writer; raises as `Catalog.create`, and `ForbiddenError`."""
        require_model(self._caller, spec.name)
        return await self._catalog.create(spec)

    async def delete(self, name: str) -> None:
        """Delete a model; raises as `Catalog.delete`, and `ForbiddenError`."""
        require_model(self._caller, name)
        await self._catalog.delete(name)


def catalog_of(scope: Scope) -> Models:
    """Return the models of the server that a request came to, as far as its key reaches."""
    return Models(cast(Catalog, scope["app"].state.catalog), cast(Key, scope["caller"]))
