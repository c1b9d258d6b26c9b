"""Frozen backbones of a server: named by requests, never by a path, and the same one after a restart."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it has no types
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

import bnp_online as bnp
from tests.support.running import Json, Server, error, serving

NAME = "digits.safetensors"
Sample = tuple[Any, int]


def digits(labels: tuple[int, ...]) -> list[Sample]:
    data = load_digits()
    pairs = zip(data.images, data.target.tolist(), strict=True)
    return [((image / 16.0)[None].astype(np.float32).tolist(), y) for image, y in pairs if y in labels]


def trained(labels: tuple[int, ...], seed: int = 0) -> nn.Module:
    """A small network that was trained to tell some digits, without its last layer."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 24),
        nn.ReLU(),
    )
    network = nn.Sequential(body, nn.Linear(24, 10))
    samples = digits(labels)
    x, y = torch.tensor([x for x, _ in samples]), torch.tensor([y for _, y in samples])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    return body


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / NAME
    bnp.save_backbone(path, trained((0, 1, 2, 3, 4)), (1, 8, 8))
    return path


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    folder = tmp_path / "backbones"
    folder.mkdir()
    (folder / NAME).write_bytes(original.read_bytes())
    return folder


def test_a_head_learns_classes_that_its_backbone_never_saw(
    serve: Callable[..., Server], folder: Path, tmp_path: Path
) -> None:
    server = serve(backbones=folder)
    made = server.create(name="digits", backbone=NAME, hidden=[16])
    backbone = bnp.load_backbone(folder / NAME)
    assert made["spec"]["backbone_sha256"] == backbone.sha256
    assert made["spec"]["input_shape"] == [1, 8, 8]
    local = bnp.BNPClassifier((16,), backbone=backbone, device="cpu")
    stream = digits((5, 6, 7, 8, 9))
    for x, y in stream[:150]:
        assert server.learn(x, y, model="digits")["prediction"] == local.predict_one(x)
        local.learn_one(x, y)
    assert server.fingerprint("digits")["model_sha256"] == local.fingerprint()
    right = sum(server.predict(x, model="digits")["prediction"] == y for x, y in stream[150:250])
    assert right > 60  # guessing is right 20 times
    content = server.client.get("/models/digits/export").content
    assert len(content) < 10 * (folder / NAME).stat().st_size
    (tmp_path / "exported").write_bytes(content)
    assert bnp.load(tmp_path / "exported", backbone=backbone).fingerprint() == local.fingerprint()
    answer = server.client.put(
        "/models/copy/import", content=content, headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 200, answer.text
    assert server.fingerprint("copy")["model_sha256"] == local.fingerprint()
    assert server.client.post("/models/digits/rollback", json={"step": 90}).status_code == 200
    before = server.fingerprint("digits")
    server.stop()
    with serving(tmp_path / "data", backbones=folder) as again:
        assert again.fingerprint("digits") == before
        assert again.fingerprint("copy")["model_sha256"] == local.fingerprint()


def stopped(serve: Callable[..., Server], folder: Path) -> Json:
    """Return the fingerprint of a model on a backbone, whose server has stopped."""
    server = serve(backbones=folder)
    server.create(name="digits", backbone=NAME, hidden=[4])
    for x, y in digits((5, 6))[:10]:
        server.learn(x, y, model="digits")
    server.learn({"a": 1}, "cat")
    found = server.fingerprint("digits")
    server.stop()
    return found


def assert_only_the_default_model_serves(server: Server) -> None:
    assert server.predict({"a": 1})["prediction"] == "cat"
    assert server.learn({"a": 2}, "dog")["step"] == 2
    answer = server.post("/predict", x=digits((5,))[0][0], model="digits")
    assert error(answer)[:2] == (503, "model_failed")
    assert server.get("/health/ready")["detail"].startswith("1 models cannot be served")
    assert server.get("/cluster")["nodes"][0]["failed"] == ["digits"]


def test_a_missing_backbone_stops_its_models_alone(
    serve: Callable[..., Server], folder: Path, tmp_path: Path, original: Path
) -> None:
    before = stopped(serve, folder)
    (folder / NAME).unlink()
    with serving(tmp_path / "data", backbones=folder) as again:
        assert_only_the_default_model_serves(again)
    (folder / NAME).write_bytes(original.read_bytes())
    with serving(tmp_path / "data", backbones=folder) as again:
        assert again.fingerprint("digits") == before
        assert again.get("/health/ready") == {"status": "ready"}


def test_another_backbone_of_the_same_name_is_refused(
    serve: Callable[..., Server], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(serve, folder)
    bnp.save_backbone(folder / NAME, trained((0, 1), seed=1), (1, 8, 8))
    with serving(tmp_path / "data", backbones=folder) as again:
        assert_only_the_default_model_serves(again)
    assert "digits.safetensors is not the backbone of the model: its digest is" in caplog.text
    assert "Put the former file back" in caplog.text


def test_a_backbone_that_is_put_back_serves_without_a_restart(
    serve: Callable[..., Server], folder: Path, tmp_path: Path
) -> None:
    before = stopped(serve, folder)
    (folder / NAME).rename(folder / "aside")
    with serving(tmp_path / "data", backbones=folder) as again:
        assert "detail" in again.get("/health/ready")
        (folder / "aside").rename(folder / NAME)
        assert again.fingerprint("digits") == before
        assert again.get("/health/ready") == {"status": "ready"}


@pytest.mark.parametrize(
    "name",
    ["../secret", "..", ".", "/etc/passwd", "a/b", "a\\b", "", "x\u0000y", ".hidden", "a" * 65, 7],
)
def test_a_path_is_no_name(serve: Callable[..., Server], folder: Path, name: Any) -> None:
    bnp.save_backbone(folder.parent / "secret", nn.Flatten(), (1, 2))
    answer = serve(backbones=folder).post("/models", name="m", backbone=name)
    assert error(answer) == (422, "invalid_spec", "backbone")


def test_a_link_out_of_the_folder_is_refused(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(backbones=folder)
    secret = folder.parent / "secret"
    bnp.save_backbone(secret, nn.Flatten(), (1, 2))
    (folder / "link").symlink_to(secret)
    (folder / "inside").symlink_to(NAME)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for name in ("link", "folder", "pipe"):
        answer = server.post("/models", name="m", backbone=name)
        assert error(answer) == (422, "invalid_spec", "backbone")
        assert "is not a file in the folder BNP_BACKBONES" in answer.json()["error"]["message"]
    server.create(name="m", backbone="inside", hidden=[4])


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"backbone": "none"}, "backbone", "has no file none (No such file or directory): it has digits"),
        ({"backbone": "text"}, "backbone", "text is no file of save_backbone"),
        ({"backbone": NAME, "backbone_sha256": "0" * 64}, "backbone", "is not the backbone of the model"),
        ({"backbone": NAME, "backbone_sha256": "0"}, "backbone_sha256", "backbone_sha256"),
        ({"backbone_sha256": "0" * 64}, "backbone_sha256", "omit it, or name one"),
        ({"backbone": NAME, "input_shape": [8, 8]}, "input_shape", "that of the backbone"),
        ({"backbone": NAME, "network": "cnn"}, "network", "use 'mlp', or a list of layers"),
        ({"backbone": NAME, "network": [{"conv": 3}]}, "network[0]", "conv needs an image"),
        ({"backbone": NAME, "text": ["a"]}, "text", "omit text or input_shape"),
        ({"backbone": NAME, "hidden": [4096] * 8}, "hidden", "BNP_MAX_PARAMETERS"),
    ],
)
def test_an_invalid_backbone_is_refused(
    serve: Callable[..., Server], folder: Path, spec: Json, field: str, words: str
) -> None:
    (folder / "text").write_text("not a backbone")
    answer = serve(backbones=folder).post("/models", name="m", **spec)
    assert error(answer) == (422, "invalid_spec", field)
    assert words in answer.json()["error"]["message"]


def test_a_server_without_a_folder_says_what_to_set(server: Server) -> None:
    answer = server.post("/models", name="m", backbone=NAME)
    assert error(answer) == (422, "invalid_spec", "backbone")
    assert "set BNP_BACKBONES" in answer.json()["error"]["message"]
