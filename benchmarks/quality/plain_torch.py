"""Plain torch rivals: the same network, with all preparation in their favour."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online.engines.base import INPUT_CLIP
from bnp_online.evaluation.prequential import PrequentialMetrics

from ..common.streams import Array, Stream
from .contestant import Run, Setting, Tick


def cumulative_moments(values: Array) -> tuple[Array, Array]:
    """Return the mean and the standard deviation of rows 0 … i, for each row i.

    Parameters
    ----------
    values : array of shape (N, n)
        Rows in order.
    """
    shifted = values - values[0]  # large constant parts would cancel in float64
    count = np.arange(1, len(values) + 1)[:, None]
    mean = shifted.cumsum(axis=0) / count
    variance = np.square(shifted).cumsum(axis=0) / count - np.square(mean)
    return mean + values[0], np.sqrt(variance.clip(min=0.0))


def standardized(values: Array) -> Array:
    """Return each row by the moments of the rows up to and with it; 0 where nothing has varied yet."""
    mean, scale = cumulative_moments(values)
    return np.divide(values - mean, scale, out=np.zeros_like(values), where=scale > 0)


@dataclass(frozen=True)
class _Problem:
    """A stream as tensors: rows of shape (1, n), and what the network is to put out for each."""

    inputs: tuple[Tensor, ...]
    wanted: tuple[Tensor, ...]
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]


@functools.lru_cache(maxsize=1)
def _problem(stream: Stream) -> _Problem:
    z = torch.from_numpy(standardized(stream.matrix())).float()
    inputs = _rows(z.clamp(-INPUT_CLIP, INPUT_CLIP))
    if stream.task == "classification":
        number = {label: i for i, label in enumerate(stream.labels)}
        wanted = torch.tensor([number[y] for y in stream.targets])
        return _Problem(inputs, _rows(wanted), len(number), F.cross_entropy)
    targets = torch.from_numpy(standardized(_targets(stream))).float()
    return _Problem(inputs, _rows(targets), 1, F.mse_loss)


def _rows(values: Tensor) -> tuple[Tensor, ...]:
    return tuple(values[i : i + 1] for i in range(len(values)))


def _targets(stream: Stream) -> Array:
    return np.array([[float(y)] for y in stream.targets])


def _train(
    problem: _Problem,
    optimizer: type[torch.optim.Optimizer],
    rate: float,
    seed: int,
    tick: Tick,
) -> tuple[Tensor, float]:
    """Return the outputs before each sample was learned (fewer if it diverged), and the seconds it took."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(problem.inputs[0].shape[1], 100),
        nn.ReLU(),
        nn.Linear(100, 100),
        nn.ReLU(),
        nn.Linear(100, problem.outputs),
    )
    steps = optimizer(network.parameters(), lr=rate)  # type: ignore[call-arg]  # every subclass takes it
    outputs: list[Tensor] = []
    start = time.perf_counter()
    for i, (x, y) in enumerate(zip(problem.inputs, problem.wanted, strict=True)):
        out = network(x)  # serves the prediction and the step: the label is not known to it
        loss = problem.loss(out, y)
        steps.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        steps.step()
        outputs.append(out.detach())
        if i % 100 == 0:
            tick(i)
            if not loss.isfinite():
                break
    return torch.cat(outputs), time.perf_counter() - start


def _score(stream: Stream, outputs: Tensor) -> dict[str, float]:
    """Score all predictions but the first, before which there was nothing to know."""
    scores = PrequentialMetrics(stream.task)
    targets = stream.targets
    if stream.task == "classification":
        labels = stream.labels
        for y, row in zip(targets[1:], outputs[1:].double().softmax(dim=1).tolist(), strict=True):
            probabilities = dict(zip(labels, row, strict=True))
            scores.update(y, max(probabilities, key=probabilities.__getitem__), probabilities)
    else:
        mean, scale = cumulative_moments(_targets(stream))
        predictions = mean[:-1] + scale[:-1] * outputs[1:].double().numpy()
        for y, prediction in zip(targets[1:], predictions[:, 0].tolist(), strict=True):
            scores.update(y, prediction)
    metrics: dict[str, float] = scores.report()["cumulative"]
    return metrics


def run_plain(
    optimizer: type[torch.optim.Optimizer],
    stream: Stream,
    seed: int,
    setting: Setting,
    tick: Tick,
) -> Run:
    """Train a 100-100 ReLU network with a torch optimizer, one sample a step.

    All classes and features are known from the start. Inputs, and targets of a regression, are standardized
    online, clipped as the learner clips them, and not timed. The prediction and the step share one forward
    pass.

    Parameters
    ----------
    optimizer : type
        A class from `torch.optim`.
    stream : Stream
        The stream.
    seed : int
        Seed of the initialization.
    setting : dict
        The learning rate.
    tick : callable
        Progress callback; takes the number of learned samples.
    """
    problem = _problem(stream)
    outputs, seconds = _train(problem, optimizer, setting["rate"], seed, tick)
    finite = len(outputs) == len(stream.samples) and bool(outputs.isfinite().all())
    return Run(_score(stream, outputs) if finite else None, seconds)
