"""Online learner: validation and growth around an engine, reading of its lines, and its state."""

from __future__ import annotations

from .learning import REFUSED, OnlineLearner, Refusal
from .lines import Block, BlockReader
from .model import Layout
from .preview import Preview
from .together import learn_together

__all__ = [
    "REFUSED",
    "Block",
    "BlockReader",
    "Layout",
    "OnlineLearner",
    "Preview",
    "Refusal",
    "learn_together",
]
