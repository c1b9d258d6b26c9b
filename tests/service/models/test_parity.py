"""A stream over HTTP and the same stream in process: equal states, and every answer equal to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import datasets

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluation.prequential import PrequentialMetrics
from tests.support.running import Json, Server

Stream = list[tuple[Any, Any]]


def written(label: Any) -> str:
    """A label as JSON writes it."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def mixed(labels: list[Any], n: int = 60) -> Stream:
    """Numbers, booleans, strings and missing values; features and classes that come later."""
    random = np.random.default_rng(7)
    stream: Stream = []
    for i in range(n):
        x: Json = {"b": float(random.normal()), "a": int(random.integers(9)), "on": bool(i % 2)}
        x["town"] = ["Oslo", "Łódź", "北京"][i % 3]
        if i > 20:
            x["late"] = None if i % 5 == 0 else float(random.normal()) * 1e-3
        stream.append((x, labels[min(int(random.integers(len(labels))), i // 10)]))
    return stream


STREAMS: dict[str, tuple[Json, Stream]] = {
    "segments": ({}, list(datasets.ImageSegments())[:100]),
    "strings": ({"hidden": [16]}, mixed(["cat", "dog", "true", "\u0000"])),
    "integers": ({"hidden": [], "lr": 1.0}, mixed([3, -1, 2**63 - 1])),
    "booleans": ({"activation": "tanh", "rho": 0.9, "seed": 5}, mixed([True, False])),
    "paper": ({"step_scale": "paper", "standardize": False}, mixed([0, 1])),
}


@pytest.mark.parametrize("name", STREAMS)
def test_classification(server: Server, name: str) -> None:
    spec, stream = STREAMS[name]
    server.create(name=name, **spec)
    local = BNPClassifier(device="cpu", **{**spec, "hidden": tuple(spec.get("hidden", (100, 100)))})
    scores = PrequentialMetrics("classification")
    for step, (x, y) in enumerate(stream, 1):
        probabilities = local.predict_proba_one(x)
        prediction = local.predict_one(x)
        predicted = server.predict(x, model=name)
        assert predicted["probabilities"] == {written(label): p for label, p in probabilities.items()}
        assert predicted["prediction"] == prediction
        assert type(predicted["prediction"]) is type(prediction)
        learned = server.learn(x, y, model=name)
        local.learn_one(x, y)
        loss = scores.update(y, prediction, probabilities)
        assert learned == {
            "model": name,
            "step": step,
            "prediction": prediction,
            "loss": loss,
            "duplicate": False,
        }
    assert server.fingerprint(name)["model_sha256"] == local.fingerprint()
    assert server.get(f"/models/{name}/metrics") == scores.report()
    assert server.get(f"/models/{name}")["classes"] == list(local.labels)
    assert server.get(f"/models/{name}")["features"] == list(local.feature_names)


def test_regression(server: Server) -> None:
    server.create(name="chicks", task="regression")
    local = BNPRegressor(device="cpu")
    scores = PrequentialMetrics("regression")
    for x, y in list(datasets.ChickWeights())[:80]:
        prediction = local.predict_one(x) if local.step else None  # River: 0.0 before the first target
        predicted = server.predict(x, model="chicks")
        assert predicted["prediction"] == prediction
        assert "probabilities" not in predicted
        local.learn_one(x, y, w=0.5)
        loss = scores.update(float(y), prediction)
        learned = server.learn(x, y, model="chicks", w=0.5)
        assert (learned["prediction"], learned["loss"]) == (prediction, loss)
    assert server.fingerprint("chicks")["model_sha256"] == local.fingerprint()
    assert server.get("/models/chicks/metrics") == scores.report()


def test_images(server: Server) -> None:
    server.create(name="images", network="cnn", input_shape=[1, 8, 8])
    local = BNPClassifier(network="cnn", input_shape=(1, 8, 8), device="cpu")
    random = np.random.default_rng(0)
    for i in range(12):
        image = random.normal(size=(1, 8, 8)).tolist()
        predicted = server.predict(image, model="images")
        assert list(predicted["probabilities"].values()) == list(local.predict_proba_one(image).values())
        server.learn(image, i % 3, model="images")
        local.learn_one(image, i % 3)
    assert server.fingerprint("images")["model_sha256"] == local.fingerprint()


def test_labels_that_come_later(server: Server) -> None:
    server.create(name="later", hidden=[16])
    local = BNPClassifier(hidden=(16,), device="cpu")
    scores = PrequentialMetrics("classification")
    waiting: list[tuple[str, Any, Any, dict[Any, float], Any, Any]] = []
    for i, (x, y) in enumerate(mixed(["cat", "dog", "cow"])):
        given, probabilities = local.predict_one(x), dict(local.predict_proba_one(x))
        server.predict(x, model="later", id=f"t-{i}")
        waiting.append((f"t-{i}", x, y, probabilities, given, local.predict_experts_one(x)))
        if i % 4 == 3:  # and not in the order of the predictions
            for identifier, past, target, proba, prediction, experts in reversed(waiting):
                answer = server.label(identifier, target, model="later")
                local.learn_one(past, target, given=experts)
                loss = scores.update(target, prediction, proba)
                assert (answer["prediction"], answer["loss"]) == (prediction, loss)
                assert answer["step"] == local.step
            waiting.clear()
    assert server.fingerprint("later")["model_sha256"] == local.fingerprint()
    assert server.get("/models/later/metrics") == scores.report()


def test_equal_streams_have_equal_fingerprints(server: Server) -> None:
    server.create(name="one", hidden=[8])
    server.create(name="two", hidden=[8])
    for x, y in mixed(["cat", "dog"], 30):
        server.learn(x, y, model="one")
        # The order of the keys and predictions in between change nothing.
        server.predict(x, model="two", id=f"{x}"[:100])
        server.learn(dict(reversed(x.items())), y, model="two")
    assert server.fingerprint("one") == server.fingerprint("two")


def test_the_fingerprint_covers_the_metrics(server: Server) -> None:
    server.create(name="learned", hidden=[8])
    server.create(name="labelled", hidden=[8])
    stream = mixed(["cat", "dog"], 20)
    for i, (x, _) in enumerate(stream):
        server.predict(x, model="labelled", id=str(i))
    for i, (x, y) in enumerate(stream):
        server.learn(x, y, model="learned")
        server.label(str(i), y, model="labelled")
    learned, labelled = server.fingerprint("learned"), server.fingerprint("labelled")
    assert learned["model_sha256"] == labelled["model_sha256"]
    assert learned["sha256"] != labelled["sha256"]  # one was scored, the other had predicted nothing
