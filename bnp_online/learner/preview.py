"""Validation of samples before they are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..late_labels import check_given
from ..values import Array, Sample, SampleRows, check_weight

if TYPE_CHECKING:
    from .learning import OnlineLearner


class Preview:
    """Validator of a sequence of samples: checks each one as if the model had learned the earlier ones.

    `BNPClassifier.preview` returns it.
    """

    def __init__(self, model: OnlineLearner) -> None:
        self._model = model
        self._targets: Any = model._targets  # the model's own, up to the first new one

    @property
    def experts(self) -> int:
        """Number of experts that a sample with their earlier predictions judges; 0 if it judges none."""
        return self._model._judged

    def knows(self, rows: SampleRows) -> bool:
        """Return whether the model has the columns and labels of rows, so that they need no `check`."""
        return self._model.knows(rows)

    def check(self, x: object, y: object, w: object = 1.0, given: object = None) -> Sample:
        """Return the sample, validated and ready to be learned; the parameters are those of `learn_one`.

        Raises
        ------
        SampleError
            If the model could not learn the sample after the earlier ones. Later checks ignore the sample.
        """
        row = self._model._row(x)
        features = self._model.check_features(x) if row is None else Array(row)
        weight, targets = check_weight(w), self._targets
        if given is not None:
            model = self._model
            given = check_given(
                given, self.experts, classifies=model.task == "classification", groups=model._groups
            )
        target = targets.check(y)
        if targets.code(target) is None:
            self._targets = targets = targets.copy()
            targets.add(target)
        return Sample(features, target, weight, given)
