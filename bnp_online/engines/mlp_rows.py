"""Numbers of the members of a multilayer perceptron: one row for each, with views by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Alignment of the parts of a row, in numbers: a GPU reads whole cache lines.
_ALIGNMENT = 32


class Rows:
    """Views of some rows of the stacked numbers: one row for each member.

    Attributes
    ----------
    parameters : (R, P)
        Weights and biases together.
    weights : list of (R, m, n), biases : list of (R, m)
        The same by layer.
    bias, mean, var : (R, outputs), (R, inputs), (R, inputs)
        Biases, and moments of the inputs, of all layers side by side.
    """

    def __init__(self, sizes: Sequence[int], numbers: Tensor) -> None:
        views, start = [], 0
        for shape in shapes(sizes):
            count = math.prod(shape)
            views.append(numbers[:, start : start + count].view(len(numbers), *shape))
            start += aligned(count)
        *self.weights, self.bias, self.mean, self.var = views
        self.biases = torch.split(self.bias, list(sizes[1:]), dim=1)
        self.parameters = numbers[:, : start - 2 * aligned(sum(sizes[:-1]))]


class LearningRows(Rows):
    """Rows of members that learn together: all members, or those that replay.

    Attributes
    ----------
    counts : float64 (M, layers, 2)
        Counts of the moments.
    rates : float64 (M,)
        Learning rates.
    """

    def __init__(self, sizes: Sequence[int], numbers: Tensor, counts: Tensor, rates: Tensor) -> None:
        super().__init__(sizes, numbers)
        self.counts, self.rates = counts, rates


def shapes(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the parts of a row: weights, then all biases, means and variances."""
    weights = [(m, n) for n, m in itertools.pairwise(sizes)]
    return [*weights, (sum(sizes[1:]),), (sum(sizes[:-1]),), (sum(sizes[:-1]),)]


def aligned(count: int) -> int:
    """Return the allocated length of a part."""
    return -(-count // _ALIGNMENT) * _ALIGNMENT
