"""Online learning of neural networks with batch normalization preconditioning (BNP).

The names below are imported on first use: ``import bnp_online.client`` loads neither PyTorch nor Numba.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbone import Backbone, load_backbone, save_backbone
    from .contrib.langevin import SGLD
    from .errors import (
        BackboneError,
        BNPError,
        CheckpointError,
        ConfigurationError,
        DeviceLostError,
        DeviceMemoryError,
        NonFiniteStateError,
        SampleError,
        StateError,
        UnobservedLayerError,
        UnsupportedLayerError,
    )
    from .estimators import BNPClassifier, BNPRegressor, load
    from .files import iter_samples, read_samples
    from .learner import learn_together
    from .moments import RunningMoments
    from .preconditioner import BNP

__version__ = "0.2.0"

__all__ = [
    "BNP",
    "SGLD",
    "BNPClassifier",
    "BNPError",
    "BNPRegressor",
    "Backbone",
    "BackboneError",
    "CheckpointError",
    "ConfigurationError",
    "DeviceLostError",
    "DeviceMemoryError",
    "NonFiniteStateError",
    "RunningMoments",
    "SampleError",
    "StateError",
    "UnobservedLayerError",
    "UnsupportedLayerError",
    "iter_samples",
    "learn_together",
    "load",
    "load_backbone",
    "read_samples",
    "save_backbone",
]

#: Modules of the public names, where it is not `errors`.
_MODULES = {
    "BNP": "preconditioner",
    "SGLD": "contrib.langevin",
    "BNPClassifier": "estimators",
    "learn_together": "learner",
    "BNPRegressor": "estimators",
    "load": "estimators",
    "Backbone": "backbone",
    "load_backbone": "backbone",
    "save_backbone": "backbone",
    "RunningMoments": "moments",
    "iter_samples": "files",
    "read_samples": "files",
}

if not TYPE_CHECKING:  # for a type checker, a name that is not listed above is an error

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of the package, on first use."""
        if name in __all__:
            value = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
            return globals().setdefault(name, value)
        if name.startswith("_") or find_spec(f".{name}", __name__) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
