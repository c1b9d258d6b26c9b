"""The picture of a spectrum shows the numbers."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import nn

from bnp_online.diagnostics import Conditioning, condition_number
from bnp_online.diagnostics.plot import plot_spectrum


@pytest.fixture
def ax() -> Iterator[Axes]:
    mpl.use("Agg")
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def conditioning(dense_limit: int) -> Conditioning:
    torch.manual_seed(0)
    data = torch.rand(60, 4) + 2.0, torch.rand(60, 2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    return condition_number(model, nn.functional.mse_loss, data, dense_limit=dense_limit)


def test_all_eigenvalues_fall_from_one_to_the_inverse_of_the_condition(ax: Axes) -> None:
    found = conditioning(1000)
    assert plot_spectrum(found, ax) is ax
    for line, spectrum in zip(ax.get_lines(), (found.before, found.after), strict=True):
        heights = np.asarray(line.get_ydata())
        assert len(heights) == spectrum.rank
        assert heights[0] == 1.0
        assert spectrum.condition == pytest.approx(1.0 / heights[-1])
        assert f"condition {spectrum.condition:.2g}" in str(line.get_label())


def test_a_large_one_shows_its_density_and_no_condition(ax: Axes) -> None:
    plot_spectrum(conditioning(0), ax)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after"]
    assert ax.get_ylabel() == "density"
    assert len(ax.collections) == 2
