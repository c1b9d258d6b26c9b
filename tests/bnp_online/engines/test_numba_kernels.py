"""Products with weights and steps: the order of their sums, with and without compilation."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from bnp_online.engines.numba_kernels import multiply, multiply_both, padded, step_and_back, step_first
from tests.support.programs import ROOT

#: Outputs and inputs: below, at and above four rows and a vector.
SIZES = [(1, 1), (3, 16), (4, 17), (10, 64), (13, 100)]
#: Relative error of a float64 reference.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def _layer(outputs: int, inputs: int, real: str) -> dict[str, Any]:
    """Return arrays of a layer, with zeros in the padding; half of the gradient is 0."""
    rng = np.random.default_rng(7 * outputs + inputs)
    width, room = padded(inputs), padded(outputs)
    made = {
        "weight": np.zeros((outputs, width), real),
        "bias": np.zeros(room, real),
        "delta": np.zeros(room, real),
        **{name: np.zeros(width, real) for name in ("h", "other", "u")},
    }
    made["weight"][:, :inputs] = rng.normal(size=(outputs, inputs))
    made["bias"][:outputs], made["delta"][:outputs] = rng.normal(size=(2, outputs))
    made["delta"][1:outputs:2] = 0.0
    for name in ("h", "other", "u"):
        made[name][:inputs] = rng.normal(size=inputs)
    return made


def _results(outputs: int, inputs: int, real: str) -> dict[str, Any]:
    """Return what each function writes."""
    of = _layer(outputs, inputs, real)
    product, one, two = (np.zeros(padded(outputs), real) for _ in range(3))
    multiply(of["weight"], of["bias"], of["h"], product)
    multiply_both(of["weight"], of["bias"], of["h"], one, of["other"], two)
    found = {"product": product[:outputs], "one": one[:outputs], "two": two[:outputs]}
    rate, rate_bias, live = np.dtype(real).type(0.1), np.dtype(real).type(0.3), np.zeros(outputs, np.int64)
    for name in ("first", "later"):
        weight, bias, back = of["weight"].copy(), of["bias"].copy(), np.ones(padded(inputs), real)
        delta, u = of["delta"][:outputs], of["u"]
        if name == "first":
            step_first(weight, bias, delta, u, rate, rate_bias, live)
        else:
            step_and_back(weight, bias, delta, u, rate, rate_bias, live, back)
            found["back"] = back
        found |= {f"{name} weight": weight, f"{name} bias": bias}
    return found


def _product(weight: Any, bias: Any, h: Any) -> Any:
    """Return ``Wh + b``: 16 sums of a row, each in order, then added in the tree of DESIGN.md."""
    sums = np.zeros((len(weight), 16), weight.dtype)
    for j in range(0, len(h), 16):
        sums = sums + weight[:, j : j + 16] * h[j : j + 16]
    groups = sums.reshape(-1, 4, 4)
    groups = (groups[:, :, 0] + groups[:, :, 2]) + (groups[:, :, 1] + groups[:, :, 3])
    return (groups[:, 0] + groups[:, 2]) + (groups[:, 1] + groups[:, 3]) + bias[: len(weight)]


def _reference(of: dict[str, Any]) -> dict[str, Any]:
    """Return what each function should write, by operations of NumPy that each round."""
    weight, bias = of["weight"], of["bias"]
    real, delta = weight.dtype.type, of["delta"][: len(weight)]
    product = _product(weight, bias, of["h"])
    back = np.zeros(weight.shape[1], weight.dtype)
    for row, d in zip(weight, delta, strict=True):
        if d != 0.0:
            back = back + d * row
    moved = weight + (-real(0.1) * delta)[:, None] * of["u"]
    moved_bias = bias.copy()
    moved_bias[: len(weight)] -= real(0.3) * delta
    found = {"product": product, "one": product, "two": _product(weight, bias, of["other"]), "back": back}
    return found | {
        f"{name} {what}": value
        for name in ("first", "later")
        for what, value in (("weight", moved), ("bias", moved_bias))
    }


@pytest.mark.parametrize("real", TOLERANCE)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_sums_have_the_stated_order(outputs: int, inputs: int, real: str) -> None:
    found, of = _results(outputs, inputs, real), _layer(outputs, inputs, real)
    expected = _reference(of)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.dtype == real
        assert np.array_equal(found[name], value), name
    exact = {name: value.astype(np.float64) for name, value in of.items()}
    for name, value in _reference(exact).items():
        np.testing.assert_allclose(
            found[name], value, rtol=TOLERANCE[real], atol=TOLERANCE[real], err_msg=name
        )


def bits() -> str:
    """Return a digest of all results."""
    digest = hashlib.sha256()
    for outputs, inputs in SIZES:
        for real in TOLERANCE:
            for value in _results(outputs, inputs, real).values():
                digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def test_without_compilation_the_bits_are_equal() -> None:
    code = f"import numba, {__name__} as kernels; print(numba.config.DISABLE_JIT, kernels.bits())"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", bits()]
