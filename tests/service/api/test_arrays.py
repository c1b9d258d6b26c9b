"""A JSON array in place of an object: each item as a single request, answers in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from river import datasets

from bnp_online import BNPClassifier
from tests.support.running import Json, Server, error, serving
from tests.support.streaming import NDJSON, post_lines

SEGMENTS: list[Json] = [{"x": x, "y": y} for x, y in list(datasets.ImageSegments())[:150]]


def post(server: Server, items: Sequence[Any] | bytes, path: str = "/learn") -> list[Any]:
    content = items if isinstance(items, bytes) else json.dumps(items).encode()
    answer = server.client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    answers: list[Any] = answer.json()
    return answers


def test_an_array_is_learned_as_a_loop(server: Server) -> None:
    items: list[Json] = [{**item, "model": "together"} for item in SEGMENTS]
    items[7]["w"] = 0.5
    items[8]["id"] = "e-8"
    items[9]["w"] = items[9]["id"] = None
    items[90]["x"] = {**items[90]["x"], "late": 1.0, "town": "Oslo: [2]"}
    server.create(name="together")
    server.create(name="looped")
    together = post(server, items)
    looped = [server.learn(**{**item, "model": "looped"}) for item in items]
    assert together == [{**answer, "model": "together"} for answer in looped]
    assert server.fingerprint("together") == server.fingerprint("looped")
    assert server.get("/models/together/metrics") == server.get("/models/looped/metrics")
    assert post(server, [items[8]])[0]["duplicate"]


def test_an_array_is_predicted_and_labelled_as_a_loop(server: Server) -> None:
    server.create(name="asked", hidden=[8])
    post_lines(server, [{**item, "model": "asked"} for item in SEGMENTS[:50]])
    before = server.fingerprint("asked")
    asked: list[Json] = [
        {"x": item["x"], "model": "asked", **({"id": f"t-{i}"} if i % 3 else {})}
        for i, item in enumerate(SEGMENTS)
    ]
    assert post(server, asked, "/predict") == [server.predict(**item) for item in asked]
    assert server.fingerprint("asked") == before
    labels = [{"id": f"t-{i}", "y": SEGMENTS[i]["y"], "model": "asked"} for i in (1, 2, 1, 4)]
    first, second, again, last = post(server, labels, "/label")
    assert [each["step"] for each in (first, second, last)] == [51, 52, 53]
    assert (again["error"]["code"], again["error"]["field"]) == ("already_labelled", "[2].id")
    [line] = post_lines(server, [{**labels[0], "id": "t-5"}], "/label")
    assert line["step"] == 54


BAD: list[tuple[Any, str, str]] = [
    (1, "invalid_type", "[{0}]"),
    ([], "invalid_type", "[{0}]"),
    ({"x": {"a": 1}}, "missing_field", "[{0}].y"),
    ({"x": {"a": 1}, "y": "a", "z": 1}, "unknown_field", "[{0}].z"),
    ({"x": {"a": 1}, "y": "a", "id": ""}, "invalid_id", "[{0}].id"),
    ({"x": {"a": 1}, "y": "a", "model": "nobody"}, "unknown_model", "[{0}].model"),
    ({"x": {"a": [1]}, "y": "a"}, "invalid_feature", "[{0}].x.a"),
    ({"x": {"a": 1}, "y": 1}, "label_type", "[{0}].y"),
    ({"x": {"a": 1}, "y": "a", "w": -1}, "invalid_weight", "[{0}].w"),
    ({"x": {"a": "long" * 300}, "y": "a"}, "string_too_long", "[{0}].x.a"),
    ({"x": {"a": 1e200}, "y": "a"}, "invalid_feature", "[{0}].x.a"),
]


def test_a_bad_item_is_answered_and_learning_goes_on(server: Server) -> None:
    server.create(name="bad")
    items: list[Any] = [{"x": {"a": 0}, "y": "a", "model": "bad"}]
    for i, (bad, _, _) in enumerate(BAD):
        items.append({"model": "bad", **bad} if isinstance(bad, dict) else bad)
        items.append({"x": {"a": i}, "y": "ab"[i % 2], "model": "bad"})
    answers = post(server, items)
    wrong = {i: answer["error"] for i, answer in enumerate(answers) if "error" in answer}
    assert [(i, each["code"], each["field"]) for i, each in wrong.items()] == [
        (2 * i + 1, code, field.format(2 * i + 1)) for i, (_, code, field) in enumerate(BAD)
    ]
    local = BNPClassifier(device="cpu")
    for item, answer in zip(items, answers, strict=True):
        if "error" not in answer:
            local.learn_one(item["x"], item["y"])
    assert server.fingerprint("bad")["model_sha256"] == local.fingerprint()


def test_the_items_of_an_array_may_name_different_models(server: Server) -> None:
    names = ("one", "two", "one", "two", "one")
    for name in ("one", "two"):
        server.create(name=name)
    answers = post(server, [{"x": {"a": i}, "y": i, "model": name} for i, name in enumerate(names)])
    assert [(answer["model"], answer["step"]) for answer in answers] == [
        *[("one", 1), ("two", 1), ("one", 2), ("two", 2), ("one", 3)]
    ]


@pytest.mark.parametrize(
    ("content", "status", "code", "field"),
    [
        (json.dumps([SEGMENTS[0]] * 1001).encode(), 413, "body_too_large", None),
        (b'[{"x": {"a": 1}, "y": 1}, ', 400, "invalid_json", None),
        (b'[{"x": {"a": 1}, "y": 1}, {"x": {"a": 1, "a": 2}, "y": 1}]', 400, "duplicate_key", None),
        (b'[{"x": {"a": 1}, "y": 1}, {"x": {"a": NaN}, "y": 1}]', 400, "invalid_json", "[1].x.a"),
    ],
)
def test_an_array_that_cannot_be_read_changes_nothing(
    server: Server, content: bytes, status: int, code: str, field: str | None
) -> None:
    before = server.fingerprint()
    answer = server.client.post("/learn", content=content, headers={"content-type": "application/json"})
    assert error(answer) == (status, code, field)
    assert server.fingerprint() == before
    if status == 413:
        assert f"Content-Type: {NDJSON}" in answer.text


def test_arrays_at_the_limits(server: Server) -> None:
    assert post(server, []) == []
    assert post(server, b' \n[ {"x": {"a": 1}} ]', "/predict")[0]["model"] == "default"
    server.create(name="many", hidden=[4], replay=1)
    items = [{"x": {"a": i % 7}, "y": i % 3, "model": "many"} for i in range(1000)]
    assert [answer["step"] for answer in post(server, items)] == [*range(1, 1001)]


@pytest.mark.parametrize("path", ["/api/learn/", "/models"])
def test_other_routes_take_no_array(server: Server, path: str) -> None:
    answer = server.client.post(path, json=[{"model": "default", "features": {"a": 1}, "ground_truth": 1}])
    assert answer.status_code == 422


def test_an_array_waits_for_a_queue_that_is_full(serve: Callable[..., Server]) -> None:
    server = serve(queue_size=8)
    answers: list[Any] = []
    with server.held():
        items = [{"x": {"a": i}, "y": i % 2} for i in range(40)]
        waiting = threading.Thread(target=lambda: answers.extend(post(server, items)))
        waiting.start()
        server.wait_for_queue(5)
    waiting.join()
    assert [answer["step"] for answer in answers] == [*range(1, 41)]


def test_an_answered_array_is_on_the_disk(tmp_path: Any) -> None:
    with serving(tmp_path / "data", checkpoint_every=10**9) as server:
        answers = post(
            server, [{"x": item["x"], "y": item["y"], "id": f"e-{i}"} for i, item in enumerate(SEGMENTS)]
        )
        expected = server.fingerprint()
        log = server.get("/models/default/events?limit=1000")["events"]
    assert [event["step"] for event in log if event["kind"] == "learn"] == [each["step"] for each in answers]
    for checkpoint in (tmp_path / "data").rglob("*.safetensors"):
        checkpoint.unlink()  # so that the log is replayed
    with serving(tmp_path / "data") as server:
        assert server.fingerprint() == expected


@pytest.mark.parametrize("kind", ["object", "array", "lines"])
def test_the_path_may_name_the_model(server: Server, kind: str) -> None:
    model = f"path-{kind}"
    server.create(name=model)
    sample: Json = {"x": {"a": 1}, "y": "cat"}

    def ask(action: str, body: Json) -> Json:
        path = f"/models/{model}/{action}"
        if kind == "object":
            return dict(server.client.post(path, json=body).json())
        answers = post(server, [body], path) if kind == "array" else post_lines(server, [body], path)
        return dict(answers[0])

    assert ask("learn", sample) == {**server.learn(**sample), "model": model, "step": 1} | {
        "prediction": None,
        "loss": None,
    }
    assert ask("predict", {"x": {"a": 1}, "id": "t"})["prediction"] == "cat"
    assert ask("label", {"id": "t", "y": "cat", "model": model})["step"] == 2
    refused = ask("learn", {**sample, "model": "default"})["error"]
    assert (refused["code"], refused["field"].endswith("model")) == ("invalid_request", True)
    assert error(server.client.post("/models/nobody/learn", json=sample)) == (404, "unknown_model", "model")
