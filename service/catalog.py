"""The models of a server, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

from starlette.requests import Request

from service.errors import (
    ForbiddenError,
    InvalidSpecError,
    ModelExistsError,
    TooManyModelsError,
    UnknownModelError,
)
from service.hosted import HostedModel
from service.learner import Learner
from service.schemas import DEFAULT_MODEL, ModelSpec
from service.security import Key
from service.settings import Settings
from service.store.base import EventLog


class Catalog:
    """Creates, finds and deletes models, each with its own writer.

    Parameters
    ----------
    settings : Settings
        The limits.
    log : EventLog
        Takes the events of all models.
    """

    def __init__(self, settings: Settings, log: EventLog) -> None:
        self.settings = settings
        self._log = log
        self._learners: dict[str, Learner] = {}
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

    async def create(self, spec: ModelSpec) -> Learner:
        """Make a model and start its writer.

        Raises
        ------
        ModelExistsError, TooManyModelsError, InvalidSpecError
            Nothing was made.
        ConfigurationError
            The library cannot make it.
        """
        async with self._changing:
            if spec.name in self._learners:
                raise ModelExistsError(
                    f"there is a model {spec.name!r}: delete it, or take another name", "name"
                )
            if len(self._learners) >= self.settings.max_models:
                raise TooManyModelsError(f"the server has {len(self._learners)} models (BNP_MAX_MODELS)")
            complete = self._complete(spec)
            model = await asyncio.to_thread(HostedModel, complete, self.settings, self._log)
            learner = Learner(model, self.settings.queue_size, self.settings.group_size)
            self._learners[spec.name] = learner
            return learner

    async def delete(self, name: str) -> None:
        """Delete a model; what waits for it is refused.

        Raises
        ------
        UnknownModelError
            If there is none of this name.
        """
        async with self._changing:
            learner = self.get(name)
            del self._learners[name]
            await learner.discard()

    async def close(self) -> None:
        """Answer all that waits, and end all writers."""
        async with self._changing:
            await asyncio.gather(*(learner.close() for learner in self))

    def _complete(self, spec: ModelSpec) -> ModelSpec:
        """Fill in the limits that the spec leaves to the server."""
        limits = {"max_features": self.settings.max_features}
        if spec.task == "classification":
            limits["max_classes"] = self.settings.max_classes
        elif spec.max_classes is not None:
            raise InvalidSpecError("a regression has no classes: leave max_classes out", "max_classes")
        for name, limit in limits.items():
            asked = getattr(spec, name)
            if asked is not None and asked > limit:
                raise InvalidSpecError(f"{name} is at most {limit} here (BNP_{name.upper()})", name)
        return spec.model_copy(update={k: v for k, v in limits.items() if getattr(spec, k) is None})


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
        self._check(DEFAULT_MODEL if name is None else name)
        return self._catalog.get(name)

    async def create(self, spec: ModelSpec) -> Learner:
        """Make a model and start its writer; raises as `Catalog.create`, and `ForbiddenError`."""
        self._check(spec.name)
        return await self._catalog.create(spec)

    async def delete(self, name: str) -> None:
        """Delete a model; raises as `Catalog.delete`, and `ForbiddenError`."""
        self._check(name)
        await self._catalog.delete(name)

    def _check(self, name: str) -> None:
        if not self._caller.covers(name):
            raise ForbiddenError(f"this key is not for the model {name!r:.80}", "model")


def catalog_of(request: Request) -> Models:
    """Return the models of the server that the request came to, as far as its key reaches."""
    return Models(cast(Catalog, request.app.state.catalog), cast(Key, request.scope["caller"]))
