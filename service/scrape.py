"""What `/metrics` answers: the registry, and what a look at every model and at the store finds."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from bnp_online import __version__
from service.catalog import Models
from service.errors import UnknownModelError
from service.families import of_models
from service.glance import Glance, glance
from service.learner import Learner
from service.settings import Settings
from service.store.base import EventLog


class StoreCollector(Collector):
    """Looks at the event log and its disk when asked, and tells the limits that alerts compare with."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each fact."""
        yield InfoMetricFamily("bnp_build", "The server's version.", {"version": __version__})
        disk = shutil.disk_usage(self._settings.data_dir)
        for name, text, value in (
            ("bnp_log_events", "Events in the event log, of all models.", self._log.length),
            ("bnp_log_size_bytes", "Size of the event log.", self._log.size()),
            ("bnp_disk_free_bytes", "Free space where the data folder is.", disk.free),
            ("bnp_disk_size_bytes", "Size of the disk where the data folder is.", disk.total),
            ("bnp_queue_limit", "Setting: how many may wait in a queue.", self._settings.queue_size),
            ("bnp_checkpoint_steps", "Setting: steps between checkpoints.", self._settings.checkpoint_every),
        ):
            yield GaugeMetricFamily(name, text, value)


async def scrape(registry: CollectorRegistry, models: Models) -> bytes:
    """Return all metrics in Prometheus' text format.

    Models are looked at in their turns, all at once; what takes longer is done in a thread.
    """
    seconds = models.settings.ready_timeout
    seen = await asyncio.gather(*(_glance(models, learner, seconds) for learner in models))
    glances = [each for each in seen if each is not None]
    return await asyncio.to_thread(generate_latest, _Both(registry, glances))


async def _glance(models: Models, learner: Learner, seconds: float) -> Glance | None:
    try:
        return await glance(learner, models.maintenance(learner.model.name), seconds)
    except UnknownModelError:
        return None  # deleted meanwhile


class _Both(Collector):
    def __init__(self, registry: CollectorRegistry, glances: list[Glance]) -> None:
        self._registry = registry
        self._glances = glances

    def collect(self) -> Iterator[Metric]:
        return itertools.chain(self._registry.collect(), of_models(self._glances))
