"""The models of a server, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

from starlette.types import Scope

from service.committer import Committer
from service.errors import ModelExistsError, TooManyModelsError, UnknownModelError
from service.history import History
from service.hosted import HostedModel
from service.keeper import Keeper
from service.learner import Learner
from service.limits import complete
from service.maintenance import Maintenance
from service.recovery import Recovery
from service.schemas import DEFAULT_MODEL, ModelSpec
from service.settings import Settings
from service.store.base import Checkpoints, Event, EventLog


class Catalog:
    """Creates, finds and deletes models, each with its own writer.

    Parameters
    ----------
    settings : Settings
        The limits.
    log, checkpoints : EventLog, Checkpoints
        Of all models.
    """

    def __init__(self, settings: Settings, log: EventLog, checkpoints: Checkpoints) -> None:
        self.settings = settings
        self._log = log
        self._checkpoints = checkpoints
        self._committer = Committer(log)
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self._learners: dict[str, Learner] = {}
        self._maintenance: dict[str, Maintenance] = {}
        self._changing = asyncio.Lock()

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

    def _make(self, spec: ModelSpec) -> tuple[History, HostedModel]:
        model = HostedModel(spec, self.settings, self._log.now)  # before it is logged: it may be refused
        model.sequence = self._log.create(Event("create", spec.model_dump_json().encode(), step=0))
        return History(self._log, model.sequence), model

    def serve(self, history: History, model: HostedModel) -> Learner:
        """Start the writer of a model that the log has."""
        settings, name = self.settings, model.name
        keeper = Keeper(history, self._checkpoints, settings, self._executor)
        keeper.begin(model)
        recovery = Recovery(history, self._checkpoints, settings)
        queue, group = settings.queue_size, settings.group_size
        learner = Learner(model, history, self._committer, keeper, recovery.run, queue, group)
        self._learners[name] = learner
        self._maintenance[name] = Maintenance(learner, keeper, recovery, settings)
        return learner

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


def catalog_of(scope: Scope) -> Catalog:
    """Return the models of the server that a request came to."""
    return cast(Catalog, scope["app"].state.catalog)
