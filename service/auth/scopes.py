"""Access declarations of endpoints: the scope of the API key, the media types of the body, the layers.

>>> @needs("learn", takes=(JSON,))
... async def learn(request): ...
>>> access_of(learn).scope
'learn'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import BaseModel

from ..errors import Layer, RequestError, UnsupportedMediaTypeError
from ..http.content import ARROW as ARROW
from ..http.content import CSV as CSV
from ..http.content import JSON as JSON
from ..http.content import NDJSON as NDJSON

Scope: TypeAlias = Literal["learn", "predict", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

BYTES = "application/octet-stream"
#: For DELETE only: web pages of other origins can send forms by POST without a preflight, but not by DELETE.
FORM = "application/x-www-form-urlencoded"

E = TypeVar("E", bound=Callable[..., Any])


class UndeclaredRouteError(Exception):
    """A route without a declared scope: no application is created with it."""


@dataclass(frozen=True, slots=True)
class Access:
    """Access declaration of an endpoint.

    Attributes
    ----------
    scope : {"learn", "predict", "read", "admin"} or None
        Scope that the API key must have; None if the route needs no key.
    takes : tuple of str
        Media types that the body may have; empty for a route without a body, which accepts an empty JSON
        object. An empty media type is a body without one: for a route that changes nothing.
    body : type of BaseModel, optional
        The body, as the endpoint reads it; a hot route declares it in its signature instead.
    layers : tuple of Layer
        Layers behind the guard and the body; see `service.errors.Layer`.
    whole_server : bool
        Whether the response covers all models, so that a key for some models is not enough.
    otherwise : type of RequestError
        Error for a body of another media type.
    any_query : bool
        Whether parameters of the query that the route does not know are ignored, as those that scrapers,
        probes and browsers add. So it is on each route that needs no key.
    """

    scope: Scope | None
    takes: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    layers: tuple[Layer, ...] = ()
    whole_server: bool = False
    otherwise: type[RequestError] = UnsupportedMediaTypeError
    any_query: bool = False


_declared: dict[Callable[..., Any], Access] = {}


def needs(
    scope: Scope | None,
    *layers: Layer,
    takes: tuple[str, ...] = (),
    body: type[BaseModel] | None = None,
    whole_server: bool = False,
    otherwise: type[RequestError] = UnsupportedMediaTypeError,
    any_query: bool = False,
) -> Callable[[E], E]:
    """Declare the access of an endpoint; see `Access`."""

    def declare(endpoint: E) -> E:
        ignores = any_query or scope is None
        _declared[endpoint] = Access(scope, takes, body, layers, whole_server, otherwise, ignores)
        return endpoint

    return declare


def access_of(endpoint: Callable[..., Any]) -> Access:
    """Return the access declaration of an endpoint.

    Raises
    ------
    UndeclaredRouteError
        If it has none.
    """
    access = _declared.get(endpoint)
    if access is None:
        name = getattr(endpoint, "__qualname__", repr(endpoint))
        raise UndeclaredRouteError(f"{name} does not declare its scope: decorate it with @needs(...)")
    return access
