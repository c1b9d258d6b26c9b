"""Errors say what to do: unknown paths and methods, and values that a schema refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.schemas import ModelSpec
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
        ("POST", "/models", {"name": "q", "hidden": [0]}, "hidden[0] must be at least 1"),
        ("POST", "/models", {"name": "q", "lr": "fast"}, "lr must be a number, or 'auto'"),
        ("POST", "/models", {"name": "q", "network": "big"}, "network must be an array, or 'mlp' or 'cnn'"),
        ("POST", "/models", {"name": "q", "task": None}, "task must be 'classification' or 'regression'"),
        ("POST", "/models", {"name": "q", "units": 3}, "units is not a known field"),
        ("POST", "/models", {"name": "q", "replay": True}, "replay must be an integer"),
        (
            "POST",
            "/models",
            {"name": "q", "drift": {"threshold": 0}},
            "drift.threshold must be greater than 0",
        ),
        ("POST", "/models/default/forget", {}, 'ids is missing: send it, such as {"ids": ["e-7", "e-9"]}'),
        ("POST", "/models/default/shadows", {}, 'name is missing: send it, such as {"name": "wider"}'),
        ("POST", "/models/default/promote", {}, 'shadow is missing: send it, such as {"shadow": "wider"}'),
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


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            {"x": {"a": ["b", 1]}, "y": 1},
            "x.a: must be a list of strings, but entry 1 is of type integer: send each number as a "
            "feature of its own, or as a string",
        ),
        ({"x": {"a": [["b"]]}, "y": 1}, "x.a: must be a list of strings, but entry 0 is of type array"),
        (
            {"x": {"a": {}}, "y": 1},
            "x.a: must be a number, boolean, string or null, not object: send each entry as a feature, "
            "such as 'w:free' and 'w:money' with sparse=['w:*']",
        ),
        ({"x": [1], "y": 1}, "x: must be of type object, with features by name, not array"),
        (
            {"x": {"a": 1}, "y": 1, "model": "truths"},
            "y: is of type integer, but this model's labels are boolean, such as true",
        ),
        (
            {"x": {"a": 1}, "y": 1.5},
            "y: a class must be boolean, integer or string, not 1.5: create a regression model for numbers",
        ),
        ({"x": {"a": 1}, "y": "b", "model": "prices"}, "y: must be a number, not string"),
        ({"x": [1, None], "y": 1, "model": "image"}, "x: has the shape [2]: its shape must be [2, 2]"),
        (
            {"x": [[1, "a"], [None, 2]], "y": 1, "model": "image"},
            "x[0][1]: must be a number or null, not string",
        ),
        (
            {"x": [[1, "a"], [1, 2]], "y": 1, "model": "image"},
            "x: must be an array of numbers, not of string",
        ),
    ],
)
def test_values_and_types_have_their_names_in_json(taught: Server, sample: Any, expected: str) -> None:
    assert message(taught, "POST", "/learn", sample) == expected
    array = taught.client.post("/learn", json=[sample]).json()
    assert array[0]["error"]["message"] == expected


@pytest.fixture(scope="module")
def taught(server: Server) -> Server:
    """Return a server with models of each kind."""
    server.create(name="truths")
    server.create(name="prices", task="regression")
    server.create(name="image", input_shape=[2, 2])
    server.learn({"a": 1}, True, model="truths")
    return server


@pytest.mark.parametrize("field", ModelSpec.model_fields)
def test_a_value_of_the_wrong_kind_is_answered_in_plain_words(server: Server, field: str) -> None:
    for value in (None, True, -1, 1.5, 1e300, "?", [], [None], ["a"], [-1], {}, {"a": 1}):
        answer = server.post("/models", **{"name": "plain", field: value})
        if answer.status_code == 201:
            assert server.client.delete(f"/models/{answer.json()['name']}").status_code == 204
            continue
        said = answer.json()["error"]["message"]
        assert said.startswith(field), said
        assert not re.search("Input should|valid |None|True|tuple|dict|list\\b", said), said


def test_a_refused_name_is_answered_with_what_is_allowed(server: Server) -> None:
    said = message(server, "POST", "/models", {"name": "a b"})
    assert said.startswith("name must have 1 to 64 letters, digits")
