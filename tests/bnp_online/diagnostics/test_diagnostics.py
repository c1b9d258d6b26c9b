"""The unevenness of columns, against explicit matrices in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bnp_online import BNPClassifier
from bnp_online.diagnostics import diagnose_inputs, diagnose_layer
from bnp_online.engines.base import Engine
from tests.support.engines import CASES


def spread(matrix: NDArray[np.float64]) -> float:
    """Ratio of the largest to the smallest mean square of a column."""
    sizes = np.square(matrix).mean(axis=0)
    return float(sizes.max() / sizes.min())


def inputs(seed: int, n: int = 7) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows: NDArray[np.float64] = rng.normal(rng.normal(0, 3, n), 10.0 ** rng.uniform(-1.2, 1.2, n), (500, n))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_by_its_explicit_matrix(seed: int) -> None:
    H, eps_rel, eps_abs = inputs(seed), 1e-2, 1e-4
    mean, var = H.mean(axis=0), H.var(axis=0)
    scale = var + eps_rel * var.max() + eps_abs
    e = np.ones((len(H), 1))
    # P of the paper: [e, H] P = [e, (H − e μᵀ) diag(1/σ̃)].
    top = np.append(1.0, -mean / np.sqrt(scale))
    P = np.vstack([top, np.hstack([np.zeros((7, 1)), np.diag(scale**-0.5)])])
    extended = np.hstack([e, H])
    found = diagnose_layer("head", torch.from_numpy(mean), torch.from_numpy(var), eps_rel, eps_abs)
    assert found.before == pytest.approx(spread(extended), rel=1e-9)
    assert found.after == pytest.approx(spread(extended @ P), rel=1e-9)
    assert found.sizes_before == pytest.approx(sorted(np.square(H).mean(axis=0)))
    assert found.sizes_after == pytest.approx(sorted(np.square(extended @ P).mean(axis=0)[1:]))
    assert found.mean == pytest.approx(np.sort(mean)[[0, 3, 6]])
    assert found.variance == pytest.approx(np.sort(var)[[0, 3, 6]])


def test_raw_features_by_their_explicit_matrix() -> None:
    X = inputs(9)
    X[:, 2] = 4.0  # constant: it tells nothing
    mean, var = torch.from_numpy(X.mean(axis=0)), torch.from_numpy(X.var(axis=0))
    heard = np.delete(X, 2, axis=1)
    found = diagnose_inputs(mean, var, standardize=True)
    assert (found.columns, found.silent) == (7, 1)
    assert found.before == pytest.approx(spread(np.hstack([np.ones((len(X), 1)), heard])))
    assert found.after == 1.0
    assert diagnose_inputs(mean, var, standardize=False).after == found.before


def test_silent_columns_are_left_out() -> None:
    found = diagnose_layer("head", torch.zeros(3), torch.tensor([1.0, 0.0, 1e-7]), 1e-2, 1e-4)
    assert (found.silent, found.before, len(found.sizes_before)) == (2, 1.0, 1)


@pytest.mark.parametrize("n", [0, 2])
def test_without_anything_to_hear_all_is_even(n: int) -> None:
    found = diagnose_layer("head", torch.zeros(n), torch.zeros(n), 1e-2, 1e-4)
    assert (found.columns, found.silent, found.before, found.after) == (n, n, 1.0, 1.0)
    assert found.mean == []


def test_many_columns_are_described_by_quantiles() -> None:
    found = diagnose_layer("head", torch.zeros(1000), torch.arange(1.0, 1001.0), 1e-2, 1e-4)
    assert len(found.sizes_before) == 33
    assert (found.sizes_before[0], found.sizes_before[-1]) == (1.0, 1000.0)


@pytest.mark.parametrize("make", CASES)
def test_every_engine_tells_the_moments_of_its_state(make: Callable[..., Engine]) -> None:
    engine = make(BNPClassifier(hidden=(5, 4))._engine.spec)
    engine.grow(["a", "b", "c"], 2)
    rng = np.random.default_rng(0)
    engine.learn(rng.normal(size=(20, 3)), rng.integers(0, 2, 20).astype(np.float64), np.ones(20))
    state, moments = engine.state_dict(), engine.moments()
    assert list(moments) == [
        name
        for name in state
        if name.startswith(("inputs.", "moments.")) and name.endswith((".mean", ".var"))
    ]
    assert all(torch.equal(moments[name], state[name]) for name in moments)


def test_an_estimator_diagnoses_the_copy_that_counts_most() -> None:
    clf = BNPClassifier(hidden=(6,))
    for i in range(200):
        clf.learn_one({"a": i % 5, "b": 1000.0 * (i % 3)}, i % 2)
    before = clf.fingerprint()
    found = clf.diagnose()
    assert clf.fingerprint() == before
    assert [each.name for each in found] == ["inputs", "body.1", "head"]
    weights: dict[tuple[float, int], float] = {}
    for each in clf.mixture:  # a network may predict twice
        if each["kind"] == "network":
            of = each["lr"], each["replay"]
            weights[of] = weights.get(of, 0.0) + each["weight"]
    tensors = clf.state_dict()["tensors"]
    k = list(weights).index(max(weights, key=lambda of: weights[of]))
    mean, var = (tensors[f"moments.head.{name}"][k] for name in ("mean", "var"))
    assert found[-1] == diagnose_layer("head", mean, var, clf.eps_rel, clf.eps_abs)
    assert found[0].before > 1e5
    assert found[0].after == 1.0
    of_before = clf.diagnosing()
    clf.learn_one({"a": 7, "b": 3.0, "c": 2.0}, 1)
    assert of_before() == found != clf.diagnose()
