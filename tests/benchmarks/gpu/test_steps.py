"""What the GPU benchmark says, and that it says so where there is no GPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import steps as gpu
from benchmarks.gpu.steps import Point
from bnp_online.engines.choice import GPU_WORK
from tests.support.engines import needs_cuda
from tests.support.programs import benchmark


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert "needs a CUDA device" in benchmark("gpu", "--out", out, code=1).stderr
    assert not out.exists()


def test_the_threshold_is_where_the_gpu_stays_ahead() -> None:
    slow, lucky = Point(100, cpu=1.0, gpu=9.0), Point(200, cpu=9.0, gpu=8.0)
    even, fast, faster = Point(300, cpu=9.0, gpu=9.0), Point(400, cpu=20.0, gpu=9.0), Point(900, 50.0, 9.0)
    assert gpu.threshold([fast, slow, faster, even, lucky]) == 400
    assert gpu.threshold([slow, even]) is None
    assert "400 parameter steps" in gpu.advice([slow, fast, faster])
    assert f"leave GPU_WORK in bnp_online/engines/choice.py at {GPU_WORK:,}" in gpu.advice([slow])


def test_the_table_compares_each_learner_with_reference_floor_and_cpu() -> None:
    times = {"S": {gpu.REFERENCE: 400.0}}
    for name in gpu.LEARNERS:
        times["S"] |= {f"GPU, {name}": 100.0, f"CPU, {name}": 25.0}
    shown = gpu.table(times, {"S": dict.fromkeys(gpu.LEARNERS, 40)}, empty=2.0).markdown()
    row = "| S 64-100-10 | one member | 100 µs | 4.0× (400 µs) | 1.25 (40 kernels) | 0.25× (25 µs) |"
    assert row in shown


@needs_cuda
def test_it_measures_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--networks", "S", "--repeats", "1", "--seconds", "0.01", "--out", str(out)])
    content = json.loads(out.read_text())
    assert content["gpu"] == torch.cuda.get_device_name()
    assert 20 < content["kernels"]["S"]["one member"] < content["kernels"]["S"]["auto (the default)"]
    assert content["microseconds_of_an_empty_kernel"] > 0.0
