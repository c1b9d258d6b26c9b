"""Frozen backbones: files of exported programs, and heads that learn on their features."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnp_online as bnp
from bnp_online import checkpoint
from bnp_online.backbone import Backbone, load_backbone, save_backbone
from bnp_online.errors import BackboneError, ConfigurationError, NonFiniteStateError

SHAPE = (1, 6, 6)


class Small(nn.Module):
    """Operations that change their arguments, a constant, two uses of a value, attention, and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(12, 6)
        self.shift: Tensor
        self.register_buffer("shift", torch.linspace(-1.0, 1.0, 36).view(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu(self.norm(self.conv(x + self.shift)), inplace=True)
        h = nn.functional.dropout(h, 0.5, self.training)
        rows = h.flatten(2).mT
        h = h + nn.functional.scaled_dot_product_attention(rows, rows, rows).mT.view(h.shape)
        a, b = torch.split(h, [2, 4], 3)
        out: Tensor = torch.cat(
            [a.mean((2, 3)), b.amax((2, 3)), nn.functional.max_pool2d(h, 6).flatten(1)], 1
        )
        return torch.nn.functional.gelu(self.dense(out))


def module(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    small = Small()
    small.train()(torch.randn(32, *SHAPE))  # the normalization has statistics
    return small


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbones") / "small.safetensors"
    save_backbone(path, module(), SHAPE)
    return path


def rows(count: int, seed: int = 0) -> list[tuple[Any, int]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count).tolist()
    images = rng.normal(size=(count, *SHAPE)).astype(np.float32).astype(np.float64)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 2.0
    return list(zip(images, labels, strict=True))


def test_a_file_computes_what_the_module_does(saved: Path) -> None:
    original = module()
    backbone = load_backbone(saved)
    assert (backbone.input_shape, backbone.features, backbone.name) == (SHAPE, 6, "small.safetensors")
    run = backbone.on("cpu")
    torch.manual_seed(1)
    for _ in range(5):
        x = torch.randn(1, *SHAPE)
        torch.testing.assert_close(run(x), original.eval()(x).detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(run(x), run(x))


def test_saving_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    original = module()
    before = copy.deepcopy(original.state_dict())
    original.norm.eval()
    save_backbone(tmp_path / "a", original, SHAPE)
    assert original.training
    assert not original.norm.training
    assert all(torch.equal(before[name], value) for name, value in original.state_dict().items())


def test_equal_modules_have_equal_digests(saved: Path, tmp_path: Path) -> None:
    same = save_backbone(tmp_path / "same", module(), SHAPE)
    other = save_backbone(tmp_path / "other", module(1), SHAPE)
    assert same.sha256 == load_backbone(saved).sha256 != other.sha256


def test_a_head_learns_as_a_model_of_the_features(saved: Path) -> None:
    backbone = load_backbone(saved)
    model = bnp.BNPClassifier((8,), backbone=backbone, seed=4)
    head = bnp.BNPClassifier((8,), input_shape=(6,), seed=4)
    run, right = backbone.on("cpu"), 0
    for i, (x, y) in enumerate(rows(200)):
        features = run(torch.from_numpy(x[None]).float())[0].double().numpy()
        if i:
            assert model.predict_proba_one(x) == head.predict_proba_one(features)
        right += i >= 100 and model.predict_one(x) == y
        model.learn_one(x, y)
        head.learn_one(features, y)
    assert model.fingerprint() == head.fingerprint()
    assert model.mixture == head.mixture
    assert model.num_parameters == head.num_parameters
    assert right > 60  # guessing is right 33 times


def test_many_rows_are_the_loop_to_the_last_bit(saved: Path) -> None:
    one, many = (bnp.BNPRegressor((5,), lr=0.1, backbone=load_backbone(saved)) for _ in range(2))
    samples = rows(30)
    for x, y in samples:
        one.learn_one(x, float(y))
    many.learn_many([x for x, _ in samples], [float(y) for _, y in samples])
    assert many.fingerprint() == one.fingerprint()


def test_a_head_may_be_a_list_of_layers(saved: Path) -> None:
    model = bnp.BNPClassifier(network=[{"dense": 7}, "relu"], backbone=load_backbone(saved))
    for x, y in rows(5):
        model.learn_one(x, y)
    assert (model.engine_name, model.predict_one(rows(1)[0][0]) in (0, 1, 2)) == ("torch", True)
    with pytest.raises(ConfigurationError, match=r"network\[0\]: conv needs an image"):
        bnp.BNPClassifier(network=[{"conv": 7}, "flatten"], backbone=load_backbone(saved))


def test_a_saved_model_needs_the_same_backbone(saved: Path, tmp_path: Path) -> None:
    backbone = load_backbone(saved)
    model = bnp.BNPClassifier((8,), backbone=backbone)
    for x, y in rows(20):
        model.learn_one(x, y)
    model.save(tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < 2**20
    with pytest.raises(BackboneError, match=r"pass backbone=load_backbone\('small.safetensors'\)"):
        bnp.load(tmp_path / "model")
    other = save_backbone(tmp_path / "small.safetensors", module(1), SHAPE)
    with pytest.raises(BackboneError, match="is not the backbone of the model"):
        bnp.load(tmp_path / "model", backbone=other)
    loaded = bnp.load(tmp_path / "model", backbone=backbone)
    unpickled = pickle.loads(pickle.dumps(model))  # noqa: S301 (made here)
    for copied in (loaded, unpickled, copy.deepcopy(model)):
        assert copied.fingerprint() == model.fingerprint()
        copied.learn_one(*rows(1)[0])
    assert loaded.fingerprint() != model.fingerprint()
    assert model.clone().backbone is backbone


def test_features_that_are_not_finite_change_nothing(saved: Path) -> None:
    model = bnp.BNPClassifier((4,), backbone=load_backbone(saved))
    for x, y in rows(10):
        model.learn_one(x, y)
    before = model.fingerprint()
    huge = np.full(SHAPE, 1e60)
    with pytest.raises(NonFiniteStateError):
        model.learn_one(huge, 1)
    with pytest.raises(NonFiniteStateError):
        model.predict_one(huge)
    assert model.fingerprint() == before


def test_a_missing_value_is_zero(saved: Path) -> None:
    model = bnp.BNPClassifier((4,), backbone=load_backbone(saved))
    for x, y in rows(10):
        model.learn_one(x, y)
    image = rows(1)[0][0]
    holes, zeros = image.tolist(), image.copy()
    holes[0][1][1], zeros[0, 1, 1] = None, 0.0
    assert model.predict_proba_one(holes) == model.predict_proba_one(zeros)


def test_shapes_that_do_not_fit_are_refused(saved: Path) -> None:
    backbone = load_backbone(saved)
    with pytest.raises(ConfigurationError, match="input_shape: must be"):
        bnp.BNPClassifier(backbone=backbone, input_shape=(6, 6))
    with pytest.raises(ConfigurationError, match="use 'mlp', or a list of layers"):
        bnp.BNPClassifier(backbone=backbone, network="cnn")
    with pytest.raises(ConfigurationError, match="backbone: must be"):
        bnp.BNPClassifier(backbone="small.safetensors")  # type: ignore[arg-type]


# --- files that are none


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"cannot read none\.safetensors: No such file"):
        load_backbone(tmp_path / "none.safetensors")


class Trap:
    """An object whose unpickling leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "trap.safetensors").write_bytes(pickle.dumps(Trap(trace)))
    torch.save({"weight": Trap(trace)}, tmp_path / "model.pt2")
    for name in ("trap.safetensors", "model.pt2"):
        with pytest.raises(BackboneError, match="is no file of save_backbone"):
            load_backbone(tmp_path / name)
    assert not trace.exists()


def test_an_archive_of_torch_export_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.Flatten(), (torch.zeros(1, *SHAPE),))
    torch.export.save(program, tmp_path / "flat.pt2")
    with pytest.raises(BackboneError, match=r"A \.pt2 archive has pickled parts"):
        load_backbone(tmp_path / "flat.pt2")


def test_the_file_of_a_model_is_no_backbone(tmp_path: Path) -> None:
    model = bnp.BNPClassifier((4,), input_shape=(2,))
    model.learn_one([0.0, 1.0], "a")
    model.save(tmp_path / "model")
    with pytest.raises(BackboneError, match="has a model, not a backbone"):
        load_backbone(tmp_path / "model")


def node(op: str, *args: Any) -> dict[str, Any]:
    return {"op": op, "args": list(args)}


INPUT = {"node": 0}
FLAT = node("flatten.using_ints", INPUT, 1)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("from_file.default", "/etc/passwd")], "the operation 'from_file.default' is not supported"),
        ([node("__import__", "os")], "is not supported"),
        ([node("relu_.default", INPUT)], "is not supported"),
        ([node("rand_like.default", INPUT)], "is not supported"),
        ([node("dropout.default", INPUT, 0.5, True)], "is not supported"),
        ([node("conv2d.default", INPUT)], "is damaged"),
        ([node("relu.default", {"node": 5})], "is damaged"),
        ([node("relu.default", {"tensor": "none"})], "is damaged"),
        ([node("relu.default", {"other": 1})], "is damaged"),
        (
            [node("batch_norm.default", INPUT, None, None, None, None, True, 0.1, 1e-5, False)],
            "training mode",
        ),
        (["relu"], "is damaged"),
        ([node("relu.default", INPUT)], "must map (1, *input_shape) to a tensor of shape (1, features)"),
    ],
)
def test_a_program_made_by_hand_is_checked(nodes: list[Any], words: str, tmp_path: Path) -> None:
    about = {"input_shape": list(SHAPE), "nodes": nodes, "output": len(nodes)}
    checkpoint.save(tmp_path / "x", {"backbone": about, "tensors": {}})
    with pytest.raises(BackboneError) as caught:
        load_backbone(tmp_path / "x")
    assert words in caught.value.message


def test_a_file_is_json_and_numbers(saved: Path) -> None:
    state = checkpoint.load(saved)
    assert json.loads(json.dumps(state["backbone"]))["input_shape"] == list(SHAPE)
    assert Backbone(state["backbone"], state["tensors"], "x").features == 6


def test_a_module_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + torch.rand(())

    class Forked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if bool(x.sum() > 0) else -x.flatten(1)

    for kind, words in ((Random, "which is not supported"), (Forked, "torch.export cannot export")):
        with pytest.raises(BackboneError, match=words):
            save_backbone(tmp_path / "x", kind(), SHAPE)
    assert not (tmp_path / "x").exists()


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"module: must be a torch\.nn\.Module, not dict"):
        bnp.save_backbone(tmp_path / "none.safetensors", {}, (2,))  # type: ignore[arg-type]  # a weights file
