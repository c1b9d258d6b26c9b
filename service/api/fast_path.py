"""Fast path: serves the most frequent routes directly, without the layers of FastAPI and Starlette.

The path, the header `BNP-Model` or the body names the model. Proxies route by the first two, since they read
no bodies.

FastAPI documents these routes as all others, from the signatures of their endpoints.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from bnp_online.files import Roles

from ..auth.scopes import ARROW, CSV, NDJSON, access_of
from ..blocks import LineReader
from ..blocks.arrow import ArrowRow
from ..errors import (
    REFUSALS,
    TABLE,
    BodyTooLargeError,
    Layer,
    QueueFullError,
    RequestError,
    WrongNodeError,
)
from ..http.content import decompressed, media_type, without_mark
from ..http.lane import DATA
from ..http.query import read_query
from ..http.requests import HEADERS, Shape, read_body, read_fields
from ..http.responses import encode, error_response
from ..models.access import models_of
from ..models.queue import Capacity
from ..models.worker import Worker
from ..schemas import DEFAULT_MODEL
from ..settings import Settings
from .array import answer_array
from .arrow_stream import DEFAULTS, ArrowStream, RowBatch, read_row
from .batch import Queue
from .csv_rows import CsvRows, roles_of
from .freshness import (
    MIN_STEP,
    PARAMETER,
    RESPONSE_HEADERS,
    Freshness,
    as_of,
    headers_of_answer,
    min_step,
    wait_for_step,
)
from .line_batch import PredictionBatch, Reader, SampleBatch
from .line_splitter import Line, LineSplitter
from .ndjson import LineStream
from .openapi import ApiRoute, lines_of

M = TypeVar("M", bound=BaseModel)

#: Documentation of the columns of a table that are no features.
_COLUMNS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "description": f"Of a body of CSV or Arrow: the column with the {what}.",
        "schema": {"type": "string"},
    }
    for name, what in (("target", "targets"), ("id", "ids"), ("weight", "weights"))
]
#: Media types of bodies that are streams of samples.
_STREAMS = (NDJSON, CSV, ARROW)

#: All other exceptions are unexpected.
_EXPECTED = tuple(error for error in TABLE if error is not Exception)
MODEL = b"bnp-model"
"""Request header with the name of the model."""

#: Prefix of the paths that name the model.
_MODELS = "/models/"
#: Documentation of the name of the model: in the path, or in the header.
_IN_PATH: dict[str, Any] = {"name": "m", "in": "path", "required": True, "schema": {"type": "string"}}
_IN_HEADER: dict[str, Any] = {
    "name": "BNP-Model",
    "in": "header",
    "description": "Name of the model, for proxies that route by it; `model` of the body may be omitted.",
    "schema": {"type": "string"},
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
    reads : bool
        Whether the route predicts: its response tells how much the model had learned; see `freshness`.
    blocks : bool
        Whether lines and rows may be read as blocks.
    options
        Options of `fastapi.routing.APIRoute`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[FastRequest[Any]], Awaitable[Any]],
        *,
        many: tuple[Callable[[FastRequest[Any]], Any], Queue] | None = None,
        reads: bool = False,
        blocks: bool = False,
        **options: Any,
    ) -> None:
        (parameter,) = signature(endpoint, eval_str=True).parameters.values()
        (body,) = get_args(parameter.annotation)
        self._shape = Shape.of(body)
        if many is not None:
            options |= lines_of(options["response_model"])
        parameters = [_IN_PATH if "{m}" in path else _IN_HEADER]
        if "{m}" in path:
            options["operation_id"] = f"{endpoint.__name__}_by_path"
        if CSV in access_of(endpoint).takes:
            parameters += _COLUMNS
        if reads:
            parameters.append(PARAMETER)
            options["responses"][200]["headers"] = RESPONSE_HEADERS
        layers = [*_layers(self._shape), *([Layer.STEP] if reads else [])]
        extra = {"parameters": parameters}
        super().__init__(path, endpoint, layers=layers, methods=["POST"], openapi_extra=extra, **options)
        self.app = self.serve  # in place of FastAPI's
        self._many = many
        self._reads = reads
        self._blocks = blocks
        self._learns = blocks and bool(self._shape.y)  # the lane takes samples to learn, and no others
        self._status = options.get("status_code", 200)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; raise the error of a refused request."""
        state, headers = scope["app"].state, scope[HEADERS]  # the telemetry middleware has read them
        scope["caller"] = state.guard.admit(headers, self.access)
        named = MODEL in headers or "path_params" in scope
        name = _named(scope, headers) if named else None
        columns = self._columns(scope["query_string"], headers) if scope["query_string"] else {}
        if b"content-encoding" in headers:
            receive = decompressed(headers, receive)
        if self._many is not None and (kind := media_type(headers.get(b"content-type", b""))) in _STREAMS:
            await self._serve_stream(scope, receive, send, name, *self._many, kind, columns)
            return
        settings: Settings = state.settings
        raw = await read_body(scope, receive, settings.max_body_bytes)
        if raw[:1] != b"{":  # rarely
            raw = without_mark(raw)
        bodies: Capacity = state.bodies
        if bodies.taken >= bodies.limit:
            raise QueueFullError(f"{bodies.taken} bytes of requests wait (BNP_QUEUE_BYTES): try again later")
        bodies.taken += len(raw)
        head = [(b"content-type", b"application/json")]
        try:
            if self._many is not None and raw[:1] != b"{" and raw.lstrip()[:1] == b"[":
                body = await self._answer_items(raw, scope, head, name, *self._many)
            else:
                fields = read_fields(raw, self._shape, settings)
                if name is not None:
                    _set_model(fields, name)
                models = models_of(scope)
                worker = await models.get(fields.get("model"))
                if self._reads and MIN_STEP in headers:
                    get = partial(models.get, worker.model.name)
                    worker = await wait_for_step(get, min_step(headers))
                request: FastRequest[Any] = FastRequest(worker=worker, fields=fields, raw=raw)
                since = as_of(worker) if self._reads else None
                answer = await self.endpoint(request)
                if self._reads:
                    head += headers_of_answer(answer, since)
                body = encode(answer)
        finally:
            bodies.free(len(raw))
        head.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self._status, "headers": head})
        await send({"type": "http.response.body", "body": body})
        if self._learns and DATA in scope:
            state.lane.note(scope, raw, self.path, self._status, self._shape, name)

    def _columns(self, query: bytes, headers: Mapping[bytes, bytes]) -> dict[str, str]:
        """Return the columns of a table that the query names; refuse all other parameters."""
        columns = read_query(query, self.parameters, self._shape.fields)
        if columns and (kind := media_type(headers.get(b"content-type", b""))) not in (CSV, ARROW):
            name, fields = next(iter(columns)), ", ".join(self._shape.fields)
            raise RequestError(
                f"{name} in the query names a column of CSV or Arrow, and the body is {kind}: omit it. The "
                f"fields of the body are {fields}",
                name,
            )
        return columns

    async def _answer_items(
        self,
        raw: bytes,
        scope: Scope,
        head: list[tuple[bytes, bytes]],
        name: str | None,
        entry: Callable[[FastRequest[Any]], Any],
        queue: Queue,
    ) -> bytes:
        models, (name, read) = models_of(scope), await self._reading(scope, name)

        async def take(fields: dict[str, Any]) -> tuple[Worker, Any]:
            _set_model(fields, name)
            worker = await models.get(fields.get("model"))
            if read is not None:
                read.add(worker)
            return worker, entry(FastRequest(worker=worker, fields=fields, raw=None))

        answer = await answer_array(raw, self._shape, models, take, queue)
        if read is not None:
            head += read.headers()
        return answer

    async def _serve_stream(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        name: str | None,
        entry: Callable[[FastRequest[Any]], Any],
        queue: Queue,
        kind: str,
        columns: Mapping[str, str],
    ) -> None:
        state = scope["app"].state
        models, (name, read) = models_of(scope), await self._reading(scope, name)
        labelled, settings, options = bool(self._shape.y), models.settings, dict[str, Any]()
        reader: LineReader = state.line_reader if labelled else state.prediction_reader
        body: CsvRows | ArrowStream | None = None
        if kind != NDJSON:
            model = (await models.get(name)).model
            given = roles_of(columns, labelled=labelled and kind == CSV)
            if kind == CSV:
                body = CsvRows(given, self._shape, settings, reader, model)
            else:
                roles = Roles(*(own or usual for own, usual in zip(given, DEFAULTS, strict=True)))
                body = ArrowStream(roles, given, labelled=labelled, settings=settings, model=model)
                options["what"] = "row"
                if ARROW.encode() in scope[HEADERS].get(b"accept", b""):
                    options["output"] = body.output(model)

        def read_item(item: Line | ArrowRow) -> tuple[dict[str, Any], bytes]:
            if isinstance(item, ArrowRow):
                return read_row(item, self._shape, settings)
            if item.raw is None:
                raise BodyTooLargeError("the line is longer than a body may be (BNP_MAX_BODY_BYTES)")
            if isinstance(body, CsvRows):
                return body.read(item.raw)
            raw = without_mark(item.raw)
            return read_fields(raw, self._shape, settings, "line"), raw

        async def take(item: Line | ArrowRow) -> tuple[Worker, Any]:
            fields, raw = read_item(item)
            _set_model(fields, name)
            worker = await models.get(fields.get("model"))
            if read is not None:
                read.add(worker)
            return worker, entry(FastRequest(worker=worker, fields=fields, raw=raw))

        async def find(named: str | None) -> Worker | None:
            if name is not None and named not in (None, name):
                return None
            with suppress(*REFUSALS):
                worker = await models.get(named if name is None else name)
                if read is not None:
                    read.add(worker)
                return worker
            return None

        head = None if read is None else read.headers
        if self._blocks and isinstance(body, ArrowStream):
            options["batch"] = partial(RowBatch, find=partial(find, None))
        elif self._blocks:
            kind_of = SampleBatch if labelled else PredictionBatch
            lines: Reader = body if isinstance(body, CsvRows) else reader
            options["batch"] = partial(kind_of, reader=lines, find=find)
        await LineStream(
            scope,
            receive,
            send,
            settings,
            models.fair_turns,
            state.bodies,
            take,
            queue,
            LineSplitter(settings.max_body_bytes).split if body is None else body.split,
            head,
            **options,
        ).run()

    async def _reading(self, scope: Scope, name: str | None) -> tuple[str | None, Freshness | None]:
        """Return the name of the model of all items, if there is one, and the freshness of what they read.

        A request for a step is for one model. If the path or the header names a model of another node, the
        whole request is refused.
        """
        if not self._reads:
            if name is not None:
                try:
                    (await models_of(scope).get(name)).require_owned()
                except WrongNodeError:
                    raise
                except RequestError:
                    pass  # the answer to each item
            return name, None
        if MIN_STEP in scope[HEADERS]:
            name = DEFAULT_MODEL if name is None else name
            await wait_for_step(partial(models_of(scope).get, name), min_step(scope[HEADERS]))
        return name, Freshness()


def _named(scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    """Return the name of the model in the path or in the header, if there is one.

    Raises
    ------
    RequestError
        If both name a model, and not the same one.
    """
    params = scope.get("path_params")
    name: str | None = params.get("m") if params else None
    if MODEL not in headers:
        return name
    in_header = headers[MODEL].decode("latin-1")
    if name not in (None, in_header):
        raise RequestError(
            f"the path names the model {name!r:.80}, and the header BNP-Model another: omit the header",
            "BNP-Model",
        )
    return in_header


def _set_model(fields: dict[str, Any], name: str | None) -> None:
    """Let the path or the header name the model, if one does.

    Raises
    ------
    RequestError
        If the body names another model.
    """
    if name is None:
        return
    if fields.get("model") not in (None, name):
        raise RequestError(
            f"the path or a header names the model {name!r:.80}, and the body another: omit model", "model"
        )
    fields["model"] = name


def _layers(shape: Shape) -> list[Layer]:
    layers = [Layer.FIELDS, Layer.NAMES, Layer.MODEL]
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

    Notes
    -----
    A dictionary finds a route by its path, or by what follows the name of the model in it.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, HotRoute)}

    def _find(self, scope: Scope) -> HotRoute | None:
        """Return the route of a path with the name of a model, and store this name."""
        name, _, action = scope["path"][len(_MODELS) :].partition("/")
        route = self._routes.get(f"{_MODELS}{{m}}/{action}") if name else None
        if route is not None:
            scope["path_params"] = {"m": name}
        return route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or pass it on."""
        route = None
        if scope.get("method") == "POST":  # the lifespan has no method
            route = self._routes.get(scope["path"])
            if route is None and scope["path"].startswith(_MODELS):
                route = self._find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.serve(scope, receive, send)
        except _EXPECTED as error:
            await error_response(scope, error)(scope, receive, send)
