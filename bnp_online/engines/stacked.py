"""The numbers of stacked copies of a multilayer perceptron: one row a copy, and what stands where in it.

One tensor for all of them, so that a copy starts again from another, or a learner is forked, in one kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Parts of a row begin at multiples of this, so that a GPU reads them in whole lines.
_ALIGNMENT = 32


class Rows:
    """Some of the rows, as views.

    Attributes
    ----------
    parameters : (R, P)
        Weights and biases together.
    weights : list of (R, m, n), biases : list of (R, m)
        The same by layer.
    bias, mean, var : (R, outputs), (R, inputs), (R, inputs)
        Of all layers side by side: their biases, and the moments of their inputs.
    """

    def __init__(self, sizes: Sequence[int], numbers: Tensor) -> None:
        views, start = [], 0
        for shape in _shapes(sizes):
            count = math.prod(shape)
            views.append(numbers[:, start : start + count].view(len(numbers), *shape))
            start += _aligned(count)
        *self.weights, self.bias, self.mean, self.var = views
        self.biases = torch.split(self.bias, list(sizes[1:]), dim=1)
        self.parameters = numbers[:, : start - 2 * _aligned(sum(sizes[:-1]))]


class Stack(Rows):
    """Copies that learn together: all of them, or those that replay.

    Attributes
    ----------
    counts : float64 (M, layers, 2)
        Of the moments.
    rates : float64 (M,)
        Learning rates.
    """

    def __init__(self, sizes: Sequence[int], numbers: Tensor, counts: Tensor, rates: Tensor) -> None:
        super().__init__(sizes, numbers)
        self.counts, self.rates = counts, rates


def numbers_of_a_copy(sizes: Sequence[int]) -> int:
    """Return the length of a row for a network with so many inputs, hidden units and outputs."""
    return sum(_aligned(math.prod(shape)) for shape in _shapes(sizes))


def _shapes(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return what a copy consists of: its weights, then all biases, means and variances."""
    weights = [(m, n) for n, m in itertools.pairwise(sizes)]
    return [*weights, (sum(sizes[1:]),), (sum(sizes[:-1]),), (sum(sizes[:-1]),)]


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
