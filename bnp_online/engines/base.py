"""Specification of a learner (`LearnerSpec`) and interface of the engines (`Engine`)."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from torch import Tensor

from ..errors import StateError
from ..mixture import RATES, SINGLE_RATE
from ..network import sizes_of_cnn
from ..parameters import Parameters
from ..values import Vector

Task = Literal["classification", "regression"]

#: Bound of standardized inputs: a single outlier cannot blow up a step.
INPUT_CLIP = 5.0
#: Bound of standardized targets.
TARGET_CLIP = 10.0
#: Bound of the back-propagated error of a regression (Huber's δ).
ERROR_CLIP = 5.0
#: Message of a prediction without a finite output.
NOT_FINITE = "the network's outputs are not finite: use a smaller lr"


class Member(NamedTuple):
    """Settings of one member of the mixture: one network with its own learning rate.

    Attributes
    ----------
    rate : float
        Learning rate.
    replays : bool
        Whether the member also learns samples from the replay buffer.
    averages : bool
        Whether the member predicts with the running mean of its weights.
    """

    rate: float
    replays: bool = False
    averages: bool = False


@dataclass(kw_only=True)
class LearnerSpec(Parameters):
    """Fixed settings of a learner.

    Attributes
    ----------
    task : {"classification", "regression"}
        Kind of the targets; the other attributes are the parameters of the estimator.
    """

    task: Task

    @property
    def members(self) -> list[Member]:
        """Members of the mixture; those that replay come last."""
        if not isinstance(self.lr, str):
            return [Member(self.lr)]
        if self.network != "mlp":
            return [Member(SINGLE_RATE)]
        plain = [*map(Member, RATES), Member(SINGLE_RATE, averages=True)]
        return plain + [Member(rate, replays=True, averages=True) for rate in RATES if self.replay > 0]

    @property
    def layers(self) -> list[str]:
        """Names of the layers of a multilayer perceptron."""
        return [*(f"body.{2 * i + 1}" for i in range(len(self.hidden))), "head"]

    @property
    def replayed(self) -> int:
        """Number of samples that are replayed after each new one."""
        return self.replay if any(member.replays for member in self.members) else 0

    def parameters(self, inputs: int, outputs: int) -> int:
        """Return the number of weights and biases of all members of a built-in network.

        Parameters
        ----------
        inputs, outputs : int
            Size of the network after growth. An input shape takes precedence over `inputs`.
        """
        if self.input_shape is not None:
            inputs = math.prod(self.input_shape)
        convolutions = 0
        if self.network == "cnn" and self.input_shape is not None:
            inputs, convolutions = sizes_of_cnn(self.input_shape)
        sizes = [inputs, *self.hidden, outputs]
        dense = sum(n * m + m for n, m in itertools.pairwise(sizes))
        return len(self.members) * (convolutions + dense)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_shape is not None:
            self.input_shape = tuple(self.input_shape)


class Engine(ABC):
    """Learner on raw inputs: standardization, networks, moments, mixture, replay buffer, and the step.

    A prediction standardizes its input with the statistics from before the sample; a step includes the
    sample. An engine detects a step to a non-finite state before it writes anything. The state has the same
    names in all engines.
    """

    name: str
    device: str
    spec: LearnerSpec

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of weights and biases of all members, without the running means."""

    @property
    @abstractmethod
    def mixture(self) -> Vector:
        """Weights of the members, of shape (M,), with sum 1."""

    @abstractmethod
    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""

    @abstractmethod
    def snapshot(self) -> Any:
        """Return what `restore` needs to undo growth; valid until a row is learned."""

    @abstractmethod
    def restore(self, snapshot: Any) -> None:
        """Undo growth, and refused steps, since `snapshot`: the state has equal bits."""

    @abstractmethod
    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,) with sum 1, or the prediction, of shape (1,).

        Parameters
        ----------
        x : array of shape (inputs,) or of the input shape
            NaN marks a missing value.

        Raises
        ------
        NonFiniteStateError
            If the outputs are not finite.
        """

    @abstractmethod
    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, one step each, up to the first refused row.

        Parameters
        ----------
        x : array of shape (N, inputs) or (N, *input shape)
            NaN marks a missing value.
        targets, weights : arrays of shape (N,)
            Class indices or target values; sample weights.
        predict : bool
            Whether to return the prediction made for each row before its step.

        Returns
        -------
        int
            Number of rows learned. It is less than N if the next row would make the state non-finite; that
            row changed nothing.
        array of shape (N, outputs), or of length 0
            Predictions of the learned rows; the content of other rows is undefined.
        """

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """Return means and variances in the state: of the raw inputs, and of each layer by member."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes, on the CPU."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `state_dict`; the engine grows or shrinks to its size.

        Raises
        ------
        StateError
            If the state does not fit; nothing was changed.
        """
        fresh = self._untrained()
        try:
            fresh._read(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise StateError(f"the state does not fit this network: {error}") from error
        loaded = fresh.state_dict()
        if loaded.keys() != state.keys() or any(loaded[k].shape != state[k].shape for k in loaded):
            raise StateError("the state does not fit this network: it has other tensors")
        self._adopt(fresh)

    @abstractmethod
    def _untrained(self) -> Self:
        """Return an untrained engine with the same settings."""

    @abstractmethod
    def _read(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state into this untrained engine."""

    @abstractmethod
    def _adopt(self, fresh: Self) -> None:
        """Take over the state of an engine with the same settings."""
