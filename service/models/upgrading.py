"""Upgrade of a model to the latest generation of the learner, while the model serves and learns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import NamedTuple

from bnp_online.parameters import LATEST_LEARNER

from ..errors import (
    DamagedEventError,
    InvalidSpecError,
    ModelFailedError,
    NotKeptError,
    RequestError,
    ShuttingDownError,
    UnknownModelError,
)
from ..settings import Settings
from ..storage import event_codec
from ..storage.history import History, Upgrade
from ..storage.interfaces import Event
from ..telemetry.audit import audit
from ..telemetry.progress import progress
from . import snapshot
from .checkpointer import Checkpointer
from .feed import Feed
from .hosted import HostedModel
from .recovery import Recovery, opened
from .spec_limits import check_change
from .threads import Threads
from .worker import Worker, report_error

#: Events that are relearned with exclusive access to the model, at most, if the others were relearned before.
_FEW = 500
#: Seconds between two attempts after a failure: they double, from the first value to the second.
_SHORTEST, _LONGEST = 1.0, 60.0

_logger = logging.getLogger(__name__)


class SupersededError(Exception):
    """The history changed while the samples were relearned."""


class Progress(NamedTuple):
    """Progress of an upgrade: the generation, the number of events relearned, and the number of all."""

    learner: int
    done: int
    events: int


class Upgrading:
    """Upgrade of one model.

    A request is an event in the log. Another thread then relearns the samples in the log. A second event
    completes the upgrade: the relearned model takes the place of the model between two groups of samples.
    A start continues an upgrade that was requested and not completed.

    Parameters
    ----------
    worker : Worker
        Worker of the model.
    checkpointer : Checkpointer
        Checkpoints of the model.
    recovery : Recovery
        Relearns the samples.
    threads : Threads
        Threads of all models.
    settings : Settings
        Limits.
    feed : Feed
        Takes the event of a completed upgrade.
    rebuilt : callable
        Returns once the model includes no unlearned sample.
    """

    def __init__(
        self,
        worker: Worker,
        checkpointer: Checkpointer,
        recovery: Recovery,
        threads: Threads,
        settings: Settings,
        feed: Feed,
        rebuilt: Callable[[], Awaitable[None]],
    ) -> None:
        self._worker = worker
        self._history = worker.history
        self._checkpointer = checkpointer
        self._recovery = recovery
        self._threads = threads
        self._settings = settings
        self._feed = feed
        self._rebuilt = rebuilt
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._done = self._events = 0
        self._relearned: tuple[int, HostedModel] | None = None  # version of the history, and the model

    @property
    def progress(self) -> Progress | None:
        """Progress of the upgrade; None without one."""
        upgrade = self._history.upgrading
        return None if upgrade is None else Progress(upgrade.spec["learner"], self._done, self._events)

    def resume(self) -> None:
        """Continue an upgrade that a server before this one has not completed."""
        if self._history.upgrading is not None:
            self.start()

    async def close(self) -> None:
        """Stop. The next start continues."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def request(self, *, kept: bool) -> bool:
        """Log the request of an upgrade, with exclusive access; see `request`."""
        asked = request(self._worker.model, self._history, self._settings, kept=kept)
        if asked:
            self._checkpointer.add(1, 0)
        return asked

    def start(self) -> None:
        """Relearn in the background."""
        if self._task is None or self._task.done():
            # The upgrade outlives the request: it has none of its context variables.
            self._task = asyncio.create_task(self._run(), context=Context())
            self._task.add_done_callback(report_error)

    async def _run(self) -> None:
        pause = _SHORTEST
        while True:
            await self._rebuilt()
            upgrade, version = self._history.upgrading, self._history.version
            if upgrade is None:
                self._relearned = None
                return
            try:
                model = await self._relearn(upgrade, version)
                await self._worker.exclusive(partial(self._switch, model, upgrade, version))
            except SupersededError:
                pause = _SHORTEST  # the samples are relearned anew, if the upgrade was not canceled
            except (UnknownModelError, ModelFailedError, ShuttingDownError):
                return  # the model is deleted, or the next start continues
            except (RequestError, DamagedEventError) as error:
                name = self._worker.model.name
                _logger.warning("cannot upgrade model %r now, trying again: %s", name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)

    async def _relearn(self, upgrade: Upgrade, version: int) -> HostedModel:
        """Return a new model that has learned all samples but the latest few."""
        left = _FEW + 1
        if self._relearned is not None and self._relearned[0] == version:  # the switch failed
            model = self._relearned[1]
        else:
            self._done = 0
            model = await asyncio.to_thread(self._recovery.begin, upgrade)
        self._relearned = None  # after a failure in between, a model is not usable
        while left > _FEW:
            # Events up to here are applied, so the log has all refusals among them.
            upto = await self._worker.exclusive(lambda: self._worker.model.sequence)
            before, left = left, await asyncio.to_thread(self._history.count, model.sequence, upto)
            if self._done and left >= before:
                break  # the samples arrive faster than they are relearned
            self._events = self._done + left
            advance = partial(self._advance, version, self._done)
            model = await self._threads.relearn(partial(self._recovery.run_on, model, upto, advance, upgrade))
            self._done = self._events
        return model

    def _advance(self, version: int, before: int, done: int) -> None:
        """Count relearned events; stop the thread if the result would not be used."""
        self._done = before + done
        if self._closing:
            raise ShuttingDownError("the server is shutting down")
        if version != self._history.version:
            raise SupersededError

    def _switch(self, model: HostedModel, upgrade: Upgrade, version: int) -> None:
        """Learn the latest samples, and replace the model, unless the history changed."""
        if version != self._history.version or self._checkpointer.paused:
            return
        model = self._recovery.run_on(model, upgrade=upgrade)
        self._relearned = version, model
        before = self._worker.model
        model.sequence = self._history.complete_upgrade(upgrade, model.step)
        model.predicted = before.predicted
        self._worker.model = model
        audit(
            "model upgraded", model.name, step=model.step, step_before=before.step, learner=model.spec.learner
        )
        self._checkpointer.begin(model.replay)
        self._checkpointer.keep(model)  # a start from the log would relearn all samples
        self._feed.publish("upgrade", model.name, step=model.step, learner=model.spec.learner)


def request(model: HostedModel, history: History, settings: Settings, *, kept: bool) -> bool:
    """Log the request of an upgrade, unless there is one; return whether an upgrade is to be done.

    Parameters
    ----------
    model, history : HostedModel, History
        The model after its last event, and its history.
    settings : Settings
        Limits.
    kept : bool
        Whether the new model may lack samples that the log no longer has.

    Raises
    ------
    NotKeptError
        If the log lacks samples, and `kept` is false.
    InvalidSpecError
        If the model does not depend on the generation, or exceeds a limit of the server.
    """
    if history.upgrading is not None or model.spec.learner == LATEST_LEARNER:
        return history.upgrading is not None
    if model.spec.network != "mlp":
        built_in = isinstance(model.spec.network, str)
        network = f"network={model.spec.network!r}" if built_in else "a network of layers"
        raise InvalidSpecError(
            f"a model with {network} learns in the same way in all generations: there is nothing to upgrade"
        )
    spec = model.spec.model_copy(update={"learner": LATEST_LEARNER})
    check_change(spec, {}, settings)
    after = history.samples_after()
    found = history.step_at(after)
    missing = model.step if found is None else found
    if missing and not kept:
        raise NotKeptError(
            f"the log has {model.step - missing} of the {model.step} samples of the model; the others "
            "were removed by the limits of retention, or are part of an imported file. Relearn those "
            "that are kept with kept=true (--kept), or keep this model and train a new one"
        )
    history.request_upgrade(spec.model_dump(mode="json"), after, missing)
    audit("upgrade requested", model.name, step=model.step, learner=spec.learner, kept=kept)
    return True


def upgrade_in_place(settings: Settings, name: str, *, kept: bool) -> tuple[int, bool]:
    """Upgrade a model of a data folder without a server, with progress bars.

    Returns
    -------
    int, bool
        Step of the model, and whether it was of an earlier generation.

    Raises
    ------
    UnknownModelError
        If the folder has no model of this name.
    NotKeptError, InvalidSpecError
        As `request`.
    FolderInUseError, StorageError, DamagedEventError
        If the folder cannot be opened, read or written.
    """
    with opened(settings, name) as ((history, recovery, model), checkpoints):
        if not request(model, history, settings, kept=kept):
            return model.step, False
        upgrade = history.upgrading
        assert upgrade is not None  # noqa: S101 (for mypy)
        model = recovery.begin(upgrade)
        with progress(f"relearning {name}", recovery.left(model)) as advance:
            model = recovery.run_on(model, advance=advance, upgrade=upgrade)
        model.sequence = history.complete_upgrade(upgrade, model.step)
        for action in model.acted:
            model.sequence = history.append(Event("action", event_codec.dumps(action)))
        log = history.log
        state = snapshot.sign(snapshot.take(model), log.checksum(history.model, model.sequence))
        checkpoints.save(history.model, history.branch, model.sequence, model.step, history.head, state)
        audit("model upgraded", name, step=model.step, learner=model.spec.learner)
        return model.step, True
