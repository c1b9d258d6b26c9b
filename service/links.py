"""The links of the OpenAPI document: which answer holds what another operation asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
