"""How the scores of the models came to be what they are, for a page that is opened later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import RequestError
from . import report
from .worker import Worker

#: Seconds between two looks at the models.
PERIOD = 1.0
#: Points that are kept of a model; beyond that every second one of the older half goes.
POINTS = 300


class ScoreHistory:
    """Scores, baselines and mixture of every model as it learned, since the server started; in memory.

    Must be made on a running event loop.

    Parameters
    ----------
    workers : callable
        Returns the writers of the models as they are now.
    """

    def __init__(self, workers: Callable[[], Iterable[Worker]]) -> None:
        self._workers = workers
        self._points: WeakKeyDictionary[Worker, list[dict[str, Any]]] = WeakKeyDictionary()
        self._watching = asyncio.create_task(self._watch())

    def of(self, worker: Worker) -> list[dict[str, Any]]:
        """Return the points of a model, the oldest first; none is beyond the step where it is."""
        step = worker.model.step
        return [point for point in self._points.get(worker, ()) if point["step"] <= step]

    async def close(self) -> None:
        """Look no more."""
        self._watching.cancel()
        await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            for worker in list(self._workers()):
                with contextlib.suppress(RequestError):  # it is busy, or going: there is another look
                    await self._look(worker)

    async def _look(self, worker: Worker) -> None:
        points = self._points.setdefault(worker, [])
        if worker.model.step == (points[-1]["step"] if points else 0):
            return
        point = await worker.ask(report.moment)
        while points and points[-1]["step"] >= point["step"]:  # of a state that was left
            points.pop()
        points.append(point)
        if len(points) > POINTS:
            del points[: POINTS // 2 : 2]
