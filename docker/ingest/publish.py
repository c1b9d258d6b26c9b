"""Publish each line of standard input in the stream `samples`, and create the stream if it is missing.

The profile "ingest" runs this file in the server's image, without input: `docs/how-to/ingest.md`.
"""

import asyncio
import sys
from collections.abc import Iterable

import nats
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

URL = "nats://nats:4222"
STREAM = StreamConfig(name="samples", subjects=["samples"], max_age=7 * 86_400, max_bytes=2**30)


async def publish(messages: Iterable[bytes]) -> None:
    """Publish messages, in order; return after the stream has them."""
    client = await nats.connect(URL, connect_timeout=2, max_reconnect_attempts=30)
    try:
        jetstream = client.jetstream()
        try:
            await jetstream.stream_info("samples")
        except NotFoundError:
            await jetstream.add_stream(STREAM)
        for message in messages:
            if message.strip():
                await jetstream.publish("samples", message)
    finally:
        await client.close()


asyncio.run(publish([] if sys.stdin.isatty() else sys.stdin.buffer))
