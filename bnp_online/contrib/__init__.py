"""Algorithms that build on BNP: Langevin sampling and a contextual bandit. Both are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bandit import BNPThompsonSampling
    from .langevin import SGLD

__all__ = ["SGLD", "BNPThompsonSampling"]

if not TYPE_CHECKING:  # for a type checker, a name that is not listed above is an error

    def __getattr__(name: str) -> Any:
        """Import a public name on first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(".langevin" if name == "SGLD" else ".bandit", __name__), name)
