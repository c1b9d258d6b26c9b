"""What every engine is told (`LearnerSpec`) and what every engine does (`Engine`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from ..encoding import Vector
from ..errors import ConfigurationError
from ..layers import StepScale
from ..network import ACTIVATIONS

Task = Literal["classification", "regression"]

#: Standardized inputs are clipped to ± this, so that no outlier can blow up a step.
INPUT_CLIP = 5.0
#: Standardized targets are clipped to ± this.
TARGET_CLIP = 10.0
#: Back-propagated errors of a regression are clipped to ± this (Huber's δ).
ERROR_CLIP = 5.0


@dataclass(frozen=True)
class LearnerSpec:
    """Everything about a learner that is fixed when it is made.

    See `BNPClassifier` for the meaning and range of each field.
    """

    task: Task
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
    seed: int

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ConfigurationError("hidden", f"{self.hidden} has a layer of width < 1")
        if self.activation not in ACTIVATIONS:
            raise ConfigurationError("activation", f"{self.activation!r} is not one of {sorted(ACTIVATIONS)}")
        if not 0.0 < self.lr < float("inf"):
            raise ConfigurationError("lr", f"{self.lr!r} is not a finite number > 0")
        if self.input_shape is not None and (not self.input_shape or min(self.input_shape) < 1):
            raise ConfigurationError("input_shape", f"{self.input_shape} is not a shape")
        if isinstance(self.network, str) and self.network not in ("mlp", "cnn"):
            raise ConfigurationError("network", f"{self.network!r} is not 'mlp', 'cnn' or a torch module")
        if self.network != "mlp" and self.input_shape is None:
            raise ConfigurationError("input_shape", "this network needs one, such as (1, 28, 28)")


class Engine(Protocol):
    """One learner: standardization, network, moments and the step.

    Inputs are *raw*: an engine standardizes them on line, with the statistics from before the sample when it
    predicts, and with the sample's own included when it learns. A step that would make the state non-finite
    is found before anything is written.
    """

    name: str
    device: str

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

    def learn(self, x: Vector, target: float, weight: float) -> None:
        """Take one step on one sample: `target` is the number of its class, or the number to predict.

        Raises
        ------
        NonFiniteStateError
            If the step would make the state non-finite; nothing was changed.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, growing or shrinking to its size.

        Raises
        ------
        StateError
            If it does not fit; nothing was changed.
        """

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases."""
