"""Explanation of predictions, and novelty of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoding import FeatureIndex
from ..engines.base import Explained
from ..errors import SampleError
from ..frames import rows_of
from ..sparse import FIELD, LOG, Network, explain_staged
from ..values import Column, Derived, Explanation, Label, Vector, at_row
from .prediction import PredictingModel

#: Greatest number of values of an input shape that `contributions` explains.
MOST_INPUTS = 4096
#: No latest groups: their index, and its numbers of columns and of fields.
_NO_GROUPS: tuple[Any, int, int, Any] = (None, -1, -1, None)


class ExplainingModel(PredictingModel):
    """A model that explains its predictions. It does not change."""

    def _begin(self) -> None:
        super()._begin()
        self._latest_groups = _NO_GROUPS
        self._array_groups = np.empty(0, np.int64)
        self._array_names: list[str] = []

    def explain_one(self, x: Any, label: Label | None = None) -> Explanation:
        """Return how much each feature moved the prediction for a sample, against its running mean.

        The contributions approximate Shapley values, where a feature that is not known is missing. They are
        additive: their sum is ``output − baseline``. They are exact for a linear model: the weight of the
        feature times its distance from the mean. The model does not change.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            A sample; unknown features are ignored.
        label : bool, int or str, optional
            Class of a classifier to explain; by default the predicted one.

        Returns
        -------
        Explanation
            Before the first label, one without contributions.

        Raises
        ------
        SampleError
            If a feature is invalid, or the label is not a class of the model.
        NonFiniteStateError
            If no member has a finite output.

        References
        ----------
        `bnp_online.engines.numba_explain` has the methods for each kind of member.

        Examples
        --------
        >>> from bnp_online import BNPRegressor
        >>> reg = BNPRegressor(hidden=(), lr=0.3)
        >>> for i in range(300):
        ...     reg.learn_one({"a": i % 7, "b": i % 2}, 2.0 * (i % 7))
        >>> found = reg.explain_one({"a": 6, "b": 1})
        >>> abs(found.contributions["a"] - 6.0) < 0.2, abs(found.contributions["b"]) < 0.2
        (True, True)
        >>> abs(found.baseline + sum(found.contributions.values()) - found.output) < 1e-9
        True
        """
        row = self._row_of(x)
        if not self._step:
            if label is not None:
                raise self._unknown_class(label)
            value: Any = None if self.task == "classification" else 0.0
            return Explanation(
                value, None, 0.0, 0.0, {} if self._shape is None else np.zeros(self._head_shape or ())
            )
        index = -1
        if label is not None:
            found = self._targets.find(label) if self._classes else None
            if found is None:
                raise self._unknown_class(label)
            index = int(found)
        names, explained = self.explain_row(row, index)
        prediction: Any = explained.value
        if self._classes:
            predicted = explained.label
            if label is not None:
                outputs = self._outputs_of(row)
                predicted = int(outputs.argmax()) if outputs is not None else predicted
            prediction = self._classes[predicted]
        contributions: Any = explained.contributions
        if self._shape is None:
            contributions = dict(zip(names, contributions.tolist(), strict=True))
        else:
            contributions = contributions.reshape(self._head_shape)
        explains = self._classes[explained.label] if self._classes else None
        return Explanation(prediction, explains, explained.value, explained.baseline, contributions)

    def explain_many(self, X: Any) -> list[Explanation]:
        """Return what `explain_one` returns for each row.

        Parameters
        ----------
        X : data frame, dict of columns, sequence of dicts, or array of shape (N, *input_shape)
            The samples.

        Raises
        ------
        SampleError, NonFiniteStateError
            As `explain_one`; of an invalid feature with the number of the row.
        """
        return [at_row(self.explain_one, i, x) for i, x in enumerate(rows_of(X).samples)]

    def novelty_one(self, x: Any) -> float:
        """Return how unusual a sample is: its tail probability in (0, 1], small for an unusual one.

        It is the share of ordinary samples that are at least as far from the running means, in running
        standard deviations: 0.001 stands for one of 1,000. It cannot be less than one over the number of
        samples in the model's memory. See `bnp_online.engines.novelty`. The model does not change.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            A sample; unknown features are ignored, and missing ones are left out.

        Raises
        ------
        SampleError
            If a feature is invalid.

        Examples
        --------
        >>> from bnp_online import BNPRegressor
        >>> reg = BNPRegressor(hidden=(4,))
        >>> for i in range(500):
        ...     reg.learn_one({"a": i % 7, "b": i % 3}, 1.0)
        >>> reg.novelty_one({"a": 3, "b": 1}) > 0.5, reg.novelty_one({"a": 3, "b": 90}) < 0.01
        (True, True)
        """
        row = self._row_of(x)
        return self._engine.novelty(row) if self._step else 1.0

    def explain_row(
        self, row: Vector, label: int = -1, *, quick: bool = False
    ) -> tuple[list[str], Explained]:
        """Return the names of the features, and the explanation for a raw input, as `Engine.explain`.

        With a sparse stage, the row is that of the sample that it read last.
        """
        if self._shape is not None:
            count = math.prod(self._head_shape or ())
            if len(self._array_groups) != count:
                self._array_groups = np.arange(count)
            return [], self._engine.explain(row, self._array_groups, count, label, quick=quick)
        names, groups = self._features_by_column()
        count, stage = len(names), self._stage
        if stage is None:
            return names, self._engine.explain(row, groups, count, label, quick=quick)
        ends = self._engine.predict(np.full(len(row), math.nan)), self._engine.predict(row)
        if self._classes and label < 0:
            label = int(stage.combine(ends[1]).argmax())
        dense = self._engine.explain(row, groups, count + 1, label, quick=quick).contributions
        places = {name: i for i, name in enumerate(names)}
        network = Network(ends[1], ends[0], dense)
        found = explain_staged(stage, network, groups, places, label)
        return names, Explained(label, *found)

    def contributions(self, x: Any) -> tuple[Sequence[str], Vector] | None:
        """Return names and contributions of the features of a sample, in less time than `explain_one`.

        None for an input shape of more than 4,096 values, whose inputs are named by their positions.
        """
        row = self._row_of(x)
        if self._shape is not None:
            shape = self._head_shape or ()
            if math.prod(shape) > MOST_INPUTS:
                return None
            if len(self._array_names) != math.prod(shape):
                self._array_names = [str([*place])[1:-1] for place in np.ndindex(shape)]
        names, explained = self.explain_row(row, quick=True)
        return names or self._array_names, explained.contributions

    def prepare_explanations(self) -> None:
        """Load what explanations need, before the first one."""
        self._engine.prepare_explanations()

    def _features_by_column(self) -> tuple[list[str], NDArray[np.int64]]:
        """Return the names of the features, and the feature of each column.

        The number of names stands for a column that several features share.
        """
        index, fields = self._features, [] if self._stage is None else [*self._stage.fields]
        known, columns, count, groups = self._latest_groups
        if known is not index or (columns, count) != (len(index.columns), len(fields)):
            named = [_feature_of(column, index) for column in index.columns]
            names = [*dict.fromkeys(name for name in (*named, *fields) if name is not None)]
            places = {name: i for i, name in enumerate(names)}
            of_columns = np.array([len(names) if name is None else places[name] for name in named], np.int64)
            groups = names, of_columns
            self._latest_groups = index, len(index.columns), len(fields), groups
        found: tuple[list[str], NDArray[np.int64]] = groups
        return found

    def _unknown_class(self, label: Label) -> SampleError:
        if self.task == "regression":
            message = "is {label}, but the model is a regression, without classes: leave label out"
        elif self._classes:
            message = "{label} is not a class of the model: its classes are {classes}"
        else:
            message = "{label} is not a class of the model: it has none before its first sample"
        return SampleError("unknown_class", "label", message, label=label, classes=[*self._classes])


def _feature_of(column: Column, index: FeatureIndex) -> str | None:
    """Return the name of the feature that a column belongs to; None if it is of several features.

    All counts with a prefix are one feature, as is a number whose logarithm has a column of its own.
    """
    if isinstance(column, Derived):
        return column.name if column.scope in (FIELD, LOG) else None
    if isinstance(column, tuple):
        return column[0]
    joined = index.joined and index.positions[column] < index.joined
    return column.partition("=")[0] if joined else column
