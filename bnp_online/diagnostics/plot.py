"""Plots of spectra; needs matplotlib."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .hessian import Conditioning
from .spectra import Array, Spectrum

_BEFORE, _AFTER = "#64748b", "#c2410c"


def plot_spectrum(found: Conditioning, ax: Axes | None = None) -> Axes:
    """Plot the eigenvalues before and after preconditioning.

    If all eigenvalues are known, the plot has their magnitudes as shares of the largest, in descending order,
    without zeros: a lower end is a worse condition. Otherwise it has the density from Lanczos, over the
    eigenvalues as shares of the largest.

    Parameters
    ----------
    found : Conditioning
        From `condition_number`.
    ax : matplotlib.axes.Axes, optional
        Axes of the plot; None: the current axes.

    Returns
    -------
    matplotlib.axes.Axes
        Axes of the plot.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from bnp_online.diagnostics import condition_number
    >>> data = torch.rand(50, 3), torch.rand(50, 1)
    >>> found = condition_number(nn.Linear(3, 1), nn.functional.mse_loss, data)
    >>> plot_spectrum(found).get_xlabel()
    'eigenvalues, the largest first'
    """
    ax = plt.gca() if ax is None else ax
    dense = found.before.eigenvalues is not None and found.after.eigenvalues is not None
    for name, spectrum, colour in (("before", found.before, _BEFORE), ("after", found.after, _AFTER)):
        if dense:
            condition = f"condition {spectrum.condition:.2g}"
            ax.plot(_magnitudes(spectrum), color=colour, label=f"{name}: {condition}")
        else:
            points, density = _density(spectrum)
            ax.fill_between(points, density, color=colour, alpha=0.35, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("eigenvalues, the largest first" if dense else "eigenvalue / the largest")
    ax.set_ylabel("|eigenvalue| / the largest" if dense else "density")
    ax.legend(frameon=False)
    return ax


def _magnitudes(spectrum: Spectrum) -> Array:
    """Return the nonzero magnitudes as shares of the largest, in descending order."""
    magnitudes = np.sort(np.abs(spectrum.eigenvalues if spectrum.eigenvalues is not None else []))[::-1]
    kept = magnitudes[: spectrum.rank]
    return kept / kept[0] if len(kept) else kept


def _density(spectrum: Spectrum) -> tuple[Array, Array]:
    """Return shares of the largest eigenvalue, and the density there."""
    top = max(abs(spectrum.lowest), abs(spectrum.largest)) or 1.0
    points = np.linspace(spectrum.lowest - 0.05 * top, spectrum.largest + 0.05 * top, 1000)
    return points / top, np.maximum(spectrum.density(points, 0.01 * top) * top, 1e-6)
