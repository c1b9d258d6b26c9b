"""What every engine is told (`LearnerSpec`) and what every engine does (`Engine`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from ..encoding import Vector
from ..mixture import RATES, SINGLE_RATE
from ..network import sizes_of_cnn
from ..parameters import Parameters

Task = Literal["classification", "regression"]

#: Standardized inputs are clipped to ± this, so that no outlier can blow up a step.
INPUT_CLIP = 5.0
#: Standardized targets are clipped to ± this.
TARGET_CLIP = 10.0
#: Back-propagated errors of a regression are clipped to ± this (Huber's δ).
ERROR_CLIP = 5.0


class Copy(NamedTuple):
    """What is different between copies of the network.

    Attributes
    ----------
    rate : float
        Learning rate.
    replays : bool
        Whether it learns remembered samples again.
    averages : bool
        Whether it predicts with the running mean of its weights.
    """

    rate: float
    replays: bool = False
    averages: bool = False


@dataclass(kw_only=True)
class LearnerSpec(Parameters):
    """Everything about a learner that is fixed when it is made.

    Attributes
    ----------
    task : {"classification", "regression"}
        Kind of the targets; the other attributes are the parameters of the estimator.
    """

    task: Task

    @property
    def copies(self) -> list[Copy]:
        """The copies that run side by side; those that replay come last."""
        if not isinstance(self.lr, str):
            return [Copy(self.lr)]
        if self.network != "mlp":
            return [Copy(SINGLE_RATE)]
        still = [*map(Copy, RATES), Copy(SINGLE_RATE, averages=True)]
        return still + [Copy(rate, replays=True, averages=True) for rate in RATES if self.replay > 0]

    def parameters(self, inputs: int, outputs: int) -> int:
        """Return how many weights and biases all copies of a built-in network have together.

        Parameters
        ----------
        inputs, outputs : int
            Of the network once it has grown; with an input shape that is the number of inputs.
        """
        if self.input_shape is not None:
            inputs = math.prod(self.input_shape)
        convolutions = 0
        if self.network == "cnn" and self.input_shape is not None:
            inputs, convolutions = sizes_of_cnn(self.input_shape)
        sizes = [inputs, *self.hidden, outputs]
        dense = sum(n * m + m for n, m in itertools.pairwise(sizes))
        return len(self.copies) * (convolutions + dense)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_shape is not None:
            self.input_shape = tuple(self.input_shape)


class Engine(Protocol):
    """One learner: standardization, networks, moments, mixture, memory, and the step.

    Inputs are *raw*: an engine standardizes them on line, with the statistics from before the sample when it
    predicts, and with the sample's own included when it learns. A step that would make the state non-finite
    is found before anything is written. All engines have the same state, by name.
    """

    spec: LearnerSpec

    @property
    def name(self) -> str:
        """Of the engine."""

    @property
    def device(self) -> str:
        """Where it computes."""

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of all copies."""

    @property
    def mixture(self) -> Vector:
        """Weight of each copy, of shape (M,), summing to 1."""

    def fork(self) -> Engine:
        """Return an engine in the same state that can grow and learn while this one stays as it is."""

    def grow(self, inputs: Sequence[str], outputs: int) -> None:
        """Append inputs (by name) and outputs; no existing output changes."""

    def predict(self, x: Vector) -> Vector:
        """Return probabilities of shape (outputs,) that sum to 1, or the prediction, of shape (1,).

        Parameters
        ----------
        x : array of shape (inputs,) or of the input shape
            NaN stands for a missing value.

        Raises
        ------
        NonFiniteStateError
            If the outputs are not finite.
        """

    def learn(
        self, x: Vector, targets: Vector, weights: Vector, *, predict: bool = False
    ) -> tuple[int, Vector]:
        """Learn rows in order, each its own step, up to the first that is refused.

        Parameters
        ----------
        x : array of shape (N, inputs) or (N, *input shape)
            NaN stands for a missing value.
        targets, weights : arrays of shape (N,)
            Numbers of classes, or numbers to predict; weights of the samples.
        predict : bool
            Whether to return what was predicted for each row before it was learned.

        Returns
        -------
        int
            How many rows were learned. It is less than N where the next one would have made the state
            non-finite; that one changed nothing.
        array of shape (N, outputs), or (0, 0)
            The predictions of the rows learned; what stands in the others means nothing.
        """

    def moments(self) -> dict[str, Tensor]:
        """Return the means and variances in the state: of the raw inputs, and of each layer's by copy."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size.

        Raises
        ------
        StateError
            If it does not fit; nothing was changed.
        """
