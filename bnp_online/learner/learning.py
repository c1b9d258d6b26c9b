"""Learning: growth and steps of the engine and the sparse stage."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..encoding import name_of, read_array
from ..errors import DeviceMemoryError, NonFiniteStateError, SampleError
from ..frames import rows_of, values_of
from ..late_labels import aligned
from ..sparse import NO_GROWTH, TAILS_EVERY, Growth, PlainFeatures, SparseStage, growth, heavy_tails
from ..values import (
    Array,
    Derived,
    ExpertPredictions,
    Features,
    Flag,
    Label,
    Prediction,
    Sample,
    SampleRows,
    Vector,
    at_row,
)
from .model import NO_FRONT
from .prediction import NOTHING
from .preview import Preview
from .state import SavedModel

Refusal: TypeAlias = NonFiniteStateError | DeviceMemoryError
"""Error that refused a sample; it changed nothing."""
_REFUSALS = (NonFiniteStateError, DeviceMemoryError)

#: Message of a refused sample.
REFUSED = "the step would make the state non-finite: use a smaller lr"
_ONE = np.ones(1)
#: Prediction of an untrained regression, for the intervals.
_UNKNOWN = np.full(1, np.nan)


class OnlineLearner(SavedModel):
    """Base of `BNPClassifier` and `BNPRegressor`."""

    def _begin(self) -> None:
        super()._begin()
        self._watch: tuple[int, Callable[[Any], None] | None] = 0, None

    def watch(self, every: int, see: Callable[[Any], None]) -> None:
        """Call a function after certain steps, with the sample of the step.

        The function may read the model. It is not part of the state.

        Parameters
        ----------
        every : int
            The steps are its multiples, and the powers of two below it.
        see : callable
            Takes a sample that `check_features` accepts.
        """
        self._watch = every, see

    def _steps_until_stop(self, most: int) -> int:
        """Return how many samples one call of the engine may learn."""
        every, _ = self._watch
        if self._staged:
            most = min(most, TAILS_EVERY - self._step % TAILS_EVERY)
        if not every:
            return most
        step = self._step
        stop = step - step % every + every if step >= every else min(1 << step.bit_length(), every)
        return min(most, stop - step)

    def preview(self) -> Preview:
        """Return a validator of the next samples."""
        return Preview(self)

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
        DeviceMemoryError
            If the GPU has too little free memory; nothing was changed.
        """
        if self._tails_due:
            self._add_tails()
        row, target = self._row(x), self._targets.find(y)
        plain = given is None and type(w) is float and 0.0 <= w < math.inf
        if plain and self._stage is not None:
            outcome = self._learn_staged(
                Sample(self.check_features(x), self._targets.check(y), w), predict=False
            )
            if isinstance(outcome, Refusal):
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
            raise NonFiniteStateError(REFUSED)
        self._learned(1, row)

    def _learn_rows(
        self,
        x: Vector,
        targets: Vector,
        weights: Vector,
        *,
        predict: bool = False,
        given: Vector | None = None,
        pause: Flag | None = None,
    ) -> tuple[int, Vector]:
        """Learn rows without growth (`Engine.learn`), and update the intervals with the errors."""
        if self._intervals is None:
            return self._engine.learn(x, targets, weights, predict=predict, given=given, pause=pause)
        done, values = self._engine.learn(x, targets, weights, predict=True, given=given, pause=pause)
        rows = x if x.ndim == 2 else x.reshape(len(x), -1)
        self._learn_intervals(rows[:done], targets[:done], values[:done, 0], weights[:done])
        return done, values

    def _learn_intervals(self, x: Vector, targets: Vector, predictions: Vector, weights: Vector) -> None:
        """Learn from the errors of predictions (`Intervals.learn`), and report the scored intervals."""
        if self._intervals is not None:
            scored = self._intervals.learn(x, targets, predictions, weights)
            if self.on_intervals is not None:
                self.on_intervals(scored)

    def learn_sample(self, sample: Sample) -> None:
        """Learn a sample validated by `preview`; raises as `learn_one`."""
        (refusal,) = self._learn([sample], predict=False)
        if isinstance(refusal, Refusal):
            raise refusal

    def learn_samples(self, samples: Sequence[Sample]) -> list[Prediction | Refusal]:
        """Predict, then learn, samples validated by one `preview`, in order.

        Returns
        -------
        list
            For each sample its prediction before the step, or the error that refused it. A refused sample
            changes nothing, and learning continues, except after a `DeviceMemoryError`.
        """
        if len(samples) == 1 and (outcome := self._learn_plain(samples[0])) is not None:
            return [outcome]
        return [*self._learn(samples, predict=True)]

    def _learn_plain(self, sample: Sample) -> Prediction | Refusal | None:
        """Predict, then learn, a sample of known columns and target, as `_learn_run`; None for any other.

        It takes half the time of `_learn_run` for a small network.
        """
        features, target, weight, given = sample
        code = self._targets.code(target)
        if self._stage is not None or self._tails_due or given is not None or code is None:
            return None
        if type(features) is not Array:
            return None
        row = features.values if self._shape is not None else self._features.widen(features.values)
        self._target_of_one[0] = code
        weights = _ONE if weight == 1.0 else np.array([weight], np.float64)
        try:
            done, values = self._learn_rows(row[None], self._target_of_one, weights, predict=True)
        except DeviceMemoryError as error:
            return error
        if not done:
            return NonFiniteStateError(REFUSED)
        found: list[Prediction] = self._targets.read(values)
        self._learned(1, features)
        return found[0]

    def knows(self, rows: SampleRows) -> bool:
        """Return whether `learn_rows` can learn samples: the model has their columns and labels.

        It cannot if a feature with numbers has strings since: a missing value has all columns of its feature.
        """
        layout = self.layout()
        if layout is None or layout.regression != (not rows.labels):
            return False
        labels = layout.labels[: len(rows.labels)]
        if rows.columns is layout.columns:
            return rows.labels == labels
        count = len(rows.columns)
        return (rows.columns, rows.labels, *map(type, rows.labels[:1])) == (
            layout.columns[:count],
            labels,
            *map(type, labels[:1]),
        ) and not any(
            column[0] in rows.columns
            for column in layout.columns[count:]
            if not isinstance(column, str | Derived)
        )

    def learn_rows(self, rows: SampleRows, pause: Flag | None = None) -> tuple[int, Vector]:
        """Predict, then learn, samples that the model `knows`, in order and in compiled code.

        Parameters
        ----------
        rows : SampleRows
            The samples.
        pause : Flag, optional
            Another thread sets it to end the call early, as for `Engine.learn`.

        Returns
        -------
        int
            Number of learned samples, counted from the first. The call ends early at a pause, before a sample
            that the learner refuses, and after a step that added columns. A sample was refused if a call that
            begins with it learns none; it changed nothing.
        array of shape (learned, outputs)
            The prediction for each of them before its step: probabilities, or a number.
        """
        count, learned, found = len(rows.targets), 0, list[Vector]()
        while True:
            most = self._steps_until_stop(count)
            part = rows.part(learned, min(learned + most, count))
            try:
                if self._tails_due:
                    self._add_tails()
                x = self._features.widen_rows(part.values)
                done, values = self._learn_rows(x, part.targets, part.weights, predict=True, pause=pause)
            except DeviceMemoryError:
                if not learned:
                    raise
                done = 0
            self._learned(done, part.values[done - 1 : done])
            found.append(values[:done])
            learned += done
            paused = done < len(part.targets) or (pause is not None and pause[0])
            if learned == count or paused or not self.knows(rows):
                return learned, found[0] if len(found) == 1 else np.concatenate(found)

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
        SampleError, NonFiniteStateError, DeviceMemoryError
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
        learn: Callable[[], Iterable[Prediction | Refusal]]
        if block is not None:
            learn = functools.partial(self._learn_block, block, *self._targets.codes(targets))
        else:
            check = self.preview().check
            late = itertools.repeat(None, len(rows)) if given is None else given
            labelled = zip(rows, targets, late, strict=True)
            samples = [at_row(check, i, x, y, 1.0, known) for i, (x, y, known) in enumerate(labelled)]
            learn = functools.partial(self._learn, samples, predict=False)
        self._learn_all(learn)

    def _learn_all(self, learn: Callable[[], Iterable[Prediction | Refusal]]) -> None:
        """Learn samples, all or none."""
        stage, before = self._stage, self._state_copy()
        if stage is not None:
            stage.begin()
        try:
            for outcome in learn():
                if isinstance(outcome, Refusal):
                    raise type(outcome)(f"row {self._step - before['step']}: {outcome}")
        except _REFUSALS:
            if stage is not None:
                stage.undo()
            self._restore(before, stage)
            raise
        finally:
            if stage is not None:
                stage.end()

    def _learn(self, samples: Sequence[Sample], *, predict: bool) -> Iterator[Prediction | Refusal]:
        """Learn samples in order. Consecutive samples without growth take one call of the engine.

        It ends after a `DeviceMemoryError`: the sample can be learned later, and those behind it after it.
        """
        start = 0
        while start < len(samples):
            for outcome in self._learn_next(samples, start, predict=predict):
                start += 1
                yield outcome
                if isinstance(outcome, DeviceMemoryError):
                    return

    def _learn_next(
        self, samples: Sequence[Sample], start: int, *, predict: bool
    ) -> Sequence[Prediction | Refusal]:
        """Learn at least one sample, in one call of the engine."""
        if self._tails_due:
            try:
                self._add_tails()
            except DeviceMemoryError as error:
                return [error]
        if self._stage is not None:
            return [self._learn_staged(samples[start], predict=predict)]
        if targets := self._known_targets(samples, start):
            return self._learn_run(samples[start : start + len(targets)], targets, predict=predict)
        return [self._learn_grown(samples[start], predict=predict)]

    def _known_targets(self, samples: Sequence[Sample], start: int) -> list[float]:
        """Return the targets of the samples before the first one that needs a new column or output."""
        targets: list[float] = []
        most = self._steps_until_stop(len(samples))
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

    def _learned(self, count: int, latest: Any) -> None:
        """Record that samples were learned; every 50th adds the columns that heavy tails need.

        `latest` is the last one: an array of its values, or its features.
        """
        self._step += count
        if count and self._staged and self._step % TAILS_EVERY == 0:
            self._tails_due = True
            with contextlib.suppress(DeviceMemoryError):  # else before the next sample
                self._add_tails()
        every, see = self._watch
        step = self._step
        if see is not None and count and (step % every == 0 or (step < every and not step & (step - 1))):
            see(latest if isinstance(latest, Features | Array) else Array(latest.reshape(self._shape or -1)))

    def _add_tails(self) -> None:
        """Add the columns that heavy tails need.

        Raises
        ------
        DeviceMemoryError
            If the GPU has too little free memory; nothing was changed.
        """
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
        self._tails_due = False

    def _learn_staged(self, sample: Sample, *, predict: bool) -> Prediction | Refusal:
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
        except _REFUSALS as error:
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
            self._latest_front = NO_FRONT
        if more:
            targets = targets.copy()
            targets.add(sample.target)
        target, weight = np.array([targets.code(sample.target)], np.float64), np.array([sample.weight])
        engine, learned = self._engine, 0
        given = None if sample.given is None else self._aligned([sample.given], targets)
        before: Any = None
        try:
            if more or grown.columns:
                before = engine.snapshot()
            scaled = sum(isinstance(column, Derived) for column in grown.columns)
            engine.grow([*map(name_of, grown.columns)], int(more), scaled=scaled)
            earlier = None if given is None else given[:, : self._judged]
            learned, dense = engine.learn(row[None], target, weight, predict=True, given=earlier)
        except DeviceMemoryError as error:
            return error
        finally:
            if not learned and before is not None:
                engine.restore(before)
        if not learned:
            return NonFiniteStateError(REFUSED)
        classifies = self.task == "classification"
        known = self._step > 0 and not (more and classifies)
        if given is not None and classifies:  # a class that was unknown then is not judged
            known = known and bool((given[0, :, int(target[0])] != 0.0).any())
        stage.adopt(state, grown.fields)
        if more and classifies:
            stage.add_class()
            stage.front(items, row.copy(), features.missing)
            self._latest_front = NO_FRONT
        combined = stage.combine(dense[0], *([] if given is None else [given[0, self._judged :]]))
        stage.learn(items, float(target[0]), sample.weight, judged=known)
        stage.enter_columns(grown.columns if self._stage else index.columns, index.positions)
        if self._intervals is not None:
            self._intervals.grow(len(grown.columns))
            self._learn_intervals(row[None], target, combined if known else _UNKNOWN, weight)
        if predict and self._step and not (more or any(grown)):
            prediction = self._targets.read(combined[None])[0]
        self._stage, self._features, self._targets = stage, index, targets
        self._learned(1, features)
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

    def _learn_grown(self, sample: Sample, *, predict: bool) -> Prediction | Refusal:
        """Learn a sample that needs a new column or output; a refusal undoes the growth."""
        if isinstance(sample.features, Features) and self._growth(sample.features).fields:
            return self._learn_staged(sample, predict=predict)
        try:
            prediction = self.predict(sample.features) if predict else NOTHING
            outputs = self._outputs(sample.features) if self._intervals is not None else None
        except _REFUSALS as error:  # no member is finite on it, and none could learn it
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
        before: Any = None
        try:
            before = engine.snapshot()
            engine.grow([*map(name_of, columns)], new)
            given = (
                None if sample.given is None else self._aligned([sample.given], targets)[:, : self._judged]
            )
            learned, values = engine.learn(row, target, weight, predict=given is not None, given=given)
        except DeviceMemoryError as error:
            return error
        finally:
            if not learned and before is not None:
                engine.restore(before)
        if not learned:
            return NonFiniteStateError(REFUSED)
        if self._intervals is not None:
            self._intervals.grow(len(columns))
            known = values[0] if len(values) else _UNKNOWN if outputs is None else outputs
            self._learn_intervals(row.reshape(1, -1), target, known, weight)
        self._features, self._targets = index, targets
        self._learned(1, sample.features)
        self._count_ignored([sample])
        return prediction

    def _learn_run(
        self, run: Sequence[Sample], targets: list[float], *, predict: bool
    ) -> list[Prediction | Refusal]:
        """Learn samples without growth, up to the first refused sample."""
        fixed, columns = self._shape is not None, len(self._features.columns)
        features, _, weights, late = zip(*run, strict=True)
        rows = [
            x.values if isinstance(x, Array) and (fixed or len(x.values) == columns) else self._vector(x)
            for x in features
        ]
        x = np.concatenate(rows).reshape(len(rows), *rows[0].shape)  # a third of the time of np.stack
        given = self._aligned(late, self._targets)[:, : self._judged] if any(late) else None
        try:
            done, values = self._learn_rows(
                x, np.array(targets, np.float64), np.array(weights), predict=predict, given=given
            )
        except DeviceMemoryError as error:
            return [error]
        outcomes: list[Prediction | Refusal] = []
        outcomes += self._targets.read(values[:done]) if predict else [NOTHING] * done
        self._learned(done, run[done - 1].features if done else None)
        self._count_ignored(run[:done])
        if done < len(run):
            outcomes.append(NonFiniteStateError(REFUSED))
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
    ) -> Iterator[Prediction | Refusal]:
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
                    yield NonFiniteStateError(REFUSED)
                    return
            if stop < len(x):
                yield self._learn_grown(Sample(Array(x[stop]), new[stop], 1.0), predict=False)
            start = stop + 1
