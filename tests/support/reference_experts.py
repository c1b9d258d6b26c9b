"""The default learner from its definition (algorithm.md §6): float64, numpy, one sample at a time.

Networks, linear members and neighbours predict; a hedge and a stack combine them; a hedge of both is the
output. The modules beside this one contain the parts. The specification leaves these points open:

- A class is new until a sample of it was learned. A sample of a new class changes neither hedge nor stack.
- The first sample changes neither hedge nor stack. The stack of a regression learns from the 21st sample on:
  the first whose target is clipped one by one.
- With w = 0, E does not change either. Moments, range and memory do.
- A network has diverged if a prediction of it is not finite or if it cannot take the step. All its members
  then have hedge weight 0 before the fixed share. With every eighth sample, those that have diverged at it
  restart, after replay and running means. The best is the network of the member with the greatest weight
  (after the sample's update) among those of the same shape that do not restart. Its weights and moments are
  copied, and the running mean starts from the weights. A network's own start is its start at random, with
  zeros for later columns and classes, and with new moments but those of the first layer, which are common to
  all.
- A sample that no trajectory can learn is refused: `FloatingPointError`, and nothing changed.
- Learning uses the clipped values of the input in all places; a prediction uses the input as it is.
- At the 20th target, the range of targets becomes that of the 20 clipped ones, and the remembered raw targets
  are clipped to it. That target is judged (losses, E) as clipped with the first 20.
- Predictions that the experts made earlier take the place of those of now in the losses, in E, in q and in s;
  the weights and coefficients of q and s are those of now. A trajectory restarts by its prediction of now. A
  class that no expert gave a probability then was unknown: a sample of it changes neither hedge nor stack.
- Columns that join are present, with 0, in the remembered samples, and count 1 in the network's own metric up
  to its next renewal.
- A window has at most 50,000 values, and at least 50 samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.support.reference_bins import Bins
from tests.support.reference_glitches import FIRST, Admission
from tests.support.reference_learner import Array, ReferenceLearner
from tests.support.reference_neighbours import Mask, Remembered, class_shares, mean_target, own_metric, votes
from tests.support.reference_stack import MOST, Stack, hedge, log_loss

#: Chooses a remembered sample: (number of samples learned, turn, how many are remembered) → its place.
Draw = Callable[[int, int, int], int]

#: Rates of the hedge; rate and share of the hedge of hedge and stack.
ETAS, SHARES = (0.2, 1.0), (0.5, 0.003)
#: Bounds of a network that is finite: of its layers' outputs; of a rate times a weight.
LARGEST, LARGEST_RATE = 1e18, 1e12


@dataclass(eq=False)
class Network:
    """Trajectory with its own start and running mean; it predicts raw, by the mean, or both."""

    learner: ReferenceLearner
    replays: bool
    predicts: tuple[str, ...]
    start: ReferenceLearner = field(init=False)
    mean: ReferenceLearner = field(init=False)

    def __post_init__(self) -> None:
        self.start, self.mean = copy.deepcopy(self.learner), copy.deepcopy(self.learner)

    @property
    def shape(self) -> list[int]:
        return [len(layer.bias) for layer in self.learner.layers]

    @property
    def predictors(self) -> list[ReferenceLearner]:
        """What its members predict with, in order."""
        return [by for kind, by in (("raw", self.learner), ("mean", self.mean)) if kind in self.predicts]

    def grow(self, columns: int, outputs: int) -> None:
        for each in (self.learner, self.start, self.mean):
            each.grow(columns, outputs)

    def average(self, step: int) -> None:
        share = 9.0 / (step / 8 + 9.0)  # γ = 8
        with np.errstate(invalid="ignore"):  # of one that has diverged
            for mean, layer in zip(self.mean.layers, self.learner.layers, strict=True):
                mean.weight = mean.weight + share * (layer.weight - mean.weight)
                mean.bias = mean.bias + share * (layer.bias - mean.bias)

    def restart(self, source: ReferenceLearner, entry: ReferenceLearner) -> None:
        """Start from `source`; the first layer's moments are those of `entry`."""
        self.learner.layers = copy.deepcopy(source.layers)
        first, common = self.learner.layers[0], entry.layers[0]
        first.mean, first.var, first.t = common.mean, common.var, common.t
        self.mean.layers = copy.deepcopy(self.learner.layers)


def finite_output(learner: ReferenceLearner, z: Array) -> Array | None:
    """Return the output of a network, or None if it is not finite."""
    with np.errstate(all="ignore"):
        outputs = learner.outputs(z)
    sound = all(np.all(np.abs(each) <= LARGEST) for each in [z, *outputs])
    return outputs[-1] if sound else None


def _finite(p: Array) -> Mask:
    """Which members have a prediction."""
    return np.array([bool(np.isfinite(row).all()) for row in p])


@dataclass
class ReferenceExperts:
    """The learner, after the growth for its first sample.

    `trajectories` are (network, whether it replays, what it predicts by: "raw", "mean"); `linear` are
    networks without hidden layers; `neighbours` are (window, k, "standardized" or "network"). `flags` are the
    columns of booleans and one-hot values, which are never clipped.
    """

    task: str
    trajectories: Sequence[tuple[ReferenceLearner, bool, tuple[str, ...]]]
    linear: Sequence[ReferenceLearner]
    neighbours: Sequence[tuple[int, int, str]]
    replay: int
    memory: int
    draw: Draw
    flags: Sequence[bool] = ()
    binned: bool = False
    measure: float = 0.3  # rate of the trajectory whose first layer is the network's own metric
    error_scale: float = 1.0
    step: int = 0
    seen: int = 0  # number of classes that a sample had
    low: float = math.inf
    high: float = -math.inf
    remembered: list[Remembered] = field(default_factory=list)
    count: int = 0  # number of samples remembered so far, also of those overwritten

    def __post_init__(self) -> None:
        self.networks = [Network(*each) for each in self.trajectories]
        self.networks += [Network(each, False, ("raw",)) for each in self.linear]
        width = self.networks[0].learner.layers[0].weight.shape[1]
        self.inputs = Admission(self.flags or [False] * width)
        self.targets = Admission([False])
        self.metric = np.ones(width)
        self.bins = Bins(len(self.networks[0].learner.layers[-1].bias)) if self.binned else None
        members = len(self._owners())
        self.rates = [np.full(members, 1.0 / members) for _ in ETAS]
        self.shares = np.full(2, 0.5)
        self.stack = Stack(members)

    @property
    def weights(self) -> Array:
        """Weights of the members: the mean of those of each rate."""
        return np.asarray(sum(self.rates) / len(self.rates))

    @property
    def coefficients(self) -> Array:
        """a of the stack: (D,)."""
        return self.stack.coefficients

    @property
    def inverse(self) -> Array:
        """R of the stack: (D, D)."""
        return self.stack.inverse

    @property
    def deviation(self) -> float:
        """σ_y."""
        return math.sqrt(self.targets.moments.var[0])

    def grow(self, columns: int, outputs: int, flags: Sequence[bool] = (), *, unknown: bool = False) -> None:
        """Append outputs, and columns, which were 0 in the past, or unknown."""
        for network in self.networks:
            network.grow(columns, outputs)
        if self.bins is not None:
            self.bins.grow(outputs)
        self.inputs.widen(flags or [False] * columns)
        if unknown:
            self.inputs.joined[-columns:] = [0] * columns
        self.metric = np.append(self.metric, np.ones(columns))
        for row in self.remembered:
            row.z = np.append(row.z, np.zeros(columns))
            row.missing = np.append(row.missing, np.full(columns, unknown))

    def _window(self, stated: int) -> int:
        return max(min(stated, 50_000 // max(len(self.metric), 1)), min(stated, 50))

    def _owners(self) -> list[Network | None]:
        """The network of each member; None for the neighbours and the bins."""
        owners: list[Network | None] = [each for each in self.networks for _ in each.predictors]
        return owners + [None] * (len(self.neighbours) + self.binned)

    def predict(self, x: Array) -> Array:
        q, s, _ = self._combined(self.members(x))
        return np.asarray(self.shares[0] * q + self.shares[1] * s)

    def members(self, x: Array) -> Array:
        """Return the prediction of each member, (K, C); NaN where it has none."""
        z, missing = self._standardized(self.inputs, x), np.isnan(x)
        made = [self._made(by, z) for network in self.networks for by in network.predictors]
        made += [self._voted(each, z, missing) for each in self.neighbours]
        if self.bins is not None:
            made.append(self._prediction(self.bins.output(z, x)))
        return np.array(made)

    def _standardized(self, inputs: Admission, x: Array) -> Array:
        filled = np.where(np.isnan(x), inputs.moments.mean, x)
        standardize = self.networks[0].learner.standardize
        return inputs.moments.standardized(filled, 5.0) if standardize else filled

    def _made(self, by: ReferenceLearner, z: Array) -> Array:
        out = finite_output(by, z)
        if out is None:
            return np.full(len(by.layers[-1].bias), math.nan)
        return self._prediction(out)

    def _prediction(self, out: Array) -> Array:
        """Return the prediction of an output."""
        if self.task == "classification":
            raised = np.exp(out - out.max())
            return np.asarray(raised / raised.sum())
        return self._within_range(self.targets.moments.mean + self.deviation * out)

    def _within_range(self, y: Array) -> Array:
        margin = (self.high - self.low) / 4.0
        return np.clip(y, self.low - margin, self.high + margin)

    def _newest(self) -> list[Remembered]:
        """Return the remembered samples from the newest to the oldest."""
        n = len(self.remembered)
        return [self.remembered[(self.count - 1 - age) % self.memory] for age in range(n)]

    def _voted(self, voter: tuple[int, int, str], z: Array, missing: Mask) -> Array:
        window, k, metric = voter
        scale = self.metric if metric == "network" else np.ones(len(z))
        cast = votes(z, missing, self._newest()[: self._window(window)], k, scale)
        if self.task == "classification":
            return class_shares(cast, self.seen, len(self.networks[0].learner.layers[-1].bias))
        return self._within_range(np.array([mean_target(cast)]))

    def _combined(self, p: Array) -> tuple[Array, Array, Array]:
        """Return q, s, and the predictions with q in place of those that are not finite."""
        finite = _finite(p)
        if not finite.any():
            raise FloatingPointError("no member has a finite prediction")
        q = self.weights[finite] @ p[finite] / self.weights[finite].sum()
        p = np.where(finite[:, None], p, q)
        if self.task == "classification":
            return q, self.stack.classes(p, q), p
        if self.deviation == 0.0:
            return q, q, p
        return q, self._within_range(np.array([self.stack.value(p, float(q[0]), self._scale())])), p

    def _scale(self) -> float:
        """Scale of the stack of a regression."""
        return max(self.error_scale, 1e-3) * self.deviation

    def learn(self, x: Array, target: float, weight: float, given: Array | None = None) -> None:
        """Learn a sample; `given`, (K, C), is what its members predicted earlier, NaN where one did not."""
        inputs, targets = copy.deepcopy(self.inputs), copy.deepcopy(self.targets)
        values = inputs.count(x)
        z, goal = self._standardized(inputs, values), target
        if self.task == "regression":
            target = float(targets.count(np.array([target]))[0])
            goal = float(targets.moments.standardized(np.array([target]), 10.0)[0])
        able = [
            each.learner.lr * weight < LARGEST_RATE and finite_output(each.learner, z) is not None
            for each in self.networks
        ]
        if not any(able[: len(self.trajectories) or len(able)]):
            raise FloatingPointError("no network can learn the sample")
        lost = [network for network, can in zip(self.networks, able, strict=True) if not can]
        if self.step > 0:
            p = self.members(x)
            for owner, finite in zip(self._owners(), _finite(p), strict=True):
                if owner is not None and not finite and owner not in lost:
                    lost.append(owner)
            if given is not None and _finite(given).any():
                p = given
            unknown = self.task == "classification" and not np.nansum(p[:, int(target)])
            if weight > 0.0 and not unknown:
                self._judge(p, lost, target)
        self.inputs, self.targets = inputs, targets
        self.step += 1
        for network, can in zip(self.networks, able, strict=True):
            if can:
                network.learner.learn_standardized(z, goal, weight)
        if self.bins is not None:
            self.bins.learn(z, values, weight * self._gradient(self.bins.output(z, values), goal))
        self._count_target(target)
        self._remember(Remembered(z, np.isnan(x), goal, weight, target))
        self._replay()
        if self.step % 8 == 0:
            for network in self.networks:
                network.average(self.step)
            self._restart(lost, self.networks[able.index(True)].learner)
        if self.step % 50 == 0:
            self.metric = own_metric(self._measure().layers)

    def _gradient(self, out: Array, goal: float) -> Array:
        """Return the gradient of the loss at an output."""
        if self.task == "regression":
            return np.asarray(np.clip(out - goal, -5.0, 5.0))
        return np.asarray(self._prediction(out) - (np.arange(len(out)) == goal))

    def _judge(self, p: Array, lost: list[Network], target: float) -> None:
        """Update hedge, stack and the hedge of both, with the statistics from before the sample."""
        absent = np.array([owner in lost for owner in self._owners()])
        absent |= ~_finite(p)
        q, s, p = self._combined(p)
        if self.task == "regression":
            if self.deviation > 0.0:
                self._judge_value(p, float(q[0]), float(s[0]), absent, target)
            return
        label = int(target)
        if label >= self.seen:
            return
        losses = np.array([log_loss(each) for each in p[:, label]])
        both = np.array([log_loss(q[label]), log_loss(s[label])])
        self.stack.learn_class(p, q, label)
        self._hedge(np.where(absent, math.inf, losses), both)

    def _hedge(self, losses: Array, both: Array) -> None:
        self.rates = [hedge(w, losses, eta, 0.01) for w, eta in zip(self.rates, ETAS, strict=True)]
        self.shares = hedge(self.shares, both, *SHARES)

    def _judge_value(self, p: Array, q: float, s: float, absent: Mask, target: float) -> None:
        scale = self.deviation * max(self.error_scale, 1e-2)
        losses = np.minimum(np.abs(p[:, 0] - target) / scale, MOST)
        both = np.minimum(np.abs(np.array([q, s]) - target) / scale, MOST)
        if self.step >= FIRST:
            self.stack.learn_value(p, q, target, self._scale())
        self._hedge(np.where(absent, math.inf, losses), both)
        self.error_scale = 0.99 * self.error_scale + 0.01 * abs(q - target) / self.deviation

    def _restart(self, lost: list[Network], entry: ReferenceLearner) -> None:
        """Restart networks; `entry` counted the sample in its first layer."""
        owners = self._owners()
        sources: list[ReferenceLearner] = []
        for network in lost:
            rivals = [
                k
                for k, o in enumerate(owners)
                if o is not None and o not in lost and o.shape == network.shape
            ]
            best = owners[max(rivals, key=lambda k: float(self.weights[k]))] if rivals else None
            sources.append(network.start if best is None else best.learner)
        for network, source in zip(lost, sources, strict=True):
            network.restart(source, entry)

    def _count_target(self, target: float) -> None:
        if self.task == "classification":
            self.seen = max(self.seen, int(target) + 1)
            return
        self.low, self.high = min(self.low, target), max(self.high, target)
        if self.step == FIRST:
            self.error_scale = min(self.error_scale, 1.0)  # an absurd target among them may have raised it
            self.low, self.high = min(self.targets.first[0]), max(self.targets.first[0])
            for row in self.remembered:
                row.raw = float(np.clip(row.raw, self.low, self.high))

    def _remember(self, row: Remembered) -> None:
        place = self.count % self.memory
        self.remembered[place : place + 1] = [row]
        self.count += 1

    def _replay(self) -> None:
        for turn in range(self.replay):
            row = self.remembered[self.draw(self.step, turn, len(self.remembered))]
            for network in self.networks:
                if network.replays and finite_output(network.learner, row.z) is not None:
                    network.learner.relearn(row.z, row.goal, row.weight)

    def _measure(self) -> ReferenceLearner:
        """Network whose first layer is the metric: the first plain one with that rate, else the first."""
        for learner, replays, _ in self.trajectories:
            if not replays and learner.lr == self.measure:
                return learner
        return self.networks[0].learner
