"""Access to the models of a server per key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

from starlette.types import Scope

from ..auth.guard import require_model
from ..auth.keys import Key
from ..errors import NotInMemoryError
from ..schemas import DEFAULT_MODEL, ModelSpec
from ..telemetry.audit import CALLER
from .feed import Feed, Listener
from .operations import Operations
from .readiness import Readiness
from .registry import Registry, Summary
from .worker import Worker


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
        """Return the workers of the models in memory."""
        return (worker for worker in self._registry if self._caller.covers(worker.model.name))

    def summaries(self) -> list[Summary]:
        """Return all models, in order of creation."""
        return [each for each in self._registry.summaries() if self._caller.covers(each.name)]

    async def get(self, name: str | None = None) -> Worker:
        """Return the worker of a model, by default of the default model. A stored model is loaded.

        Raises
        ------
        ForbiddenError
            If the key does not cover this name, whether or not the model exists.
        UnknownModelError, ModelFailedError, StorageError
            As `Registry.load`.
        """
        if self._caller.models is not None:  # few keys are restricted, and this runs for each sample
            require_model(self._caller, DEFAULT_MODEL if name is None else name)
        try:
            return self._registry.get(name)
        except NotInMemoryError:
            return await self._registry.load(name)

    async def operations(self, name: str) -> Operations:
        """Return the operations on a whole model; raises as `get`.

        Raises
        ------
        WrongNodeError
            If another process owns the model.
        """
        self._authorize(name)
        (await self.get(name)).require_owned()
        return self._registry.operations(name)

    async def observed(self, name: str) -> Operations:
        """Return the operations that change nothing on a model; raises as `get`."""
        self._authorize(name)
        await self.get(name)
        return self._registry.operations(name)

    def operations_of(self, worker: Worker) -> Operations:
        """Return the operations on the model of a worker; raises as `Registry.get`."""
        return self._registry.operations(worker.model.name)

    def listen(self, name: str | None, after: str | None) -> AbstractContextManager[Listener]:
        """Listen to the events of one model, or of all that the key covers; raises as `get`."""
        if name is not None:
            require_model(self._caller, name)
            self._registry.require(name)
        return self._registry.feed.listen(
            lambda model: self._caller.covers(model) and name in (None, model), after
        )

    @property
    def feed(self) -> Feed:
        """Events of all models."""
        return self._registry.feed

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
