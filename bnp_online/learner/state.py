"""State of a learner: limits, saving and loading, and its response to a drift."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .. import checkpoint
from ..drift_response import with_short_memory, with_slowest_reset
from ..encoding import FeatureIndex
from ..engines.devices import available
from ..engines.state import MOST, check_tensors
from ..errors import ConfigurationError, StateError
from ..intervals import split
from ..parameters import EARLIER, check_parameters
from ..sparse import LOG, PREFIX, SparseStage
from ..values import Derived
from .explaining import ExplainingModel
from .model import NO_CHECK, NO_FRONT


class SavedModel(ExplainingModel):
    """A model whose state can be saved, loaded and compared."""

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
        fields = self._fields_state() if staged else {}
        return {**self._header(), **fields, "tensors": self._tensors(staged=staged)}

    def _header(self) -> dict[str, Any]:
        """Return the state except tensors and the sparse stage, as JSON."""
        return {
            "estimator": type(self).__name__,
            "parameters": self._json_parameters(),
            "engine": self._engine.name,
            "device": self._engine.device,
            "step": self._step,
            **self._features.state_dict(),
            **self._targets_state(),
        }

    def _state_copy(self) -> dict[str, Any]:
        """Return the state without that of the sparse stage, for `_restore`; tensors may be on the device."""
        tensors = self._engine.state_copy()
        if self._intervals is not None:
            tensors |= self._intervals.state_dict()
        return {**self._header(), "tensors": tensors}

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
        self._latest_check, self._latest_front = NO_CHECK, NO_FRONT
        self._step = step
        self._tails_due = False
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
        if self._step and self._engine.spec.averages:
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
        if self.backbone is not None:
            parameters |= {"backbone": self.backbone.name, "backbone_sha256": self.backbone.sha256}
        for name in ("hidden", "input_shape", "text", "sparse"):
            parameters[name] = None if parameters[name] is None else list(parameters[name])
        return parameters

    def __getstate__(self) -> dict[str, Any]:
        return {"parameters": self._parameters(), "state": checkpoint.dumps(self.state_dict())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**EARLIER, **state["parameters"]}.items():
            setattr(self, name, available(value) if name == "device" else value)
        self._begin()
        self._restore(checkpoint.loads(state["state"]))
