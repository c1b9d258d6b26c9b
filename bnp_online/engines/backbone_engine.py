"""Engine of a head on a frozen backbone: the head learns on the features of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbone import Backbone
from ..errors import NonFiniteStateError
from ..values import Flag, Vector
from .base import Engine, Explained


class BackboneEngine(Engine):
    """Engine that computes features, and has the engine of the head learn on them.

    Each row runs through the backbone alone, so that its features do not depend on the rows beside it. The
    state is that of the head. A missing value of a raw input is 0.

    Parameters
    ----------
    backbone : Backbone
        The frozen network.
    head : Engine
        Engine with the input shape (features,).
    device : str
        Device of the backbone.
    """

    def __init__(self, backbone: Backbone, head: Engine, device: str) -> None:
        self._backbone, self._head = backbone, head
        self._run = backbone.on(device)
        self.name, self.device, self.spec = head.name, device, head.spec
        self.call_seconds, self.activity = head.call_seconds, head.activity

    def _features(self, x: Vector) -> Vector | None:
        """Return the features of an input, or None if they are not finite."""
        row = torch.from_numpy(np.nan_to_num(x, nan=0.0)).reshape(1, *self._backbone.input_shape)
        features: Vector = self._run(row.to(self.device, torch.float32))[0].to("cpu", torch.float64).numpy()
        return features if np.isfinite(features).all() else None

    def _required(self, x: Vector) -> Vector:
        features = self._features(x)
        if features is None:
            raise NonFiniteStateError("the features of the backbone are not finite: use smaller inputs")
        return features

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of the head."""
        return self._head.num_parameters

    @property
    def mixture(self) -> Vector:
        """Weights of the experts of the head."""
        return self._head.mixture

    @property
    def stack_share(self) -> float:
        """Share of the stack in the prediction."""
        return self._head.stack_share

    def grow(self, inputs: Sequence[str], outputs: int, *, scaled: int = 0, unknown: bool = False) -> None:
        """Append outputs."""
        self._head.grow(inputs, outputs, scaled=scaled, unknown=unknown)

    def clipped(self) -> tuple[Vector, Vector]:
        """Return the numbers of values of each feature, and of those that were clipped."""
        return self._head.clipped()

    def snapshot(self) -> Any:
        """Return what `restore` needs to undo growth."""
        return self._head.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Undo growth, and refused steps, since `snapshot`."""
        self._head.restore(snapshot)

    def predict(self, x: Vector) -> Vector:
        """Return probabilities, or the prediction; raises as `Engine.predict`, also for the features."""
        return self._head.predict(self._required(x))

    def experts(self, x: Vector) -> Vector:
        """Return the prediction of each expert."""
        return self._head.experts(self._required(x))

    def explain(
        self, x: Vector, groups: NDArray[np.int64], count: int, label: int = -1, *, quick: bool = False
    ) -> Explained:
        """Return how much each group of features of the backbone moved the prediction."""
        return self._head.explain(self._required(x), groups, count, label, quick=quick)

    def prepare_explanations(self) -> None:
        """Load what the head needs."""
        self._head.prepare_explanations()

    def novelty(self, x: Vector) -> float:
        """Return the tail probability of the features of an input."""
        return self._head.novelty(self._required(x))

    def learn(
        self,
        x: Vector,
        targets: Vector,
        weights: Vector,
        *,
        predict: bool = False,
        given: Vector | None = None,
        pause: Flag | None = None,
    ) -> tuple[int, Vector]:
        """Learn rows in order, up to the first refused row or a pause; features must be finite."""
        predictions = np.empty((0, 0))
        for i, row in enumerate(x):
            one, features = slice(i, i + 1), self._features(row)
            if features is None:
                return i, predictions
            late = None if given is None else given[one]
            done, predicted = self._head.learn(
                features[None], targets[one], weights[one], predict=predict, given=late
            )
            if not done:
                return i, predictions
            if predict:
                if not i:
                    predictions = np.empty((len(x), predicted.shape[1]))
                predictions[i] = predicted[0]
            if pause is not None and pause[0]:
                return i + 1, predictions
        return len(x), predictions

    def moments(self) -> dict[str, Tensor]:
        """Return means and variances in the state, of the features and of each layer."""
        return self._head.moments()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes: the state of the head."""
        return self._head.state_dict()

    def _untrained(self) -> Self:
        return type(self)(self._backbone, self._head._untrained(), self.device)

    def _read(self, state: Mapping[str, Tensor]) -> None:
        self._head._read(state)

    def _adopt(self, fresh: Self) -> None:
        self._head._adopt(fresh._head)
