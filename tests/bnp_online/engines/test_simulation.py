"""The simulation of CUDA graphs finds faults that plain calls of the same functions do not show."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bnp_online import DeviceLostError, DeviceMemoryError
from bnp_online.engines import cuda_graph, devices, mlp_ensemble
from bnp_online.engines.cuda_graph import GraphPool
from bnp_online.engines.devices import Activity
from bnp_online.engines.mlp_ensemble import MLPEnsemble
from bnp_online.engines.torch_engine import TorchEngine
from bnp_online.engines.torch_runner import StepRunner
from bnp_online.engines.torch_step import RowStep
from bnp_online.errors import ConfigurationError
from tests.bnp_online.engines.test_torch import MLP, fingerprint, made, stream
from tests.support.simulated_cuda import SimulatedGPU, simulated_cuda

SPEC = replace(MLP, lr=0.1)
_divisor = MLPEnsemble._divisor
_upload = StepRunner._upload


def row_counted_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the row stays that of the capture."""

    def upload(self: Any, *given: Any) -> None:
        _upload(self, *given)
        self.row = 0

    @torch.no_grad()
    def learn(self: Any, *, predict: bool, given: Tensor | None = None) -> None:
        row = getattr(self, "row", 0) % self.rows
        self.row = row + 1
        result = self.step.learn(self._rows[row], predict=predict)
        self._results[row, : len(result)] = result

    monkeypatch.setattr(StepRunner, "_upload", upload)
    monkeypatch.setattr(StepRunner, "_learn", learn)


def weight_computed_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a new sample in the moments is a number of Python."""
    weights: dict[int, float] = {}

    def advance(counts: Tensor, most: float) -> tuple[Tensor, Tensor]:
        weight = weights[counts.data_ptr()] = min(weights.get(counts.data_ptr(), 1.0) + 1.0, most)
        after = counts.new_full(counts.shape[:-1], weight)
        return after.reciprocal(), torch.stack([after, counts.unbind(-1)[1] * 0.5], -1)

    monkeypatch.setattr(mlp_ensemble, "advance", advance)


def value_kept_from_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that depends on the sample is computed once."""

    def divisor(self: Any, *given: Any) -> Tensor:
        if not hasattr(self, "kept"):
            self.kept = _divisor(self, *given)
        kept: Tensor = self.kept
        return kept

    monkeypatch.setattr(MLPEnsemble, "_divisor", divisor)


def value_read_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def divisor(self: Any, *given: Any) -> Tensor:
        found = _divisor(self, *given)
        return found * float(found.sum() * 0.0 + 1.0)

    monkeypatch.setattr(MLPEnsemble, "_divisor", divisor)


def tensor_made_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def divisor(self: Any, *given: Any) -> Tensor:
        return _divisor(self, *given) * torch.tensor(1.0)

    monkeypatch.setattr(MLPEnsemble, "_divisor", divisor)


def learned(device: str) -> str:
    engine = made(SPEC, TorchEngine, device=device)
    done = [engine.learn(*stream(SPEC, 30, seed=seed))[0] for seed in (0, 1)]
    return f"{done} {fingerprint(engine)}"


@pytest.mark.simulated
@pytest.mark.parametrize(
    "plant",
    [row_counted_by_the_host, weight_computed_by_the_host, value_kept_from_the_warm_up],
    ids=lambda plant: plant.__name__,
)
def test_a_replay_shows_what_the_host_decided(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called, the function with the fault is deterministic; replayed, it computes something else."""
    assert learned("cpu") == learned("cuda")
    plant(monkeypatch)
    assert learned("cpu") != learned("cuda")


@pytest.mark.simulated
@pytest.mark.parametrize(
    "plant", [value_read_by_the_host, tensor_made_by_the_host], ids=lambda plant: plant.__name__
)
def test_a_capture_refuses_what_needs_the_host(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learned("cpu")
    plant(monkeypatch)
    assert learned("cpu") == expected
    with pytest.raises(ConfigurationError, match="capturing"):
        learned("cuda")


# --- workspaces of cuBLAS


def learn_beside_other_models(gpu: SimulatedGPU) -> None:
    """A model learns and predicts while others come and go, whose graphs are destroyed."""
    small = replace(SPEC, hidden=(6,))
    stable, rows = made(small, TorchEngine, device="cuda"), stream(small, 4)
    stable.learn(*rows)
    gc.freeze()  # a collection visits only what follows
    try:
        for _ in range(34):  # a device has 32 streams
            made(small, TorchEngine, device="cuda").learn(*rows)
            gc.collect()
            stable.learn(*rows)
            stable.predict(rows[0][0])
    finally:
        gc.unfreeze()
    assert len(gpu.captures) == 2 * 35


@pytest.mark.parametrize("clears", [True, False], ids=["torch 2.13", "torch before"])
def test_the_workspace_of_a_graph_lives_as_long_as_the_graph(clears: bool) -> None:
    with simulated_cuda(clears=clears) as gpu:
        learn_beside_other_models(gpu)
        assert not gpu.workspaces  # none is left for all threads and streams
        assert gpu.workspace_size == 32 << 20


def test_without_clearing_the_workspaces_another_model_frees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_cuda() as gpu:
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
        with pytest.raises(RuntimeError, match="workspace"):
            learn_beside_other_models(gpu)


# --- state of the process during a capture


@pytest.mark.simulated
def test_a_capture_leaves_the_settings_of_the_process(simulated_gpu: SimulatedGPU) -> None:
    """It needs exact convolutions, and no garbage collection: the simulation refuses it otherwise."""
    cudnn: Any = torch.backends.cudnn
    seen: list[tuple[object, ...]] = []

    def settings() -> tuple[object, ...]:
        return cudnn.deterministic, cudnn.conv.fp32_precision, gc.isenabled(), simulated_gpu.workspace_size

    before = settings()
    pool = GraphPool("cuda:0", Activity())
    pool.capture(lambda: seen.append(settings()))
    assert settings() == before
    assert seen == [(True, "ieee", False, cuda_graph.WORKSPACE)] * 4
    with pytest.raises(ConfigurationError):
        pool.capture(lambda: seen.append((torch.ones(1).item(),)))
    assert settings() == before


@pytest.mark.simulated
def test_uncaptured_work_is_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, step = list[str](), RowStep.learn
    cudnn: Any = torch.backends.cudnn

    def learn(self: Any, *given: Any, **named: Any) -> Tensor:
        seen.append(cudnn.conv.fp32_precision)
        return step(self, *given, **named)

    monkeypatch.setattr(RowStep, "learn", learn)
    for device in ("cuda", "cpu"):
        made(SPEC, TorchEngine, device=device, capture=False).learn(*stream(SPEC, 1))
    assert seen == ["ieee", "tf32"]


# --- errors of a device


@pytest.mark.simulated
def test_an_engine_that_ran_out_of_memory_has_not_changed(simulated_gpu: SimulatedGPU) -> None:
    """At its construction, growth, captures and loading; it works on once there is memory."""
    engine, clean = (made(SPEC, TorchEngine, device="cuda") for _ in range(2))
    rows, wide = stream(SPEC, 10), (np.ones((1, 44)), np.zeros(1), np.ones(1))
    clean.learn(*rows)
    simulated_gpu.exhausted = True
    with pytest.raises(DeviceMemoryError, match="cuda:0 has too little free memory"):
        TorchEngine(SPEC, device="cuda")
    empty = fingerprint(engine)
    with pytest.raises(DeviceMemoryError):
        engine.learn(*rows)
    assert fingerprint(engine) == empty
    simulated_gpu.exhausted = False
    assert engine.learn(*rows)[0] == 10
    simulated_gpu.exhausted = True
    assert engine.learn(*stream(SPEC, 10, seed=1))[0] == 10  # it is captured, and needs no more
    before = fingerprint(engine)
    with pytest.raises(DeviceMemoryError):
        engine.grow([f"new {i}" for i in range(40)], 1)
    with pytest.raises(DeviceMemoryError):
        engine.load_state_dict(grown_state())
    assert fingerprint(engine) == before
    assert np.isfinite(engine.predict(rows[0][0])).all()
    simulated_gpu.exhausted = False
    clean.learn(*stream(SPEC, 10, seed=1))
    for each in (engine, clean):
        each.grow([f"new {i}" for i in range(40)], 1)
        assert each.learn(*wide)[0] == 1
    assert fingerprint(engine) == fingerprint(clean)


def grown_state() -> dict[str, Tensor]:
    donor = made(SPEC, TorchEngine)
    donor.grow([f"other {i}" for i in range(80)], 0)
    return donor.state_dict()


@pytest.mark.simulated
def test_a_sticky_error_is_told_once_a_call(simulated_gpu: SimulatedGPU) -> None:
    engine = made(SPEC, TorchEngine, device="cuda")
    rows = stream(SPEC, 3)
    engine.learn(*rows)
    told: list[DeviceLostError] = []
    stop = devices.watch(told.append)
    simulated_gpu.lost = True
    for call in (lambda: engine.learn(*rows), lambda: engine.predict(rows[0][0])):
        with pytest.raises(
            DeviceLostError, match="cuda:0 failed: CUDA error: an illegal memory access"
        ) as found:
            call()
        assert told[-1] is found.value
    stop()
    with pytest.raises(DeviceLostError):
        engine.predict(rows[0][0])
    assert len(told) == 2


@pytest.mark.simulated
def test_an_error_that_is_not_sticky_stays_what_it_is(
    simulated_gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = made(SPEC, TorchEngine, device="cuda")
    rows = stream(SPEC, 3)

    def fail(self: Any, *given: Any) -> None:
        raise torch.AcceleratorError("CUDA error: invalid argument")

    monkeypatch.setattr(StepRunner, "_upload", fail)
    with pytest.raises(torch.AcceleratorError, match="invalid argument"):
        engine.learn(*rows)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
    ids=str,
)
def test_what_counts_as_lack_of_memory(error: Exception | None, expected: bool) -> None:
    assert devices.is_out_of_memory(error) is expected
    later = RuntimeError("the capture failed")  # as its end says after any error
    later.__context__ = error
    assert devices.is_out_of_memory(later) is expected


# --- which device


@pytest.mark.simulated
def test_the_current_gpu_is_that_of_the_engine(simulated_gpu: SimulatedGPU) -> None:
    """In each call, also if another one is current in the thread; "cuda" is the one that was current."""
    simulated_gpu.device = 1
    first, second = (made(SPEC, TorchEngine, device=device) for device in ("cuda:0", "cuda"))
    simulated_gpu.device = 0
    assert [first.device, second.device] == ["cuda:0", "cuda:1"]
    rows = stream(SPEC, 2)
    for engine, number in ((first, 0), (second, 1)):
        simulated_gpu.entered.clear()
        simulated_gpu.captures.clear()
        engine.learn(*rows)
        engine.predict(rows[0][0])
        assert {*simulated_gpu.entered} == {*simulated_gpu.captures} == {number}
    assert simulated_gpu.device == 0
    with pytest.raises(ConfigurationError, match="torch sees no cuda:2: the last CUDA device is 'cuda:1'"):
        TorchEngine(SPEC, device="cuda:2")
