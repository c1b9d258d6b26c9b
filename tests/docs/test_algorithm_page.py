"""The page on the algorithm names the rates, windows and bounds of the code."""

from __future__ import annotations

from collections.abc import Sequence

from bnp_online import mixture
from bnp_online.sparse import constants
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


def test_the_constants_of_the_sparse_stage_are_those_of_the_code() -> None:
    assert f"up to {constants.MOST_ONE_HOT} values has a column for each" in PAGE
    assert f"{constants.MOST_ONE_HOT + 1}rd value of a field" in PAGE
    assert f"{constants.MOST_ONE_HOT_COLUMNS + 1}th such column" in PAGE
    assert f"$a = {constants.PRIOR:g}$" in PAGE
    assert "$a = {:g}$ and for $a = {:g}$".format(*constants.TEXT_PRIORS) in PAGE
    assert f"beyond {constants.MOST_EVIDENCE} evidence columns" in PAGE
    assert f"A count stops at {constants.MOST_COUNT:,.0f}" in PAGE
    assert f"$\\eta$ = {words(constants.RATES.tolist())}:" in PAGE
    assert f"\\sqrt{{{constants.DAMPING:g} + G_j}}" in PAGE
    assert f"at most {constants.MOST_PAIRS} pairs" in PAGE
    assert f"2^{constants.LAST_PAIRS.bit_length() - 1} rows" in PAGE
    assert f"of {constants.CANDIDATES} rows drawn at random" in PAGE
    assert f"Every {constants.TAILS_EVERY} samples, a number of which more than " in PAGE
    assert f"more than {100 * constants.TAILS_SHARE:g}% of at least {constants.TAILS_FROM} values" in PAGE
