"""Sparse stage: strings, words and rare numbers in front of the dense network.

The stage turns the values of strings into evidence columns, which are inputs of the network, and predicts by
linear members on the values and on pairs of them. See ``DESIGN.md``. Public names: `SparseStage`, and
`growth`, which decides when the stage opens. It imports the kernels of `bnp_online.engines`, never an engine.
"""

from .columns import FIELD, LOG, NO_GROWTH, ROUTED, Growth, growth, heavy_tails
from .constants import TAILS_EVERY
from .explaining import Network, explain_staged
from .loading import compile_kernels
from .reader import PlainFeatures, Reader
from .saving import PREFIX
from .stage import GROUPS, SparseStage
from .state import Items

__all__ = [
    "FIELD",
    "GROUPS",
    "LOG",
    "NO_GROWTH",
    "PREFIX",
    "ROUTED",
    "TAILS_EVERY",
    "Growth",
    "Items",
    "Network",
    "PlainFeatures",
    "Reader",
    "SparseStage",
    "compile_kernels",
    "explain_staged",
    "growth",
    "heavy_tails",
]
