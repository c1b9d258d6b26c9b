"""Messages of a stream of NATS JetStream.

The consumer of the server is ephemeral and keeps nothing: it begins at the position in the event log.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamInfo
from nats.js.errors import NotFoundError

from ..source_urls import SourceUrl
from .source import Bounds, End, Item, Message, SourceError

#: Messages that one request asks for, and the seconds for which it waits for the first one.
_MOST, _WAIT = 256, 0.2
#: Seconds within which the server must answer.
_PATIENCE = 5.0
#: Seconds within which a first connection must succeed.
_CONNECT = 3.0
#: Seconds without a request after which the server removes a consumer.
_INACTIVE = 60.0
#: Seconds between two looks for the end of an idle stream.
_IDLE = 1.0

_logger = logging.getLogger(__name__)


class NatsSource:
    """Stream of NATS JetStream, which has one partition; implements `Source`.

    Parameters
    ----------
    url : SourceUrl
        The stream, or a subject of a stream.
    """

    def __init__(self, url: SourceUrl) -> None:
        self._url = url
        self._client: Client | None = None
        self._stream = ""
        self._subject: str | None = None
        self._pulling: Any = None
        self._received = 0  # messages of the consumer
        self._lost = False  # whether messages of it were lost on the way
        self._idle_until = 0.0
        self._next: int | None = None  # position of the next message
        self._ended: int | None = None

    @property
    def _jetstream(self) -> Any:
        if self._client is None or self._client.is_closed:
            raise SourceError("the connection to NATS is closed")
        return self._client.jetstream(timeout=_PATIENCE)

    async def open(self) -> None:
        """Connect to the server, and find the stream."""
        url = self._url
        if self._client is None or self._client.is_closed:
            options: dict[str, Any] = {"user": url.user, "password": url.password} if url.user else {}
            if "creds" in url.files:
                options["user_credentials"] = url.files["creds"]
            if url.tls:
                options["tls"] = self._tls()
            servers = [f"nats://{host}" for host in url.hosts]
            self._client = Client()
            connecting = self._client.connect(
                servers,
                name="bnp-online",
                connect_timeout=2,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                error_cb=_failed,
                **options,
            )
            try:
                async with asyncio.timeout(_CONNECT):
                    await connecting
            except (Error, OSError, TimeoutError) as error:
                with suppress(Error, OSError):
                    await self._client.close()
                self._client = None
                raise SourceError(f"NATS cannot be reached: {_text(error)}") from error
        elif not self._client.is_connected:  # it goes on trying
            raise SourceError("the connection to NATS is lost")
        await self._find_stream()

    def _tls(self) -> ssl.SSLContext:
        files = self._url.files
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            context.load_cert_chain(files["cert"], files.get("key"))
        return context

    async def _find_stream(self) -> None:
        """Find the stream by its name, or else by a subject that it has."""
        path = self._url.path
        try:
            if not any(mark in path for mark in ".*>"):
                with suppress(NotFoundError):
                    await self._jetstream.stream_info(path)
                    self._stream, self._subject = path, None
                    return
            self._stream = await self._jetstream.find_stream_name_by_subject(path)
            self._subject = path
        except NotFoundError as error:
            raise SourceError(f"no stream is named {path!r} or has this subject") from error
        except (Error, OSError) as error:
            raise SourceError(_text(error)) from error

    async def _info(self) -> StreamInfo:
        try:
            info: StreamInfo = await self._jetstream.stream_info(self._stream)
        except NotFoundError as error:
            raise SourceError(f"the stream {self._stream!r} does not exist any more") from error
        except (Error, OSError) as error:
            raise SourceError(_text(error)) from error
        if info.config.retention not in (None, RetentionPolicy.LIMITS):
            raise SourceError(
                f"the stream {self._stream!r} removes messages that others acknowledge: its retention is "
                f"{info.config.retention}, and must be limits"
            )
        return info

    async def bounds(self) -> dict[int, Bounds]:
        """Return the bounds of the stream."""
        info = await self._info()
        # A limit per subject alone keeps the latest messages of each, as compaction does.
        config = info.config
        limits = (config.max_msgs, config.max_bytes, config.max_age)
        compacted = (config.max_msgs_per_subject or -1) > 0 and not any((limit or 0) > 0 for limit in limits)
        first = 1 if compacted else max(1, info.state.first_seq)
        return {0: Bounds(first, info.state.last_seq + 1)}

    async def assign(self, positions: Mapping[int, int]) -> None:
        """Read the stream from a position, or nothing."""
        await self._end_pulling()
        self._next, self._ended = positions.get(0), None

    async def _end_pulling(self) -> None:
        if self._pulling is not None:
            pulling, self._pulling = self._pulling, None
            with suppress(Error, OSError):
                await pulling.unsubscribe()

    async def _pull(self) -> Any:
        if self._pulling is None:
            config = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=_INACTIVE,
                mem_storage=True,
            )
            self._received, self._lost = 0, False
            subject = self._subject or ">"
            self._pulling = await self._jetstream.pull_subscribe(subject, stream=self._stream, config=config)
        return self._pulling

    async def read(self) -> Sequence[Item]:
        """Return the next messages."""
        if self._next is None:
            await asyncio.sleep(_WAIT)
            return []
        if self._client is not None and not self._client.is_connected:
            await self._end_pulling()
            raise SourceError("the connection to NATS is lost")
        if self._lost:
            await self._end_pulling()  # a new one begins after the last message
        try:
            pulling = await self._pull()
            try:
                return self._take(await pulling.fetch(_MOST, timeout=_WAIT))
            except TimeoutError:
                return await self._idle()
        except NotFoundError:
            await self._end_pulling()
            return []
        except (Error, OSError) as error:
            await self._end_pulling()
            raise SourceError(_text(error)) from error

    def _take(self, received: Sequence[Any]) -> list[Item]:
        items: list[Item] = []
        for each in received:
            data = each.metadata
            self._received += 1
            if data.sequence.consumer != self._received:
                self._lost = True
                break
            headers = [(name, value.encode()) for name, value in (each.headers or {}).items()]
            where = (0, data.sequence.stream, each.data, data.num_pending, each.subject.encode())
            items.append(Message(*where, headers))
            self._next = data.sequence.stream + 1
        return items

    async def _idle(self) -> list[Item]:
        """Return the end of the stream, if all messages were returned: others may follow the last one."""
        now = asyncio.get_running_loop().time()
        if now < self._idle_until:
            return []
        self._idle_until = now + _IDLE
        try:
            info = await self._info()
            state = await self._pulling.consumer_info() if self._pulling is not None else None
        except NotFoundError:
            await self._end_pulling()
            return []
        except (Error, OSError) as error:
            raise SourceError(_text(error)) from error
        end = info.state.last_seq + 1
        if state is None or state.num_pending:
            return []
        if state.delivered.consumer_seq != self._received:
            self._lost = True  # or they are late: they are read again
            return []
        if end == self._ended:
            return []
        self._ended, self._next = end, max(end, self._next or 0)
        return [End(0, end)]

    async def send(self, topic: str, message: Message, code: str, why: str) -> None:
        """Publish a refused message on another subject, which must belong to a stream."""
        more = {"stream": self._stream, "position": message.position, "model": self._url.model, "error": code}
        headers = {name: value.decode() for name, value in message.headers if name != "Nats-Msg-Id"}
        headers |= {f"bnp-{name}": str(value) for name, value in {**more, "message": why}.items()}
        headers["bnp-subject"] = (message.key or b"").decode()
        headers["Nats-Msg-Id"] = f"bnp-{self._url.model}-{self._stream}-{message.position}"
        try:
            await self._jetstream.publish(topic, message.value or b"", headers=headers)
        except (Error, OSError) as error:
            raise SourceError(
                f"the dead-letter subject {topic!r} takes no message: {_text(error)}"
            ) from error

    async def report(self, positions: Mapping[int, int]) -> None:
        """Do nothing: the server keeps no positions."""

    async def close(self) -> None:
        """Disconnect."""
        await self._end_pulling()
        if self._client is not None:
            with suppress(Error, OSError):
                await self._client.close()


async def _failed(error: Exception) -> None:
    _logger.debug("NATS: %s", error)


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"NATS did not answer within {_PATIENCE:g} s"
    return str(error) or type(error).__name__
