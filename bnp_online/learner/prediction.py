"""Reading and prediction of samples."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..encoding import FeatureIndex, read_array
from ..errors import NonFiniteStateError
from ..sparse import ROUTED, Items, PlainFeatures, Reader, SparseStage
from ..values import (
    Array,
    Evidence,
    ExpertPredictions,
    Features,
    Prediction,
    SampleRows,
    Vector,
    at_row,
    check_array,
)
from .model import Model

#: Prediction of an untrained model.
NOTHING = Prediction(None, {})
#: Types of which an object never changes.
_IMMUTABLE = frozenset({bool, int, float, str, type(None)})
_ABSENT = object()


class PredictingModel(Model):
    """A model that reads and predicts samples. It does not change."""

    def check_features(self, x: object) -> Features | Array:
        """Validate an ``x``. All methods accept the result in place of ``x``.

        Raises
        ------
        SampleError
            If a feature is invalid; the error names it.
        """
        if isinstance(x, Features | Array):
            return x
        if self.input_shape is None:
            return self._features.check(x) if self._stage is None else self._check_again(x)
        return check_array(x, tuple(self.input_shape))

    def _check_again(self, x: object) -> Features:
        """Validate a sample, at once if it has the immutable values of the latest one."""
        names, values, features = self._latest_check
        if type(x) is dict and len(x) == len(names):
            found = map(x.get, names, itertools.repeat(_ABSENT))
            if all(map(operator.is_, found, values)):
                latest: Features = features
                return latest
        plain = self._stage_reader().read(x)
        features = self._features.check(x) if plain is None else plain
        if type(x) is dict and (plain is not None or _IMMUTABLE.issuperset(map(type, x.values()))):
            self._latest_check = tuple(x), tuple(x.values()), features
        return features

    def _stage_reader(self) -> Reader:
        """Return the reader of plain samples for the columns and the stage."""
        reader, stage = self._reader, self._stage
        assert stage is not None  # noqa: S101 (the caller has one)
        if reader is None or reader.index is not self._features or reader.stage is not stage:
            self._reader = reader = Reader(self._features, stage)
        return reader

    def read_features(self, x: object) -> Features | Array:
        """Validate an ``x``, as `check_features`, in less time for a plain sample without new features."""
        row = self._row(x)
        return self.check_features(x) if row is None else Array(row)

    def unknown_features(self, x: object) -> list[str]:
        """Return the names of the features that a prediction of the sample ignores, each once.

        The model has never learned the name, the string or any of the words, has forgotten it (`max_values`),
        or had no column left (`max_features`).

        Raises
        ------
        SampleError
            If a feature is invalid; the error names it.
        """
        features = self.read_features(x)
        if not isinstance(features, Features):
            return []
        if self._stage is None or not self._step:
            return [*dict.fromkeys(self._features.unknown(features))]
        return self._unknown_to(features, self._stage)

    def _unknown_to(self, features: Features, stage: SparseStage) -> list[str]:
        """Return the names of the features that neither the dense columns nor the stage know."""
        self._front_of(features, stage)
        unknown, read, positions = stage.unknown(), 0, self._features.positions
        found, known_texts = dict[str, None](), set[str]()
        for column in features.values:
            name, is_known = self._features.feature_of(column), column in positions
            if isinstance(column, tuple) or (ROUTED in stage.fields and not is_known):
                field = column[0] if isinstance(column, tuple) else ROUTED
                is_known = is_known or (field in stage.fields and read not in unknown)
                read += 1
            if is_known:
                known_texts.add(name)
            else:
                found[name] = None
        for name in features.missing:
            if not (name in positions or name in self._features.one_hot or name in stage.fields):
                found[name] = None
        return [name for name in found if name not in known_texts]

    def evidence_one(self, x: Any, most: int = 20) -> list[Evidence]:
        """Return the strongest evidence of the strings and words of a sample. The model does not change.

        Numbers and unknown values have none. Before a feature has outgrown its columns (see `fields`), the
        list is empty.

        Parameters
        ----------
        x : dict
            A sample.
        most : int
            Length of the list.

        Returns
        -------
        list of Evidence
            The strongest first.

        Raises
        ------
        SampleError
            If a feature is invalid.

        Examples
        --------
        >>> from bnp_online import BNPClassifier
        >>> clf = BNPClassifier(hidden=(4,), text=("title",))
        >>> for title, label in [("free money", "spam"), ("free lunch", "ham")] * 5:
        ...     clf.learn_one({"title": title}, label)
        >>> [(each.value, each.label) for each in clf.evidence_one({"title": "money"})]
        [('money', 'spam')]
        """
        self.check_features(x)
        if self._stage is None or not self._step:
            return []
        self._front_of(self._features_of(x), self._stage)
        found = []
        for feature, value, samples, strengths in self._stage.evidence():
            best = int(strengths.argmax())
            label = self._classes[best] if self._classes else None
            found.append(Evidence(feature, value, samples, label, float(strengths[best])))
        return sorted(found, key=lambda each: (-abs(each.strength), each.feature, each.value))[:most]

    def predict(self, x: Any) -> Prediction:
        """Return the prediction for a sample; a classifier adds the probabilities. The model does not change.

        Raises
        ------
        SampleError
            If a feature is invalid.
        NonFiniteStateError
            If no member has a finite output, for example for a huge value without standardization.
        """
        outputs = self._outputs(x)
        return NOTHING if outputs is None else self._targets.read(outputs[None])[0]

    def is_finite(self, x: Any) -> bool:
        """Return whether `predict` has a finite output for a sample that `check_features` accepts."""
        try:
            self._outputs(x)
        except NonFiniteStateError:
            return False
        return True

    def predict_rows(self, rows: SampleRows) -> list[Prediction]:
        """Return the predictions for samples that the model `knows`.

        Raises
        ------
        NonFiniteStateError
            As `predict`, for any of them.
        """
        if not self._step:
            return [NOTHING] * len(rows.targets)
        found: list[Prediction] = self._targets.read(
            self._engine.predict_rows(self._features.widen_rows(rows.values))
        )
        return found

    def predict_on_gpu(self, samples: Sequence[Any]) -> list[Prediction] | None:
        """Return the predictions for samples, for which the host waits once; None without a GPU.

        Raises
        ------
        SampleError, NonFiniteStateError
            As `predict`; of an invalid sample with the number of its row.
        """
        if self._engine.call_seconds is None or self._stage is not None or not self._step or not len(samples):
            return None
        rows = np.array([at_row(self._row_of, i, x) for i, x in enumerate(samples)])
        found: list[Prediction] = self._targets.read(self._engine.predict_rows(rows))
        return found

    def predict_experts_one(self, x: Any) -> ExpertPredictions | None:
        """Return what each expert of `mixture` predicts for a sample, for a label that arrives late.

        Given to `learn_one` with the label, it makes the mixture judge its experts by these predictions. The
        model does not change.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            A sample; unknown features are ignored.

        Returns
        -------
        ExpertPredictions or None
            None if there is nothing to judge: before the first label, for a single network (with a fixed
            `lr`), and for ``learner=1``.

        Raises
        ------
        SampleError, NonFiniteStateError
            As `predict`.

        Examples
        --------
        >>> from bnp_online import BNPClassifier
        >>> clf = BNPClassifier(hidden=(16,))
        >>> clf.learn_one({"amount": 1.0}, "genuine")
        >>> given = clf.predict_experts_one({"amount": 900.0})  # as the payment is made
        >>> clf.learn_one({"amount": 2.0}, "genuine")
        >>> clf.learn_one({"amount": 900.0}, "fraud", given=given)  # weeks later
        """
        if not self._judged or not self._step:
            return None
        row = self._row_of(x)
        values = self._engine.experts(row)
        if self._stage is not None:
            self._outputs_of(row)
            values = np.concatenate([values, self._stage.groups()])
        return ExpertPredictions(self._classes, values)

    def _outputs(self, x: object) -> Vector | None:
        """Return the engine's outputs for a sample; None before the first label."""
        return self._outputs_of(self._row_of(x))

    def _outputs_of(self, row: Vector) -> Vector | None:
        """Return the engine's outputs for a raw input; None before the first label."""
        if not self._step:
            return None
        outputs = self._engine.predict(row)
        return outputs if self._stage is None else self._stage.combine(outputs)

    def _row_of(self, x: object) -> Vector:
        """Return the raw input of any sample."""
        if self._stage is not None:
            return self._front_of(self._features_of(x), self._stage)[1]
        row = self._row(x)
        return self._vector(self.check_features(x)) if row is None else row

    def _row(self, x: object) -> Vector | None:
        """Return the raw input of a plain sample without new features; None for others (`RowReader`)."""
        shape = self._shape
        if self._stage is not None:
            return None
        return self._features.row(x) if shape is None else read_array(x, shape)

    def _front_of(self, features: Features, stage: SparseStage) -> tuple[Items, Vector]:
        """Return what the stage reads of a sample, and the raw input with the evidence.

        A sample that is predicted is often learned next: the stage then has its predictions.
        """
        step, latest, items, row = self._latest_front
        if latest is not features or step != self._step:
            if isinstance(features, PlainFeatures) and features.stage is stage and not stage.without_row:
                items, row = features.items, self._features.widen(features.row, features.missing)
            else:
                items, row = self._items(features, stage, self._features), self._features.vector(features)
            stage.front(items, row, features.missing)
            self._latest_front = self._step, features, items, row
        return items, row

    def _features_of(self, x: object) -> Features:
        """Return a sample as features by name; one that was read as a row had known values alone."""
        features = self.check_features(x)
        return features if isinstance(features, Features) else self._features.features(features.values)

    def _items(
        self,
        features: Features,
        stage: SparseStage,
        index: FeatureIndex,
        new: Mapping[str, int] = MappingProxyType({}),
    ) -> Items:
        """Return the values of a sample that the stage reads; `new` has the fields that the sample adds."""
        routed = ROUTED in stage.fields or ROUTED in new
        positions = index.positions
        names, texts, amounts = list[str](), list[str](), list[float]()
        for column, amount in features.values.items():
            if type(column) is tuple:
                name, text = column[0], column[1]
            elif routed and column not in positions:
                name, text = ROUTED, str(column)
            else:
                continue
            names.append(name)
            texts.append(text)
            amounts.append(amount)
        return stage.items(names, texts, amounts, [name for name in new if name not in stage.fields])

    def _vector(self, features: Features | Array, index: FeatureIndex | None = None) -> Vector:
        index = self._features if index is None else index
        if isinstance(features, Features):
            return index.vector(features)
        return index.widen(features.values)
