"""Conditioning of the steps of a network, from running moments.

The Hessian of the loss in a layer's ``[b, W]`` is ``Ĥᵀ S Ĥ`` with ``Ĥ = [e, H]`` the layer's inputs and a
column of ones: columns of Ĥ with unequal sizes give it a large condition number. Preconditioning replaces
them by the columns of ``[e, (H − e μᵀ) diag(1/σ̃)]``. The *unevenness* of a matrix is the ratio of the
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

#: Variance of a *silent* column, as a share of the largest in its layer: a dead ReLU, or a feature that has
#: been absent for long. Its moments approach 0 and are left out.
SILENT = 1e-6
#: Number of quantiles of the sizes of the columns.
_POINTS = 33


@dataclass(frozen=True)
class Diagnosis:
    """Inputs of a layer, and their unevenness.

    Attributes
    ----------
    name : str
        Name of the layer; ``"inputs"`` are the raw features, before and after standardization.
    columns, silent : int
        Number of inputs, and of the silent ones, which the other attributes leave out.
    mean : list of float
        Smallest, median and largest mean of a column.
    variance : list of float
        Likewise, of the variances.
    before, after : float
        Unevenness, ≥ 1, without and with preconditioning.
    sizes_before, sizes_after : list of float
        Mean squares of the columns, ascending: 33 quantiles, or all if there are fewer.
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
    """Return the ratio of the largest to the smallest mean square, including that of the column of ones.

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
    """Diagnose a layer from the moments of its inputs.

    Parameters
    ----------
    name : str
        Name of the layer.
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
    """Diagnose the raw features from their moments, of shape (n,); a constant one is silent."""
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
    """Return quantiles from the smallest to the largest value; all values if there are fewer."""
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
    """Diagnose the raw features and all layers of one member, from first to last.

    Parameters
    ----------
    moments : dict of str to Tensor
        Moments in the state of a learner: ``inputs.mean``, ``inputs.var``, and of each layer
        ``moments.{name}.mean`` and ``.var``, of shape (M, n).
    copy : int
        Number of the member, among M.
    eps_rel, eps_abs, standardize
        Parameters of the learner.
    """
    found = [diagnose_inputs(moments["inputs.mean"], moments["inputs.var"], standardize=standardize)]
    for key, mean in moments.items():
        if key.startswith("moments.") and key.endswith(".mean"):
            layer = key.removeprefix("moments.").removesuffix(".mean")
            var = moments[f"moments.{layer}.var"]
            found.append(diagnose_layer(layer, mean[copy], var[copy], eps_rel, eps_abs))
    return found
