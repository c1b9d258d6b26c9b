"""All topics from which the models of a server learn, with their metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import Scope

from ..errors import UnknownSourceError
from ..models.queue import Capacity
from ..models.registry import Registry
from ..settings import Settings
from ..source_urls import SourceUrl
from .consumer import Consumer, Models
from .source import Source

_LABELS = ("model", "topic", "partition")


class Ingest(Collector):
    """Starts a consumer for each topic of a model that this process serves.

    Parameters
    ----------
    settings : Settings
        Topics, and limits of samples.
    registry : Registry
        Models of the server.
    bodies : Capacity
        The server's, for bytes of requests.
    """

    def __init__(self, settings: Settings, registry: Registry, bodies: Capacity) -> None:
        self._settings = settings
        self._registry = registry
        self._bodies = bodies
        self._consumers: dict[tuple[str, str], Consumer] = {}

    @property
    def models(self) -> list[str]:
        """Names of the models that have topics; they need not exist."""
        return list(dict.fromkeys(url.model for url in self._settings.ingest))

    def start(self, model: str) -> None:
        """Start the consumers of a model, or let them try again now. Without topics, do nothing."""
        for url in self._settings.ingest:
            if url.model == model:
                if (model, url.topic) not in self._consumers:
                    self._consumers[model, url.topic] = self._make(url)
                self._consumers[model, url.topic].start()

    def _make(self, url: SourceUrl) -> Consumer:
        registry = self._registry
        models = Models(registry.load, registry.owned)
        return Consumer(url, source_of(url), models, self._settings, self._bodies, registry.fair_turns)

    async def stop(self, model: str) -> None:
        """Stop the consumers of a model: another process serves it."""
        stopped = [self._consumers.pop(key) for key in [*self._consumers] if key[0] == model]
        await asyncio.gather(*(consumer.close() for consumer in stopped))

    async def close(self) -> None:
        """Stop all consumers."""
        await asyncio.gather(*(self.stop(model) for model in self.models))

    def report(self, model: str) -> list[dict[str, Any]]:
        """Return the state of each partition from which a model learns."""
        consumers = [consumer for key, consumer in self._consumers.items() if key[0] == model]
        return [state for consumer in consumers for state in consumer.report()]

    @property
    def stopped(self) -> int:
        """Number of partitions that stopped because messages are missing."""
        partitions = [each for consumer in self._consumers.values() for each in consumer.partitions.values()]
        return sum(each.gap is not None for each in partitions)

    async def resume(self, model: str, topic: str, partition: int, position: int) -> None:
        """Let a partition go on from a position; raises as `Consumer.resume`."""
        consumer = self._consumers.get((model, topic))
        if consumer is None:
            raise UnknownSourceError(
                f"model {model!r} does not learn from {topic!r:.80} here (BNP_INGEST)", "topic"
            )
        await consumer.resume(partition, position)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all partitions."""
        if not self._settings.ingest:
            return
        messages = CounterMetricFamily("bnp_ingest_messages", "Messages learned.", labels=_LABELS)
        refused = CounterMetricFamily(
            "bnp_ingest_refused", "Messages refused, by the error's code.", labels=(*_LABELS, "code")
        )
        position = GaugeMetricFamily("bnp_ingest_position", "Position of the next message.", labels=_LABELS)
        lag = GaugeMetricFamily("bnp_ingest_lag", "Messages that are not learned yet.", labels=_LABELS)
        up = GaugeMetricFamily(
            "bnp_ingest_up", "1, or 0 if the partition stopped or its broker does not answer.", labels=_LABELS
        )
        for (model, topic), consumer in [*self._consumers.items()]:
            if consumer.elsewhere:
                continue  # the owner of the model has the metrics
            if not consumer.partitions:
                up.add_metric((model, topic, ""), 0)
            for number, each in [*consumer.partitions.items()]:
                labels = (model, topic, str(number))
                messages.add_metric(labels, each.messages)
                position.add_metric(labels, each.next)
                lag.add_metric(labels, each.lag)
                up.add_metric(labels, each.gap is None and consumer.fault is None)
                for code, count in [*each.refused.items()]:
                    refused.add_metric((*labels, code), count)
        yield from (messages, refused, position, lag, up)


def source_of(url: SourceUrl) -> Source:
    """Return the source of a URL. The clients of brokers are optional packages."""
    if url.kind == "kafka":
        from .kafka_source import KafkaSource

        return KafkaSource(url)
    from .nats_source import NatsSource

    return NatsSource(url)


def ingest_of(scope: Scope) -> Ingest:
    """Return the topics of the server of a request."""
    return cast(Ingest, scope["app"].state.ingest)
