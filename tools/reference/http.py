"""Reference page of the routes, from the OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.app import create_app
from service.settings import Settings
from tools.reference.markdown import document, table
from tools.reference.schemas import Schema, example, fields, kind

_INTRODUCTION = """\
# HTTP

Requests and responses are JSON. The server has an interactive version of this page at `/docs`, and the
OpenAPI document at `/openapi.json`. `model` is optional everywhere; its default is `"default"`. On a server
with [keys](../how-to/secure.md) a request needs `Authorization: Bearer KEY`, with the scope of its route. An
error is `{"error": {"code": …, "message": …, "field": …}}`; [Errors](errors.md) lists the codes. A refused
request changes nothing. A parameter of the query that the route does not know is refused (422), and so is one
that comes twice. Routes without a key and `/metrics` ignore the query, because browsers, probes and scrapers
add parameters of their own. The response and the log repeat the `X-Request-ID` of the request.
"""
_METHODS = ("get", "post", "put", "patch", "delete")


def page() -> str:
    """Return the page of all routes and of the objects that they take and answer."""
    spec = create_app(Settings(host="127.0.0.1")).openapi()
    schemas: dict[str, Schema] = spec["components"]["schemas"]
    operations = list(_operations(spec))
    for _, _, operation in operations:
        for content in _contents(operation):
            schemas = content.get("schema", {}).get("$defs", {}) | schemas
    overview = table(
        ["route", "scope", "what it does"],
        [
            (f"[`{method} {path}`](#{operation['operationId']})", _scope(operation), operation["summary"])
            for method, path, operation in operations
        ],
    )
    objects = (
        document(f"### {name} {{ #{name.lower()} }}", _plain(schema), fields(schema), _values(schema))
        for name, schema in sorted(schemas.items())
    )
    routes = (_route(*each, schemas) for each in operations)
    return document(_INTRODUCTION, overview, "## Routes", *routes, "## Objects", *objects)


def _operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    found = [
        (method.upper(), path, operations[method])
        for path, operations in spec["paths"].items()
        for method in _METHODS
        if method in operations
    ]
    order = ["learning", "predicting"]  # then as they are tried
    yield from sorted(found, key=lambda each: [tag not in each[2]["tags"] for tag in order])


def _scope(operation: dict[str, Any]) -> str:
    needed = (scope for each in operation["security"] for scopes in each.values() for scope in scopes)
    return ", ".join(f"`{scope}`" for scope in needed) or "none"


def _contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from response.get("content", {}).values()


def _route(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Schema]) -> str:
    answers = {status: of for status, of in operation["responses"].items() if status < "400"}
    errors = {status: of for status, of in sorted(operation["responses"].items()) if status >= "400"}
    return document(
        f"### `{method} {path}` {{ #{operation['operationId']} }}",
        f"{operation['summary']}: scope {_scope(operation)}.",
        operation.get("description", ""),
        _parameters(operation),
        *_body("Body", operation.get("requestBody", {}), schemas),
        *(part for status, of in answers.items() for part in _body(f"Answer, {status}", of, schemas)),
        "**Errors**",
        table(["status", "codes"], [(status, of["description"]) for status, of in errors.items()]),
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = [
        (f"`{each['name']}`", each["in"], kind(each["schema"]), each.get("description", ""))
        for each in operation.get("parameters", ())
    ]
    return document("**Parameters**", table(["name", "in", "kind", "what it is"], rows)) if rows else ""


def _body(title: str, of: dict[str, Any], schemas: dict[str, Schema]) -> Iterator[str]:
    content = of.get("content", {})
    if not content:
        if title.startswith("Answer"):
            yield f"**{title}**: nothing."
        return
    types = " or ".join(f"`{media}`" for media in content)
    first: Schema = next(iter(content.values())).get("schema", {})
    name = first.get("$ref", "").rpartition("/")[2]
    yield f"**{title}**, {types}" + (f": [{name}](#{name.lower()})" if name else "")
    schema = schemas[name] if name else first
    yield from (fields(schema), example(schema))


def _plain(schema: Schema) -> str:
    return str(schema.get("description", ""))


def _values(schema: Schema) -> str:
    return "" if "properties" in schema else kind(schema)
