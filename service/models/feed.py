"""What happens in the models, as it happens, for whoever listens (`GET /events`).

What happens thousands of times a second (learning, predicting, labelling) is not reported by those who do
it: while anybody listens, the event loop compares the models' own counters twenty times a second, and tells
what was added. So learning pays nothing for it, and nobody listening costs nothing at all. What is rare
(a checkpoint, a rollback, a drift) is published by whoever does it, from any thread.
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

Kind: TypeAlias = Literal["learn", "predict", "label", "drift", "checkpoint", "rollback"]

#: Seconds between two looks at the counters.
PERIOD = 0.05
#: Events that are kept for who comes back, and that may wait for one listener: more, so that all can.
RING, BUFFER = 1024, 2048
#: Rare events that are kept of all models.
_NOTABLE = 256


class Event(NamedTuple):
    """Something that happened; `number` rises by one from event to event."""

    number: int
    kind: Kind
    model: str
    data: dict[str, Any]


class _Counters(NamedTuple):
    """What a model counts."""

    step: int = 0
    predicted: int = 0
    labelled: int = 0
    scored: int = 0
    loss_sum: float = 0.0

    def since(self, before: _Counters) -> _Counters:
        """Return what was added; a rollback, which takes away, adds nothing."""
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
    """Who listens: takes events in order as they come, and is dropped if it does not.

    Attributes
    ----------
    missed : bool
        Whether events happened since the last one that it had, and are no longer kept.
    slow : bool
        Whether it was dropped.
    """

    def __init__(self, covers: Callable[[str], bool], missed: bool) -> None:
        self.missed = missed
        self.slow = False
        self._covers = covers
        self._waiting: deque[Event] = deque()
        self._ended = False
        self._bell = asyncio.Event()

    def put(self, event: Event) -> None:
        """Let an event wait, if it is of a model that the listener asked for."""
        if self.slow or not self._covers(event.model):
            return
        if len(self._waiting) >= BUFFER:
            self.slow = True
            self._waiting.clear()
        else:
            self._waiting.append(event)
        self._bell.set()

    def end(self) -> None:
        """Let `take` return at once from now on."""
        self._ended = True
        self._bell.set()

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        return self.slow or self._ended

    async def take(self, seconds: float) -> list[Event]:
        """Return what has come, as soon as something has; nothing after so many seconds, or at the end."""
        if not (self._waiting or self.over):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._bell.wait()
        self._bell.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Feed:
    """The events of all models, and those who listen.

    Must be made on a running event loop.

    Parameters
    ----------
    models : callable
        Returns the models as they are now.
    """

    def __init__(self, models: Callable[[], Iterable[HostedModel]]) -> None:
        self._models = models
        self._loop = asyncio.get_running_loop()
        self._run = secrets.token_hex(4)
        self._ring: deque[Event] = deque(maxlen=RING)
        self._notable: deque[Event] = deque(maxlen=_NOTABLE)
        self._number = 0
        self._listeners: set[Listener] = set()
        self._seen: dict[str, _Counters] = {}
        self._sampling: asyncio.TimerHandle | None = None

    def publish(self, kind: Kind, model: str, **data: Any) -> None:
        """Tell of something rare; may be called from any thread."""
        data["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(RuntimeError):  # a closed loop: the server was killed, nobody listens
            self._loop.call_soon_threadsafe(self._add_notable, kind, model, data)

    def recent(self, kind: Kind, model: str) -> list[dict[str, Any]]:
        """Return the latest rare events of a kind since the server started, the newest first."""
        return [event.data for event in reversed(self._notable) if (event.kind, event.model) == (kind, model)]

    def identifier(self, event: Event) -> str:
        """Return the id of an event, which means nothing to another run of the server."""
        return f"{self._run}-{event.number}"

    @contextlib.contextmanager
    def listen(self, covers: Callable[[str], bool], after: str | None = None) -> Iterator[Listener]:
        """Listen to what happens from now on, or since the event with an id.

        Parameters
        ----------
        covers : callable
            Whether a model, by name, is of interest.
        after : str
            The id of the last event that was had.
        """
        kept = self._after(after) if after is not None else None
        listener = Listener(covers, missed=kept is None and after is not None)
        for event in kept or ():
            listener.put(event)
        self._listeners.add(listener)
        if self._sampling is None:
            if kept is None:  # else what happened while nobody listened is told now
                self._seen = {model.name: _count(model) for model in self._models()}
            self._sampling = self._loop.call_later(PERIOD, self._sample)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _after(self, identifier: str) -> list[Event] | None:
        """Return what came after an event; None if that is not known, or too long ago."""
        run, _, number = identifier.rpartition("-")
        if run != self._run or re.fullmatch("[0-9]{1,18}", number) is None:
            return None
        missing = self._number - int(number)
        return list(self._ring)[len(self._ring) - missing :] if 0 <= missing <= len(self._ring) else None

    def _add_notable(self, kind: Kind, model: str, data: dict[str, Any]) -> None:
        self._notable.append(self._add(kind, model, data))
        if (
            kind == "rollback"
        ):  # what is learned next counts from there, even if it comes before the next look
            counted = {each.name: _count(each) for each in self._models() if each.name == model}
            self._seen |= {name: now._replace(step=data["step"]) for name, now in counted.items()}

    def _add(self, kind: Kind, model: str, data: dict[str, Any]) -> Event:
        self._number += 1
        event = Event(self._number, kind, model, {"model": model, **data})
        self._ring.append(event)
        for listener in self._listeners:
            listener.put(event)
        return event

    def _sample(self) -> None:
        """Tell what was added to the counters since the last look, and look again while anybody listens."""
        self._sampling = self._loop.call_later(PERIOD, self._sample) if self._listeners else None
        counted = {model.name: (model, _count(model)) for model in self._models()}
        for name, (model, now) in counted.items():
            self._tell(model, now.since(self._seen.get(name, _Counters())))
        self._seen = {name: now for name, (_, now) in counted.items()}

    def _tell(self, model: HostedModel, new: _Counters) -> None:
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
