"""A prediction names the features that it ignores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.running import Json, Server
from tests.support.streaming import post_lines


@pytest.fixture(scope="module")
def trained(server: Server) -> Server:
    server.create(name="weather", hidden=[4], max_features=4)
    server.create(name="image", input_shape=[2])
    for i in range(4):
        server.learn({"humidity": i, "wind=": i, "sky": ["grey", "blue"][i % 2]}, i % 2, model="weather")
        server.learn([i, 1], i % 2, model="image")
    return server


CASES: list[tuple[Json, list[str] | None]] = [
    ({"humidity": 1, "wind=": 2, "sky": "grey"}, None),
    ({"humidity": 1}, None),
    ({"humidity": None, "sky": None}, None),
    ({"humidty": 1, "wind=": 2, "sky": "grey"}, ["humidty"]),
    ({"humidity": 1, "sky": "mauve"}, ["sky"]),
    ({"humidity": "high", "sky": 3, "wind": "=1"}, ["humidity", "sky", "wind"]),
    ({"humidty": None, "sky=grey": 1}, ["sky=grey", "humidty"]),
    ({f"f{i:03d}": 1 for i in range(120)}, [f"f{i:03d}" for i in range(100)]),
    ({}, None),
]


def each(server: Server, body: Json) -> Json:
    return server.predict(**body)


def line(server: Server, body: Json) -> Json:
    [answer] = post_lines(server, [body], "/predict")
    return answer


def item(server: Server, body: Json) -> Json:
    [answer] = server.client.post("/predict", json=[body]).json()
    return dict(answer)


@pytest.mark.parametrize("ask", [each, line, item])
@pytest.mark.parametrize(("x", "unknown"), CASES)
def test_unknown_features_are_named(
    trained: Server, ask: Callable[[Server, Json], Json], x: Json, unknown: Any
) -> None:
    for _ in range(3):  # the third time with the fast reader, if there is one
        assert ask(trained, {"x": x, "model": "weather"}).get("unknown") == unknown


def test_a_kept_prediction_names_them_again(trained: Server) -> None:
    first = trained.predict({"humidty": 1}, model="weather", id="t-1")
    assert first["unknown"] == ["humidty"]
    assert trained.predict({"humidty": 1}, model="weather", id="t-1") == first
    assert "unknown" not in trained.label("t-1", 1, model="weather")


def test_other_inputs(trained: Server) -> None:
    assert "unknown" not in trained.predict([1, 2], model="image")
    trained.create(name="untrained")
    assert trained.predict({"a": 1}, model="untrained")["unknown"] == ["a"]
    river: Json = {"model": "weather", "features": {"humidty": 1}}
    assert trained.post("/api/predict/", **river).json().keys() == {"model", "prediction", "identifier"}
