"""Client of the server: blocking, asynchronous, or as River estimators.

It needs httpx and pydantic; `RemoteClassifier` and `RemoteRegressor` also need River. It loads neither
PyTorch nor the server. The names below are imported on first use.

>>> from bnp_online.client import Client
>>> with Client("http://localhost:8000", key="…") as client:  # doctest: +SKIP
...     client.learn_one({"temperature": 21.5}, "open")
...     client.predict_one({"temperature": 3.0}).prediction
'open'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bulk import LearnSummary, Sample
    from .clients import AsyncClient, Client
    from .errors import ClientError, NoAnswerError, ServerError, UnexpectedAnswerError
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

#: Modules of these names, where it is not `errors`.
_MODULES = {
    "AsyncClient": "clients",
    "Client": "clients",
    "LearnSummary": "bulk",
    "RemoteClassifier": "remote",
    "RemoteRegressor": "remote",
    "Sample": "bulk",
}

if not TYPE_CHECKING:  # for a type checker, a name that is not listed above is an error

    def __getattr__(name: str) -> Any:
        """Import a public name on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
        return globals().setdefault(name, value)
