"""Explanations by the compiled kernel: how much each group of inputs moved a prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteStateError
from ..jit import announced, compile_elsewhere
from ..mixture import NEIGHBOURS
from ..values import Vector
from . import numba_explain
from .base import NOT_FINITE, Explained
from .numba_buffers import AVERAGE, RAW, Buffers
from .numba_explain import BASE, COLUMNS, LABEL, RESULTS, RUNS, VALUE, WORK

#: Orders of the features in which the neighbours are attributed: one order, or one and its reverse.
QUICK_ORDERS, ORDERS = 1, 2


Space: TypeAlias = tuple[NDArray[Any], ...]
"""Working space of the kernel."""


def explain(
    b: Buffers,
    space: Space,
    x: Vector,
    groups: NDArray[np.int64],
    count: int,
    label: int,
    orders: int,
) -> Explained:
    """Explain the prediction for a raw input.

    Parameters
    ----------
    b : Buffers
        The learner.
    space : tuple of arrays
        Working space of `working_space` for the learner and the number of groups.
    x : float64 (n,)
        Raw input; NaN marks a missing value.
    groups : int64 (n,)
        Group of each input.
    count : int
        Number of groups.
    label : int
        Class to explain; −1 for the predicted one, and for a regression.
    orders : int
        `QUICK_ORDERS` or `ORDERS`.

    Raises
    ------
    NonFiniteStateError
        If there is no finite prediction for the input, or with all inputs missing.
    """
    if b.params.dtype not in _LOADED:
        load(b)
    contributions, result = np.empty(count), np.empty(RESULTS)
    kernel: Any = numba_explain.explain
    if not kernel(x, groups, label, orders, contributions, result, *space, b):
        raise NonFiniteStateError(NOT_FINITE)
    return Explained(int(result[LABEL]), float(result[VALUE]), float(result[BASE]), contributions)


def working_space(b: Buffers, count: int) -> Space:
    """Return working space for a learner and a number of groups."""
    inputs = b.inputs.shape[1]
    experts, outputs, real = b.hedge.shape[1] - 2, b.outputs.shape[1], b.params.dtype
    of_networks = b.trajectories[:, : len(b.params)]
    runs = int((of_networks[RAW] != 0.0).sum() + (of_networks[AVERAGE] >= 0.0).sum())
    return (
        np.zeros((runs, RUNS, b.scratch.shape[2]), real),  # padding is 0
        np.empty((WORK, experts, outputs)),
        np.empty((3, outputs)),
        np.empty((COLUMNS, inputs)),
        np.empty(2 * count + 1 + inputs + len(NEIGHBOURS) * b.nearest.shape[1], np.int64),
        np.empty_like(b.distances),
    )


#: Precisions whose kernel this process has loaded.
_LOADED: set[np.dtype[Any]] = set()


def prepare(real: np.dtype[Any], buffers: Callable[[], Buffers]) -> None:
    """Load the kernel for a precision, unless it is loaded; `buffers` returns those of a learner."""
    if real not in _LOADED:
        load(buffers())


def load(b: Buffers) -> None:
    """Load the kernel from the cache; if it lacks it, another process compiles it first."""
    with announced():
        engine = f"{__package__}.numba_engine"
        statement = f"import {engine} as engine; engine.compile_explanation({b.params.dtype.name!r})"
        compile_elsewhere(numba_explain.explain, (*_no_input(), *working_space(b, 0), b), statement)
        run_kernel(b)
    _LOADED.add(b.params.dtype)


def run_kernel(b: Buffers) -> None:
    """Call the kernel without inputs."""
    kernel: Any = numba_explain.explain
    kernel(*_no_input(), *working_space(b, 0), b)


def _no_input() -> tuple[Any, ...]:
    """Return the first arguments of the kernel, without inputs."""
    return np.empty(0), np.empty(0, np.int64), -1, 1, np.empty(0), np.empty(RESULTS)
