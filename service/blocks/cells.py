"""Rows of CSV whose cells are plain numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bnp_online.blocks import Fields
from bnp_online.files import Roles
from bnp_online.learner import OnlineLearner
from bnp_online.lines import Lines
from bnp_online.values import SampleRows

from .writing import written


class Cells(NamedTuple):
    """Columns of rows of CSV. Rows with the same columns have the same templates.

    Attributes
    ----------
    names : tuple of str or None
        Name of each column; None for one that is left out.
    kinds : tuple of str or None
        ``"number"`` or ``"string"`` for a feature, None for another column.
    roles : Roles
        Columns that are no features: without a target, the rows are predicted.
    """

    names: tuple[str | None, ...]
    kinds: tuple[str | None, ...]
    roles: Roles

    def options(self) -> dict[str, Any]:
        """Return the options of `bnp_online.learner.BlockReader`."""
        target, identifier, weight = self.roles
        fields = Fields(None, target, weight, identifier, None)
        return {"header": self.names, "fields": fields, "numbers": frozenset(self._features("number"))}

    def _features(self, kind: str) -> list[str]:
        return [name for name, each in zip(self.names, self.kinds, strict=True) if name and each == kind]

    def written(self, learner: OnlineLearner, rows: SampleRows, ids: Mapping[int, str]) -> Lines:
        """Return rows as JSON."""
        return written(
            learner,
            self._features("number"),
            self._features("string"),
            rows,
            ids,
            weighted=self.roles.weight is not None,
            labelled=self.roles.target is not None,
        )
