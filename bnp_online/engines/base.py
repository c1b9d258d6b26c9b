"""Specification of a learner (`LearnerSpec`) and interface of the engines (`Engine`)."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import StateError
from ..layer_list import count_parameters
from ..mixture import (
    BIN_EDGES,
    BIN_INTEGERS,
    BIN_RATE,
    BINNED_INPUTS,
    LEAST_WINDOW,
    LINEAR_RATES,
    NEIGHBOUR_VALUES,
    NEIGHBOURS,
    PLAIN_RATES,
    RATES,
    REPLAY_RATES,
    SINGLE_RATE,
)
from ..network import sizes_of_cnn
from ..parameters import Parameters
from ..values import Flag, Vector
from .devices import Activity

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
    """Settings of one network of the mixture, with its own learning rate.

    Attributes
    ----------
    rate : float
        Learning rate.
    replays : bool
        Whether the network also learns samples from the memory.
    averages : bool
        Whether the network predicts with the running mean of its weights.
    latest : bool
        Whether the network predicts with its latest weights.
    """

    rate: float
    replays: bool = False
    averages: bool = False
    latest: bool = True


class Expert(NamedTuple):
    """One of the predictions that the mixture combines.

    Attributes
    ----------
    kind : {"network", "linear", "neighbours", "bins"}
        Kind of the model that predicts.
    rate : float or None
        Learning rate of a network, of a linear model, or of the linear model of bins.
    replays, averages : bool
        Whether a network replays, and whether the prediction is that of the running mean of its weights.
    window, neighbours : int
        Number of the newest samples, and of the nearest among them, that vote.
    metric : {"inputs", "network"} or None
        Metric of the neighbours: that of standardized inputs, or the network's own.
    """

    kind: str
    rate: float | None = None
    replays: bool = False
    averages: bool = False
    window: int = 0
    neighbours: int = 0
    metric: str | None = None

    @property
    def name(self) -> str:
        """Name in plain words, such as ``"network, rate 0.3, replay, mean of weights"``."""
        if self.kind == "neighbours":
            whose = "network's" if self.metric == "network" else "inputs'"
            return f"{self.neighbours} nearest of {self.window}, {whose} metric"
        marks = ", replay" * self.replays + ", mean of weights" * self.averages
        return self.kind + ("" if self.rate is None else f", rate {self.rate:g}") + marks


class Explained(NamedTuple):
    """Explanation of a prediction.

    Attributes
    ----------
    label : int
        Class that is explained; −1 for a regression.
    value, baseline : float
        Log odds of the class, or the prediction, for the input, and with all inputs missing.
    contributions : float64 (groups,)
        What each group of inputs added to the baseline; the sum is ``value − baseline``.
    """

    label: int
    value: float
    baseline: float
    contributions: Vector


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
        """Networks of the mixture; those that replay come last."""
        if not isinstance(self.lr, str):
            return [Member(self.lr)]
        if self.network != "mlp":
            return [Member(SINGLE_RATE)]
        if self.learner == 1:
            plain = [*map(Member, RATES), Member(SINGLE_RATE, averages=True, latest=False)]
            return plain + [
                Member(r, replays=True, averages=True, latest=False) for r in self._replaying(RATES)
            ]
        plain = [Member(rate, averages=rate == SINGLE_RATE) for rate in PLAIN_RATES]
        return plain + [Member(rate, replays=True, averages=True) for rate in self._replaying(REPLAY_RATES)]

    def _replaying(self, rates: tuple[float, ...]) -> tuple[float, ...]:
        return rates if self.replay > 0 else ()

    @property
    def mixes(self) -> bool:
        """Whether the learner combines several networks."""
        return len(self.members) > 1

    @property
    def linear(self) -> tuple[float, ...]:
        """Learning rates of the linear models beside the networks."""
        return LINEAR_RATES if self.stacks and self.hidden else ()

    @property
    def stacks(self) -> bool:
        """Whether a stack combines the experts, beside the hedge."""
        return self.learner == 2 and self.mixes

    @property
    def bounds(self) -> bool:
        """Whether the learner bounds the values of features and targets."""
        return self.learner == 2 and self.network == "mlp"

    @property
    def neighbours(self) -> bool:
        """Whether nearest neighbours are among the experts."""
        inputs = 0 if self.input_shape is None else math.prod(self.input_shape)
        return self.stacks and inputs * LEAST_WINDOW <= NEIGHBOUR_VALUES

    @property
    def bins(self) -> bool:
        """Whether a linear model of bins is among the experts. Without replay speed comes first."""
        return self.stacks and self.replay > 0 and self.input_shape is None

    def binned(self, inputs: int) -> int:
        """Return the number of bins, with `inputs` features."""
        return min(inputs, BINNED_INPUTS) * (len(BIN_EDGES) + 1 + BIN_INTEGERS) if self.bins else 0

    @property
    def metric_of(self) -> int:
        """Index of the network whose metric the neighbours use."""
        rates = [member.rate for member in self.members]
        return rates.index(SINGLE_RATE) if SINGLE_RATE in rates else 0

    @property
    def experts(self) -> list[Expert]:
        """Predictions that the mixture combines, in order."""
        found = list[Expert]()
        for each in self.members:
            averages = [False] * each.latest + [True] * each.averages
            found += [Expert("network", each.rate, each.replays, average) for average in averages]
        found += [Expert("linear", rate) for rate in self.linear]
        for metric, window, k in NEIGHBOURS if self.neighbours else ():
            found.append(Expert("neighbours", None, False, False, window, k, ("inputs", "network")[metric]))
        return found + [Expert("bins", BIN_RATE)] * self.bins

    @property
    def owners(self) -> list[int]:
        """Index of the model of each expert, networks first, then linear models; the others have none."""
        counts = [each.latest + each.averages for each in self.members] + [1] * len(self.linear)
        return [k for k, count in enumerate(counts) for _ in range(count)]

    def member_weights(self, weights: Vector) -> Vector:
        """Return the weight of each network: the sum of the weights of its experts."""
        counts = [each.latest + each.averages for each in self.members]
        return np.array([part.sum() for part in np.split(weights, np.cumsum(counts))[:-1]])

    @property
    def layers(self) -> list[str]:
        """Names of the layers of a multilayer perceptron."""
        return [*(f"body.{2 * i + 1}" for i in range(len(self.hidden))), "head"]

    @property
    def remembered(self) -> int:
        """Greatest number of samples in the memory."""
        if self.replayed:
            return self.memory
        return min(self.memory, max(window for _, window, _ in NEIGHBOURS)) if self.neighbours else 0

    @property
    def replayed(self) -> int:
        """Number of samples that are replayed after each new one."""
        return self.replay if any(member.replays for member in self.members) else 0

    @property
    def averages(self) -> bool:
        """Whether a member predicts with the running mean of its weights."""
        return any(member.averages for member in self.members)

    def parameters(self, inputs: int, outputs: int) -> int:
        """Return the number of weights and biases of all members of a built-in network.

        Parameters
        ----------
        inputs, outputs : int
            Size of the network after growth. An input shape takes precedence over `inputs`.
        """
        if self.backbone is not None:
            return self.head.parameters(inputs, outputs)
        if self.input_shape is not None:
            inputs = math.prod(self.input_shape)
        if isinstance(self.network, list) and self.input_shape is not None:
            features, parameters = count_parameters(self.network, self.input_shape)
            return parameters + features * outputs + outputs
        convolutions = 0
        if self.network == "cnn" and self.input_shape is not None:
            inputs, convolutions = sizes_of_cnn(self.input_shape)
        sizes = [inputs, *self.hidden, outputs]
        dense = sum(n * m + m for n, m in itertools.pairwise(sizes))
        linear = len(self.linear) * (sizes[0] * outputs + outputs)
        bins = (self.binned(inputs) + 1) * outputs if self.bins else 0
        return len(self.members) * (convolutions + dense) + linear + bins

    @property
    def head(self) -> Self:
        """Specification of the network that learns: of a model with a backbone, the one on its features."""
        if self.backbone is None:
            return self
        return replace(self, backbone=None, input_shape=self._head_shape)

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
    #: Seconds that a call takes at most, about, before the flag of a pause ends it, if the engine waits for a
    #: device meanwhile. Other threads run then: call it in a thread. None for engines that compute on the
    #: CPU.
    call_seconds: float | None = None
    #: Work on a GPU; None for engines that have none.
    activity: Activity | None = None

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of weights and biases of all members, without the running means."""

    @property
    @abstractmethod
    def mixture(self) -> Vector:
        """Weights of the experts in the hedge, with sum 1."""

    @property
    def stack_share(self) -> float:
        """Share of the stack in the prediction; the hedge has the rest."""
        return 0.0

    @abstractmethod
    def grow(self, inputs: Sequence[str], outputs: int, *, scaled: int = 0, unknown: bool = False) -> None:
        """Append inputs and outputs; no existing output changes.

        Parameters
        ----------
        inputs : sequence of str
            Names of the inputs.
        outputs : int
            Number of outputs.
        scaled : int
            Number of the last inputs whose moments begin with the mean 0 and the variance 1: the caller
            standardizes them.
        unknown : bool
            Whether earlier samples have unknown values of the inputs in place of 0.
        """

    @abstractmethod
    def clipped(self) -> tuple[Vector, Vector]:
        """Return the numbers of values of each input, and of those that were clipped when standardized.

        Only a learner that bounds values counts them.
        """

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

    def predict_rows(self, x: Vector) -> Vector:
        """Return the predictions of rows, of shape (N, outputs).

        Parameters and errors are those of `predict`; a GPU is waited for once.
        """
        return np.array([self.predict(row) for row in x])

    @abstractmethod
    def experts(self, x: Vector) -> Vector:
        """Return the prediction of each expert, of shape (K, outputs); NaN where one has none.

        Only a learner with a stack has them. The parameter and the errors are those of `predict`.
        """

    @abstractmethod
    def explain(
        self, x: Vector, groups: NDArray[np.int64], count: int, label: int = -1, *, quick: bool = False
    ) -> Explained:
        """Return how much each group of inputs moved the prediction, from that with all inputs missing.

        Parameters
        ----------
        x : array of shape (inputs,) or of the input shape
            NaN marks a missing value.
        groups : int64 (inputs,)
            Group of each input; of a model with a backbone, of each feature.
        count : int
            Number of groups.
        label : int
            Class to explain; −1 for the predicted one, and for a regression.
        quick : bool
            Whether to spend less time on the parts that are not exact.

        Raises
        ------
        NonFiniteStateError
            If an output is not finite.
        """

    @abstractmethod
    def prepare_explanations(self) -> None:
        """Load what `explain` needs."""

    @abstractmethod
    def novelty(self, x: Vector) -> float:
        """Return the tail probability of an input; see `engines.novelty`."""

    @abstractmethod
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
        """Learn rows in order, one step each, up to the first refused row or a pause.

        Parameters
        ----------
        x : array of shape (N, inputs) or (N, *input shape)
            NaN marks a missing value.
        targets, weights : arrays of shape (N,)
            Class indices or target values; sample weights.
        predict : bool
            Whether to return the prediction made for each row before its step.
        given : array of shape (N, K, outputs), optional
            Predictions that the experts made earlier (`experts`). A stack and its hedge judge the experts by
            them, and the returned prediction combines them. NaN stands for an expert without a prediction; a
            row of NaN for predictions to compute now. A class that was unknown then has probability 0; a
            sample of it changes neither hedge nor stack. Learners without a stack ignore them.
        pause : Flag, optional
            Another thread sets it to end the call early: the numba engine after the present run, of at most 8
            rows, the torch engine after the rows of one transfer. The first row is always learned or refused,
            so a row was refused only if a call that begins with it learns none.

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

    def state_copy(self) -> dict[str, Tensor]:
        """Return `state_dict` for `load_state_dict` of this engine; the tensors may be on its device."""
        return self.state_dict()

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
