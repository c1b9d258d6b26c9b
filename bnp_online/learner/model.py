"""The parts of an online learner, and what it tells of itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..diagnostics import Diagnosis, diagnose
from ..encoding import FeatureIndex, compile_encoding
from ..engines.base import Expert, LearnerSpec, Task
from ..engines.choice import make_engine
from ..engines.devices import Activity
from ..intervals import Intervals, ScoredIntervals
from ..parameters import Parameters
from ..sparse import GROUPS, Reader, SparseStage, compile_kernels
from ..values import Column, Derived, Label, TextRules

#: No latest sample that the stage read: its step, features, values and raw input.
NO_FRONT: tuple[int, Any, Any, Any] = (-1, None, None, None)
#: No latest sample that was checked: its names, values and features.
NO_CHECK: tuple[tuple[Any, ...], tuple[Any, ...], Any] = (("",), (object(),), None)


#: No latest layout: its index, number of columns and number of labels.
NO_LAYOUT: tuple[Any, int, int, Any] = (None, 0, 0, None)


class Layout(NamedTuple):
    """Columns and labels of a learner that reads rows.

    Attributes
    ----------
    columns : tuple of Column
        Columns by position.
    numbers : dict of str to int
        Position of each feature that has numbers.
    values : dict of str to dict of str to int
        Position by feature and value, of the features that have strings.
    labels : tuple
        Labels of a classification.
    regression : bool
        Whether the targets are numbers.
    """

    columns: tuple[Column, ...]
    numbers: Mapping[str, int]
    values: Mapping[str, Mapping[str, int]]
    labels: tuple[Label, ...]
    regression: bool


class Model(Parameters):
    """Engine, columns, targets, sparse stage and intervals of a learner.

    Each further part of the learner is a class that inherits from the one before: `PredictingModel` reads and
    predicts samples, `SavedModel` has the state, `OnlineLearner` learns.
    """

    task: ClassVar[Task]
    _targets: Any  # LabelIndex or NumberTargets: mypy cannot tie the type of a target to the class
    #: Takes the scored intervals of learned samples, one for each sample, in order; no part of the state.
    on_intervals: Callable[[ScoredIntervals], object] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begin()

    def _begin(self) -> None:
        """Make an untrained learner."""
        whole = LearnerSpec(task=self.task, **self._parameters())
        spec = whole.head
        compile_encoding()
        self._target_of_one = np.empty(1)  # of `learn_one`: a new array would cost a tenth of a step
        self._shape = whole.input_shape
        self._step = 0
        self._tails_due = False  # whether heavy tails may need columns since the last sample
        self._stage: SparseStage | None = None
        self._latest_check, self._latest_front, self._latest_layout = NO_CHECK, NO_FRONT, NO_LAYOUT
        self._warned = set[str]()
        self._reader: Reader | None = None
        self._staged = self.learner >= 2 and self._shape is None and self.network == "mlp"
        self._features = FeatureIndex(self.max_features)
        self._features.rules = self._rules()
        self.engine = spec.engine  # a pickle may have the name of version 0.1.0
        finish = compile_kernels() if self._staged else None
        self._engine = make_engine(whole)
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

    def layout(self) -> Layout | None:
        """Return the columns of `SampleRows`; None if the learner does not take rows (`OnlineLearner.knows`).

        While nothing new arrives, it is one object.
        """
        index, labels = self._features, self._classes
        if self._stage is not None or self._shape is not None or not self._step:
            return None
        known, count, classes, layout = self._latest_layout
        if known is not index or count != len(index.columns) or classes != len(labels):
            found = index.layout()
            layout = None if found is None else Layout(*found, labels, self.task == "regression")
            self._latest_layout = index, len(index.columns), len(labels), layout
        latest: Layout | None = layout
        return latest

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
    def feature_types(self) -> dict[str, type[float] | type[str]]:
        """Features by name, in order of arrival: `float`, or `str` for strings and words."""
        found: dict[str, type[float] | type[str]] = {}
        for column in self._features.positions:
            if not isinstance(column, Derived):
                name = self._features.feature_of(column)  # that of a count is not its field
                found.setdefault(name, str if isinstance(column, tuple) and column[0] == name else float)
        for field in self.fields:
            if not field.endswith("*"):
                found.setdefault(field, str)
        return found

    def mean_sample(self) -> Any:
        """Return the running means of the features, as a sample.

        Returns
        -------
        dict, or nested list of shape `input_shape`
            A feature with strings is None, a missing value. None if the means are not known by feature.
        """
        means = self._engine.moments()["inputs.mean"].reshape(-1).tolist()
        if self._shape is not None:
            return np.reshape(means, self._shape).tolist() if len(means) == math.prod(self._shape) else None
        positions = self._features.positions
        return {
            name: means[positions[name]] if kind is float and name in positions else None
            for name, kind in self.feature_types.items()
        }

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
        spec, weights = self._engine.spec, self.mixture_weights
        experts = [*spec.experts, *([Expert("stack")] if spec.stacks else [])]
        return [
            {
                "expert": each.name,
                "kind": each.kind,
                "lr": each.rate,
                "replay": self.replay if each.replays else 0,
                "averages": each.averages,
                "weight": weight,
            }
            for each, weight in zip(experts, weights, strict=True)
        ]

    @property
    def mixture_weights(self) -> list[float]:
        """Weights of the experts in `mixture`, in their order; this takes a fraction of its time."""
        engine, share = self._engine, self._engine.stack_share
        weights: list[float] = ((1.0 - share) * engine.mixture).tolist()
        return [*weights, share] if engine.spec.stacks else weights

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
    def call_seconds(self) -> float | None:
        """Seconds that a call takes at most, about, if it waits for a GPU: see `Engine.call_seconds`."""
        return self._engine.call_seconds

    @property
    def activity(self) -> Activity | None:
        """Work on a GPU; None on the CPU."""
        return self._engine.activity if self._engine.call_seconds is not None else None

    @property
    def device_name(self) -> str:
        """Name of the device in use."""
        return self._engine.device

    @property
    def _classes(self) -> tuple[Label, ...]:
        """Classes of the outputs; empty for a regression."""
        return ()
