"""Score history of each model, for the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import RequestError
from . import report
from .worker import Worker

#: Seconds between two points.
PERIOD = 1.0
#: Largest number of points of a model. Above it, every second point of the older half is removed.
POINTS = 300


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
        self._points: WeakKeyDictionary[Worker, list[dict[str, Any]]] = WeakKeyDictionary()
        self._task = asyncio.create_task(self._record_all())

    def of(self, worker: Worker) -> list[dict[str, Any]]:
        """Return the points of a model up to its step, oldest first."""
        step = worker.model.step
        return [point for point in self._points.get(worker, ()) if point["step"] <= step]

    async def close(self) -> None:
        """Stop recording."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _record_all(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            for worker in list(self._workers()):
                with contextlib.suppress(RequestError):  # the model is busy or closing
                    await self._record(worker)

    async def _record(self, worker: Worker) -> None:
        points = self._points.setdefault(worker, [])
        if worker.model.step == (points[-1]["step"] if points else 0):
            return
        point = await worker.ask(report.moment)
        while points and points[-1]["step"] >= point["step"]:  # before a rollback
            points.pop()
        points.append(point)
        if len(points) > POINTS:
            del points[: POINTS // 2 : 2]
