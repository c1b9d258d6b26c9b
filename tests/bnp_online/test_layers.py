"""Every layer kind against ``P Pᵀ ĝ / q²`` with explicit float64 matrices, over random layers and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnp_online.layers import ADAPTERS, transform_
from bnp_online.parameters import StepScale
from bnp_online.preconditioner import BNP
from tests.support.reference import (
    Array,
    Reference,
    array,
    gradients,
    input_matrices,
    preconditioner,
    relative_error,
)

# An even kernel with padding="same" makes torch pad a copy, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
MAX_RATIO = 30.0  # of |μ| to σ: beyond it, subtraction cancels
STEPS = 4
SCALES: list[StepScale] = ["paper", "norm", "none"]
Draw = Callable[..., Any]


@dataclass
class Case:
    """A layer and the shapes of its inputs, one a step."""

    layer: nn.Module
    shapes: list[tuple[int, ...]]
    channel_dim: int


@st.composite
def linear_cases(draw: Draw) -> Case:
    features, leading = draw(st.integers(1, 12)), draw(st.integers(0, 2))
    layer = nn.Linear(features, draw(st.integers(1, 6)), bias=draw(st.booleans()))
    sizes = st.tuples(*[st.integers(1, 6)] * leading)
    return Case(layer, [(*draw(sizes), features) for _ in range(STEPS)], -1)


@st.composite
def conv_cases(draw: Draw, kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d], spatial: int) -> Case:
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 3)] * spatial)
    kernel, dilation = draw(each), draw(st.tuples(*[st.integers(1, 2)] * spatial))
    padding = draw(st.sampled_from(["same", "valid"]) | st.tuples(*[st.integers(0, 2)] * spatial))
    layer = kind(
        channels,
        groups * draw(st.integers(1, 2)),
        cast(Any, kernel),
        stride=cast(Any, 1 if padding == "same" else draw(st.tuples(*[st.integers(1, 2)] * spatial))),
        padding=padding,
        dilation=cast(Any, dilation),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    batched = draw(st.booleans())
    # At least 5: the longest dilated kernel, and longer than any padding, as "reflect" asks.
    sizes = st.tuples(*[st.integers(5, 9 if spatial == 1 else 6)] * spatial)
    shapes = [(*[draw(st.integers(1, 3))] * batched, channels, *draw(sizes)) for _ in range(STEPS)]
    return Case(layer, shapes, -spatial - 1)


CASES: dict[type[nn.Module], st.SearchStrategy[Case]] = {
    nn.Linear: linear_cases(),
    nn.Conv1d: conv_cases(nn.Conv1d, 1),
    nn.Conv2d: conv_cases(nn.Conv2d, 2),
    nn.Conv3d: conv_cases(nn.Conv3d, 3),
}


def test_every_registered_kind_has_a_case() -> None:
    assert CASES.keys() == ADAPTERS.keys()


def stream(case: Case, rng: np.random.Generator, dtype: torch.dtype, centre: float = 10.0) -> list[Tensor]:
    """Inputs; each channel has a scale, and a mean of up to `centre` standard deviations, of its own."""
    channels = case.shapes[0][case.channel_dim]
    scale = np.exp(rng.uniform(np.log(0.1), np.log(10.0), channels))
    centres = rng.uniform(-centre, centre, channels)
    inputs = []
    for shape in case.shapes:
        z = np.moveaxis(rng.standard_normal(shape), case.channel_dim, -1)
        inputs.append(np.moveaxis((z + centres) * scale, -1, case.channel_dim))
    return [torch.tensor(x, dtype=dtype) for x in inputs]


def backward(layer: nn.Module, x: Tensor, rng: np.random.Generator) -> list[Array]:
    """Back-propagate a loss with a random gradient at the output; return the gradients as they are then."""
    layer.zero_grad()
    out = layer(x)
    (out * torch.tensor(rng.standard_normal(out.shape), dtype=out.dtype)).mean().backward()
    return [array(grad).copy() for grad in gradients(layer)]


def errors(
    layer: nn.Module, inputs: list[Tensor], rng: np.random.Generator, rho: float, scale: StepScale
) -> Iterator[tuple[float, float]]:
    """Train; after each step yield the worst |μ|/σ, and the worst error of gradient, mean and variance."""
    pre = BNP(layer, rho=rho, step_scale=scale)
    reference = Reference(layer, rho=rho, step_scale=scale)
    for x in inputs:
        before = backward(layer, x, rng)
        expected = reference.step([array(x)], before[0], before[1] if len(before) > 1 else None)
        pre.step()
        moments, (mean, var) = pre.moments[""], reference.moments
        worst = max(
            relative_error(gradients(layer), expected),
            relative_error([moments.mean], [mean]),
            relative_error([moments.var], [var]),
        )
        yield float((np.abs(mean) / np.maximum(np.sqrt(var), 1e-30)).max()), worst


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=60)
@given(data=st.data())
def test_gradients_and_statistics_follow_the_definition(
    kind: type[nn.Module], dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(CASES[kind])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rho = data.draw(st.sampled_from([0.5, 0.9, 0.99, 1.0]))
    scale = data.draw(st.sampled_from(SCALES))
    layer = case.layer.to(dtype)
    for ratio, error in errors(layer, stream(case, rng, dtype), rng, rho, scale):
        assume(ratio <= MAX_RATIO)
        assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scale", SCALES)
def test_float32_holds_up_to_thirty_standard_deviations(kind: type[nn.Module], scale: StepScale) -> None:
    rng = np.random.default_rng(0)
    if kind is nn.Linear:
        case = Case(nn.Linear(12, 5), [(64, 12)] * STEPS, -1)
    else:
        spatial = list(CASES).index(kind)
        layer = cast(Any, kind)(4, 6, 3, padding=1, groups=2)
        case = Case(layer, [(16, 4, *[5] * spatial)] * STEPS, 1)
    ratios, worst = zip(
        *errors(case.layer, stream(case, rng, torch.float32, 26.0), rng, 0.0, scale), strict=True
    )
    assert 20.0 < max(ratios) <= MAX_RATIO
    assert max(worst) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_the_reference_describes_the_layer(kind: type[nn.Module], data: st.DataObject) -> None:
    """``H Wᵀ + e bᵀ`` with the reference's input matrix is what torch computes."""
    case = data.draw(CASES[kind])
    rng = np.random.default_rng(0)
    layer = case.layer.double()
    x = stream(case, rng, torch.float64)[0]
    weight = array(layer.get_parameter("weight"))
    matrices = input_matrices(layer, array(x))
    rows = np.split(weight.reshape(len(weight), -1), len(matrices))
    products = [h @ w.T for h, w in zip(matrices, rows, strict=True)]
    expected = np.concatenate(products, axis=1)
    if layer.bias is not None:
        expected = expected + array(layer.get_parameter("bias"))
    out = np.moveaxis(array(layer(x)), case.channel_dim, -1).reshape(expected.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_intrinsic_coordinates_are_multiplied_by_p(kind: type[nn.Module], data: st.DataObject) -> None:
    layer = data.draw(CASES[kind]).layer.double()
    adapter = ADAPTERS[kind](layer)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mean, scale = rng.normal(0.0, 10.0, adapter.channels), np.exp(rng.normal(0.0, 2.0, adapter.channels))
    q2 = 1.0 + 9.0 * rng.random()
    centred = adapter.bias is not None
    z = [torch.tensor(rng.standard_normal(p.shape)) for p in layer.parameters()]
    extended = array(z[0]).reshape(len(z[0]), -1)
    if centred:
        extended = np.column_stack([array(z[1]), extended])
    kernel, groups = adapter.kernel_size, adapter.groups
    expected = np.concatenate(
        [
            rows @ preconditioner(m.repeat(kernel), s.repeat(kernel), centred=centred).T / np.sqrt(q2)
            for rows, m, s in zip(*(np.split(a, groups) for a in (extended, mean, scale)), strict=True)
        ]
    )
    weight, bias = z[0], z[1] if centred else None
    transform_(weight, bias, torch.tensor(mean), torch.tensor(scale), q2, groups)
    got = array(weight).reshape(len(weight), -1)
    if bias is not None:
        got = np.column_stack([array(bias), got])
    assert relative_error([got], [expected]) <= 1e-12
