"""What a route demands of a request, declared where the route is defined.

>>> @needs("learn", takes=(JSON,))
... async def learn(request): ...
>>> access_of(learn).scope
'learn'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from ..errors import RequestError, UnsupportedMediaTypeError

Scope: TypeAlias = Literal["learn", "predict", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

JSON = "application/json"
NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"
#: For the method DELETE alone: a page elsewhere can send a form by POST without asking, but none by DELETE.
FORM = "application/x-www-form-urlencoded"

E = TypeVar("E", bound=Callable[..., Any])


class UndeclaredRouteError(Exception):
    """A route does not say who may use it, so no application is made with it."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a request must bring.

    Attributes
    ----------
    scope : {"learn", "predict", "read", "admin"} or None
        What its key must allow; None where anybody may come, even on a server with keys.
    takes : tuple of str
        Media types that its body may have; empty for a route that takes no body.
    whole_server : bool
        Whether the answer is about all models at once, so that a key for some of them is not enough.
    otherwise : type of RequestError
        What refuses a body of another type.
    """

    scope: Scope | None
    takes: tuple[str, ...] = ()
    whole_server: bool = False
    otherwise: type[RequestError] = UnsupportedMediaTypeError


_declared: dict[Callable[..., Any], Access] = {}


def needs(
    scope: Scope | None,
    *,
    takes: tuple[str, ...] = (),
    whole_server: bool = False,
    otherwise: type[RequestError] = UnsupportedMediaTypeError,
) -> Callable[[E], E]:
    """Declare what an endpoint demands; see `Access`. It stands next to the function, below the route."""

    def declare(endpoint: E) -> E:
        _declared[endpoint] = Access(scope, takes, whole_server, otherwise)
        return endpoint

    return declare


def access_of(endpoint: Callable[..., Any]) -> Access:
    """Return what an endpoint demands.

    Raises
    ------
    UndeclaredRouteError
        If it does not say.
    """
    access = _declared.get(endpoint)
    if access is None:
        name = getattr(endpoint, "__qualname__", repr(endpoint))
        raise UndeclaredRouteError(f"{name} does not say who may use it: put @needs(...) on it")
    return access
