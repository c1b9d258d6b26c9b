"""Shadows of a model: they follow its log in turns of their own, a little later than the model.

A shadow reads the events that its champion has applied, and applies them between two calls of the champion.
So no path of a sample needs code for shadows, and the answers of the champion wait for one short call at
most. While the champion is busy, its shadows take a share of its time (``BNP_SHADOW_SHARE``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from typing import Any

from bnp_online.errors import DeviceMemoryError

from ..errors import (
    DamagedEventError,
    InvalidSpecError,
    ModelFailedError,
    NotKeptError,
    RebuildingError,
    RequestError,
    ShadowExistsError,
    ShadowFailedError,
    ShuttingDownError,
    TooManyShadowsError,
    UnknownModelError,
)
from ..schemas import ModelSpec
from ..settings import Settings
from ..storage import event_codec
from ..storage.interfaces import Event, Record
from ..telemetry.audit import audit
from .checkpointer import Checkpointer
from .feed import Feed
from .hosted import HostedModel, Shadow
from .recovery import Recovery
from .scheduling import CallLength
from .shadows import add_shadow, new_shadow, promote, remove_shadow, trim
from .spec_limits import complete
from .worker import Worker, report_error

#: Events that are read at once, and bytes of them after which no further one is read.
_READ, _READ_BYTES = 1000, 2**20
#: Seconds between two looks for new events, and after an error.
_POLL, _PAUSE = 0.05, 1.0
#: Seconds of calls between two pauses.
_TURN = 0.002
#: Parameters of a shadow that are those of its champion.
_SAME = ("task", "input_shape")
#: Events that a shadow may be behind before its champion waits for it.
MOST_BEHIND = 1_000_000
#: Length of a call then, in calls of the usual length.
_LONG = 80
#: Events that a shadow applies with exclusive access when it is promoted, at most, if it can catch up before.
_FEW = 500

_logger = logging.getLogger(__name__)


class Shadowing:
    """Shadows of one model. Construct it on a running event loop.

    Parameters
    ----------
    worker : Worker
        Worker of the champion.
    checkpointer : Checkpointer
        Checkpoints of the champion, which include its shadows.
    recovery : Recovery
        Recovery of the model, for this object alone.
    settings : Settings
        Limits.
    feed : Feed
        Takes the event of a promotion.
    """

    def __init__(
        self, worker: Worker, checkpointer: Checkpointer, recovery: Recovery, settings: Settings, feed: Feed
    ) -> None:
        self._worker = worker
        self._history = worker.history
        self._checkpointer = checkpointer
        self._recovery = recovery
        self._settings = settings
        self._feed = feed
        self._task: asyncio.Task[None] | None = None
        self._lengths: dict[str, CallLength] = {}
        self._spent = 0.0  # seconds of calls since the last pause
        self._seen = 0  # last event of the champion at the last pause
        self._hurried = 0  # promotions that wait for a shadow
        self._closing = False
        self.start()

    @property
    def resting(self) -> bool:
        """Whether no shadow is behind, except for those that failed."""
        model = self._worker.model
        return all(each.failure or not _behind(model, each) for each in model.shadows.values())

    def start(self) -> None:
        """Follow the log, if the model has shadows."""
        if self._worker.model.shadows and not self._closing and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), context=Context())
            self._task.add_done_callback(report_error)

    async def close(self) -> None:
        """Stop. The next start continues."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def add(self, spec: ModelSpec) -> dict[str, Any]:
        """Create a shadow, and return its report; `spec` has its name.

        Raises
        ------
        ShadowExistsError, TooManyShadowsError, RebuildingError
            If the model cannot have the shadow, or not now.
        InvalidSpecError, ConfigurationError
            If the server or the library refuses the specification, or if it reads other samples.
        StorageError
            If the creation cannot be logged.
        """
        champion = self._worker.model
        same = {name: getattr(champion.spec, name) for name in _SAME if name not in spec.model_fields_set}
        spec = spec.model_copy(update=same)
        completed = await asyncio.to_thread(complete, spec, self._settings)
        _check_samples(completed, champion.spec)
        shadow = await asyncio.to_thread(new_shadow, spec.name, completed, champion)
        added = await self._worker.exclusive(partial(self._add, shadow))
        self.start()
        return added

    def _add(self, shadow: Shadow) -> dict[str, Any]:
        model, name = self._worker.model, shadow.name
        if name in model.shadows or name == model.alias:
            raise ShadowExistsError(
                f"the model has a shadow or a champion {name!r}: use another name", "name"
            )
        if len(model.shadows) >= self._settings.max_shadows:
            message = f"the model has {len(model.shadows)} shadows: delete one, or raise BNP_MAX_SHADOWS"
            raise TooManyShadowsError(message)
        if self._checkpointer.paused or self._history.upgrading is not None:
            raise RebuildingError("the model is being rebuilt or upgraded: try again later")
        spec = shadow.model.spec.model_dump(mode="json")
        body = event_codec.dumps({"name": name, "spec": spec})
        seq = self._history.append(Event("shadow", body, step=model.step))
        add_shadow(model, shadow, seq)
        self._changed(seq)
        audit("shadow created", model.name, step=model.step, shadow=name)
        return report(model, shadow)

    def _changed(self, seq: int) -> None:
        self._worker.model.sequence = seq
        self._checkpointer.add(1, 0)

    async def delete(self, name: str) -> None:
        """Delete a shadow.

        Raises
        ------
        UnknownShadowError
            If the model has no such shadow.
        StorageError
            If the deletion cannot be logged.
        """
        await self._worker.exclusive(partial(self._delete, name))

    def _delete(self, name: str) -> None:
        model = self._worker.model
        shadow = self._find(name)
        seq = self._history.append(Event("unshadow", event_codec.dumps({"name": name}), step=model.step))
        remove_shadow(model, name)
        self._changed(seq)
        audit("shadow deleted", model.name, step=model.step, shadow=name, shadow_step=shadow.model.step)

    def _find(self, name: str) -> Shadow:
        return self._worker.model.shadow(name)

    @staticmethod
    def _require_able(shadow: Shadow) -> None:
        if shadow.failure is not None:
            raise ShadowFailedError(shadow.failure, "shadow")

    async def promote(self, name: str) -> dict[str, Any]:
        """Let a shadow and its champion change places, once the shadow has all samples.

        Raises
        ------
        UnknownShadowError
            If the model has no such shadow.
        ShadowFailedError
            If it no longer learns.
        NotKeptError
            If the log no longer has the samples that the shadow lacks.
        RebuildingError
            If the model is being rebuilt.
        StorageError
            If the promotion cannot be logged.
        """
        self._require_able(self._find(name))
        self._hurried += 1
        try:
            await self._catch_up(name)
            promoted = await self._worker.exclusive(partial(self._promote, name))
        finally:
            self._hurried -= 1
        told = {"step": promoted["step"], "shadow": name, "former": promoted["shadow"]}
        self._feed.publish("promotion", promoted["model"], **told)
        return promoted

    async def _catch_up(self, name: str) -> None:
        """Wait until a shadow is hardly behind, or as long as it catches up."""
        before, behind = math.inf, _behind(self._worker.model, self._find(name))
        while _FEW < behind < before:
            for _ in range(round(_PAUSE / _POLL)):
                await asyncio.sleep(_POLL)
                if _behind(self._worker.model, self._find(name)) <= _FEW:
                    break
            before, behind = behind, _behind(self._worker.model, self._find(name))

    def _promote(self, name: str) -> dict[str, Any]:
        champion, shadow = self._worker.model, self._find(name)
        if self._checkpointer.paused:
            raise RebuildingError("the model is being rebuilt without forgotten samples: try again later")
        self._require_able(shadow)
        self._recovery.catch_up(champion, shadow, champion.sequence)
        self._require_able(shadow)
        body = event_codec.dumps({"name": name})
        seq = self._history.append(Event("promote", body, step=shadow.model.step))
        model = promote(champion, name)
        self._worker.model = model
        self._changed(seq)
        steps = {"step": model.step, "step_before": champion.step}
        audit("shadow promoted", model.name, **steps, shadow=name, former=champion.alias)
        return {"model": model.name, "champion": name, "shadow": champion.alias, "step": model.step}

    async def report(self) -> dict[str, Any]:
        """Return the shadows and their comparisons with the champion."""
        return await self._worker.ask(_report)

    async def _run(self) -> None:
        while self._worker.model.shadows:
            progress = False
            for name in [*self._worker.model.shadows]:
                try:
                    progress |= await self._follow(name)
                except (UnknownModelError, ModelFailedError, ShuttingDownError):
                    return
                except (DamagedEventError, NotKeptError) as error:
                    self._fail(name, error)
                except (RequestError, DeviceMemoryError):  # the state is being rebuilt, or storage fails
                    await asyncio.sleep(_PAUSE)
            if not progress:
                await asyncio.sleep(_POLL)

    def _fail(self, name: str, error: Exception) -> None:
        model = self._worker.model
        if (shadow := model.shadows.get(name)) is not None:
            shadow.failure = str(error)
            _logger.error("shadow %r of model %r no longer learns: %s", name, model.name, error)

    async def _follow(self, name: str) -> bool:
        """Apply the next events to a shadow; return whether there were any."""
        model = self._worker.model
        shadow = model.shadows.get(name)
        if shadow is None or shadow.failure is not None or not _behind(model, shadow):
            return False
        records = await asyncio.to_thread(self._read, shadow, model.sequence)
        length, start = self._lengths.setdefault(name, CallLength()), 0
        while start < len(records):
            late = _behind(self._worker.model, shadow) > MOST_BEHIND
            stop = start + length.samples * (_LONG if late else 1)
            apply = partial(self._apply, shadow, records[start:stop], length)
            if not await self._worker.ask(apply, short=length.short and not late):
                break
            await self._pause(hurried=late or self._hurried > 0)
            start = stop
        return bool(records)

    def _read(self, shadow: Shadow, upto: int) -> list[Record]:
        """Return the next events of the log for a shadow, at most up to an event."""
        self._recovery.require_kept(shadow)
        records: list[Record] = []
        size = 0
        for record in self._history.read(shadow.model.sequence, upto):
            records.append(record)
            size += len(record.event.body)
            if len(records) == _READ or size >= _READ_BYTES:
                break
        return records

    def _apply(
        self, shadow: Shadow, records: Sequence[Record], length: CallLength, model: HostedModel
    ) -> bool:
        """Apply events to a shadow, with exclusive access; return False if another state took its place."""
        if model.shadows.get(shadow.name) is not shadow or shadow.model.sequence >= records[0].seq:
            return False
        begun = time.perf_counter()
        self._recovery.follow(model, shadow, records)
        trim(model)
        seconds = time.perf_counter() - begun
        length.add(len(records), seconds, shadow.model.call_seconds)
        self._spent += seconds
        if shadow.diverged:
            _logger.warning(
                "shadow %r of model %r diverged: it learns no further sample", shadow.name, model.name
            )
        return not shadow.diverged

    async def _pause(self, *, hurried: bool) -> None:
        """Leave the champion its share of the time, if it is busy."""
        if self._spent < _TURN:
            await self._worker.fair_turns.next()
            return
        sequence, spent = self._worker.model.sequence, self._spent
        busy = sequence != self._seen or self._worker.queue_depth > 0
        self._seen, self._spent = sequence, 0.0
        share = self._settings.shadow_share
        await asyncio.sleep(spent * (1.0 - share) / share if busy and not hurried else 0.0)


def _behind(model: HostedModel, shadow: Shadow) -> int:
    """Return the number of events that a shadow has not applied, or a few more after rollbacks."""
    return max(model.sequence - shadow.model.sequence, 0)


def _check_samples(spec: ModelSpec, champion: ModelSpec) -> None:
    """Raise `InvalidSpecError` if a shadow cannot learn the samples of its champion."""
    for name in _SAME:
        if getattr(spec, name) != getattr(champion, name):
            raise InvalidSpecError(
                f"a shadow learns the samples of its champion, which has another {name}: omit it", name
            )


def _report(model: HostedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "task": model.spec.task,
        "champion": model.alias,
        "step": model.step,
        "shadows": [report(model, each) for each in model.shadows.values()],
    }


def report(model: HostedModel, shadow: Shadow) -> dict[str, Any]:
    """Return the report of a shadow of a model."""
    return {
        "name": shadow.name,
        "spec": {**shadow.model.spec.model_dump(mode="json"), "name": shadow.name},
        "step": shadow.model.step,
        "behind": _behind(model, shadow),
        "skipped": shadow.skipped,
        "failure": shadow.failure,
        "comparison": shadow.comparison.report(),
    }
