"""Choice of the engine and its device, by fixed rules without measurements: equal runs choose equally."""

from __future__ import annotations

import itertools
import math

import torch

from ..errors import ConfigurationError
from .base import Engine, LearnerSpec
from .numba_engine import NumbaEngine
from .torch_engine import TorchEngine

#: Least work of a sample (`work`, in parameter steps) for which a multilayer perceptron runs on a GPU.
#:
#: An estimate, until `benchmarks gpu` has run on a GPU (it prints the value to use). The numba engine takes
#: 0.3 to 0.9 ns for a parameter step (docs/benchmarks/speed.json: 189 µs for the 0.67 million of XL with one
#: member, 9.2 ms for the 11 million of XL by default). A graph takes 100 kernels for a sample with one member
#: and 350 by default, at 2 µs each: 0.2 and 0.7 ms, hardly more for large networks. They break even below 1
#: million there, and below 3 million on a CPU three times as fast. The value is more than twice that: a wrong
#: choice of the GPU costs more than a wrong choice of the CPU.
GPU_WORK = 8_000_000


def make_engine(spec: LearnerSpec) -> Engine:
    """Return an untrained engine.

    The engine "auto" is "numba" for multilayer perceptrons on the CPU, and "torch" for everything else. On a
    GPU the torch engine captures its step in a CUDA graph. Not every module can be captured: a module is
    captured only if the specification asks for "torch".

    The device "auto" is a GPU where there is one, except for the engine "numba", and for multilayer
    perceptrons with less work than `GPU_WORK` unless the specification asks for "torch".

    Raises
    ------
    ConfigurationError
        If the device is not available, or the engine does not support it.
    """
    device = _device(spec)
    compilable = spec.network == "mlp" and device == "cpu"
    if spec.engine == "numba" and not compilable:
        raise ConfigurationError("engine", "'numba' supports network='mlp' on the CPU only: use 'auto'")
    if spec.engine != "torch" and compilable:
        return NumbaEngine(spec)
    return TorchEngine(spec, device, capture=spec.engine == "torch" or isinstance(spec.network, str))


def work(spec: LearnerSpec) -> int:
    """Return the number of parameters stepped for a sample, as far as the specification determines it.

    Features and classes that appear later count as none: the choice must not depend on the stream.
    """
    inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
    parameters = sum(n * m + m for n, m in itertools.pairwise([inputs, *spec.hidden]))
    return parameters * sum(1 + (spec.replay if member.replays else 0) for member in spec.members)


def _device(spec: LearnerSpec) -> str:
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        raise ConfigurationError("device", "torch sees no CUDA device: use 'cpu' or 'auto'")
    if spec.device != "auto":
        return spec.device
    suits = spec.engine == "torch" or spec.network != "mlp" or work(spec) >= GPU_WORK
    return "cuda" if available and spec.engine != "numba" and suits else "cpu"
