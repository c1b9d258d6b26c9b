"""Estimators on a simulated GPU: loading elsewhere, lack of memory, and calls with many rows."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnp_online as bnp
from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError, DeviceMemoryError, checkpoint
from tests.support.engines import GPUS
from tests.support.simulated_cuda import SimulatedGPU, host_waits, simulated_cuda

Model = BNPClassifier | BNPRegressor


def sample(i: int, columns: int = 3) -> tuple[dict[str, float], int]:
    rng = random.Random(i)  # noqa: S311
    x = {f"f{j}": rng.gauss(0.0, 1.0) for j in range(columns)}
    return x, int(x["f0"] > x["f1"])


def learned(count: int, **options: Any) -> BNPClassifier:
    model = BNPClassifier((5,), replay=1, memory=40, **options)
    for i in range(count):
        model.learn_one(*sample(i))
    return model


def test_a_model_of_a_gpu_opens_where_there_is_none(tmp_path: Path) -> None:
    """As a file and as a pickle, and back; the state has equal bits."""
    path = tmp_path / "model"
    with simulated_cuda():
        saved = learned(12, device="cuda:1")
        assert (saved.device_name, saved.engine_name) == ("cuda:1", "torch")
        saved.save(path)
        pickled, state = pickle.dumps(saved), saved.fingerprint()
        assert bnp.load(path).device_name == "cuda:1"
        assert bnp.load(path, device="cuda").device_name == "cuda:0"
    with (
        simulated_cuda(count=1),
        pytest.warns(UserWarning, match="saved on cuda:1, which this machine does not"),
    ):
        assert bnp.load(path).device_name == "cpu"  # auto: a small network
    for read in (lambda: bnp.load(path), lambda: pickle.loads(pickled)):  # noqa: S301 (our own)
        with pytest.warns(UserWarning, match="saved on cuda:1, which this machine does not have"):
            model = read()
        assert (model.device_name, model.engine_name) == ("cpu", "numba")
        assert model.fingerprint() == state
        model.learn_one(*sample(12))
    with pytest.raises(ConfigurationError, match="torch sees no CUDA device"):
        bnp.load(path, device="cuda")
    here = bnp.load(path, device="cpu")
    here.save(path)
    with simulated_cuda():
        assert bnp.load(path).device_name == "cpu"
        moved = bnp.load(path, device="cuda")
        assert (moved.device_name, moved.fingerprint()) == ("cuda:0", state)
        assert checkpoint.load(path)["device"] == "cpu"


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cuda:123", "cuda1", "gpu", "CUDA"])
def test_a_device_has_a_name_of_torch(device: str) -> None:
    with pytest.raises(ConfigurationError, match="'cuda:0', 'cuda:1'") as refused:
        BNPClassifier(device=device)
    assert refused.value.field == "device"


@pytest.mark.simulated
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_a_sample_for_which_there_is_no_memory_changes_nothing(
    kind: type[Model], simulated_gpu: SimulatedGPU
) -> None:
    model, twin = (kind((5,), replay=1, memory=40, device="cuda") for _ in range(2))
    wide = {f"new {i}": 1.0 for i in range(60)}
    for each in (model, twin):
        for i in range(9):
            each.learn_one(*sample(i))
        each.learn_samples([each.preview().check(*sample(9))])  # a graph of its own
    before = model.fingerprint()
    simulated_gpu.exhausted = True
    many = [wide, *(sample(i)[0] for i in range(10, 14))]
    calls: list[Callable[[], None]] = [
        lambda: model.learn_one(wide, 1),
        lambda: model.learn_many(many[::-1], [1] * 5),
        lambda: model.learn_sample(model.preview().check(wide, 1)),
    ]
    for call in calls:
        with pytest.raises(DeviceMemoryError):
            call()
        assert model.fingerprint() == before
    preview = model.preview()
    outcomes = model.learn_samples(
        [preview.check(*sample(10)), preview.check(wide, 1), preview.check(*sample(11))]
    )
    assert [type(each) for each in outcomes][1:] == [DeviceMemoryError]  # it ends there
    assert model.step == 11
    simulated_gpu.exhausted = False
    twin.learn_one(*sample(10))
    for each in (model, twin):
        each.learn_one(wide, 1)
        each.learn_one(*sample(11))
    assert model.fingerprint() == twin.fingerprint()


@pytest.mark.simulated
def test_columns_for_which_there_is_no_memory_are_added_before_the_next_sample(
    simulated_gpu: SimulatedGPU,
) -> None:
    """Numbers with heavy tails need them after a 50th sample; the models are equal afterwards."""

    def heavy(i: int) -> dict[str, float]:
        rng = random.Random(i)  # noqa: S311
        return {f"f{j}": rng.gauss(0.0, 1.0) * 10.0 ** rng.choice([0, 0, 0, 3]) for j in range(30)}

    model, twin = (BNPClassifier((4,), replay=0, memory=30, lr=0.1, device="cuda") for _ in range(2))
    grown = None
    for i in range(400):
        simulated_gpu.exhausted = i % 50 == 49
        model.learn_one(heavy(i), i % 2)
        simulated_gpu.exhausted = False
        before = len(twin.feature_names)
        twin.learn_one(heavy(i), i % 2)
        if len(twin.feature_names) > before > 0:
            grown = i
            break
    assert grown is not None
    assert len(model.feature_names) < len(twin.feature_names)
    before_next = model.step
    simulated_gpu.exhausted = True
    with pytest.raises(DeviceMemoryError):
        model.learn_one(heavy(grown + 1), 0)
    assert model.step == before_next
    simulated_gpu.exhausted = False
    for each in (model, twin):
        each.learn_one(heavy(grown + 1), 0)
    assert model.fingerprint() == twin.fingerprint()


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_many_predictions_are_those_of_a_loop(kind: type[Model], device: str) -> None:
    model = kind((5,), replay=1, memory=40, device=device)
    rows = [sample(i)[0] for i in range(8)]
    assert len(model.predict_many(rows)) == 8  # before the first label
    for i in range(15):
        model.learn_one(*sample(i))
    rows[2] = {"f0": None, "unknown": 1.0}  # type: ignore[dict-item]  # a missing value
    assert model.predict_many(rows) == [model.predict_one(x) for x in rows]
    assert model.predict_many([]) == []
    if isinstance(model, BNPClassifier):
        assert model.predict_proba_many(rows) == [model.predict_proba_one(x) for x in rows]
    with pytest.raises(bnp.SampleError, match="row 1"):
        model.predict_many([rows[0], {"f0": float("inf")}])


@pytest.mark.simulated
def test_calls_with_many_rows_wait_once_for_the_gpu() -> None:
    model = BNPClassifier((5,), lr=0.1, input_shape=(4,), device="cuda")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), [0, 1] * 10
    model.learn_many(x, y)
    with host_waits() as waits:
        model.learn_many(x, y)  # its copy of the state stays on the GPU
    assert len(waits) == 1
    with host_waits() as waits:
        model.predict_many(x)
    assert len(waits) == 1
