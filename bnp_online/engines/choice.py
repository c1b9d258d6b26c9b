"""Which engine computes the step, and where: fixed rules, never a measurement that two runs may differ in."""

from __future__ import annotations

import torch

from ..errors import ConfigurationError
from .autograd import AutogradEngine
from .base import Engine, LearnerSpec
from .compiled import CompiledEngine


def make_engine(spec: LearnerSpec, engine: str, device: str) -> Engine:
    """Return an engine that has learned nothing.

    Parameters
    ----------
    spec : LearnerSpec
        What to learn, and how.
    engine : {"auto", "autograd", "compiled"}
        "auto" compiles multilayer perceptrons on the CPU, and runs everything else on autograd.
    device : {"auto", "cpu", "cuda"}
        "auto" is the CPU for multilayer perceptrons, and for the rest a GPU where there is one.

    Raises
    ------
    ConfigurationError
        If they cannot be had together.
    """
    if engine not in ("auto", "autograd", "compiled"):
        raise ConfigurationError("engine", f"{engine!r} is not 'auto', 'autograd' or 'compiled'")
    where = _device(device, spec)
    compilable = spec.network == "mlp" and where == "cpu"
    if engine == "compiled" and not compilable:
        raise ConfigurationError("engine", "'compiled' takes network='mlp' on the CPU: use 'auto'")
    if engine == "autograd" or not compilable:
        return AutogradEngine(spec, where)
    return CompiledEngine(spec)


def _device(name: str, spec: LearnerSpec) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError("device", f"{name!r} is not 'auto', 'cpu' or 'cuda'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigurationError("device", "torch sees no CUDA device: use 'cpu' or 'auto'")
    if name == "auto":
        return "cuda" if available and spec.network != "mlp" else "cpu"
    return name
