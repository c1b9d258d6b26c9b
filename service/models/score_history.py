"""Score history of each model, for the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import RequestError
from ..storage import event_codec
from . import report
from .hosted import HostedModel
from .worker import Worker

#: Seconds between two points of a model, and the number of models that get a point in this time.
PERIOD, MODELS = 1.0, 16
#: Largest number of points of a model. Above it, every second point of the older half is removed.
POINTS = 300
#: Largest number of points of all models, unless this leaves fewer than `_FEWEST` for each.
_ALL_POINTS, _FEWEST = 64 * POINTS, 30


@dataclass(slots=True)
class _Recorded:
    """Points of a model: step, and JSON, which takes a fifth of the memory of the objects.

    Attributes
    ----------
    latest : float
        Time of the latest point.
    """

    points: list[tuple[int, bytes]] = field(default_factory=list)
    latest: float = 0.0

    @property
    def step(self) -> int:
        """Step of the latest point."""
        return self.points[-1][0] if self.points else 0


class ScoreHistory:
    """Scores, baselines and mixture of each model over its steps since the server started, in memory.

    Construct it on a running event loop.

    Parameters
    ----------
    workers : callable
        Returns the workers of all models.
    """

    def __init__(self, workers: Callable[[], Iterable[Worker]]) -> None:
        self._workers = workers
        self._recorded: WeakKeyDictionary[Worker, _Recorded] = WeakKeyDictionary()
        self._task = asyncio.create_task(self._record_all())

    def of(self, worker: Worker) -> list[dict[str, Any]]:
        """Return the points of a model up to its step, oldest first."""
        step, recorded = worker.model.step, self._recorded.get(worker, _Recorded())
        return [event_codec.loads(point) for at, point in recorded.points if at <= step]

    async def close(self) -> None:
        """Stop recording."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _record_all(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            models = [(self._recorded.setdefault(each, _Recorded()), each) for each in self._workers()]
            changed = [(to, worker) for to, worker in models if worker.model.step != to.step]
            changed.sort(key=lambda each: each[0].latest)
            limit = min(POINTS, max(_ALL_POINTS // max(len(models), 1), _FEWEST))
            for recorded, worker in changed[:MODELS]:
                with contextlib.suppress(RequestError):  # the model is busy or closing
                    await _record(recorded, worker, limit)


async def _record(recorded: _Recorded, worker: Worker, limit: int) -> None:
    recorded.latest, points = time.monotonic(), recorded.points
    step, point = await worker.ask(_moment)
    while points and recorded.step >= step:  # before a rollback
        points.pop()
    points.append((step, point))
    while len(points) > limit:
        del points[: len(points) // 2 : 2]


def _moment(model: HostedModel) -> tuple[int, bytes]:
    return model.step, event_codec.dumps(report.moment(model))
