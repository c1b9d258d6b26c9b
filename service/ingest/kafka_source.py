"""Messages of a topic of Kafka, with librdkafka.

The consumer takes partitions by itself (`assign`) and not as a member of a group: the event log has the
positions, and decides which of two consumers goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from ..source_urls import SourceUrl
from .source import Bounds, End, Gap, Item, Message, SourceError

T = TypeVar("T")

#: Messages that one call returns at most, and the seconds for which it waits for the first one.
_MOST, _WAIT = 500, 0.2
#: Seconds within which the broker must answer a question.
_PATIENCE = 5.0
#: Errors of the connection after which librdkafka goes on trying.
_UNREACHABLE = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._RESOLVE,
)
_FIXED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    # A position that the broker does not have is reported, and never replaced by another one.
    "auto.offset.reset": "error",
}
_DEFAULTS = {
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 16_384,
    "reconnect.backoff.max.ms": 1000,
}

_logger = logging.getLogger(__name__)


class KafkaSource:
    """Topic of Kafka; implements `Source`.

    Parameters
    ----------
    url : SourceUrl
        The topic.
    """

    def __init__(self, url: SourceUrl) -> None:
        self._url = url
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        self._consumer: Any = None
        self._producer: Any = None
        self._fault: str | None = None

    async def _call(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except KafkaException as error:
            raise SourceError(_text(error.args[0])) from error

    def _config(self) -> dict[str, Any]:
        return {"client.id": "bnp-online", **self._url.config, "bootstrap.servers": ",".join(self._url.hosts)}

    def _failed(self, error: KafkaError) -> None:
        if error.code() in _UNREACHABLE:
            self._fault = _text(error)

    async def open(self) -> None:
        """Connect to the brokers."""
        await self._call(self._open)

    def _open(self) -> None:
        self._fault = None
        group = self._url.group or f"bnp-online-{self._url.model}"
        if self._consumer is None:
            own = {**_FIXED, "group.id": group, "error_cb": self._failed}
            self._consumer = Consumer({**_DEFAULTS, **self._config(), **own}, logger=_quiet)

    async def bounds(self) -> dict[int, Bounds]:
        """Return the bounds of all partitions."""
        found = await self._call(self._bounds)
        self._fault = None
        return found

    def _bounds(self) -> dict[int, Bounds]:
        topic = self._url.path
        described = self._consumer.list_topics(topic, timeout=_PATIENCE).topics[topic]
        if described.error is not None:
            raise SourceError(f"topic {topic!r}: {_text(described.error)}")
        found = {}
        for partition in sorted(described.partitions):
            where = TopicPartition(topic, partition)
            bounds = self._consumer.get_watermark_offsets(where, timeout=_PATIENCE)
            if bounds is None:
                raise SourceError(f"the brokers did not answer within {_PATIENCE:g} s")
            found[partition] = Bounds(*bounds)
        return found

    async def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from these positions, and no others."""
        topic = self._url.path
        assign = partial(self._consumer.assign, [TopicPartition(topic, *each) for each in positions.items()])
        await self._call(assign)

    async def read(self) -> Sequence[Item]:
        """Return the next items."""
        messages = await self._call(partial(self._consumer.consume, _MOST, _WAIT))
        items: list[Item] = []
        ends: dict[int, int] = {}
        for message in messages:
            partition = message.partition()
            if (error := message.error()) is not None:
                if (item := await self._explain(error, message)) is not None:
                    items.append(item)
                continue
            if partition not in ends:
                ends[partition] = self._end(partition)
            items.append(_read(message, ends[partition]))
        if messages:
            self._fault = None
        elif self._fault is not None:
            raise SourceError(self._fault)
        return items

    def _end(self, partition: int) -> int:
        """Return the position after the last known message of a partition; asks no broker."""
        where = TopicPartition(self._url.path, partition)
        bounds = self._consumer.get_watermark_offsets(where, cached=True)
        return 0 if bounds is None or bounds[1] == OFFSET_INVALID else int(bounds[1])

    async def _explain(self, error: KafkaError, message: Any) -> Item | None:
        partition = message.partition()
        if error.code() == KafkaError._PARTITION_EOF:
            return End(int(partition or 0), int(message.offset() or 0))
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            number = int(partition or 0)
            return Gap(number, (await self._call(self._bounds))[number])
        if error.code() in _UNREACHABLE or error.code() == KafkaError._TRANSPORT:
            self._fault = _text(error)
            return None
        raise SourceError(_text(error))

    async def send(self, topic: str, message: Message, code: str, why: str) -> None:
        """Send a refused message to another topic, with the reason and its position in headers."""
        await self._call(partial(self._send, topic, message, code, why))

    def _send(self, topic: str, message: Message, code: str, why: str) -> None:
        if self._producer is None:
            self._producer = Producer({"enable.idempotence": True, **self._config()}, logger=_quiet)
        where = {"topic": self._url.path, "partition": message.partition, "position": message.position}
        more = {**where, "model": self._url.model, "error": code, "message": why}
        headers = [*message.headers, *((f"bnp-{name}", str(value).encode()) for name, value in more.items())]
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            failed.extend([] if error is None else [error])

        self._producer.produce(topic, message.value, message.key, headers=headers, on_delivery=delivered)
        if self._producer.flush(_PATIENCE):
            self._producer.purge()
            raise SourceError(f"the dead-letter topic {topic!r} takes no message within {_PATIENCE:g} s")
        if failed:
            raise SourceError(f"the dead-letter topic {topic!r} takes no message: {_text(failed[0])}")

    async def report(self, positions: Mapping[int, int]) -> None:
        """Commit the positions to the consumer group, if the URL names one."""
        if self._url.group is not None and positions:
            offsets = [TopicPartition(self._url.path, *each) for each in positions.items()]
            commit = partial(self._consumer.commit, offsets=offsets, asynchronous=True)
            try:
                await self._call(commit)
            except SourceError as error:  # they are for tools alone
                _logger.debug("%s: cannot report positions: %s", self._url.topic, error)

    async def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            with suppress(SourceError):
                await self._call(self._consumer.close)
        self._consumer = None
        self._thread.shutdown(wait=False)


def _read(message: Any, end: int) -> Message:
    position: int = message.offset()
    headers = [(name, value or b"") for name, value in message.headers() or ()]
    after = max(0, end - position - 1)
    return Message(message.partition(), position, message.value(), after, message.key(), headers)


def _text(error: Any) -> str:
    return str(error.str() if isinstance(error, KafkaError) else error)


_quiet = logging.getLogger("service.ingest.librdkafka")
_quiet.setLevel(logging.CRITICAL)  # what matters arrives as an error
