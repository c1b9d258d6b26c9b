"""The models of a server, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

from starlette.types import Scope

from service.errors import InvalidSpecError, ModelExistsError, TooManyModelsError, UnknownModelError
from service.hosted import HostedModel
from service.learner import Learner
from service.schemas import DEFAULT_MODEL, ModelSpec
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


def catalog_of(scope: Scope) -> Catalog:
    """Return the models of the server that a request came to."""
    return cast(Catalog, scope["app"].state.catalog)
