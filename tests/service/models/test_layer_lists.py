"""Networks without code: a list of layers in a specification over HTTP, from creation to recovery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it has no types

import bnp_online as bnp
from bnp_online.client import Client
from tests.support.running import Json, Server, error, serving

LAYERS: list[Any] = [
    {"conv": 8, "kernel": 3},
    "relu",
    {"pool": 2},
    {"residual": [{"conv": 8}, {"norm": "group", "groups": 2}, "relu"]},
    "flatten",
    {"dense": 16},
    "relu",
]
SPEC: Json = {"network": LAYERS, "input_shape": [8, 8], "seed": 3}


def digits(count: int, start: int = 0) -> list[tuple[Any, int]]:
    data = load_digits()
    return [(data.images[i].tolist(), int(data.target[i])) for i in range(start, start + count)]


def test_a_model_of_layers_is_created_learns_and_is_restored(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(checkpoint_every=100)
    made = server.create(name="digits", **SPEC)
    assert made["spec"]["network"] == LAYERS
    assert made["engine"] == "torch"
    local = bnp.BNPClassifier(**SPEC, device="cpu")
    for x, y in digits(250):
        assert server.learn(x, y, model="digits")["prediction"] == local.predict_one(x)
        local.learn_one(x, y)
    assert server.fingerprint("digits")["model_sha256"] == local.fingerprint()
    assert server.get("/models/digits")["parameters"] == local.num_parameters
    late = digits(200, 250)
    right = sum(server.predict(x, model="digits")["prediction"] == y for x, y in late)
    assert right > 100  # guessing is right 20 times
    assert server.client.post("/models/digits/rollback", json={"step": 180}).status_code == 200
    at_180 = server.fingerprint("digits")
    server.stop()
    with serving(tmp_path / "data") as again:
        assert again.get("/models/digits")["spec"]["network"] == LAYERS
        assert again.fingerprint("digits") == at_180
        x, y = late[0]
        assert again.learn(x, y, model="digits")["step"] == 181


def test_a_model_of_layers_moves_between_server_and_library(server: Server, tmp_path: Path) -> None:
    local = bnp.BNPClassifier(**SPEC, device="cpu")
    for x, y in digits(20):
        local.learn_one(x, y)
    local.save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    headers = {"content-type": "application/octet-stream"}
    answer = server.client.put("/models/moved/import", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["network"] == LAYERS
    assert server.fingerprint("moved")["model_sha256"] == local.fingerprint()
    x, y = digits(1, 20)[0]
    server.learn(x, y, model="moved")
    local.learn_one(x, y)
    (tmp_path / "back").write_bytes(server.client.get("/models/moved/export").content)
    assert bnp.load(tmp_path / "back").fingerprint() == local.fingerprint()


def test_the_client_creates_one(server: Server) -> None:
    with Client(server.url) as client:
        created = client.create("by-client", "regression", network=LAYERS, input_shape=[8, 8])
        assert created.spec.network == LAYERS


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"network": [{"conv": 8}, "rleu"]}, "network[1]", "did you mean 'relu'?"),
        ({"network": ["relu", {"residual": [{"dense": 8}]}]}, "network[1].residual[0]", 'put "flatten"'),
        ({"network": [{"conv": 8, "kernel": 0}]}, "network[0].kernel", "must be an integer from 1"),
        ({"network": []}, "network", "must be a list of layers"),
        ({"network": [[["relu"]]]}, "network[0]", "must be a layer"),
        ({"network": "resnet"}, "network", "must be"),
        ({"network": {"dense": 3}}, "network", "must be"),
        ({"input_shape": None}, "network", "needs input_shape"),
        ({"network": ["flatten", {"dense": 60000}, {"dense": 60000}]}, "network", "3604080002 weights"),
    ],
)
def test_an_invalid_list_is_refused_and_the_layer_is_named(
    server: Server, changes: Json, field: str, words: str
) -> None:
    spec = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
    answer = server.post("/models", name="refused", max_classes=2, **spec)
    assert error(answer) == (422, "invalid_spec", field)
    assert words in answer.json()["error"]["message"]
    assert server.client.get("/models/refused").status_code == 404


def test_an_upgrade_has_nothing_to_do(server: Server) -> None:
    server.create(name="old", learner=1, **SPEC)
    answer = server.client.post("/models/old/upgrade")
    assert error(answer)[:2] == (422, "invalid_spec")
    assert "nothing to upgrade" in answer.json()["error"]["message"]
    assert "conv" not in answer.json()["error"]["message"]
