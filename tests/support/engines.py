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

ENGINES: dict[str, Callable[..., Engine]] = {"numba": NumbaEngine, "torch": TorchEngine}

#: Marks of what needs a GPU.
CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def needs_cuda(test: Callable[..., None]) -> Callable[..., None]:
    """Put the marks of what needs a GPU on a test."""
    for mark in CUDA:
        test = mark(test)
    return test


_CUDA = partial(TorchEngine, device="cuda")
#: The torch engine on each device: as it is, and captured in a CUDA graph.
TORCH = [
    pytest.param(TorchEngine, id="torch"),
    pytest.param(_CUDA, id="torch on cuda, captured", marks=CUDA),
    pytest.param(partial(_CUDA, capture=False), id="torch on cuda", marks=CUDA),
]
#: For `pytest.mark.parametrize`: every engine, on every device.
CASES = [pytest.param(NumbaEngine, id="numba"), *TORCH]
