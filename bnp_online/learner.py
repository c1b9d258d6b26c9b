"""An online learner around an engine: validation, growth, one step a sample, state."""

from __future__ import annotations

import inspect
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from torch import nn

from . import checkpoint
from .encoding import (
    Array,
    FeatureIndex,
    Features,
    Label,
    LabelIndex,
    Sample,
    Vector,
    check_array,
    check_features,
    check_number,
    check_weight,
)
from .engines.base import LearnerSpec, Task
from .engines.choice import make_engine
from .errors import ConfigurationError, NonFiniteStateError, SampleError, StateError
from .layers import StepScale


class Prediction(NamedTuple):
    """What a model makes of a sample.

    Attributes
    ----------
    value : label, number or None
        The prediction; None before the first label.
    probabilities : dict
        By label, in order of arrival; empty for a regression.
    """

    value: Label | float | None
    probabilities: dict[Label, float]


#: The prediction of a model that has learned nothing.
NOTHING = Prediction(None, {})


class Preview:
    """Validates samples in order, as if each one before it had been learned, and changes nothing.

    Obtained from `BNPClassifier.preview`.
    """

    def __init__(self, model: OnlineLearner, labels: LabelIndex | None) -> None:
        self._model = model
        self._labels = labels

    def check(self, x: object, y: object, w: object = 1.0) -> Sample:
        """Return the sample, validated and ready to be learned.

        Raises
        ------
        SampleError
            If it cannot be learned after those before it; it does not count, then.
        """
        features = self._model.check_features(x)
        weight = check_weight(w)
        if self._labels is None:
            return Sample(features, check_number(y), weight)
        label = self._labels.check(y)
        self._labels.add(label)
        return Sample(features, label, weight)


class OnlineLearner(ABC):
    """What `BNPClassifier` and `BNPRegressor` share: validation, growth, steps and state."""

    task: ClassVar[Task]
    hidden: tuple[int, ...]
    activation: str
    lr: float | str
    replay: int
    memory: int
    rho: float
    eps_rel: float
    eps_abs: float
    step_scale: StepScale
    standardize: bool
    input_shape: tuple[int, ...] | None
    network: str | nn.Module
    max_features: int
    engine: str
    device: str
    seed: int

    def _begin(self) -> None:
        """Check the parameters and make an untrained learner."""
        if self.max_features < 1:
            raise ConfigurationError("max_features", f"{self.max_features} is not ≥ 1")
        spec = LearnerSpec(
            task=self.task,
            hidden=tuple(self.hidden),
            activation=self.activation,
            lr=self.lr,
            replay=self.replay,
            memory=self.memory,
            rho=self.rho,
            eps_rel=self.eps_rel,
            eps_abs=self.eps_abs,
            step_scale=self.step_scale,
            standardize=self.standardize,
            input_shape=None if self.input_shape is None else tuple(self.input_shape),
            network=self.network,
            seed=self.seed,
        )
        self._step = 0
        self._features = FeatureIndex(self.max_features)
        self._engine = make_engine(spec, self.engine, self.device)

    @property
    def step(self) -> int:
        """Number of samples learned."""
        return self._step

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns in order of arrival; a string feature has one for each of its values, ``name=value``."""
        return tuple(self._features.names)

    @property
    def ignored_features(self) -> int:
        """Number of feature values that were ignored because of `max_features`."""
        return self._features.ignored

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
        return self._engine.num_parameters

    @property
    def mixture(self) -> list[dict[str, float]]:
        """The copies that run side by side, and how much each counts.

        Of each: its learning rate (``lr``), how many remembered samples it learns again (``replay``), whether
        it predicts with the running mean of its weights (``averages``), and its share in the prediction
        (``weight``).
        """
        weights = self._engine.mixture.tolist()
        return [
            {
                "lr": copy.rate,
                "replay": self.replay if copy.replays else 0,
                "averages": copy.averages,
                "weight": weight,
            }
            for copy, weight in zip(self._engine.spec.copies, weights, strict=True)
        ]

    @property
    def engine_name(self) -> str:
        """The engine in use."""
        return self._engine.name

    @property
    def device_name(self) -> str:
        """The device in use."""
        return self._engine.device

    def check_features(self, x: object) -> Features | Array:
        """Validate an ``x``; what is returned can be given to any method in its place.

        Raises
        ------
        SampleError
            Naming the feature at fault.
        """
        if isinstance(x, Features | Array):
            return x
        if self.input_shape is None:
            return check_features(x)
        return check_array(x, tuple(self.input_shape))

    @abstractmethod
    def preview(self) -> Preview:
        """Return a validator of samples to come."""

    @abstractmethod
    def _target(self, sample: Sample) -> tuple[float, int]:
        """Return the engine's target for a sample, and how many outputs it adds."""

    @abstractmethod
    def _read(self, values: Vector) -> Prediction:
        """Return the prediction in an engine's output."""

    def predict(self, x: Any) -> Prediction:
        """Return the prediction for a sample and, of a classification, the probabilities; changes nothing.

        Raises
        ------
        SampleError
            If a feature cannot be used.
        NonFiniteStateError
            If no copy of the network gives a finite output, as for a huge value without standardization.
        """
        features = self.check_features(x)
        if self._step == 0:
            return NOTHING
        return self._read(self._engine.predict(self._vector(features, self._features)))

    def _parameters(self) -> dict[str, Any]:
        """Return the arguments of the constructor by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def learn_one(self, x: Any, y: Any, w: float = 1.0) -> None:
        """Learn one sample.

        Parameters
        ----------
        x : dict, or array of shape `input_shape`
            Numbers, booleans and strings by name. An absent feature is 0; None stands for its running mean.
        y : bool, int or str for a classifier, float for a regressor
            The target.
        w : float
            Weight ≥ 0, which scales the step.

        Raises
        ------
        SampleError
            If a part of the sample cannot be used; nothing was changed.
        NonFiniteStateError
            If the step would make the state non-finite; nothing was changed.
        """
        self.learn_sample(self.preview().check(x, y, w))

    def learn_sample(self, sample: Sample) -> None:
        """Learn a sample that `preview` has validated; raises as `learn_one`."""
        (refusal,) = self._learn([sample], predict=False)
        if isinstance(refusal, NonFiniteStateError):
            raise refusal

    def learn_samples(self, samples: Sequence[Sample]) -> list[Prediction | NonFiniteStateError]:
        """Predict, then learn, samples that one `preview` has validated, in order.

        Returns
        -------
        list
            For each sample what was predicted before it was learned (label or number, and probabilities), or
            the error that refused it; a refused sample changed nothing, and learning went on.
        """
        return self._learn(samples, predict=True)

    def learn_many(self, X: Any, Y: Iterable[Any]) -> None:
        """Learn rows in order, each its own step: the state is that of a loop of `learn_one`.

        Parameters
        ----------
        X : sequence of dicts, DataFrame, or array of shape (N, *input_shape)
            The samples.
        Y : sequence
            Their targets.

        Raises
        ------
        SampleError, NonFiniteStateError
            As `learn_one`; none of the rows was learned, then.
        """
        rows, targets = _rows(X), list(Y)
        if len(rows) != len(targets):
            raise SampleError("wrong_shape", "y", f"has {len(targets)} targets for {len(rows)} samples")
        preview = self.preview()
        samples = [preview.check(x, y) for x, y in zip(rows, targets, strict=True)]
        before = self.state_dict()
        for outcome in self._learn(samples, predict=False):
            if isinstance(outcome, NonFiniteStateError):
                self._restore(before)
                raise outcome

    def _learn(self, samples: Sequence[Sample], *, predict: bool) -> list[Prediction | NonFiniteStateError]:
        """Learn in order, in as few calls of the engine as growth allows."""
        outcomes: list[Prediction | NonFiniteStateError] = []
        while len(outcomes) < len(samples):
            first = samples[len(outcomes)]
            names, outputs = self._growth(first)
            if names or outputs:
                outcomes.append(self._learn_grown(first, names, outputs, predict=predict))
                continue
            run = list(itertools.takewhile(lambda s: self._growth(s) == ([], 0), samples[len(outcomes) :]))
            outcomes += self._learn_run(run, predict=predict)
        return outcomes

    def _growth(self, sample: Sample) -> tuple[list[str], int]:
        """Return the names of the columns, and the number of outputs, that a sample adds."""
        names = self._features.new(sample.features) if isinstance(sample.features, Features) else []
        return names, self._target(sample)[1]

    def _learn_grown(
        self, sample: Sample, names: list[str], outputs: int, *, predict: bool
    ) -> Prediction | NonFiniteStateError:
        """Learn a sample with something new: on a copy, which takes the engine's place if it succeeds."""
        prediction = self.predict(sample.features) if predict else NOTHING
        index = self._features.copy()
        index.add(names)
        engine = self._engine.fork()
        engine.grow(names, outputs)
        target, weight = np.array([self._target(sample)[0]]), np.array([sample.weight])
        if engine.learn(self._vector(sample.features, index)[None], target, weight)[0] == 0:
            return NonFiniteStateError("the step would make the state non-finite: use a smaller lr")
        self._engine, self._features = engine, index
        self._accept(sample)
        return prediction

    def _learn_run(self, run: list[Sample], *, predict: bool) -> list[Prediction | NonFiniteStateError]:
        """Learn samples with nothing new, up to the first that is refused."""
        x = np.stack([self._vector(sample.features, self._features) for sample in run])
        targets = np.array([self._target(sample)[0] for sample in run], dtype=np.float64)
        done, values = self._engine.learn(
            x, targets, np.array([sample.weight for sample in run]), predict=predict and self._step > 0
        )
        outcomes: list[Prediction | NonFiniteStateError] = [
            self._read(values[t]) if len(values) else NOTHING for t in range(done)
        ]
        for sample in run[:done]:
            self._accept(sample)
        if done < len(run):
            outcomes.append(NonFiniteStateError("the step would make the state non-finite: use a smaller lr"))
        return outcomes

    def _accept(self, sample: Sample) -> None:
        """Count a sample that was learned."""
        if isinstance(sample.features, Features):
            self._features.count_ignored(sample.features)
        self._step += 1

    def predict_many(self, X: Any) -> list[Any]:
        """Predict the targets of rows; see `learn_many` for their form."""
        return [self.predict(x).value for x in _rows(X)]

    def _vector(self, features: Features | Array, index: FeatureIndex) -> Vector:
        return index.vector(features) if isinstance(features, Features) else features.values

    def _state_of_learning(self) -> dict[str, Any]:
        """Everything that learning changes but the tensors, as JSON."""
        return {"step": self._step, "features": self._features.names[:], "ignored": self._features.ignored}

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the constructor and everything that learning changes."""
        return {
            "estimator": type(self).__name__,
            "parameters": self._json_parameters(),
            "engine": self.engine_name,
            "device": self.device_name,
            **self._state_of_learning(),
            "tensors": self._engine.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        StateError
            If it is of another estimator or of other parameters, or does not fit; nothing was changed.
        """
        if state.get("estimator") != type(self).__name__:
            raise StateError(f"a state of {state.get('estimator')} for a {type(self).__name__}")
        ours, theirs = self._json_parameters(), dict(state.get("parameters") or {})
        differ = sorted(
            name
            for name in ours.keys() | theirs.keys()
            if name not in ("engine", "device") and ours.get(name) != theirs.get(name)
        )
        if differ:
            raise StateError(f"the state is of a model with other parameters: {', '.join(differ)}")
        self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            step, names, ignored = int(state["step"]), list(state["features"]), int(state["ignored"])
            columns = len(names) if self.input_shape is not None else len(state["tensors"]["inputs.mean"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the state is damaged: {error!r}") from error
        if len(set(names)) != columns:
            raise StateError(f"the state has {len(set(names))} features for {columns} columns")
        self._engine.load_state_dict(state["tensors"])
        self._step = step
        self._features = FeatureIndex(self.max_features, names, ignored)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, over everything that learning changes."""
        return checkpoint.digest(self._state_of_learning(), self._engine.state_dict())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and state to one safetensors file, atomically; `bnp_online.load` reads it."""
        checkpoint.save(path, self.state_dict())

    def _json_parameters(self) -> dict[str, Any]:
        parameters = self._parameters()
        if isinstance(self.network, nn.Module):
            parameters["network"] = {"module": type(self.network).__name__}
        for name in ("hidden", "input_shape"):
            parameters[name] = None if parameters[name] is None else list(parameters[name])
        return parameters

    def __getstate__(self) -> dict[str, Any]:
        return {"parameters": self._parameters(), "state": checkpoint.dumps(self.state_dict())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state["parameters"].items():
            setattr(self, name, value)
        self._begin()
        self._restore(checkpoint.loads(state["state"]))


def _rows(X: Any) -> list[Any]:
    """Return the rows of a DataFrame, an array or any iterable."""
    if hasattr(X, "to_dict"):
        return cast(list[dict[str, Any]], X.to_dict(orient="records"))
    return list(X)
