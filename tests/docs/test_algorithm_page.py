"""The page on the algorithm names the rates, windows and bounds of the code."""

from __future__ import annotations

from collections.abc import Sequence

from bnp_online import mixture
from tests.docs.blocks import DOCS

PAGE = " ".join((DOCS / "algorithm.md").read_text(encoding="utf-8").split())


def words(values: Sequence[float]) -> str:
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} and {last}"


def test_the_experts_are_those_of_the_code() -> None:
    assert f"networks at the rates {words(mixture.PLAIN_RATES)}, " in PAGE
    assert f"networks at the rates {words(mixture.REPLAY_RATES)} that *replay*" in PAGE
    assert f"linear models at the rates {words(mixture.LINEAR_RATES)} " in PAGE
    windows = sorted({window for _, window, _ in mixture.NEIGHBOURS})
    assert f"among the last {' or '.join(f'{window:,}' for window in windows)} samples" in PAGE


def test_the_constants_are_those_of_the_code() -> None:
    assert f"at most {mixture.NEIGHBOUR_VALUES:,} values" in PAGE
    assert f"Above {mixture.NEIGHBOUR_VALUES // mixture.LEAST_WINDOW:,} inputs" in PAGE
    assert f"(M_{{jj}} / \\bar M)^{mixture.METRIC_POWER:g}$" in PAGE
    assert f"every {mixture.METRIC_EVERY} samples" in PAGE
    assert (
        f"at two rates: η = {mixture.ETAS[0]:g} is slow and precise, η = {mixture.ETAS[1]:g} follows" in PAGE
    )
    assert f"The first {mixture.BINNED_INPUTS} features have bins" in PAGE
    assert f"An integer from 0 to {mixture.BIN_INTEGERS - 1}, " in PAGE
    assert f"From the {mixture.FIRST_VALUES}th value" in PAGE
    assert f"± {mixture.BOUND_DEVIATIONS:g} standard deviations" in PAGE
    assert f"median ± {mixture.FIRST_DEVIATIONS:g} median absolute" in PAGE
