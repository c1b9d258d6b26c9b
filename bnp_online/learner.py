"""Online learner: validation and growth around an engine, and the learner's state."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from . import checkpoint
from .diagnostics import Diagnosis, diagnose
from .drift_response import with_short_memory, with_slowest_reset
from .encoding import FeatureIndex, compile_encoding, name_of, read_array
from .engines.base import Expert, LearnerSpec, Task
from .engines.choice import make_engine
from .engines.state import MOST, check_tensors
from .errors import ConfigurationError, NonFiniteStateError, SampleError, StateError
from .frames import rows_of, values_of
from .intervals import Intervals, split
from .late_labels import aligned, check_given
from .parameters import EARLIER, Parameters, check_parameters
from .sparse import (
    GROUPS,
    LOG,
    NO_GROWTH,
    PREFIX,
    ROUTED,
    TAILS_EVERY,
    Growth,
    Items,
    PlainFeatures,
    Reader,
    SparseStage,
    compile_kernels,
    growth,
    heavy_tails,
)
from .values import (
    Array,
    Derived,
    Evidence,
    ExpertPredictions,
    Features,
    Label,
    Prediction,
    Sample,
    TextRules,
    Vector,
    at_row,
    check_array,
    check_weight,
)

#: Prediction of an untrained model.
NOTHING = Prediction(None, {})

_REFUSED = "the step would make the state non-finite: use a smaller lr"
_ONE = np.ones(1)
#: Types of which an object never changes.
_IMMUTABLE = frozenset({bool, int, float, str, type(None)})
_NO_FRONT: tuple[int, Any, Any, Any] = (-1, None, None, None)
_NO_CHECK: tuple[tuple[Any, ...], tuple[Any, ...], Any] = (("",), (object(),), None)
#: Prediction of an untrained regression, for the intervals.
_UNKNOWN = np.full(1, np.nan)


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


class OnlineLearner(Parameters):
    """Base of `BNPClassifier` and `BNPRegressor`: validation, growth, steps and state."""

    task: ClassVar[Task]
    _targets: Any  # LabelIndex or NumberTargets: mypy cannot tie the type of a target to the class

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begin()

    def _begin(self) -> None:
        """Make an untrained learner."""
        spec = LearnerSpec(task=self.task, **self._parameters())
        compile_encoding()
        self._target_of_one = np.empty(1)  # of `learn_one`: a new array would cost a tenth of a step
        self._shape = spec.input_shape
        self._step = 0
        self._stage: SparseStage | None = None
        self._latest_check, self._latest_front = _NO_CHECK, _NO_FRONT
        self._warned = set[str]()
        self._reader: Reader | None = None
        self._staged = self.learner >= 2 and self._shape is None and self.network == "mlp"
        self._features = FeatureIndex(self.max_features)
        self._features.rules = self._rules()
        self.engine = spec.engine  # a pickle may have the name of version 0.1.0
        finish = compile_kernels() if self._staged else None
        self._engine = make_engine(spec)
        if finish is not None:
            finish()
        self._judged = len(spec.experts) if spec.stacks else 0
        self._groups = GROUPS if self._judged and self._staged else 0
        inputs = 0 if self._shape is None else math.prod(self._shape)
        self._intervals = Intervals(self.intervals, self.seed, inputs) if self.intervals else None

    def _rules(self) -> TextRules | None:
        """Return the rules of texts and counts; None where the learner has no sparse stage."""
        if not self._staged:
            return None
        prefixes = tuple(pattern.removesuffix("*") for pattern in self.sparse)
        return TextRules(frozenset(self.text), prefixes, self.ngrams)

    @property
    def fields(self) -> dict[str, int]:
        """Number of values of each feature with strings or words, once one of them outgrew its columns."""
        return {} if self._stage is None else self._stage.numbers_of_values()

    @property
    def recycled_values(self) -> int:
        """Number of values of strings and words that made room for others, because of `max_values`."""
        return 0 if self._stage is None else self._stage.recycled

    @property
    def step(self) -> int:
        """Number of samples learned."""
        return self._step

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns in order of arrival; a string feature has a column ``name=value`` for each value."""
        return tuple(self._features.names)

    @property
    def ignored_features(self) -> int:
        """Number of feature values ignored because of `max_features`."""
        return self._features.ignored

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return self._engine.num_parameters

    @property
    def mixture(self) -> list[dict[str, Any]]:
        """Experts whose predictions the mixture combines, with their weights.

        Each has its name in plain words (``expert``), its ``kind`` ("network", "linear", "neighbours", "bins"
        or "stack"), its learning rate (``lr``; None for neighbours and the stack), the number of samples that
        it replays after each new one (``replay``), whether it predicts with the running mean of its weights
        (``averages``), and its weight in the prediction (``weight``). The weights have the sum 1. The last
        expert of ``lr="auto"`` is the stack, which learns how to combine all others.
        """
        engine, share = self._engine, self._engine.stack_share
        experts = list(zip(engine.spec.experts, ((1.0 - share) * engine.mixture).tolist(), strict=True))
        if engine.spec.stacks:
            experts.append((Expert("stack"), share))
        return [
            {
                "expert": each.name,
                "kind": each.kind,
                "lr": each.rate,
                "replay": self.replay if each.replays else 0,
                "averages": each.averages,
                "weight": weight,
            }
            for each, weight in experts
        ]

    def diagnose(self) -> list[Diagnosis]:
        """Return the spread of the inputs of each layer, before and after preconditioning.

        The raw features come first, then the layers of the network with the greatest weight.
        """
        return self.diagnosing()()

    def diagnosing(self) -> Callable[[], list[Diagnosis]]:
        """Copy the moments, and return a function that computes `diagnose` from the copy, in any thread.

        The copy takes a fraction of the time of `diagnose`.
        """
        heaviest = int(self._engine.spec.member_weights(self._engine.mixture).argmax())
        moments, standardize = self._engine.moments(), self.standardize
        return functools.partial(
            diagnose, moments, heaviest, self.eps_rel, self.eps_abs, standardize=standardize
        )

    @property
    def engine_name(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    @property
    def device_name(self) -> str:
        """Name of the device in use."""
        return self._engine.device

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
            found = map(x.get, names, itertools.repeat(_REFUSED))
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

    def preview(self) -> Preview:
        """Return a validator of the next samples."""
        return Preview(self)

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

    @property
    def _classes(self) -> tuple[Label, ...]:
        """Classes of the outputs; empty for a regression."""
        return ()

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
            if isinstance(features, PlainFeatures) and features.stage is stage:
                items, row = features.items, self._features.widen(features.row)
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

    def learn_one(self, x: Any, y: Any, w: float = 1.0, *, given: ExpertPredictions | None = None) -> None:
        """Learn one sample.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            Numbers, booleans and strings by name. An absent feature is 0; None stands for its running mean.
        y : bool, int or str for a classifier, float for a regressor
            The target.
        w : float
            Weight of the sample, ≥ 0; it scales the step.
        given : ExpertPredictions, optional
            Result of `predict_experts_one` for the sample when it arrived. A label that arrives later than
            its sample judges the experts of the mixture by these predictions, not by those that they would
            make now. Without it they predict the sample now.

        Raises
        ------
        SampleError
            If a part of the sample is invalid; nothing was changed.
        NonFiniteStateError
            If the step would make the state non-finite; nothing was changed.
        """
        row, target = self._row(x), self._targets.find(y)
        plain = given is None and type(w) is float and 0.0 <= w < math.inf
        if plain and self._stage is not None:
            outcome = self._learn_staged(
                Sample(self.check_features(x), self._targets.check(y), w), predict=False
            )
            if isinstance(outcome, NonFiniteStateError):
                raise outcome
            return
        if row is None or target is None or not plain:
            self.learn_sample(self.preview().check(x, y, w, given))
            return
        # As `_learn`, without an object for the sample (a fifth of the time of one member).
        self._target_of_one[0] = target
        weight = _ONE if w == 1.0 else np.array([w])
        done, _ = self._learn_rows(row[None], self._target_of_one, weight)
        if done == 0:
            raise NonFiniteStateError(_REFUSED)
        self._learned(1)

    def _learn_rows(
        self,
        x: Vector,
        targets: Vector,
        weights: Vector,
        *,
        predict: bool = False,
        given: Vector | None = None,
    ) -> tuple[int, Vector]:
        """Learn rows without growth (`Engine.learn`), and update the intervals with the errors."""
        if self._intervals is None:
            return self._engine.learn(x, targets, weights, predict=predict, given=given)
        done, values = self._engine.learn(x, targets, weights, predict=True, given=given)
        rows = x if x.ndim == 2 else x.reshape(len(x), -1)
        self._intervals.learn(rows[:done], targets[:done], values[:done, 0], weights[:done])
        return done, values

    def learn_sample(self, sample: Sample) -> None:
        """Learn a sample validated by `preview`; raises as `learn_one`."""
        (refusal,) = self._learn([sample], predict=False)
        if isinstance(refusal, NonFiniteStateError):
            raise refusal

    def learn_samples(self, samples: Sequence[Sample]) -> list[Prediction | NonFiniteStateError]:
        """Predict, then learn, samples validated by one `preview`, in order.

        Returns
        -------
        list
            For each sample its prediction before the step, or the error that refused it. A refused sample
            changes nothing, and learning continues.
        """
        return [*self._learn(samples, predict=True)]

    def learn_many(
        self,
        X: Any,
        y: Any = None,
        *,
        given: Sequence[ExpertPredictions | None] | None = None,
        Y: Any = None,
    ) -> None:
        """Learn rows in order, one step each: the state equals that of a loop of `learn_one`.

        Parameters
        ----------
        X : data frame, dict of columns, sequence of dicts, or array of shape (N, *input_shape)
            The samples. A data frame is of pandas, polars or Arrow.
        y : series or sequence
            Their targets.
        given : sequence, optional
            For each row what `learn_one` takes as `given`, or None.
        Y : series or sequence
            Deprecated name of `y`.

        Raises
        ------
        SampleError, NonFiniteStateError
            As `learn_one`, with the number of the row; no row was learned.
        """
        if Y is not None:
            warnings.warn("the parameter Y is now named y", DeprecationWarning, stacklevel=2)
            y = Y
        rows, targets = rows_of(X).samples, values_of(y, "y")
        if len(rows) != len(targets):
            raise SampleError("wrong_shape", "y", f"has {len(targets)} targets for {len(rows)} samples")
        if given is not None and len(given) != len(rows):
            raise SampleError("wrong_shape", "given", f"has {len(given)} values for {len(rows)} samples")
        shape = self._shape if given is None else None
        block = None if shape is None else read_array(rows, (len(rows), *shape))
        learn: Callable[[], Iterable[Prediction | NonFiniteStateError]]
        if block is not None:
            learn = functools.partial(self._learn_block, block, *self._targets.codes(targets))
        else:
            check = self.preview().check
            late = itertools.repeat(None, len(rows)) if given is None else given
            labelled = zip(rows, targets, late, strict=True)
            samples = [at_row(check, i, x, y, 1.0, known) for i, (x, y, known) in enumerate(labelled)]
            learn = functools.partial(self._learn, samples, predict=False)
        self._learn_all(learn)

    def _learn_all(self, learn: Callable[[], Iterable[Prediction | NonFiniteStateError]]) -> None:
        """Learn samples, all or none."""
        stage, before = self._stage, self._state(staged=False)
        if stage is not None:
            stage.begin()
        try:
            for outcome in learn():
                if isinstance(outcome, NonFiniteStateError):
                    row = self._step - before["step"]
                    if stage is not None:
                        stage.undo()
                    self._restore(before, stage)
                    raise NonFiniteStateError(f"row {row}: {outcome}")
        finally:
            if stage is not None:
                stage.end()

    def _learn(
        self, samples: Sequence[Sample], *, predict: bool
    ) -> Iterator[Prediction | NonFiniteStateError]:
        """Learn samples in order. Consecutive samples without growth take one call of the engine."""
        start = 0
        while start < len(samples):
            if self._stage is not None:
                yield self._learn_staged(samples[start], predict=predict)
                start += 1
            elif targets := self._known_targets(samples, start):
                outcomes = self._learn_run(samples[start : start + len(targets)], targets, predict=predict)
                start += len(outcomes)
                yield from outcomes
            else:
                yield self._learn_grown(samples[start], predict=predict)
                start += 1

    def _known_targets(self, samples: Sequence[Sample], start: int) -> list[float]:
        """Return the targets of the samples before the first one that needs a new column or output."""
        targets: list[float] = []
        most = TAILS_EVERY - self._step % TAILS_EVERY if self._staged else len(samples)
        for features, target, *_ in itertools.islice(samples, start, start + most):
            code = self._targets.code(target)
            if code is None or (isinstance(features, Features) and any(self._growth(features))):
                break
            targets.append(code)
        return targets

    def _growth(self, features: Features, *, more_classes: bool = False) -> Growth:
        """Return the columns and fields that a sample needs."""
        if not self._staged:
            return Growth(self._features.new(features), {})
        stage, classes = self._stage, self._targets.outputs + more_classes
        fields = {} if stage is None else stage.fields
        return growth(
            self._features,
            fields,
            features,
            classes,
            self._step,
            is_open=stage is not None,
            more_classes=more_classes,
        )

    def _learned(self, count: int) -> None:
        """Record that samples were learned; every 50th adds the columns that heavy tails need."""
        self._step += count
        if count and self._staged and self._step % TAILS_EVERY == 0:
            new = heavy_tails(self._features, *self._engine.clipped())
            if new:
                index = self._features.copy()
                index.add(new)
                self._engine.grow([*map(name_of, new)], 0, unknown=True)
                if self._intervals is not None:
                    self._intervals.grow(len(new))
                if self._stage is not None:
                    self._stage.adopt(self._stage.laid_out(index.columns, {}), {})
                self._features = index

    def _learn_staged(self, sample: Sample, *, predict: bool) -> Prediction | NonFiniteStateError:
        """Learn a sample with the sparse stage, which it may open; a refusal undoes all changes."""
        features, targets = self._features_of(sample.features), self._targets
        stage, more = self._stage, targets.code(sample.target) is None
        settled = False
        if isinstance(features, PlainFeatures) and features.stage is stage and not more:
            self._front_of(features, features.stage)
            settled = features.stage.without_column == 0
        grown = NO_GROWTH if settled else self._growth(features, more_classes=more)
        try:
            prediction = self.predict(features) if predict and (more or any(grown)) else NOTHING
        except NonFiniteStateError as error:
            return error
        if stage is None:
            stage = self._new_stage()
        index = self._features
        if grown.columns:
            index = index.copy()
            index.add(grown.columns)
        if self._stage is not None and not any(grown):
            items, row = self._front_of(features, stage)
            state = stage.state
        else:
            items, row = self._items(features, stage, index, grown.fields), index.vector(features)
            state = stage.laid_out(index.columns, grown.fields)
            state = stage.front(items, row, features.missing, state)
            self._latest_front = _NO_FRONT
        if more:
            targets = targets.copy()
            targets.add(sample.target)
        target, weight = np.array([targets.code(sample.target)], np.float64), np.array([sample.weight])
        engine, learned = self._engine, 0
        given = None if sample.given is None else self._aligned([sample.given], targets)
        before = engine.snapshot() if more or grown.columns else None
        try:
            scaled = sum(isinstance(column, Derived) for column in grown.columns)
            engine.grow([*map(name_of, grown.columns)], int(more), scaled=scaled)
            earlier = None if given is None else given[:, : self._judged]
            learned, dense = engine.learn(row[None], target, weight, predict=True, given=earlier)
        finally:
            if not learned and before is not None:
                engine.restore(before)
        if not learned:
            return NonFiniteStateError(_REFUSED)
        classifies = self.task == "classification"
        known = self._step > 0 and not (more and classifies)
        if given is not None and classifies:  # a class that was unknown then is not judged
            known = known and bool((given[0, :, int(target[0])] != 0.0).any())
        stage.adopt(state, grown.fields)
        if more and classifies:
            stage.add_class()
            stage.front(items, row.copy(), features.missing)
            self._latest_front = _NO_FRONT
        combined = stage.combine(dense[0], *([] if given is None else [given[0, self._judged :]]))
        stage.learn(items, float(target[0]), sample.weight, judged=known)
        stage.enter_columns(grown.columns if self._stage else index.columns, index.positions)
        if self._intervals is not None:
            self._intervals.grow(len(grown.columns))
            self._intervals.learn(row[None], target, combined if known else _UNKNOWN, weight)
        if predict and self._step and not (more or any(grown)):
            prediction = self._targets.read(combined[None])[0]
        self._stage, self._features, self._targets = stage, index, targets
        self._learned(1)
        self._warn_of_identifiers(stage)
        return prediction

    def _warn_of_identifiers(self, stage: SparseStage) -> None:
        """Warn of each field that seems to have identifiers, once in the life of this object."""
        for name, values, samples in stage.identifiers():
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"the feature {name!r:.80} has {values} values in {samples} samples, as an identifier "
                    "has. A value that does not recur predicts nothing: leave the feature out, or send a "
                    "part of it that recurs.",
                    stacklevel=2,
                )

    def _new_stage(self) -> SparseStage:
        """Return a stage for the classes and the columns of the learner."""
        regression = self.task == "regression"
        stage = SparseStage(regression, self.seed, self.max_values, fresh=self._step == 0)
        for _ in range(0 if regression else self._targets.outputs):
            stage.add_class()
        stage.adopt(stage.laid_out(self._features.columns, {}), {})
        return stage

    def _learn_grown(self, sample: Sample, *, predict: bool) -> Prediction | NonFiniteStateError:
        """Learn a sample that needs a new column or output; a refusal undoes the growth."""
        if isinstance(sample.features, Features) and self._growth(sample.features).fields:
            return self._learn_staged(sample, predict=predict)
        try:
            prediction = self.predict(sample.features) if predict else NOTHING
            outputs = self._outputs(sample.features) if self._intervals is not None else None
        except NonFiniteStateError as error:  # no member is finite on it, and none could learn it
            return error
        index, targets = self._features, self._targets.copy()
        columns = index.new(sample.features) if isinstance(sample.features, Features) else []
        new = int(targets.code(sample.target) is None)
        targets.add(sample.target)
        if columns:
            index = index.copy()
            index.add(columns)
        target, weight = np.array([targets.code(sample.target)], np.float64), np.array([sample.weight])
        row = self._vector(sample.features, index)[None]
        engine, learned = self._engine, 0
        before = engine.snapshot()
        try:
            engine.grow([*map(name_of, columns)], new)
            given = (
                None if sample.given is None else self._aligned([sample.given], targets)[:, : self._judged]
            )
            learned, values = engine.learn(row, target, weight, predict=given is not None, given=given)
        finally:
            if not learned:
                engine.restore(before)
        if not learned:
            return NonFiniteStateError(_REFUSED)
        if self._intervals is not None:
            self._intervals.grow(len(columns))
            known = values[0] if len(values) else _UNKNOWN if outputs is None else outputs
            self._intervals.learn(row.reshape(1, -1), target, known, weight)
        self._features, self._targets = index, targets
        self._learned(1)
        self._count_ignored([sample])
        return prediction

    def _learn_run(
        self, run: Sequence[Sample], targets: list[float], *, predict: bool
    ) -> list[Prediction | NonFiniteStateError]:
        """Learn samples without growth, up to the first refused sample."""
        fixed, columns = self._shape is not None, len(self._features.columns)
        features, _, weights, late = zip(*run, strict=True)
        rows = [
            x.values if isinstance(x, Array) and (fixed or len(x.values) == columns) else self._vector(x)
            for x in features
        ]
        x = np.concatenate(rows).reshape(len(rows), *rows[0].shape)  # a third of the time of np.stack
        given = self._aligned(late, self._targets)[:, : self._judged] if any(late) else None
        done, values = self._learn_rows(
            x, np.array(targets, np.float64), np.array(weights), predict=predict, given=given
        )
        outcomes: list[Prediction | NonFiniteStateError] = []
        outcomes += self._targets.read(values[:done]) if predict else [NOTHING] * done
        self._learned(done)
        self._count_ignored(run[:done])
        if done < len(run):
            outcomes.append(NonFiniteStateError(_REFUSED))
        return outcomes

    def _aligned(self, given: Sequence[ExpertPredictions | None], targets: Any) -> Vector:
        """Return earlier predictions of the experts as the engine takes them."""
        outputs = len(targets) if self.task == "classification" else 1
        return aligned(given, targets, self._judged + self._groups, outputs)

    def _count_ignored(self, learned: Sequence[Sample]) -> None:
        """Count the feature values without a column, because of `max_features`, in learned samples."""
        for x, *_ in learned:
            if isinstance(x, Features):
                self._features.count_ignored(x)

    def _learn_block(
        self, x: Vector, targets: Vector, new: Mapping[int, Label | float]
    ) -> Iterator[Prediction | NonFiniteStateError]:
        """Learn valid rows of the input shape; yield the result of each growing row, and a refusal.

        It creates no object per row: an object takes as long as the step of a small network.
        """
        weights = np.ones(len(x))
        start = 0
        for stop in (*new, len(x)):
            if start < stop:
                done, _ = self._learn_rows(x[start:stop], targets[start:stop], weights[start:stop])
                self._step += done
                if done < stop - start:
                    yield NonFiniteStateError(_REFUSED)
                    return
            if stop < len(x):
                yield self._learn_grown(Sample(Array(x[stop]), new[stop], 1.0), predict=False)
            start = stop + 1

    def _vector(self, features: Features | Array, index: FeatureIndex | None = None) -> Vector:
        index = self._features if index is None else index
        if isinstance(features, Features):
            return index.vector(features)
        return index.widen(features.values)

    def set_limits(
        self,
        max_features: int | None = None,
        max_classes: int | None = None,
        max_values: int | None = None,
    ) -> None:
        """Change limits of the model; None keeps a limit.

        Parameters
        ----------
        max_features : int
            Maximum number of columns; at least the number of present ones.
        max_classes : int
            Maximum number of classes of a classifier; at least the number of present ones.
        max_values : int
            Maximum number of values of strings, words and rare numbers; at least the number of present ones.

        Raises
        ------
        ConfigurationError
            If a limit is too low; nothing was changed.
        """
        given = {"max_features": max_features, "max_classes": max_classes, "max_values": max_values}
        check_parameters(**{name: value for name, value in given.items() if value is not None})
        if max_features is not None and max_features < len(self._features.columns):
            raise ConfigurationError("max_features", f"the model has {len(self._features.columns)} features")
        if max_values is not None and self._stage is not None:
            self._stage.check_limit(max_values)
        if max_classes is not None:
            self._limit_classes(max_classes)
        if max_values is not None:
            self.max_values = max_values
            if self._stage is not None:
                self._stage.limit(max_values)
        if max_features is not None:
            self.max_features = self._features.max_features = max_features

    def _limit_classes(self, max_classes: int) -> None:
        raise ConfigurationError("max_classes", "a regression has no classes")

    def _targets_state(self) -> dict[str, Any]:
        """Return the state of the targets, as JSON."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters and everything that learning changes."""
        return self._state(staged=True)

    def copying(self) -> Callable[[], dict[str, Any]]:
        """Copy the state, and return a function that returns it as `state_dict` does, in any thread.

        With a million values of strings, the copy takes a tenth of the time of `state_dict`.
        """
        state, fields = self._state(staged=False), self._fields_state()
        stage = None if self._stage is None else self._stage.copying()

        def complete() -> dict[str, Any]:
            tensors = state["tensors"] if stage is None else {**state["tensors"], **stage()}
            return {**state, **fields, "tensors": tensors}

        return complete

    def _state(self, *, staged: bool) -> dict[str, Any]:
        """Return the state, with or without that of the sparse stage."""
        return {
            "estimator": type(self).__name__,
            "parameters": self._json_parameters(),
            "engine": self._engine.name,
            "device": self._engine.device,
            "step": self._step,
            **self._features.state_dict(),
            **self._targets_state(),
            **(self._fields_state() if staged else {}),
            "tensors": self._tensors(staged=staged),
        }

    def _fields_state(self) -> dict[str, Any]:
        """Return the fields of the sparse stage, as JSON; nothing before it opens."""
        return {} if self._stage is None else {"fields": self._stage.header()}

    def _tensors(self, *, staged: bool = True) -> dict[str, Tensor]:
        """Return the tensors of everything that learning changes, with or without the sparse stage."""
        tensors = self._engine.state_dict()
        if self._stage is not None and staged:
            tensors |= self._stage.state_dict()
        return tensors if self._intervals is None else {**tensors, **self._intervals.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`, of any engine and device.

        The estimator becomes one of the state's generation (`learner`), so that a state of an earlier version
        learns on as it did there.

        Raises
        ------
        StateError
            If the estimator or its parameters differ, or the state does not fit; nothing was changed.
        """
        if state.get("estimator") != type(self).__name__:
            raise StateError(f"the state is of {state.get('estimator')}, not of {type(self).__name__}")
        ours, theirs = self._json_parameters(), {**EARLIER, **(state.get("parameters") or {})}
        if "intervals" in ours:
            theirs.setdefault("intervals", 0)  # earlier versions had none
        differ = sorted(
            name
            for name in ours.keys() | theirs.keys()
            if name not in ("engine", "device", "learner") and ours.get(name) != theirs.get(name)
        )
        if differ:
            found = ", ".join(f"{name}={theirs.get(name)!r:.40}" for name in differ)
            raise StateError(f"the state is of a model with other parameters: {found}")
        if theirs["learner"] == self.learner:
            self._restore(state)
            return
        try:
            loaded = type(self)(**{**self._parameters(), "learner": theirs["learner"]})
        except ConfigurationError as error:
            raise StateError(f"the state is damaged: {error}") from error
        loaded._restore(state)
        vars(self).update(vars(loaded))

    def _restore(self, state: Mapping[str, Any], stage: SparseStage | None = None) -> None:
        """Load a state; `stage` takes the place of a sparse stage in it."""
        try:
            step, ignored = state["step"], state["ignored"]
            features = FeatureIndex.restored(self.max_features, state)
            features.rules = self._rules()
            columns = len(features.columns)
            rows = columns if self.input_shape is not None else len(state["tensors"]["inputs.mean"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StateError(f"the state is damaged: {error!r}") from error
        for count in (step, ignored):
            if type(count) is not int or not 0 <= count < MOST:
                raise StateError(f"the state is damaged: {count!r:.40} is not a count")
        if columns != rows or columns > self.max_features:
            raise StateError(f"the state has {columns} features for {rows} columns")
        tensors, of_intervals = split(state["tensors"])
        if stage is None:
            stage = self._restored_stage(state, features)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
        if bool(of_intervals) != (self._intervals is not None):
            raise StateError("the state or the model has intervals, but not both")
        check_tensors(self._engine.spec, step, tensors)
        inputs = columns if self.input_shape is None else math.prod(self.input_shape)
        intervals = self._intervals and self._intervals.restored(of_intervals, inputs)
        self._engine.load_state_dict(tensors)
        self._intervals = intervals
        self._stage = stage
        self._latest_check, self._latest_front = _NO_CHECK, _NO_FRONT
        self._step = step
        self._features = features

    def _restored_stage(self, state: Mapping[str, Any], features: FeatureIndex) -> SparseStage | None:
        shown = [each for each in features.columns if isinstance(each, Derived) and each.scope != LOG]
        if not self._staged or "fields" not in state:
            if shown or "fields" in state:
                raise StateError(
                    "the state of the sparse stage is damaged: it is missing, or the model has none"
                )
            return None
        classes = len(state["labels"]) if self.task == "classification" else 1
        stage = SparseStage(self.task == "regression", self.seed, self.max_values)
        stage.load(state["fields"], state["tensors"], features.columns, classes)
        return stage

    def forget_moments(self, weight: float = 10.0) -> None:
        """Shorten the memory of all running moments, for a change of the input distribution.

        The moments of inputs, of targets and of each layer's inputs keep their values. New samples then count
        as if the moments contained `weight` samples. The memory grows again with each sample.

        Parameters
        ----------
        weight : float
            Greatest number of samples that the moments average over, finite and ≥ 1.

        Raises
        ------
        ConfigurationError
            If `weight` is out of range; nothing was changed.

        Notes
        -----
        No prediction changes at that moment. The operation is part of the history of the state: the same
        samples without it give another state.
        """
        self._engine.load_state_dict(with_short_memory(self._engine.state_dict(), weight))

    def reset_slowest(self) -> None:
        """Restart the slow members of the mixture from the best of the others, for a concept drift.

        The slow networks replay samples, or predict only with the running mean of their weights (see
        `mixture`). The best network has the greatest weight among the others. The slow networks copy its
        weights and moments. They and the best then have equal weights in the mixture. Other running means
        restart at the latest weights. The memory is emptied, so the nearest neighbours keep the least weight.
        A model with one member does not change.
        """
        if self._step and any(member.averages for member in self._engine.spec.members):
            self._engine.load_state_dict(with_slowest_reset(self._engine.state_dict(), self._engine.spec))

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of everything that learning changes."""
        learned = {
            "step": self._step,
            **self._features.digested(),
            **self._targets_state(),
            **self._fields_state(),
        }
        return checkpoint.digest(learned, self._tensors())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and state to one safetensors file, atomically; `bnp_online.load` reads it."""
        checkpoint.save(path, self.state_dict())

    def _json_parameters(self) -> dict[str, Any]:
        parameters = self._parameters()
        if isinstance(self.network, nn.Module):
            parameters["network"] = {"module": type(self.network).__name__}
        for name in ("hidden", "input_shape", "text", "sparse"):
            parameters[name] = None if parameters[name] is None else list(parameters[name])
        return parameters

    def __getstate__(self) -> dict[str, Any]:
        return {"parameters": self._parameters(), "state": checkpoint.dumps(self.state_dict())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**EARLIER, **state["parameters"]}.items():
            setattr(self, name, value)
        self._begin()
        self._restore(checkpoint.loads(state["state"]))
