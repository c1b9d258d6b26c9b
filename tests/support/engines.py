"""The engines that the contract suites are run against.

To put another engine to them, list it in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from bnp_online.engines.autograd import AutogradEngine
from bnp_online.engines.base import Engine
from bnp_online.engines.numba_engine import CompiledEngine
from bnp_online.engines.torch_engine import GraphedEngine

#: On the CPU the graphed engine runs the step that it captures on a GPU.
ENGINES: dict[str, Callable[..., Engine]] = {
    "autograd": AutogradEngine,
    "compiled": CompiledEngine,
    "graphed": partial(GraphedEngine, device="cpu"),
}

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


#: For `pytest.mark.parametrize`: every engine, the captured one included.
CASES = [
    *(pytest.param(make, id=name) for name, make in ENGINES.items()),
    pytest.param(partial(GraphedEngine, device="cuda"), id="graphed on cuda", marks=CUDA),
]
