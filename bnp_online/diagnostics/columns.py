"""How well conditioned the steps of a network are: what BNP is for, in numbers.

The Hessian of the loss in a layer's ``[b, W]`` is ``Ĥᵀ S Ĥ`` with ``Ĥ = [e, H]`` the layer's inputs and a
column of ones: the less even the columns of Ĥ are in size, the worse its condition. Preconditioning descends
as if they were the columns of ``[e, (H − e μᵀ) diag(1/σ̃)]``. The *unevenness* of a matrix is the ratio of the
largest to the smallest mean square of its columns, 1 at best; both follow from the running moments alone.

References
----------
A. van der Sluis, *Condition numbers and equilibration of matrices*, Numerische Mathematik 14, 1969: columns
of equal size bring the condition within a factor √n of the best that any scaling of columns can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import damped

#: A column whose variance is this much smaller than the layer's largest is *silent*: a ReLU that has died, or
#: a feature that has not come for long. Its moments fade to 0 and tell nothing of the steps.
SILENT = 1e-6
#: Points that describe the sizes of all columns.
_POINTS = 33


@dataclass(frozen=True)
class Diagnosis:
    """The inputs of a layer, and how even they are.

    Attributes
    ----------
    name : str
        Of the layer; ``"inputs"`` stands for the raw features, before and after they are standardized.
    columns, silent : int
        Number of inputs, and of those that are silent and left out of all that follows.
    mean : list of float
        Smallest, median and largest mean of a column.
    variance : list of float
        The same of the variances.
    before, after : float
        Unevenness, ≥ 1, without and with preconditioning.
    sizes_before, sizes_after : list of float
        Mean squares of the columns, the smallest first: 33 quantiles, or all where there are fewer.
    """

    name: str
    columns: int
    silent: int
    mean: list[float]
    variance: list[float]
    before: float
    after: float
    sizes_before: list[float]
    sizes_after: list[float]


def unevenness(sizes: Tensor) -> float:
    """Return the ratio of the largest to the smallest of mean squares, that of the column of ones included.

    Parameters
    ----------
    sizes : Tensor of shape (n,)
        Mean squares > 0.

    Examples
    --------
    >>> unevenness(torch.tensor([4.0, 0.5]))
    8.0
    """
    extended = torch.cat([sizes, sizes.new_ones(1)])
    return float(extended.max() / extended.min())


def diagnose_layer(name: str, mean: Tensor, var: Tensor, eps_rel: float, eps_abs: float) -> Diagnosis:
    """Diagnose a layer by the moments of its inputs.

    Parameters
    ----------
    name : str
        Of the layer.
    mean, var : Tensor of shape (n,)
        Running moments μ and σ².
    eps_rel, eps_abs : float
        Damping: ``σ̃² = σ² + eps_rel · max(σ²) + eps_abs``.
    """
    mean, var = mean.double(), var.double()
    scale = damped(var, eps_rel, eps_abs)
    heard = var > SILENT * var.max() if len(var) else var > 0.0
    return _diagnosis(name, mean, var, var / scale, heard)


def diagnose_inputs(mean: Tensor, var: Tensor, *, standardize: bool) -> Diagnosis:
    """Diagnose the raw features by their moments, of shape (n,); a constant one is silent."""
    mean, var = mean.double(), var.double()
    after = torch.ones_like(var) if standardize else var + mean.square()
    return _diagnosis("inputs", mean, var, after, var > 0.0)


def _diagnosis(name: str, mean: Tensor, var: Tensor, after: Tensor, heard: Tensor) -> Diagnosis:
    columns = len(mean)
    mean, var, after = mean[heard], var[heard], after[heard]
    before = var + mean.square()
    return Diagnosis(
        name,
        columns,
        columns - len(mean),
        _quantiles(mean, 3),
        _quantiles(var, 3),
        unevenness(before),
        unevenness(after),
        _quantiles(before, _POINTS),
        _quantiles(after, _POINTS),
    )


def _quantiles(values: Tensor, points: int) -> list[float]:
    """Return so many quantiles from the smallest to the largest value; all values if they are fewer."""
    ordered = values.sort().values
    if points == 3 and len(ordered):
        picked = ordered[[0, (len(ordered) - 1) // 2, -1]]
    elif len(ordered) > points:
        picked = ordered[torch.linspace(0, len(ordered) - 1, points).round().long()]
    else:
        picked = ordered
    found: list[float] = picked.tolist()
    return found


def diagnose(
    moments: Mapping[str, Tensor], copy: int, eps_rel: float, eps_abs: float, *, standardize: bool
) -> list[Diagnosis]:
    """Diagnose the raw features and all layers of one copy of a network, from first to last.

    Parameters
    ----------
    moments : dict of str to Tensor
        Of a learner's state: ``inputs.mean``, ``inputs.var``, and of each layer ``moments.{name}.mean`` and
        ``.var`` of shape (M, n).
    copy : int
        Which of the M copies.
    eps_rel, eps_abs, standardize
        Of the learner.
    """
    found = [diagnose_inputs(moments["inputs.mean"], moments["inputs.var"], standardize=standardize)]
    for key, mean in moments.items():
        if key.startswith("moments.") and key.endswith(".mean"):
            layer = key.removeprefix("moments.").removesuffix(".mean")
            var = moments[f"moments.{layer}.var"]
            found.append(diagnose_layer(layer, mean[copy], var[copy], eps_rel, eps_abs))
    return found
