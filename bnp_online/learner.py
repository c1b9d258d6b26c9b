"""An online learner around an engine: validation, growth, one step a sample, state."""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from . import checkpoint
from .encoding import (
    Array,
    FeatureIndex,
    Features,
    LabelIndex,
    Sample,
    Vector,
    check_array,
    check_features,
    check_number,
    check_weight,
)
from .engines.autograd import AutogradEngine
from .engines.base import Engine, LearnerSpec, Task
from .errors import ConfigurationError, NonFiniteStateError, SampleError, StateError
from .layers import StepScale


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
    lr: float
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
        if self.engine not in ("auto", "autograd"):
            raise ConfigurationError("engine", f"{self.engine!r} is not 'auto' or 'autograd'")
        if self.max_features < 1:
            raise ConfigurationError("max_features", f"{self.max_features} is not ≥ 1")
        spec = LearnerSpec(
            task=self.task,
            hidden=tuple(self.hidden),
            activation=self.activation,
            lr=self.lr,
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
        self._engine: Engine = AutogradEngine(spec, _device(self.device))

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
    def _accept(self, sample: Sample) -> None:
        """Remember the label of a sample that was learned."""

    @abstractmethod
    def predict_one(self, x: Any) -> Any:
        """Predict the target of a sample."""

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
        names: list[str] = []
        if isinstance(sample.features, Features):
            names = self._features.new(sample.features)
        target, outputs = self._target(sample)
        before = self.state_dict() if names or outputs else None
        self._features.add(names)
        self._engine.grow(names, outputs)
        try:
            self._engine.learn(self._vector(sample.features), target, sample.weight)
        except NonFiniteStateError:
            if before is not None:
                self._restore(before)
            raise
        if isinstance(sample.features, Features):
            self._features.count_ignored(sample.features)
        self._accept(sample)
        self._step += 1

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
        try:
            for sample in samples:
                self.learn_sample(sample)
        except NonFiniteStateError:
            self._restore(before)
            raise

    def predict_many(self, X: Any) -> list[Any]:
        """Predict the targets of rows; see `learn_many` for their form."""
        return [self.predict_one(x) for x in _rows(X)]

    def _vector(self, features: Features | Array) -> Vector:
        return self._features.vector(features) if isinstance(features, Features) else features.values

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


def _device(name: str) -> str:
    """Return the device for ``"auto"``, ``"cpu"`` or ``"cuda"``: a fixed rule, never a measurement."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError("device", f"{name!r} is not 'auto', 'cpu' or 'cuda'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigurationError("device", "torch sees no CUDA device: use 'cpu' or 'auto'")
    return "cuda" if available and name != "cpu" else "cpu"


def _rows(X: Any) -> list[Any]:
    """Return the rows of a DataFrame, an array or any iterable."""
    if hasattr(X, "to_dict"):
        return cast(list[dict[str, Any]], X.to_dict(orient="records"))
    return list(X)
