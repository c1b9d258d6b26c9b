"""Fast path: serves the most frequent routes directly, without the layers of FastAPI and Starlette.

FastAPI documents these routes as all others, from the signatures of their endpoints.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from inspect import signature
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ..auth.scopes import NDJSON
from ..errors import TABLE, Layer, QueueFullError, RequestError
from ..http.content import decompressed, media_type, without_mark
from ..http.requests import HEADERS, Shape, read_body, read_fields
from ..http.responses import encode, error_response
from ..models.queue import Capacity
from ..models.registry import models_of
from ..models.worker import Worker
from ..settings import Settings
from .array import answer_array
from .batch import Queue
from .ndjson import LineStream
from .openapi import ApiRoute, lines_of

M = TypeVar("M", bound=BaseModel)

#: All other exceptions are unexpected.
_EXPECTED = tuple(error for error in TABLE if error is not Exception)
#: Documentation of the parameter ``m``.
_BY_PATH: dict[str, Any] = {
    "openapi_extra": {
        "parameters": [{"name": "m", "in": "path", "required": True, "schema": {"type": "string"}}]
    }
}


class FastRequest(SimpleNamespace, Generic[M]):
    """A request of a hot route.

    The pydantic model `M` documents the body, and `service.http.requests.Shape` checks it.

    Attributes
    ----------
    worker : Worker
        The model that the body names.
    fields : dict
        Fields of the body; an optional field is absent or None.
    raw : bytes or None
        The body, or the line; None for an item of an array.
    """

    worker: Worker
    fields: dict[str, Any]
    raw: bytes | None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the body."""
        return handler(get_args(source)[0])


class HotRoute(ApiRoute):
    """A POST route of the fast path.

    Parameters
    ----------
    path : str
        Path without parameters, or with the parameter ``m``, which names the model in place of the body.
    endpoint : callable
        Function of a `FastRequest` that returns an awaitable; the response is the result as JSON.
    many : tuple of callable, optional
        For a route that takes NDJSON and arrays: a function that converts a `FastRequest` to an entry, and a
        function that queues entries.
    options
        Options of `fastapi.routing.APIRoute`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[FastRequest[Any]], Awaitable[Any]],
        *,
        many: tuple[Callable[[FastRequest[Any]], Any], Queue[Any]] | None = None,
        **options: Any,
    ) -> None:
        (parameter,) = signature(endpoint, eval_str=True).parameters.values()
        (body,) = get_args(parameter.annotation)
        self._shape = Shape.of(body)
        if many is not None:
            options |= lines_of(options["response_model"])
        if "{m}" in path:
            options |= _BY_PATH | {"operation_id": f"{endpoint.__name__}_by_path"}
        super().__init__(path, endpoint, layers=_layers(self._shape), methods=["POST"], **options)
        self.app = self.serve  # in place of FastAPI's
        self._many = many
        self._status = options.get("status_code", 200)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; raise the error of a refused request."""
        state, headers = scope["app"].state, scope[HEADERS]  # the telemetry middleware has read them
        scope["caller"] = state.guard.admit(headers, self.access)
        if b"content-encoding" in headers:
            receive = decompressed(headers, receive)
        if self._many is not None and media_type(headers.get(b"content-type", b"")) == NDJSON:
            await self._serve_lines(scope, receive, send, *self._many)
            return
        settings: Settings = state.settings
        raw = await read_body(scope, receive, settings.max_body_bytes)
        if raw[:1] != b"{":  # rarely
            raw = without_mark(raw)
        bodies: Capacity = state.bodies
        if bodies.taken >= bodies.limit:
            raise QueueFullError(f"{bodies.taken} bytes of requests wait (BNP_QUEUE_BYTES): try again later")
        bodies.taken += len(raw)
        try:
            if self._many is not None and raw[:1] != b"{" and raw.lstrip()[:1] == b"[":
                body = await self._answer_items(raw, scope, *self._many)
            else:
                fields = read_fields(raw, self._shape, settings)
                if "path_params" in scope:
                    _set_model(fields, scope)
                worker = models_of(scope).get(fields.get("model"))
                request: FastRequest[Any] = FastRequest(worker=worker, fields=fields, raw=raw)
                body = encode(await self.endpoint(request))
        finally:
            bodies.taken -= len(raw)
            if bodies.waiters:
                bodies.free(0)
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self._status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _answer_items(
        self, raw: bytes, scope: Scope, entry: Callable[[FastRequest[Any]], Any], queue: Queue[Any]
    ) -> bytes:
        models = models_of(scope)

        def take(fields: dict[str, Any]) -> tuple[Worker, Any]:
            _set_model(fields, scope)
            worker = models.get(fields.get("model"))
            return worker, entry(FastRequest(worker=worker, fields=fields, raw=None))

        return await answer_array(raw, self._shape, models, take, queue)

    async def _serve_lines(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        entry: Callable[[FastRequest[Any]], Any],
        queue: Queue[Any],
    ) -> None:
        models = models_of(scope)

        def take(line: bytes) -> tuple[Worker, Any]:
            raw = without_mark(line)
            fields = read_fields(raw, self._shape, models.settings, "line")
            _set_model(fields, scope)
            worker = models.get(fields.get("model"))
            return worker, entry(FastRequest(worker=worker, fields=fields, raw=raw))

        bodies: Capacity = scope["app"].state.bodies
        await LineStream(scope, receive, send, models.settings, models.fair_turns, bodies, take, queue).run()


def _set_model(fields: dict[str, Any], scope: Scope) -> None:
    """Let the path of a request name the model, if it does.

    Raises
    ------
    RequestError
        If the body names another model.
    """
    name = scope.get("path_params", {}).get("m")
    if name is None:
        return
    if fields.get("model") not in (None, name):
        raise RequestError(
            f"the path names the model {name!r:.80}, and the body another: omit model", "model"
        )
    fields["model"] = name


def _layers(shape: Shape) -> list[Layer]:
    layers = [Layer.FIELDS, Layer.MODEL]
    layers += [Layer.IDENTIFIER] if shape.id else []
    layers += [Layer.FEATURES] if shape.x else []
    return [*layers, Layer.TARGET] if shape.y else layers


class FastPath:
    """ASGI middleware that serves the hot routes, and passes on all other requests.

    Parameters
    ----------
    app : ASGI application
        Serves the other requests.
    routes : iterable of BaseRoute
        All routes; those that are a `HotRoute` are served here.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, HotRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or pass it on."""
        route = self._routes.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.serve(scope, receive, send)
        except _EXPECTED as error:
            await error_response(scope, error)(scope, receive, send)
