"""Which engine computes the step, and where: fixed rules, never a measurement that two runs may differ in."""

from __future__ import annotations

import itertools
import math

import torch

from ..errors import ConfigurationError
from .autograd import AutogradEngine
from .base import Engine, LearnerSpec
from .numba_engine import CompiledEngine
from .torch_engine import GraphedEngine

#: Multilayer perceptrons run on a GPU, where there is one, from so many parameter steps a sample on (`work`).
#:
#: An estimate, until `benchmarks.gpu` has run on a GPU (it prints what to write here). The compiled engine
#: takes 0.3 to 0.9 ns a parameter step (docs/benchmarks/speed.json: 189 µs for the 0.67 million of XL with
#: one copy, 9.2 ms for the 11 million of XL by default). A graph takes 100 kernels for a sample with one
#: copy and 350 by default, at 2 µs each: 0.2 and 0.7 ms, hardly more for large networks. They meet below
#: 1 million there, and below 3 million on a CPU that is three times as fast; this is more than twice that,
#: for a GPU that is not there is the costlier mistake.
GPU_WORK = 8_000_000

_ENGINES = ("auto", "autograd", "compiled", "graphed")


def make_engine(spec: LearnerSpec, engine: str, device: str) -> Engine:
    """Return an engine that has learned nothing.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    engine : {"auto", "autograd", "compiled", "graphed"}
        "auto" compiles multilayer perceptrons on the CPU, captures them and the networks of ``"cnn"`` in a
        CUDA graph on a GPU, and runs everything else on autograd.
    device : {"auto", "cpu", "cuda"}
        "auto" is where the engine runs that was asked for. Otherwise it is a GPU where there is one, but the
        CPU for multilayer perceptrons with less than `GPU_WORK` to do.

    Raises
    ------
    ConfigurationError
        If they cannot be had together.
    """
    if engine not in _ENGINES:
        raise ConfigurationError("engine", f"{engine!r} is not one of {', '.join(map(repr, _ENGINES))}")
    where = _device(device, spec, engine)
    compilable = spec.network == "mlp" and where == "cpu"
    if engine == "compiled" and not compilable:
        raise ConfigurationError("engine", "'compiled' takes network='mlp' on the CPU: use 'auto'")
    if engine == "graphed" and where != "cuda":
        raise ConfigurationError("engine", "'graphed' needs a CUDA device: use 'auto' where there is none")
    # A module of one's own may do what no graph can repeat: it is captured only for who says that it can be.
    if engine == "graphed" or (engine == "auto" and where == "cuda" and isinstance(spec.network, str)):
        return GraphedEngine(spec, where)
    if engine == "autograd" or not compilable:
        return AutogradEngine(spec, where)
    return CompiledEngine(spec)


def work(spec: LearnerSpec) -> int:
    """Return how many parameters are stepped for a sample, as far as the specification tells.

    Features and classes that are to come count as none: what is chosen must not depend on the stream.
    """
    inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
    parameters = sum(n * m + m for n, m in itertools.pairwise([inputs, *spec.hidden]))
    return parameters * sum(1 + (spec.replay if each.replays else 0) for each in spec.copies)


def _device(name: str, spec: LearnerSpec, engine: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError("device", f"{name!r} is not 'auto', 'cpu' or 'cuda'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigurationError("device", "torch sees no CUDA device: use 'cpu' or 'auto'")
    if name != "auto":
        return name
    suits = spec.network != "mlp" or work(spec) >= GPU_WORK
    return "cuda" if available and engine != "compiled" and (engine == "graphed" or suits) else "cpu"
