"""`POST /explain` and the novelty of predictions, through a real socket."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from bnp_online.client import Client
from bnp_online.client.errors import InvalidSampleError
from tests.support.running import Json, Server
from tests.support.streaming import post_lines

SPEC = {"hidden": [4], "replay": 1, "memory": 100}
XS: list[Json] = [{"a": i % 5 - 2.0, "b": i % 3, "c": "xyz"[i % 3]} for i in range(90)]


def taught(server: Server, **spec: Any) -> Server:
    """Let a server learn 90 samples, whose class depends on one feature."""
    server.create(name="m", **{**SPEC, **spec})
    regression = spec.get("task") == "regression"
    targets = [x["a"] if regression else "yes" if x["a"] > 0 else "no" for x in XS]
    post_lines(server, [{"x": x, "y": y, "model": "m"} for x, y in zip(XS, targets, strict=True)])
    return server


def ask(server: Server, path: str, **body: Any) -> Json:
    answer: Json = server.post(path, **body).json()
    return answer


def additive(found: Json) -> bool:
    total = found["baseline"] + sum(found["contributions"].values())
    return bool(total == pytest.approx(found["output"], abs=1e-9))


def test_an_explanation_adds_up_to_the_prediction(serve: Callable[..., Server]) -> None:
    server = taught(serve())
    before = server.fingerprint("m")
    x = {"a": 2.0, "b": 1, "c": "y"}
    found = ask(server, "/explain", x=x, model="m")
    predicted = ask(server, "/predict", x=x, model="m")
    assert found["prediction"] == predicted["prediction"] == found["label"] == "yes"
    assert (found["model"], found["step"]) == ("m", 90)
    p = predicted["probabilities"]["yes"]
    assert found["output"] == pytest.approx(math.log(p / (1.0 - p)))
    assert found["contributions"].keys() == x.keys()
    assert additive(found)
    assert max(found["contributions"].items(), key=lambda each: float(each[1]))[0] == "a"
    assert ask(server, "/models/m/explain", x=x) == found
    other = ask(server, "/explain", x=x, model="m", label="no")
    assert (other["prediction"], other["label"]) == ("yes", "no")
    assert other["output"] == pytest.approx(-found["output"])
    assert server.fingerprint("m") == before


def test_a_regression_is_explained_in_its_unit(serve: Callable[..., Server]) -> None:
    server = taught(serve(), task="regression")
    found = ask(server, "/explain", x=XS[4], model="m")
    assert "label" not in found
    assert found["output"] == found["prediction"]
    assert additive(found)
    unknown = ask(server, "/explain", x={**XS[4], "new": 1.0}, model="m")
    assert unknown.pop("unknown") == ["new"]
    assert unknown == found


def test_an_untrained_model_explains_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", **SPEC)
    empty = {"model": "m", "step": 0, "prediction": None, "label": None}
    empty |= {"output": 0.0, "baseline": 0.0, "contributions": {}, "unknown": ["a"]}
    assert ask(server, "/explain", x={"a": 1.0}, model="m") == empty


def test_an_array_of_the_input_shape(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", **{**SPEC, "input_shape": [2, 2]})
    for i in range(20):
        server.post("/learn", x=[[i % 5, 0], [0, 1]], y=i % 5 > 2, model="m")
    found = ask(server, "/explain", x=[[4, 0], [0, 1]], model="m")
    ((first, *rest), others) = found["contributions"]
    assert found["baseline"] + first + sum(rest) + sum(others) == pytest.approx(found["output"], abs=1e-9)


def test_arrays_and_lines_have_an_answer_for_each_item(serve: Callable[..., Server]) -> None:
    server = taught(serve())
    items: list[Any] = [
        {"x": XS[0], "model": "m"},
        {"x": {"a": [1]}, "model": "m"},
        {"x": XS[1], "model": "no"},
    ]
    one, bad, unknown = server.client.post("/explain", json=items).json()
    assert one == ask(server, "/explain", **items[0])
    assert (bad["error"]["code"], bad["error"]["field"]) == ("invalid_feature", "[1].x.a")
    assert unknown["error"]["code"] == "unknown_model"
    body = "\n".join(map(json.dumps, items))
    head = {"content-type": "application/x-ndjson"}
    lines = server.client.post("/explain", content=body, headers=head).text.splitlines()
    assert json.loads(lines[0]) == one
    assert [json.loads(line)["error"]["code"] for line in lines[1:]] == ["invalid_feature", "unknown_model"]
    many = server.client.post("/explain", json=[items[0]] * 1001)
    assert (many.status_code, many.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"x": {"a": 1.0}, "model": "no"}, 404, "unknown_model", "model"),
        ({"x": {"a": [1]}, "model": "m"}, 422, "invalid_feature", "x.a"),
        ({"x": {"a": 1.0}, "model": "m", "label": "maybe"}, 422, "unknown_class", "label"),
        ({"x": {"a": 1.0}, "model": "m", "label": 1.5}, 422, "invalid_type", "label"),
        ({"x": {"a": 1.0}, "top": 3}, 422, "unknown_field", "top"),
        ({"model": "m"}, 422, "missing_field", "x"),
    ],
)
def test_what_is_wrong_is_named(
    serve: Callable[..., Server], body: Json, status: int, code: str, field: str
) -> None:
    server = taught(serve())
    answer = server.client.post("/explain", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)


def test_a_class_is_named_as_in_json(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="truths", hidden=[4])
    server.learn({"a": 1}, True, model="truths")
    server.create(name="prices", task="regression", hidden=[4])
    server.learn({"a": 1}, 1.5, model="prices")

    def refused(model: str, label: Any) -> str:
        return str(server.post("/explain", x={"a": 1}, model=model, label=label).json()["error"]["message"])

    assert refused("truths", 1) == "label: 1 is not a class of the model: its classes are [true]"
    assert refused("prices", True) == (
        "label: is true, but the model is a regression, without classes: leave label out"
    )


def test_methods_and_sizes(serve: Callable[..., Server]) -> None:
    server = serve(max_body_bytes=2000)
    for method in ("GET", "HEAD", "PUT"):
        assert server.client.request(method, "/explain").status_code == 405
    large = server.client.post("/explain", json={"x": {"a" * 3000: 1.0}})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


def test_the_novelty_is_told_on_request(serve: Callable[..., Server]) -> None:
    server = taught(serve())
    assert "novelty" not in ask(server, "/predict", x=XS[0], model="m")
    assert "novelty" not in ask(server, "/predict", x=XS[0], model="m", novelty=False)
    ordinary = ask(server, "/predict", x=XS[0], model="m", novelty=True)
    strange = ask(server, "/predict", x={**XS[0], "b": 1e6}, model="m", novelty=True)
    assert strange["novelty"] < 0.05 < ordinary["novelty"] <= 1.0
    kept = ask(server, "/predict", x=XS[0], model="m", novelty=True, id="t-1")
    assert kept["novelty"] == ordinary["novelty"]
    assert ask(server, "/predict", x=XS[0], model="m", id="t-1") == kept
    [first, second] = server.client.post(
        "/predict",
        json=[{"x": XS[0], "model": "m", "novelty": True}, {"x": XS[0], "model": "m", "id": "t-2"}],
    ).json()
    assert first["novelty"] == ordinary["novelty"]
    assert "novelty" not in second
    wrong = server.client.post("/predict", json={"x": XS[0], "model": "m", "novelty": 1})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "novelty")


def test_the_client_explains(serve: Callable[..., Server]) -> None:
    server = taught(serve())
    with Client(server.url) as client:
        found = client.explain(XS[2], model="m")
        assert found.contributions == ask(server, "/explain", x=XS[2], model="m")["contributions"]
        assert client.explain(XS[2], model="m", label="no").label == "no"
        assert client.predict_one(XS[2], model="m", novelty=True).novelty is not None
        assert client.predict_one(XS[2], model="m").novelty is None
        with pytest.raises(InvalidSampleError):
            client.explain(XS[2], model="m", label="maybe")
