"""The links of the OpenAPI document: which answer holds what another operation asks for.

The OpenAPI document: FastAPI writes it for its own routes, and this adds the plain Starlette ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..auth.guard import GuardedRoute, PlainRoute
from ..auth.scopes import JSON, NDJSON, Access
from ..errors import (
    BodyTimeoutError,
    ForbiddenError,
    ForeignOriginError,
    Row,
    UnauthorizedError,
    UnknownHostError,
    row,
)
from ..http.responses import is_river
from ..schemas import ErrorAnswer, LineError, RiverError


@dataclass(frozen=True)
class Link:
    """From what one operation was told and answers to what another takes.

    Attributes
    ----------
    source, status : str
        An operation's id, and the status of the answer.
    target : str
        The id of the operation that may follow.
    parameters, body : dict
        What it takes from there, as runtime expressions.
    """

    source: str
    status: str
    target: str
    parameters: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


_SAME = {"m": "$request.path.m"}
_OF_SAMPLE = {"m": "$response.body#/model"}
_MADE = "$response.body#/name"
LINKS = [
    *(Link("create_model", "201", it, body={"model": "$response.body#/name"}) for it in ("learn", "predict")),
    Link("predict", "200", "label", body={"model": "$response.body#/model", "id": "$response.body#/id"}),
    Link("learn", "200", "forget", _OF_SAMPLE, {"ids": ["$request.body#/id"]}),
    Link("learn", "200", "roll_back", _OF_SAMPLE, {"step": "$response.body#/step"}),
    Link("take_checkpoint", "201", "roll_back", _SAME, {"checkpoint": "$response.body#/checkpoint"}),
    Link("take_checkpoint", "201", "list_checkpoints", _SAME),
    Link("roll_back", "200", "list_branches", _SAME),
    *(
        Link("river_create", "201", it, body={"model": _MADE})
        for it in ("river_learn", "river_predict", "river_delete")
    ),
    *(Link("river_create", "201", it, {"m": _MADE}) for it in ("river_get", "river_download")),
    *(Link("river_create", "201", it, {"model": _MADE}) for it in ("river_metrics", "river_stats")),
    Link(
        "river_predict",
        "201",
        "river_label",
        body={"model": "$response.body#/model", "identifier": "$response.body#/identifier"},
    ),
]


def add_links(document: dict[str, Any]) -> None:
    """Add the links above, and one from the making of a model to each operation on it."""
    of_models = [
        operation["operationId"]
        for path, operations in document["paths"].items()
        if path.startswith("/models/{m}")
        for operation in operations.values()
    ]
    made = [Link("create_model", "201", target, {"m": "$response.body#/name"}) for target in of_models]
    by_id = {
        operation["operationId"]: operation
        for operations in document["paths"].values()
        for operation in operations.values()
    }
    for link in (*LINKS, *made):
        described: dict[str, Any] = {"operationId": link.target}
        if link.parameters:
            described["parameters"] = link.parameters
        if link.body:
            described["requestBody"] = link.body
        by_id[link.source]["responses"][link.status].setdefault("links", {})[link.target] = described


_SCHEME = "key"
#: Where the document keeps schemas; as pydantic takes it.
REF = "#/components/schemas/{model}"
_RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}


@dataclass(frozen=True)
class Operation:
    """What the documentation says of a route.

    Attributes
    ----------
    summary, tag : str
        A line about it, and the group it stands in; the endpoint's docstring says the rest.
    body, answer : type of BaseModel
        What goes in and what comes out.
    errors : sequence of type of Exception
        What it may answer instead.
    status : int
        Of the answer.
    lines : bool
        Whether many may come as lines of one stream.
    """

    summary: str
    tag: str
    body: type[BaseModel]
    answer: type[BaseModel]
    errors: Sequence[type[Exception]] = field(default=())
    status: int = 200
    lines: bool = False


class DocumentedRoute(PlainRoute):
    """A plain Starlette route, POST only, which pays nothing for being documented."""

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Any]], operation: Operation) -> None:
        super().__init__(path, endpoint, methods=["POST"])
        self.operation = operation


def operation_id(route: APIRoute) -> str:
    """Return the name of the endpoint, as the plain routes have it too."""
    return route.name


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a FastAPI route that reads its body itself."""
    schema = model.model_json_schema(ref_template=REF)
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def error_responses(*errors: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a FastAPI route that may answer these errors."""
    by_status: dict[int, list[Row]] = defaultdict(list)
    for error in errors:
        found = row(error)
        by_status[found.status].append(found)
    responses: dict[int | str, dict[str, Any]] = {}
    for status, rows in sorted(by_status.items()):
        codes = (f"`{each.code}`" if each.code else "the code of the sample's error" for each in rows)
        responses[status] = {"model": ErrorAnswer, "description": ", ".join(dict.fromkeys(codes))}
        if all(each.retry_after is not None for each in rows):
            responses[status]["headers"] = {"Retry-After": _RETRY_AFTER}
    return responses


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document of all routes, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        plain = [route for route in app.routes if isinstance(route, DocumentedRoute)]
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for route in plain:
            document["paths"].setdefault(route.path, {})["post"] = _operation(route)
        models: set[type[BaseModel]] = {ErrorAnswer, LineError, RiverError}
        models |= {m for route in plain for m in (route.operation.body, route.operation.answer)}
        _, definitions = models_json_schema(
            [(m, "validation") for m in sorted(models, key=lambda m: m.__name__)],
            ref_template=REF,
        )
        schemas.update(definitions["$defs"])
        _gather_definitions(document)
        _drop_validation_errors(document)
        _describe_guards(document, app)
        _refuse_as_river(document)
        add_links(document)
        app.openapi_schema = document
    return app.openapi_schema


def _operation(route: DocumentedRoute) -> dict[str, Any]:
    operation = route.operation
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": "Done",
            "content": _content(operation.answer) | _lines(operation, operation.answer, LineError),
        }
    }
    for status, response in error_responses(*operation.errors).items():
        described = {key: value for key, value in response.items() if key != "model"}
        responses[str(status)] = {**described, "content": _content(ErrorAnswer)}
    return {
        "summary": operation.summary,
        "description": " ".join((route.endpoint.__doc__ or "").split()),
        "operationId": route.endpoint.__name__,
        "tags": [operation.tag],
        "requestBody": {
            "required": True,
            "content": _content(operation.body) | _lines(operation, operation.body),
        },
        "responses": responses,
    }


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {JSON: {"schema": _reference(model)}}


def _lines(operation: Operation, *of_a_line: type[BaseModel]) -> dict[str, Any]:
    """Return what each line of a stream may be."""
    schemas = [_reference(model) for model in of_a_line]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {NDJSON: {"schema": schema}} if operation.lines else {}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def _refuse_as_river(document: dict[str, Any]) -> None:
    """Give the routes of the River API Spec their own envelope of errors."""
    for path, operations in document["paths"].items():
        if is_river(path):
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        response["content"] = _content(RiverError)


def _gather_definitions(document: dict[str, Any]) -> None:
    """Put what the body of one operation defines where all references look for it."""
    for path in document["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schema = content.get("schema", {})
                document["components"]["schemas"].update(schema.pop("$defs", {}))


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """Take out FastAPI's own 422, which this server never sends: all errors have one envelope."""
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _describe_guards(document: dict[str, Any], app: FastAPI) -> None:
    """Say of each operation which scope its key must have, and how it is refused before it starts."""
    document["components"]["securitySchemes"] = {
        _SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key; a server without keys needs none, and serves its own machine alone.",
        }
    }
    for route in app.routes:
        if isinstance(route, GuardedRoute | PlainRoute) and route.path in document["paths"]:
            for method in route.methods or ():
                operation = document["paths"][route.path][method.lower()]
                operation["security"] = [{_SCHEME: [route.access.scope]}] if route.access.scope else []
                _add_refusals(operation["responses"], route.access)


def _add_refusals(responses: dict[str, Any], access: Access) -> None:
    errors: list[type[Exception]] = [UnknownHostError, ForeignOriginError]
    if access.scope is not None:
        errors += [UnauthorizedError, ForbiddenError]
    if access.takes:
        errors += [access.otherwise, BodyTimeoutError]
    for status, response in error_responses(*errors).items():
        before = responses.get(str(status), {}).get("description")
        codes = ", ".join(filter(None, (before, response["description"])))
        responses[str(status)] = {"description": codes, "content": _content(ErrorAnswer)}
