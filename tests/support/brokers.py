"""Brokers for tests, on real sockets: librdkafka's mock cluster of Kafka, and Debian's nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import glob
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import confluent_kafka
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import StreamConfig

T = TypeVar("T")


class Kafka:
    """Mock cluster of librdkafka, in a thread of this process. It keeps up to 5 MB of a partition."""

    kind = "kafka"

    def __init__(self) -> None:
        [path] = glob.glob(f"{Path(confluent_kafka.__file__).parent}.libs/librdkafka*.so*")
        self._library = ctypes.CDLL(path)
        self._rdkafka = self._call("rd_kafka_new", 0, self._call("rd_kafka_conf_new"), None, 0)
        self._cluster = self._call("rd_kafka_mock_cluster_new", self._rdkafka, 1)
        self.bootstraps = ctypes.string_at(
            self._call("rd_kafka_mock_cluster_bootstraps", self._cluster)
        ).decode()
        self.producer = Producer({"bootstrap.servers": self.bootstraps, "linger.ms": 5})

    def _call(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        function = getattr(self._library, name)
        function.restype = ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))

    def url(self, topic: str, **parameters: str) -> str:
        return f"kafka://{self.bootstraps}/{topic}?{urlencode(parameters)}"

    def create(self, topic: str, partitions: int = 1) -> None:
        self._call("rd_kafka_mock_topic_create", self._cluster, topic.encode(), partitions, 1)

    def publish(self, topic: str, messages: Sequence[bytes | None], partition: int = 0) -> None:
        for message in messages:
            self.producer.produce(topic, message, partition=partition, key=b"k")
        assert self.producer.flush(30) == 0

    def contents(self, topic: str) -> list[tuple[bytes, dict[str, str]]]:
        settings = {"bootstrap.servers": self.bootstraps, "group.id": "test", "auto.offset.reset": "earliest"}
        consumer = Consumer(settings)
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[tuple[bytes, dict[str, str]]] = []
        while messages := consumer.consume(100, 2.0):
            for message in messages:
                headers: Any = message.headers() or ()
                found.append((message.value() or b"", {name: value.decode() for name, value in headers}))
        consumer.close()
        return found

    def trim(self, topic: str) -> int:
        """Append others until the broker removes old messages; return the position of the first one left."""
        self.publish(topic, [b" " * 500_000] * 11)
        consumer = Consumer({"bootstrap.servers": self.bootstraps, "group.id": "test"})
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.close()
        return int(low)

    def down(self) -> None:
        self._call("rd_kafka_mock_broker_set_down", self._cluster, 1)

    def up(self) -> None:
        self._call("rd_kafka_mock_broker_set_up", self._cluster, 1)

    def close(self) -> None:
        del self.producer
        self._call("rd_kafka_mock_cluster_destroy", self._cluster)
        self._call("rd_kafka_destroy", self._rdkafka)


class Nats:
    """Process of nats-server with JetStream.

    Parameters
    ----------
    folder : path
        Folder of the streams.
    """

    kind = "nats"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.up()

    def up(self) -> None:
        where = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._folder)]
        program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
        assert program is not None
        self._process = subprocess.Popen([program, *where], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.run(self._probe)
            except (Error, OSError, TimeoutError):
                assert time.monotonic() < deadline, "nats-server does not answer"
                time.sleep(0.05)
            else:
                return

    @staticmethod
    async def _probe(client: Client) -> None:
        await client.jetstream().account_info()

    def down(self) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine with a connection."""

        async def go() -> T:
            client = Client()
            await client.connect(f"nats://127.0.0.1:{self.port}", allow_reconnect=False, connect_timeout=2)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(go())

    def url(self, topic: str, **parameters: str) -> str:
        return f"nats://127.0.0.1:{self.port}/{topic}?{urlencode(parameters)}"

    def create(self, topic: str, **config: Any) -> None:
        config = {"subjects": [f"{topic}.>"], **config}

        async def work(client: Client) -> None:
            await client.jetstream().add_stream(StreamConfig(name=topic, **config))

        self.run(work)

    def publish(self, topic: str, messages: Sequence[bytes], subject: str = "x") -> None:
        async def work(client: Client) -> None:
            jetstream = client.jetstream()
            for start in range(0, len(messages), 100):
                some = messages[start : start + 100]
                await asyncio.gather(*(jetstream.publish(f"{topic}.{subject}", each) for each in some))

        self.run(work)

    def contents(self, topic: str) -> list[tuple[bytes, dict[str, str]]]:
        async def work(client: Client) -> list[tuple[bytes, dict[str, str]]]:
            jetstream = client.jetstream()
            state = (await jetstream.stream_info(topic)).state
            found = [
                await jetstream.get_msg(topic, seq) for seq in range(state.first_seq, state.last_seq + 1)
            ]
            return [(each.data or b"", dict(each.headers or {})) for each in found if each.seq]

        return self.run(work)

    def trim(self, topic: str) -> int:
        async def work(client: Client) -> int:
            jetstream = client.jetstream()
            await jetstream.publish(f"{topic}.x", b" ")
            await jetstream.publish(f"{topic}.x", b" ")
            await jetstream.purge_stream(topic, keep=1)
            return int((await jetstream.stream_info(topic)).state.first_seq)

        return self.run(work)

    def close(self) -> None:
        if self._process.poll() is None:
            self.down()


@contextlib.contextmanager
def broker(kind: str) -> Iterator[Kafka | Nats]:
    """Run a broker, or skip the test where it is not installed."""
    if kind == "kafka":
        with contextlib.closing(Kafka()) as kafka:
            yield kafka
        return
    if shutil.which("nats-server") is None and shutil.which("nats-server", path="/usr/sbin") is None:
        pytest.skip("NATS is not installed: apt-get install nats-server")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Nats(Path(folder))) as nats:
        yield nats
