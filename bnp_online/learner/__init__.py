"""Online learner: validation and growth around an engine, and the learner's state."""

from __future__ import annotations

from .learning import OnlineLearner
from .preview import Preview

__all__ = ["OnlineLearner", "Preview"]
