"""What a learner is made of, put away and taken up again: state, fingerprint, file, pickle."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from . import checkpoint
from .drift_response import with_short_memory, with_slowest_reset
from .encoding import FeatureIndex
from .engines.base import Engine
from .engines.state import MOST, check_tensors
from .errors import StateError
from .intervals import Intervals, split
from .parameters import Parameters


class Stateful(Parameters, ABC):
    """The part of an `OnlineLearner` that knows its state."""

    _step: int
    _features: FeatureIndex
    _engine: Engine
    _intervals: Intervals | None

    @abstractmethod
    def _begin(self) -> None:
        """Check the parameters and make an untrained learner."""

    def _state_of_learning(self) -> dict[str, Any]:
        """Everything that learning changes but the tensors, as JSON."""
        return {"step": self._step, "features": self._features.names[:], "ignored": self._features.ignored}

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the constructor and everything that learning changes."""
        return {
            "estimator": type(self).__name__,
            "parameters": self._json_parameters(),
            "engine": self._engine.name,
            "device": self._engine.device,
            **self._state_of_learning(),
            "tensors": self._tensors(),
        }

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of everything that learning changes."""
        tensors = self._engine.state_dict()
        return tensors if self._intervals is None else {**tensors, **self._intervals.state_dict()}

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
        if "intervals" in ours:
            theirs.setdefault("intervals", 0)  # an earlier version had none
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
            step, names, ignored = state["step"], list(state["features"]), state["ignored"]
            columns = len(names) if self.input_shape is not None else len(state["tensors"]["inputs.mean"])
        except (KeyError, TypeError) as error:
            raise StateError(f"the state is damaged: {error!r}") from error
        for count in (step, ignored):
            if type(count) is not int or not 0 <= count < MOST:
                raise StateError(f"the state is damaged: {count!r:.40} is no count")
        if not all(isinstance(name, str) for name in names):
            raise StateError("the state is damaged: a feature's name is no string")
        if len(set(names)) != columns or columns > self.max_features:
            raise StateError(f"the state has {len(set(names))} features for {columns} columns")
        tensors, of_intervals = split(state["tensors"])
        if bool(of_intervals) != (self._intervals is not None):
            raise StateError("the state has intervals, or this model has, but not both")
        check_tensors(self._engine.spec, step, tensors)
        inputs = columns if self.input_shape is None else math.prod(self.input_shape)
        intervals = self._intervals and self._intervals.restored(of_intervals, inputs)
        self._engine.load_state_dict(tensors)
        self._intervals = intervals
        self._step = step
        self._features = FeatureIndex(self.max_features, names, ignored)

    def forget_moments(self, weight: float = 10.0) -> None:
        """Shorten the memory of all running moments, as after a change of the stream.

        The statistics of inputs, of targets and of each layer's inputs stay what they are, but new samples
        weigh as much as if only so many had been seen; from there the memory grows again to its length.

        Parameters
        ----------
        weight : float
            How many samples the moments average over at most, finite and ≥ 1.

        Raises
        ------
        ConfigurationError
            If `weight` is out of range; nothing was changed.

        Notes
        -----
        No prediction changes at that moment. It is not part of a step: samples learned before and after it
        give another state than samples alone.
        """
        self._engine.load_state_dict(with_short_memory(self._engine.state_dict(), weight))

    def reset_slowest(self) -> None:
        """Let the copies that are slow to follow a change start again from the best of the others.

        Those that predict with running means of their weights (`mixture` says which) take over weights,
        moments and, evenly, the share in the mixture of the copy that counts most among the others; the
        samples remembered for replay are forgotten. A learner of one copy has no slow ones: nothing happens.
        """
        if self._step and any(member.averages for member in self._engine.spec.members):
            self._engine.load_state_dict(with_slowest_reset(self._engine.state_dict(), self._engine.spec))

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, over everything that learning changes."""
        return checkpoint.digest(self._state_of_learning(), self._tensors())

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
