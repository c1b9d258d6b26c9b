"""A client of the server: blocking, for asyncio, or as River estimators.

It needs httpx and pydantic; `RemoteClassifier` and `RemoteRegressor` need river.

>>> from service.client import Client
>>> with Client("http://localhost:8000", key="…") as client:  # doctest: +SKIP
...     client.learn_one({"temperature": 21.5}, "open")
...     client.predict_one({"temperature": 3.0}).prediction
'open'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bulk import LearnSummary, Sample
from .clients import AsyncClient, Client
from .errors import ClientError, NoAnswerError, ServerError, UnexpectedAnswerError

if TYPE_CHECKING:
    from .remote import RemoteClassifier, RemoteRegressor

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "LearnSummary",
    "NoAnswerError",
    "RemoteClassifier",
    "RemoteRegressor",
    "Sample",
    "ServerError",
    "UnexpectedAnswerError",
]


def __getattr__(name: str) -> Any:
    """Import what needs river when it is asked for."""
    if name in ("RemoteClassifier", "RemoteRegressor"):
        from . import remote

        return getattr(remote, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
