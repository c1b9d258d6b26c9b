"""The engines that the contract suites are run against.

To put another engine to them, list it in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bnp_online.engines.base import Engine
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_engine import TorchEngine
from tests.support.kernel_on_cpu import COMPILER, engine_on_cpu

#: The last is the kernel of the persistent engine, compiled as C++.
ENGINES: dict[str, Callable[..., Engine]] = {"numba": NumbaEngine, "torch": TorchEngine}
if COMPILER is not None:
    ENGINES["persistent"] = engine_on_cpu

#: Marks of what needs a GPU.
CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
#: Mark of what runs on a simulated GPU; a fixture of `tests/conftest.py` simulates it.
SIMULATED = pytest.mark.simulated
#: For `pytest.mark.parametrize`: devices of the torch engine.
GPUS = [pytest.param("cuda", id="simulated", marks=SIMULATED), pytest.param("cuda", id="cuda", marks=CUDA)]
DEVICES = ["cpu", *GPUS]


def needs_cuda(test: Callable[..., None]) -> Callable[..., None]:
    """Put the marks of what needs a GPU on a test."""
    for mark in CUDA:
        test = mark(test)
    return test


_CUDA = partial(TorchEngine, device="cuda")
#: The torch engine on each device: as it is, and captured in a CUDA graph.
TORCH = [
    pytest.param(TorchEngine, id="torch"),
    pytest.param(_CUDA, id="torch, simulated, captured", marks=SIMULATED),
    pytest.param(_CUDA, id="torch on cuda, captured", marks=CUDA),
    pytest.param(partial(_CUDA, capture=False), id="torch on cuda", marks=CUDA),
]
#: The kernel of the persistent engine, compiled for the CPU.
PERSISTENT = pytest.param(
    engine_on_cpu,
    id="persistent on cpu",
    marks=pytest.mark.skipif(COMPILER is None, reason="needs g++"),
)
#: For `pytest.mark.parametrize`: every engine, on every device.
CASES = [pytest.param(NumbaEngine, id="numba"), *TORCH, PERSISTENT]
