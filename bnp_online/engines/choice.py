"""Choice of the engine and its device, by fixed rules without measurements: equal runs choose equally."""

from __future__ import annotations

import itertools
import math

import torch

from ..errors import ConfigurationError
from .backbone_engine import BackboneEngine
from .base import Engine, LearnerSpec
from .numba_engine import NumbaEngine
from .torch_engine import TorchEngine

#: Least work of a sample (`work`, in parameter steps) for which a multilayer perceptron runs on a GPU.
#:
#: An estimate, until `python -m tools.gpu_day` has run on a GPU (it prints the value to use). The numba
#: engine takes 0.3 to 0.9 ns for a parameter step (docs/benchmarks/speed.json: 189 µs for the 0.67 million
#: of XL with one member, 9.2 ms for the 11 million of XL by default). In the simulation of graphs, a sample
#: takes 180 kernels with one member and 600 by default. At an estimated 2 µs each, this is 0.4 and 1.2 ms,
#: hardly more for large networks. They break even at 0.4 to 1.3 million parameter steps with one member, and
#: at 1.3 to 4 million by default. The value is twice that: a wrong choice of the GPU costs more than a wrong
#: choice of the CPU.
GPU_WORK = 8_000_000

#: Greatest work of one network (`network_work`) for which a multilayer perceptron on a GPU runs in the
#: persistent kernel instead of captured graphs.
#:
#: An estimate, until a GPU has run both. In the kernel, one processor steps a network. It reads and writes
#: the weights about four times for a step, at an estimated 100 GB/s beyond its shared memory: 0.16 ns for a
#: parameter step. A graph takes 0.2 to 0.7 ms for a sample (`GPU_WORK`). They break even at 1 to 4 million.
KERNEL_WORK = 1_000_000


def make_engine(spec: LearnerSpec) -> Engine:
    """Return an untrained engine; of a model with a backbone, that of its head on the features.

    The engine "auto" is "numba" for multilayer perceptrons on the CPU, and "torch" for everything else. On a
    GPU a multilayer perceptron with little work runs in the persistent kernel (`KERNEL_WORK`). Otherwise the
    torch engine captures its step in a CUDA graph. Not every module can be captured: a module is captured
    only if the specification asks for "torch".

    The device "auto" is a GPU where there is one, except for the engine "numba", and for multilayer
    perceptrons with less work than `GPU_WORK` unless the specification asks for "torch".

    Raises
    ------
    ConfigurationError
        If the device is not available, or the engine does not support it.
    """
    if spec.backbone is not None:
        place = "cpu" if spec.device == "auto" and not torch.cuda.is_available() else spec.device
        place = "cuda" if place == "auto" else place
        return BackboneEngine(spec.backbone, make_engine(spec.head), place)
    device = _device(spec)
    compilable = spec.network == "mlp" and device == "cpu"
    if spec.engine == "numba" and not compilable:
        raise ConfigurationError("engine", "'numba' supports network='mlp' on the CPU only: use 'auto'")
    if spec.engine != "torch" and compilable:
        return NumbaEngine(spec)
    capture = spec.engine == "torch" or isinstance(spec.network, str | list)
    kernel = torch.version.cuda is not None and spec.network == "mlp"  # NVRTC belongs to builds for CUDA
    if device != "cpu" and kernel and network_work(spec) <= KERNEL_WORK:
        from .persistent.compiled import compiled
        from .persistent.engine import PersistentEngine

        return PersistentEngine(spec, device, capture=capture, compiled=compiled)
    return TorchEngine(spec, device, capture=capture)


def network_work(spec: LearnerSpec) -> int:
    """Return the number of parameters that one network steps for a sample, at most; see `work`."""
    return _parameters(spec) * (1 + spec.replayed)


def work(spec: LearnerSpec) -> int:
    """Return the number of parameters stepped for a sample, as far as the specification determines it.

    Features and classes that appear later count as none: the choice must not depend on the stream.
    """
    return _parameters(spec) * sum(1 + (spec.replay if member.replays else 0) for member in spec.members)


def _parameters(spec: LearnerSpec) -> int:
    inputs = 0 if spec.input_shape is None else math.prod(spec.input_shape)
    return sum(n * m + m for n, m in itertools.pairwise([inputs, *spec.hidden]))


def _device(spec: LearnerSpec) -> str:
    if spec.device != "auto":
        return spec.device
    suits = spec.engine == "torch" or spec.network != "mlp" or work(spec) >= GPU_WORK
    return "cuda" if torch.cuda.is_available() and spec.engine != "numba" and suits else "cpu"
