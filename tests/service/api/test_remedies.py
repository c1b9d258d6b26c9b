"""Errors say what to do: unknown paths and methods, and values that a schema refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.running import Server


def message(server: Server, method: str, path: str, body: Any = None) -> str:
    answer = server.client.request(method, path, json=body)
    assert answer.is_client_error
    found = answer.json()
    return str(found["error"]["message"] if "error" in found else found["message"])


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/lern", "did you mean /learn or "),
        ("/learn/", "did you mean /learn or "),
        ("/models/default/chekpoints", "did you mean /models/{m}/checkpoints?"),
        ("/api/lern/", "did you mean /api/learn/ or "),
        ("/" + "z" * 5000, "GET /docs lists the routes"),
    ],
)
def test_an_unknown_path_is_answered_with_known_ones(server: Server, path: str, remedy: str) -> None:
    said = message(server, "GET", path)
    assert said.startswith(f"there is no route {path[:80]!r}: ")
    assert remedy in said


@pytest.mark.parametrize(
    ("method", "path", "remedy"),
    [
        ("GET", "/learn", "/learn does not take GET: use POST"),
        ("DELETE", "/models", "/models does not take DELETE: use GET, HEAD, POST"),
        ("PUT", "/models/default", "/models/default does not take PUT: use DELETE, GET, HEAD, PATCH"),
        ("PUT", "/api/learn/", "/api/learn/ does not take PUT: use POST"),
    ],
)
def test_a_wrong_method_is_answered_with_the_allowed_ones(
    server: Server, method: str, path: str, remedy: str
) -> None:
    assert message(server, method, path) == remedy
    allowed = server.client.request(method, path).headers["allow"]
    assert remedy.endswith(f"use {allowed}")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/models", {"name": "q", "hidden": 0}, "hidden must be an array"),
        ("POST", "/models", {"name": "q", "hidden": [0]}, "hidden.0 must be at least 1"),
        ("POST", "/models", {"name": "q", "task": None}, "task must be 'classification' or 'regression'"),
        ("POST", "/models", {"name": "q", "layers": 3}, "layers is not a known field"),
        ("POST", "/models", {"name": "q", "replay": True}, "replay must be an integer"),
        (
            "POST",
            "/models",
            {"name": "q", "drift": {"threshold": 0}},
            "drift.threshold must be greater than 0",
        ),
        ("POST", "/models/default/forget", {}, "ids is missing"),
        ("POST", "/models/default/forget", {"ids": []}, "ids must have 1 or more entries"),
        ("POST", "/models/default/rollback", {}, "give either a step or a checkpoint"),
        ("POST", "/models/default/rollback", {"step": -1}, "step must be at least 0"),
        ("GET", "/models/default/events?limit=0", None, "limit must be at least 1"),
        ("GET", "/models/default/events?after=x", None, "after must be an integer"),
    ],
)
def test_a_refused_value_is_answered_with_what_is_allowed(
    server: Server, method: str, path: str, body: Any, expected: str
) -> None:
    assert message(server, method, path, body) == expected


def test_a_refused_name_is_answered_with_what_is_allowed(server: Server) -> None:
    said = message(server, "POST", "/models", {"name": "a b"})
    assert said.startswith("name must have 1 to 64 letters, digits")
