"""Following: models of other nodes of a cluster, whose new events are applied as the log gets them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import (
    DamagedEventError,
    ModelFailedError,
    NotInMemoryError,
    NotReadyError,
    RequestError,
    StorageError,
    TooStaleError,
)
from ..settings import Settings
from ..storage import event_codec
from ..storage.history import History
from ..storage.interfaces import Event, Record
from .recovery import UNREADABLE, Recovery, recover
from .registry import Registry
from .threads import Threads
from .worker import Worker, report_error

if TYPE_CHECKING:
    from ..storage.postgres import PostgresLog
    from ..storage.postgres_announcements import Follower

#: Events that are applied in one call: predictions wait for it.
_SLICE = 32
#: Events that are read at once, and bytes of them after which no further one is read.
_READ, _READ_BYTES = 1000, 2**20
#: Events of these kinds are applied to the state as it is. After others the model is recovered anew.
_PLAIN = frozenset({"learn", "label", "predict", "patch", "action"})
#: Seconds after an error before a model tries again to follow.
_PAUSE = 1.0
#: The same for a model whose log is damaged.
_FAILED = 10.0

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """A model of another node.

    Attributes
    ----------
    number, shard : int
        Number of the model, and its shard.
    name : str
        Name of the model.
    applied : int
        Number of the last event in the state.
    as_of : float
        Time of `time.monotonic` at which the state was that of the log.
    timeline : str
        Timeline of the server from which the state was read; see `PostgresLog`.
    logged : float or None
        Time of logging of event `applied`, if it is known.
    following : Task or None
        Applies new events.
    failure : str or None
        Why the model cannot follow: its log is damaged, or was written by a later version.
    again : float
        Time of `time.monotonic` before which it does not try again.
    recovery : Recovery or None
        Applies new events; it stays, since it has templates of the model's lines.
    """

    number: int
    shard: int
    name: str
    applied: int = 0
    as_of: float = -math.inf
    timeline: str = ""
    logged: float | None = None
    following: asyncio.Task[None] | None = None
    failure: str | None = None
    again: float = -math.inf
    recovery: Recovery | None = None


class Following:
    """Models of other nodes. Construct it on a running event loop.

    Parameters
    ----------
    settings : Settings
        Limits.
    log : PostgresLog
        Log of the cluster.
    registry : Registry
        Models of this process.
    threads : Threads
        Threads of all models.
    elsewhere : callable
        Returns the error for a sample of a model, by name; None if this node owns its shard.

    Attributes
    ----------
    follower : Follower
        Announcements of new events; set it before `begin`.
    began : bool
        Whether all models of other nodes are known.
    """

    follower: Follower

    def __init__(
        self,
        settings: Settings,
        log: PostgresLog,
        registry: Registry,
        threads: Threads,
        elsewhere: Callable[[str], RequestError | None],
    ) -> None:
        self._settings = settings
        self._log = log
        self._registry = registry
        self._threads = threads
        self._elsewhere = elsewhere
        self._loop = asyncio.get_running_loop()
        self._models: dict[int, _Followed] = {}
        self.began = False

    async def begin(self) -> None:
        """Follow all models of the shards of other nodes."""
        for shard in range(self._log.shards):
            if shard not in self._log.epochs:
                for record in await asyncio.to_thread(creations, self._log, shard):
                    await self.follow(record, shard)
        self.began = True

    async def close(self) -> None:
        """Stop to follow."""
        for each in self._models.values():
            await _stop(each)

    async def follow(self, record: Record, shard: int) -> None:
        """Follow a model, by its creation."""
        if record.model in self._models:
            return
        followed = _Followed(record.model, shard, name_of(record), timeline=self._log.timeline)
        for each in [each for each in self._models.values() if each.name == followed.name]:
            await self._drop(each)  # deleted, and created again with the same name
        self._models[record.model] = followed
        self._registry.add(record, follow=partial(self._attach, followed))
        if self._settings.models_in_memory is None:
            with contextlib.suppress(RequestError):  # logged, and tried again by a request
                await self._registry.load(followed.name)

    async def take(self, number: int, head: int) -> bool:
        """Apply the events of a model up to the last one, and stop to follow it.

        Returns
        -------
        bool
            Whether the model was followed, and has all events.

        Raises
        ------
        StorageError
            If the events cannot be read now. The model is followed further.
        """
        followed = self._models.pop(number, None)
        if followed is None:
            return False
        await _stop(followed)
        try:
            await self._follow_to(followed, head)
        except UNREADABLE as error:
            _report(followed, error)
            await self._registry.release(followed.name, keep=False)
            return False
        except StorageError:
            self._models[number] = followed
            raise
        return True

    async def retain(self, shard: int, numbers: Collection[int]) -> None:
        """Drop the models of a shard that do not exist any more."""
        for each in [*self._models.values()]:
            if each.shard == shard and each.number not in numbers:
                await self._drop(each)

    def announced(self, heads: dict[int, int]) -> None:
        """Apply new events; the thread of the follower calls this."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._notice, heads)

    def staleness(self) -> float:
        """Return the seconds by which the worst model or shard lags, without `failed`; any thread may ask."""
        if not self.began:
            return math.inf
        now, heard, epochs = time.monotonic(), {**self.follower.heard}, self._log.epochs
        silent = [now - heard.get(s, -math.inf) for s in range(self._log.shards) if s not in epochs]
        followed = [each for each in [*self._models.values()] if each.failure is None]
        models = [self._lag(each) for each in followed if self._in_memory(each.name)]
        return max([*silent, *models], default=0.0)

    def failed(self) -> list[str]:
        """Return the names of the models that cannot follow; any thread may ask."""
        return [each.name for each in [*self._models.values()] if each.failure is not None]

    def _in_memory(self, name: str) -> bool:
        try:
            self._registry.peek(name)
        except RequestError:  # deleted, or stored
            return False
        return True

    def _lag(self, followed: _Followed) -> float:
        """Return the seconds since the state of a model was that of the log."""
        heard = self.follower.heard.get(followed.shard, -math.inf)  # before the heads: see `Follower`
        if followed.applied >= self.follower.heads.get(followed.number, 0):
            followed.as_of = max(followed.as_of, heard)
        return time.monotonic() - followed.as_of

    def _require_fresh(self, followed: _Followed) -> None:
        if followed.failure is not None:
            raise ModelFailedError(
                f"model {followed.name!r} cannot follow the log at this node: see the log of the server",
                "model",
            )
        limit = self._settings.max_staleness
        if (lag := self._lag(followed)) > limit:
            raise TooStaleError(
                f"the model lags by {lag:.1f} s, and at most {limit:g} s are allowed "
                "(BNP_MAX_STALENESS): use another node"
            )

    def _attach(self, followed: _Followed, worker: Worker) -> None:
        """Follow with the worker of a model that was loaded."""
        followed.applied, followed.logged, followed.failure = worker.model.sequence, None, None
        worker.follow(
            lambda: self._elsewhere(followed.name) or NotReadyError("the shard of the model is being claimed")
        )
        worker.guard, worker.staleness = (
            partial(self._require_fresh, followed),
            partial(self._lag, followed),
        )
        self._wake(followed)

    def _notice(self, heads: dict[int, int]) -> None:
        for number in heads:
            if (followed := self._models.get(number)) is not None:
                self._wake(followed)
            elif self.began and not self._registry.has(number):
                created = self._loop.create_task(self._discover(number))
                created.add_done_callback(report_error)

    async def _discover(self, number: int) -> None:
        """Follow a new model."""
        with contextlib.suppress(StorageError):  # the next announcement tries again
            records = await asyncio.to_thread(self._log.changes, number, "create")
            shard = await asyncio.to_thread(self._log.shard, number)
            if records and shard not in self._log.epochs:
                await self.follow(records[0], shard)

    def _wake(self, followed: _Followed) -> None:
        waits = time.monotonic() < followed.again
        if followed.following is None and not waits and self._in_memory(followed.name):
            followed.following = self._loop.create_task(self._follow_up(followed))
            followed.following.add_done_callback(report_error)

    def wake_all(self) -> None:
        """Apply new events of all models, also of those that could not follow for a while."""
        for each in self._models.values():
            if self._behind(each, self.follower.heads.get(each.number, 0)):
                self._wake(each)

    async def _follow_up(self, followed: _Followed) -> None:
        """Apply the announced events of a model."""
        try:
            while self._behind(followed, head := self.follower.heads.get(followed.number, 0)):
                if not await self._follow_to(followed, head):
                    return
            followed.failure = None
        except UNREADABLE as error:
            _report(followed, error)
            followed.failure, followed.again = str(error), time.monotonic() + _FAILED
        except RequestError as error:
            _logger.warning("model %r cannot follow the log now: %s", followed.name, error)
            await asyncio.sleep(_PAUSE)
        finally:
            followed.following = None

    def _behind(self, followed: _Followed, head: int) -> bool:
        """Return whether the state of a model lacks events up to a number, or may be that of another log."""
        return followed.applied < head or followed.timeline != self._log.timeline

    async def _follow_to(self, followed: _Followed, head: int) -> bool:
        """Apply the events of a model up to a number at least; return whether it is in memory."""
        while self._behind(followed, head):
            try:
                worker = self._registry.peek(followed.name)
            except NotInMemoryError:
                return False  # the next request loads it
            history, sequence, timeline = worker.history, worker.model.sequence, self._log.timeline
            if timeline != followed.timeline:  # another server: it may lack events of the state
                if not await self._same_log(followed, history):
                    return await self._rebuild(followed)
                followed.timeline = timeline
                continue
            records = await asyncio.to_thread(plain_news, worker, sequence, head)
            if timeline != self._log.timeline:
                continue
            if records:
                recovery = followed.recovery
                if recovery is None or recovery.history is not history:
                    recovery = Recovery(history, self._registry.checkpoints, self._settings)
                    followed.recovery = recovery
                for first in range(0, len(records), _SLICE):
                    some = records[first : first + _SLICE]
                    await worker.exclusive(partial(_advance, worker, recovery, some))
                    followed.applied, followed.logged = some[-1].seq, some[-1].time
            else:
                return await self._rebuild(followed)
        return True

    async def _same_log(self, followed: _Followed, history: History) -> bool:
        """Return whether the log of another server has the events of a state."""
        if followed.logged is None:
            return False
        read = history.read(followed.applied - 1, followed.applied)
        return [each.time for each in await asyncio.to_thread(list, read)] == [followed.logged]

    async def _rebuild(self, followed: _Followed) -> bool:
        """Recover a model after a rollback, an unlearning or the like, or with a log that lacks events.

        Returns
        -------
        bool
            Whether the model exists.
        """
        began, timeline, number = time.monotonic(), self._log.timeline, followed.number
        head = (await asyncio.to_thread(self._log.heads_of, followed.shard)).get(number)
        if head is None:
            await self._drop(followed)
            return False
        checkpoints = self._registry.checkpoints
        recovered = await self._threads.maintain(
            partial(recover, self._log, number, checkpoints, self._settings, shown=False, owned=False)
        )
        await self._registry.replace(followed.name, recovered)
        followed.applied, followed.as_of = max(head, recovered.model.sequence), began
        followed.timeline, followed.logged = timeline, None
        return True

    async def _drop(self, followed: _Followed) -> None:
        self._models.pop(followed.number, None)
        await self._registry.release(followed.name, keep=False)


def creations(log: PostgresLog, shard: int) -> list[Record]:
    """Return the creation of each model of a shard.

    In place of a damaged one it returns an event with the name of the model alone: the model is known, though
    it cannot be restored.
    """
    try:
        return log.models_of([shard])
    except DamagedEventError:
        pass
    found = []
    for number, name in log.names_of(shard).items():
        try:
            found += log.changes(number, "create")
        except DamagedEventError:
            body = event_codec.dumps({"name": name, "task": "classification"})
            found.append(Record(number, number, 0, 0.0, None, Event("create", body)))
    return found


def name_of(record: Record) -> str:
    """Return the name of a model, by its creation."""
    name: str = event_codec.loads(record.event.body)["name"]
    return name


def _report(followed: _Followed, error: Exception) -> None:
    """Log once why a model cannot follow."""
    if followed.failure != str(error):
        _logger.critical("model %r cannot follow the log: %s", followed.name, error)


async def _stop(followed: _Followed) -> None:
    if followed.following is not None:
        followed.following.cancel()
        await asyncio.wait([followed.following])
        followed.following = None


def plain_news(worker: Worker, after: int, head: int) -> list[Record]:
    """Return the next events of a model; none if they cannot be applied to its state as it is."""
    records: list[Record] = []
    size = 0
    for record in worker.history.read(after, head):
        last = records[-1].seq if records else after
        if record.seq != last + 1 or record.event.kind not in _PLAIN:
            return []
        records.append(record)
        size += len(record.event.body)
        if len(records) == _READ or size >= _READ_BYTES:
            return records
    return records if records and records[-1].seq == head else []


def _advance(worker: Worker, recovery: Recovery, records: Sequence[Record]) -> None:
    """Apply events to a model, with exclusive access."""
    worker.model = recovery.advance(worker.model, records)
