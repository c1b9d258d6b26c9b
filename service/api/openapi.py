"""The OpenAPI document: FastAPI generates it; this module adds errors, security, links and names.

The errors of a route follow from the layers that its requests pass through (`service.errors.Layer`): the
guard and the body (from its access declaration), its parameters, and the layers that the declaration names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.params import Body, Form
from fastapi.utils import create_model_field
from pydantic import BaseModel, TypeAdapter

from ..auth.guard import GuardedRoute
from ..auth.scopes import BYTES, FORM, JSON, NDJSON, Access, access_of
from ..errors import Layer, Row, row
from ..http.responses import is_open_inference, is_river
from ..schemas import ErrorAnswer, FeatureValue, InferenceError, LineError, RiverError, Task

#: Reference to a schema of the document; as pydantic takes it.
REF = "#/components/schemas/{model}"
#: Media type object of a file; generators of clients need its schema.
_FILE_CONTENT: dict[str, Any] = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
FILE: dict[str, Any] = {"content": _FILE_CONTENT}
"""Response with a file."""

#: Names of types that are no class. Generators of clients name the class of a schema after it, or else after
#: each place where it occurs.
_NAMED: dict[str, Any] = {
    "FeatureValues": dict[str, FeatureValue],
    "MetricValues": dict[str, float | None],
    "Probabilities": dict[str, float],
    "State": Literal["ready", "rebuilding", "failed"],
    "Task": Task,
}

_SCHEME = "key"
_RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}

#: Types of parameters that accept any value.
_UNCHECKED = (Request, str, str | None)


class ApiRoute(GuardedRoute):
    """A FastAPI route behind the guard, documented with its scope, its body and its errors.

    Parameters
    ----------
    path, endpoint, options
        As of `fastapi.routing.APIRoute`.
    layers : sequence of Layer, optional
        Layers that check the parameters; by default they follow from the types of the parameters.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        layers: Sequence[Layer] | None = None,
        **options: Any,
    ) -> None:
        access = access_of(endpoint)
        if layers is None:
            kinds = [each.annotation for each in signature(endpoint, eval_str=True).parameters.values()]
            layers = [Layer.PARAMETERS] if any(kind not in _UNCHECKED for kind in kinds) else []
        errors = _errors(access, [*layers, *access.layers])
        options["responses"] = (options.get("responses") or {}) | _error_responses(errors, path)
        described: dict[str, Any] = {"security": [{_SCHEME: [access.scope]}] if access.scope else []}
        if access.takes == (BYTES,):
            described["requestBody"] = {"required": True, "content": _FILE_CONTENT}
        options["openapi_extra"] = described | (options.get("openapi_extra") or {})
        options["operation_id"] = options.get("operation_id") or endpoint.__name__
        super().__init__(path, endpoint, **options)
        if access.body is not None:  # for the document only: the endpoint reads its body itself
            kind = Form if FORM in access.takes else Body
            self.body_field = create_model_field("body", access.body, field_info=kind(annotation=access.body))


def _errors(access: Access, layers: Iterable[Layer]) -> list[type[Exception]]:
    """Return the errors of the guard, of the body, and of further layers."""
    passed = [Layer.HOST]
    passed += [Layer.KEY] if access.scope is not None else []
    passed += [] if access.any_query else [Layer.QUERY]
    passed += [Layer.BODY] if access.takes else []
    passed += [Layer.JSON] if JSON in access.takes else []
    passed += [Layer.FORM] if FORM in access.takes else []
    passed += [Layer.SPEC] if JSON in access.takes and access.body is not None else []
    found = [error for layer in (*passed, *layers) for error in layer.value]
    return [*found, access.otherwise] if access.takes else found


def _error_responses(errors: Iterable[type[Exception]], path: str) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a FastAPI route with these errors."""
    by_status: dict[int, list[Row]] = defaultdict(list)
    for error in errors:
        found = row(error)
        by_status[found.status].append(found)
    envelope: type[BaseModel] = RiverError if is_river(path) else ErrorAnswer
    if is_open_inference(path):
        envelope = InferenceError
    responses: dict[int | str, dict[str, Any]] = {}
    for status, rows in sorted(by_status.items()):
        codes = (f"`{each.code}`" if each.code else "the code of the sample's error" for each in rows)
        responses[status] = {
            "model": envelope,
            "description": ", ".join(dict.fromkeys(codes)),
        }
        if all(each.retry_after is not None for each in rows):
            responses[status]["headers"] = {"Retry-After": _RETRY_AFTER}
    return responses


def lines_of(answer: type[BaseModel]) -> dict[str, Any]:
    """Return the options of a FastAPI route that takes and answers its JSON in lines, too.

    The document has the lines of the response. Those of the request are in the descriptions only: generators
    of clients know no media type of lines, and warn. Arrays are there only, too: with them, the answer to one
    sample would have a type that its reader must narrow.
    """
    given = [{"$ref": REF.format(model=model.__name__)} for model in (answer, LineError)]
    return {"responses": {200: {"content": {NDJSON: {"schema": {"anyOf": given}}}}}}


#: Groups of operations, in the order of the page.
_TAGS = {
    "learning": "Samples with labels, and labels of earlier predictions.",
    "predicting": "Predictions, which never change a model.",
    "models": "Creation, description and administration of models.",
    "operations": "State of the server, for programs that supervise it.",
    "River API Spec": "Routes of River's specification, for its clients.",
    "Open Inference Protocol": "Predictions for the clients of KServe, Triton and others.",
}
#: Commands in the descriptions of operations: paths, and numbers of the examples of their bodies.
_COMMANDS = {
    "learn": (("/learn", 0),),
    "predict": (("/predict", 0),),
    "label": (("/predict", 1), ("/label", 0)),
}


@dataclass(frozen=True)
class Link:
    """A link from the response of one operation to the request of another.

    Attributes
    ----------
    source, status : str
        Id of the first operation, and status of its response.
    target : str
        Id of the second operation.
    parameters, body : dict
        Its parameters and the fields of its body, as runtime expressions.
    """

    source: str
    status: str
    target: str
    parameters: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


_SAME = {"m": "$request.path.m"}
_OF_SAMPLE = {"m": "$response.body#/model"}
_MODEL = {"model": "$response.body#/model"}
_CREATED = "$response.body#/name"
_CREATED_MODEL = {"model": _CREATED}
LINKS = [
    *(Link("create_model", "201", target, body=_CREATED_MODEL) for target in ("learn", "predict")),
    Link("predict", "200", "label", body={**_MODEL, "id": "$response.body#/id"}),
    Link("learn", "200", "forget", _OF_SAMPLE, {"ids": ["$request.body#/id"]}),
    Link("learn", "200", "roll_back", _OF_SAMPLE, {"step": "$response.body#/step"}),
    Link("take_checkpoint", "201", "roll_back", _SAME, {"checkpoint": "$response.body#/checkpoint"}),
    Link("take_checkpoint", "201", "list_checkpoints", _SAME),
    Link("roll_back", "200", "list_branches", _SAME),
    *(
        Link("river_create", "201", target, body=_CREATED_MODEL)
        for target in ("river_learn", "river_predict", "river_delete")
    ),
    *(Link("river_create", "201", target, {"m": _CREATED}) for target in ("river_get", "river_download")),
    *(Link("river_create", "201", target, _CREATED_MODEL) for target in ("river_metrics", "river_stats")),
    Link("river_predict", "201", "river_label", body={**_MODEL, "identifier": "$response.body#/identifier"}),
]


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application, which is generated once."""
    if app.openapi_schema is None:
        document: dict[str, Any] = _without_defaults(
            _exact(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
                    routes=app.routes,
                    separate_input_output_schemas=False,
                )
            )
        )
        _name_types(document)
        operations = [
            (path, operation) for path, methods in document["paths"].items() for operation in methods.values()
        ]
        components = document["components"]
        for _, operation in operations:  # FastAPI's own error of parameters, which this server never sends
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        line = LineError.model_json_schema(ref_template=REF)
        components["schemas"] |= line.pop("$defs") | {"LineError": line}
        components["securitySchemes"] = {
            _SCHEME: {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key. A server without keys requires none and listens on loopback.",
            }
        }
        _add_commands(document)
        _add_links(operations)
        app.openapi_schema = document
    return app.openapi_schema


def _exact(part: Any) -> Any:
    """Return a part of the document with whole bounds as integers; FastAPI made them floats."""
    if isinstance(part, dict):
        return {name: _exact(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_exact(value) for value in part]
    return int(part) if isinstance(part, float) and part.is_integer() else part


def _without_defaults(part: Any) -> Any:
    """Return a schema with each default in the description.

    A field with a default counts as present for some generators of clients, which then require it in a
    request; others send the default of the version that they were generated from.
    """
    if isinstance(part, list):
        return [_without_defaults(each) for each in part]
    if not isinstance(part, dict):
        return part
    schema = {key: _without_defaults(value) for key, value in part.items()}
    if "default" in part and {"type", "anyOf", "$ref"} & part.keys():
        sentences = [part["description"]] if "description" in part else []
        sentences.append(f"Default: `{json.dumps(schema.pop('default'))}`.")
        schema["description"] = " ".join(sentences)
    return schema


def _name_types(document: dict[str, Any]) -> None:
    """Replace the schemas of `_NAMED` by references to a component."""
    schemas = document["components"]["schemas"]
    named = {name: TypeAdapter(kind).json_schema(ref_template=REF) for name, kind in _NAMED.items()}
    names = {_canonical(schema): name for name, schema in named.items()}

    def replaced(part: Any) -> Any:
        if isinstance(part, list):
            return [replaced(each) for each in part]
        if not isinstance(part, dict):
            return part
        if (name := names.get(_canonical(part))) is not None:
            schemas.setdefault(name, {**named[name], "title": name})
            about = {"description": part["description"]} if "description" in part else {}
            return {"$ref": REF.format(model=name), **about}
        return {key: replaced(value) for key, value in part.items()}

    document["paths"] = replaced(document["paths"])
    for name in [*schemas]:
        if name not in named:
            schemas[name] = replaced(schemas[name])


def _canonical(schema: dict[str, Any]) -> str:
    """Return the text of a schema without what does not change its type."""
    type_of = {key: value for key, value in schema.items() if key not in ("title", "description")}
    return json.dumps(type_of, sort_keys=True)


def _add_commands(document: dict[str, Any]) -> None:
    """Add `_COMMANDS` to the descriptions."""
    paths, schemas = document["paths"], document["components"]["schemas"]
    for name, requests in _COMMANDS.items():
        lines = []
        for path, number in requests:
            body = paths[path]["post"]["requestBody"]["content"][JSON]["schema"]["$ref"]
            example = json.dumps(schemas[body.rpartition("/")[2]]["examples"][number])
            lines.append(f"curl -s localhost:8000{path} -H 'Content-Type: {JSON}' -d '{example}'\n")
        paths[f"/{name}"]["post"]["description"] += f"\n\n```sh\n{''.join(lines)}```"


def _add_links(operations: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Add `LINKS`, and links from the creation of a model to each operation on it."""
    by_id = {operation["operationId"]: operation for _, operation in operations}
    created = [
        Link("create_model", "201", operation["operationId"], {"m": _CREATED})
        for path, operation in operations
        if path.startswith("/models/{m}")
    ]
    for link in (*LINKS, *created):
        described: dict[str, Any] = {"operationId": link.target}
        if link.parameters:
            described["parameters"] = link.parameters
        if link.body:
            described["requestBody"] = link.body
        by_id[link.source]["responses"][link.status].setdefault("links", {})[link.target] = described
