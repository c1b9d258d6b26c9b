"""Interface of a source: the messages of one topic of a broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias


class SourceError(Exception):
    """The broker does not answer, refuses a request, or does not have the topic."""


class Message(NamedTuple):
    """A message of a partition.

    Attributes
    ----------
    partition, position : int
        Partition, and position of the message in it. Positions rise, not always by one.
    value : bytes or None
        Content; None for a message that deletes its key (a tombstone of Kafka).
    after : int
        Number of later messages in the partition, at the time of reading; an estimate.
    key : bytes or None
        Key of the message.
    headers : sequence of (str, bytes)
        Headers of the message.
    """

    partition: int
    position: int
    value: bytes | None
    after: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class End(NamedTuple):
    """The end of a partition: all messages before a position were returned."""

    partition: int
    position: int


class Bounds(NamedTuple):
    """Positions of a partition: of the first message that the broker has, and after the last one.

    `first` is not greater than a position before which nothing was lost: the messages that compaction
    removes are no loss.
    """

    first: int
    end: int


class Gap(NamedTuple):
    """A position that the broker does not have, with the bounds of the partition."""

    partition: int
    bounds: Bounds


Item: TypeAlias = Message | End | Gap


class Source(Protocol):
    """Messages of the partitions of one topic. One task calls its methods, one at a time.

    Raises
    ------
    SourceError
        By all methods but `close`.
    """

    async def open(self) -> None:
        """Connect to the broker."""
        ...

    async def bounds(self) -> dict[int, Bounds]:
        """Return the bounds of all partitions."""
        ...

    async def assign(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from these positions, and no others."""
        ...

    async def read(self) -> Sequence[Item]:
        """Return the next items, in order for each partition; wait for a moment if there are none.

        After a gap, no further items of the partition follow.
        """
        ...

    async def send(self, topic: str, message: Message, code: str, why: str) -> None:
        """Send a refused message to another topic; return after the broker has it."""
        ...

    async def report(self, positions: Mapping[int, int]) -> None:
        """Tell the broker the positions, for its tools."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
