"""The sparse stage beside both engines: equal dense inputs, and states that either continues."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bnp_online import BNPClassifier, BNPRegressor

_Estimator = BNPClassifier | BNPRegressor
#: What depends on the predictions of the network; all else of the stage has equal bits.
_COMBINED = {"sparse.scalars", "sparse.hedge", "sparse.stack.coefficients", "sparse.stack.inverse"}


def _make(task: str, engine: str) -> _Estimator:
    kind = BNPRegressor if task == "regression" else BNPClassifier
    return kind(hidden=(8,), text=("t",), memory=60, replay=1, engine=engine, device="cpu")


def _stream(count: int, task: str) -> Iterator[tuple[dict[str, Any], Any, float]]:
    """Yield samples with strings, words, a number with a heavy tail and, late, a third class."""
    rng = random.Random(3)  # noqa: S311
    for i in range(count):
        a = rng.randrange(60)
        x: dict[str, Any] = {"a": f"a{a}", "n": 10.0 ** (3.0 * rng.gauss(0.0, 1.0)), "m": rng.gauss(0.0, 1.0)}
        x["t"] = " ".join(f"w{rng.randrange(20)}" for _ in range(rng.randrange(4)))
        if rng.random() < 0.1:
            x[rng.choice("am")] = None
        y: Any = a % (3 if i > 150 else 2)
        yield x, 10.0 * y if task == "regression" else y, rng.choice([1.0, 1.0, 0.5])


def _predictions(model: _Estimator, x: dict[str, Any]) -> Any:
    return model.predict_one(x) if model.task == "regression" else model.predict_proba_one(x)  # type: ignore[union-attr]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_both_engines_agree_and_continue_the_state_of_the_other(task: str) -> None:
    numba, torch_ = _make(task, "numba"), _make(task, "torch")
    samples = list(_stream(320, task))
    for i, (x, y, w) in enumerate(samples):
        if i in (40, 250):  # each continues from the state of the other
            states = numba.state_dict(), torch_.state_dict()
            numba.load_state_dict(states[1])
            torch_.load_state_dict(states[0])
        if 0 < i < 150:  # rounding errors of the networks double every few samples
            assert _predictions(numba, x) == pytest.approx(_predictions(torch_, x), rel=0.01, abs=0.01)
        numba.learn_one(x, y, w)
        torch_.learn_one(x, y, w)
    assert "n (log)" in numba.feature_names
    assert numba.feature_names == torch_.feature_names
    ours, theirs = numba.state_dict(), torch_.state_dict()
    assert ours["fields"] == theirs["fields"]
    for name in ours["tensors"]:
        if name.startswith("sparse."):
            one, other = ours["tensors"][name], theirs["tensors"][name]
            if name in _COMBINED:
                np.testing.assert_allclose(one, other, rtol=0.1, atol=0.1, err_msg=name)
            else:
                assert torch.equal(one, other), name
    evidence = [i for i, name in enumerate(numba.feature_names) if "(" in name]
    one, other = (state["tensors"]["memory.x"][:, evidence] for state in (ours, theirs))
    assert torch.allclose(one, other, equal_nan=True, atol=1e-5)
