"""Feed of the events in all models, for ``GET /events``.

Learning, predictions and labels are frequent, so their code publishes nothing. While there are listeners, the
feed compares the counters of the models twenty times a second and publishes the differences. All other kinds
are rare: their code calls `Feed.publish`, from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from .hosted import HostedModel

Kind: TypeAlias = Literal[
    "learn",
    "predict",
    "label",
    "drift",
    "action",
    "checkpoint",
    "rollback",
    "unlearning",
    "upgrade",
    "import",
    "promotion",
]

#: Seconds between two comparisons of the counters.
PERIOD = 0.05
#: Events that are retained for listeners that reconnect, and that may wait for one listener: all and more.
RING, BUFFER = 1024, 2048


class FeedEvent(NamedTuple):
    """An event in a model; numbers rise by one."""

    number: int
    kind: Kind
    model: str
    data: dict[str, Any]


class _Counters(NamedTuple):
    """Counters of a model."""

    step: int = 0
    predicted: int = 0
    labelled: int = 0
    scored: int = 0
    loss_sum: float = 0.0

    def since(self, before: _Counters) -> _Counters:
        """Return the increase since earlier counters, 0 after a rollback."""
        return _Counters(
            max(self.step - before.step, 0),
            max(self.predicted - before.predicted, 0),
            max(self.labelled - before.labelled, 0),
            max(self.scored - before.scored, 0),
            max(self.loss_sum - before.loss_sum, 0.0),
        )


def _count(model: HostedModel) -> _Counters:
    return _Counters(model.step, model.predicted, model.labelled, model.scored, model.loss_sum)


class Listener:
    """Receiver of events in order. The feed drops a listener that does not take them.

    Attributes
    ----------
    missed : bool
        Whether events since its last one are no longer retained.
    slow : bool
        Whether it was dropped.
    """

    def __init__(self, covers: Callable[[str], bool], missed: bool) -> None:
        self.missed = missed
        self.slow = False
        self._covers = covers
        self._waiting: deque[FeedEvent] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, event: FeedEvent) -> None:
        """Add an event, if the listener covers its model."""
        if self.slow or not self._covers(event.model):
            return
        if len(self._waiting) >= BUFFER:
            self.slow = True
            self._waiting.clear()
        else:
            self._waiting.append(event)
        self._changed.set()

    def end(self) -> None:
        """End the listener: `take` returns at once."""
        self._ended = True
        self._changed.set()

    @property
    def over(self) -> bool:
        """Whether no further event follows."""
        return self.slow or self._ended

    async def take(self, seconds: float) -> list[FeedEvent]:
        """Wait for events and return them; return none after some seconds or at the end."""
        if not (self._waiting or self.over):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        self._changed.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Feed:
    """Events of all models, and the listeners.

    Construct it on a running event loop.

    Parameters
    ----------
    models : callable
        Returns all models.
    """

    def __init__(self, models: Callable[[], Iterable[HostedModel]]) -> None:
        self._models = models
        self._loop = asyncio.get_running_loop()
        self._run = secrets.token_hex(4)
        self._ring: deque[FeedEvent] = deque(maxlen=RING)
        self._number = 0
        self._listeners: set[Listener] = set()
        self._seen: dict[str, _Counters] = {}
        self._sampling: asyncio.TimerHandle | None = None

    def add(self, model: HostedModel) -> None:
        """Count from the state of a model that was loaded: it learned its samples before."""
        self._seen[model.name] = _count(model)

    def publish(self, kind: Kind, model: str, **data: Any) -> None:
        """Publish a rare event, from any thread."""
        data["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(RuntimeError):  # the event loop is closed: there are no listeners
            self._loop.call_soon_threadsafe(self._add_notable, kind, model, data)

    def identifier(self, event: FeedEvent) -> str:
        """Return the id of an event, valid for this run of the server."""
        return f"{self._run}-{event.number}"

    @contextlib.contextmanager
    def listen(self, covers: Callable[[str], bool], after: str | None = None) -> Iterator[Listener]:
        """Listen to new events, or to all since the event with an id.

        Parameters
        ----------
        covers : callable
            Returns whether to listen to a model, by name.
        after : str
            Id of the last event that was received.
        """
        kept = self._after(after) if after is not None else None
        listener = Listener(covers, missed=kept is None and after is not None)
        for event in kept or ():
            listener.put(event)
        self._listeners.add(listener)
        if self._sampling is None:
            if kept is None:  # otherwise publish what happened since the last listener
                self._seen = {model.name: _count(model) for model in self._models()}
            self._sampling = self._loop.call_later(PERIOD, self._sample)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _after(self, identifier: str) -> list[FeedEvent] | None:
        """Return the events after an event; None if its id is unknown or no longer retained."""
        run, _, number = identifier.rpartition("-")
        if run != self._run or re.fullmatch("[0-9]{1,18}", number) is None:
            return None
        missing = self._number - int(number)
        return list(self._ring)[len(self._ring) - missing :] if 0 <= missing <= len(self._ring) else None

    def _add_notable(self, kind: Kind, model: str, data: dict[str, Any]) -> None:
        self._add(kind, model, data)
        if kind in (
            "rollback",
            "import",
            "promotion",
        ):  # count what is learned from here on, also before the next comparison
            counted = {each.name: _count(each) for each in self._models() if each.name == model}
            self._seen |= {name: now._replace(step=data["step"]) for name, now in counted.items()}

    def _add(self, kind: Kind, model: str, data: dict[str, Any]) -> FeedEvent:
        self._number += 1
        event = FeedEvent(self._number, kind, model, {"model": model, **data})
        self._ring.append(event)
        for listener in self._listeners:
            listener.put(event)
        return event

    def _sample(self) -> None:
        """Publish the increase of the counters, and schedule the next comparison if there are listeners."""
        self._sampling = self._loop.call_later(PERIOD, self._sample) if self._listeners else None
        counted = {model.name: (model, _count(model)) for model in self._models()}
        for name, (model, now) in counted.items():
            self._publish_increase(model, now.since(self._seen.get(name, _Counters())))
        self._seen = {name: now for name, (_, now) in counted.items()}

    def _publish_increase(self, model: HostedModel, new: _Counters) -> None:
        step = model.step
        if new.step:
            loss = new.loss_sum / new.scored if new.scored else None
            y, prediction = model.score.latest or (None, None)
            latest = {"y": y, "prediction": prediction}
            self._add("learn", model.name, {"step": step, "count": new.step, "loss": loss, "latest": latest})
        if new.labelled:
            self._add("label", model.name, {"step": step, "count": new.labelled})
        if new.predicted:
            self._add("predict", model.name, {"step": step, "count": new.predicted})
