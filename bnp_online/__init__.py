"""Neural networks that learn from every example the moment it arrives."""

from .contrib.langevin import SGLD
from .errors import (
    BNPError,
    CheckpointError,
    ConfigurationError,
    NonFiniteStateError,
    SampleError,
    StateError,
    UnobservedLayerError,
    UnsupportedLayerError,
)
from .estimators import BNPClassifier, BNPRegressor, load
from .moments import RunningMoments
from .preconditioner import BNP

__version__ = "0.1.0"

__all__ = [
    "BNP",
    "SGLD",
    "BNPClassifier",
    "BNPError",
    "BNPRegressor",
    "CheckpointError",
    "ConfigurationError",
    "NonFiniteStateError",
    "RunningMoments",
    "SampleError",
    "StateError",
    "UnobservedLayerError",
    "UnsupportedLayerError",
    "load",
]
