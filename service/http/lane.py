"""The lane: requests whose heads were served before, past the parser and the application.

`Protocol` offers a request to the lane if it arrives in one read or two, while nothing else of its connection
is being served. What the lane declines takes the ordinary path, from the same bytes.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

DATA = "bnp.data"
"""Key of the ASGI scope for the bytes of a request, if nothing else arrived with it."""


class Connection(Protocol):
    """Connection of a request in the lane."""

    def respond(self, request: LaneRequest, status: int, headers: bytes, body: bytes) -> None:
        """Send the response, and go on with the next request."""

    def decline(self, request: LaneRequest) -> None:
        """Serve the request on the ordinary path."""


class LaneRequest:
    """A request in the lane; it takes the place of the `Exchange` of its connection.

    Parameters
    ----------
    connection : Connection
        Its connection.
    data : bytes
        The request.

    Attributes
    ----------
    keep_alive : bool
        Whether the connection stays open after the response.
    lost : bool
        Whether the client receives nothing more.
    """

    __slots__ = ("connection", "data", "keep_alive", "lost")

    #: As for `Exchange`: the whole request has been received, and the lane reads it at once.
    arrived = True
    unread = 0

    def __init__(self, connection: Connection, data: bytes) -> None:
        self.connection = connection
        self.data = data
        self.keep_alive = True
        self.lost = False

    def abandon(self) -> None:
        """Note that the client receives nothing more."""
        self.lost = True

    def end_request(self) -> None:
        """Note that the client sends nothing more."""


class Head(Protocol):
    """A head that the lane knows."""

    @property
    def size(self) -> int:
        """Length of the request in bytes."""


H = TypeVar("H", bound=Head)


class Lane(Protocol[H]):
    """What serves requests past the application."""

    def find(self, data: bytes) -> H | None:
        """Return the head of a request from its first bytes, None if it is not known."""

    def take(self, connection: Connection, data: bytes, head: H, start: float) -> LaneRequest | None:
        """Take a request, or return None; each taken one is answered or declined later.

        Parameters
        ----------
        connection : Connection
            Its connection.
        data : bytes
            The whole request.
        head : Head
            Its head.
        start : float
            Time of its head, in seconds of `time.perf_counter`.
        """
