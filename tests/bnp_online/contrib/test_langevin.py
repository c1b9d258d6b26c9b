"""SGLD and BNP-SGLD against exact posteriors, and a long chain of an independent sampler."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNP, SGLD
from bnp_online.errors import ConfigurationError, StateError
from tests.support.reference import Array, array, preconditioner

PRIOR = 0.5


def inputs(count: int, seed: int = 0) -> Array:
    """Three features with means of up to 5 and scales of 0.1 to 3: the Hessian is badly conditioned."""
    rng = np.random.default_rng(seed)
    x: Array = np.array([4.0, -5.0, 0.5]) + rng.standard_normal((count, 3)) * np.array([0.4, 3.0, 0.1])
    return x


def extended(x: Array) -> Array:
    return np.column_stack([np.ones(len(x)), x])


def sampled(
    loss: Callable[[Tensor], Any], lr: float, count: int, steps: int, *, shaped: bool = True
) -> tuple[Array, BNP | None]:
    """A chain of [b, w] on a linear model, after a burn-in, and its preconditioner."""
    model = nn.Linear(3, 1).double()
    pre = BNP(model, eps_rel=1e-4, eps_abs=1e-8) if shaped else None
    sampler = SGLD(
        model.parameters(),
        lr,
        samples=count,
        preconditioner=pre,
        prior_precision=PRIOR,
        burn_in=500,
        seed=3,
    )
    x = torch.tensor(inputs(count))
    draws = np.empty((steps, 4))
    for i in range(-600, steps):
        sampler.zero_grad()
        loss(model(x).squeeze(1)).backward()
        sampler.step()
        if i >= 0:
            draws[i] = [model.bias.item(), *model.weight[0].tolist()]
    return draws, pre


def effective_sizes(draws: Array) -> Array:
    """Samples over the integrated autocorrelation time, up to the first negative pair (Geyer)."""
    sizes = []
    for column in (draws - draws.mean(0)).T:
        n = len(column)
        spectrum = np.abs(np.fft.rfft(column, 2 * n)) ** 2
        acf = np.fft.irfft(spectrum)[:n] / spectrum.mean()
        acf /= acf[0]
        pairs = acf[: n // 2 * 2].reshape(-1, 2).sum(1)
        stop = int(np.argmax(pairs < 0.0))
        sizes.append(n / (2.0 * pairs[:stop].sum() - 1.0))
    return np.array(sizes)


def assert_agrees(draws: Array, mean: Any, cov: Any, root: Any, more: float = 0.0) -> None:
    """In coordinates in which the posterior is white: mean and covariance within 4.5 Monte Carlo errors.

    `more` holds further errors of each entry, of a reference that is itself sampled.
    """
    white = (draws - mean) @ root
    target = root.T @ cov @ root
    sizes = effective_sizes(white)
    errors = np.sqrt(np.diag(target) / sizes) + more
    assert (np.abs(white.mean(0)) <= 4.5 * errors).all()
    centred = white - white.mean(0)
    products = (centred[:, :, None] * centred[:, None, :]).reshape(len(white), -1)
    spread = products.std(0) / np.sqrt(effective_sizes(products))
    assert (np.abs(products.mean(0) - target.ravel()) <= 4.5 * (spread + more)).all()


def test_the_samples_have_the_exact_posterior_of_a_linear_regression() -> None:
    count, lr, steps = 200, 0.2, 8000
    x = inputs(count)
    y = torch.tensor(x @ np.array([1.0, 0.3, -2.0]) + np.random.default_rng(1).standard_normal(count))
    draws, pre = sampled(lambda out: 0.5 * (out - y).square().mean(), lr, count, steps)
    ones = extended(x)
    hessian = ones.T @ ones + PRIOR * np.eye(4)  # of the negative log posterior
    assert np.linalg.cond(hessian) > 5e3
    mean = np.linalg.solve(hessian, ones.T @ array(y))
    # Discretized, the covariance of z is exactly (H_z (I − h/2N · H_z))⁻¹ with H_z = Pᵀ H P: see the module.
    assert pre is not None
    [moments] = pre.moments.values()
    assert moments.frozen
    var = array(moments.var)
    p = preconditioner(array(moments.mean), var + 1e-4 * var.max() + 1e-8, centred=True)
    of_z = p.T @ hessian @ p
    cov_z = np.linalg.inv(of_z @ (np.eye(4) - lr / (2 * count) * of_z))
    assert np.linalg.norm(cov_z @ of_z - np.eye(4), 2) < 0.15  # the bias that is accounted for is small
    assert_agrees(draws, mean, p @ cov_z @ p.T, np.linalg.cholesky(hessian))


def log_posterior(w: Array, x: Array, y: Array) -> float:
    out = x @ w
    return float(y @ out - np.logaddexp(0.0, out).sum() - 0.5 * PRIOR * w @ w)


def metropolis(x: Array, y: Array, steps: int) -> Array:
    """Random-walk Metropolis on a logistic regression, its proposals shaped by the Hessian at the mode."""
    w = np.zeros(4)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + PRIOR * np.eye(4)
        w = w + np.linalg.solve(hessian, x.T @ (y - p) - PRIOR * w)
    rng = np.random.default_rng(5)
    moves = rng.standard_normal((steps, 4)) @ np.linalg.cholesky(np.linalg.inv(hessian)).T * (2.4 / 2.0)
    limits = np.log(rng.random(steps))
    chain, at = np.empty((steps, 4)), log_posterior(w, x, y)
    for i, (move, limit) in enumerate(zip(moves, limits, strict=True)):
        there = log_posterior(w + move, x, y)
        if limit < there - at:
            w, at = w + move, there
        chain[i] = w
    return chain


def test_the_samples_agree_with_metropolis_on_a_logistic_regression() -> None:
    count = 150
    x = inputs(count)
    rng = np.random.default_rng(2)
    p = 1.0 / (1.0 + np.exp(-((x - x.mean(0)) @ np.array([2.0, 0.4, -3.0]))))
    y = (rng.random(count) < p).astype(float)
    target = torch.tensor(y)
    draws, _ = sampled(lambda out: F.binary_cross_entropy_with_logits(out, target), 0.4, count, 8000)
    chain = metropolis(extended(x), y, 60_000)
    cov = np.cov(chain.T)
    root = np.linalg.inv(np.linalg.cholesky(cov)).T
    sizes = effective_sizes((chain - chain.mean(0)) @ root)
    assert sizes.min() > 1000
    # Of the reference: its own error; of the samples: that of the step, h λ/2 with λ ≤ 1/4 by the logistic.
    more = np.sqrt(1.0 / sizes.min()) + 0.4 * 0.25 / 2.0 / 4.5
    assert_agrees(draws, chain.mean(0), cov, root, more)


def test_it_mixes_faster_than_without_preconditioning() -> None:
    count = 200
    y = torch.tensor(inputs(count) @ np.array([1.0, 0.3, -2.0]))

    def loss(out: Tensor) -> Any:
        return 0.5 * (out - y).square().mean()

    shaped, _ = sampled(loss, 0.2, count, 3000)
    plain, _ = sampled(loss, 1.0 / 40.0, count, 3000, shaped=False)  # the largest curvature is about 50
    assert effective_sizes(shaped).min() > 20 * effective_sizes(plain).min()


def networks(**options: Any) -> tuple[nn.Sequential, SGLD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1, bias=False))
    settings: dict[str, Any] = {"samples": 50, "preconditioner": BNP(model), "burn_in": 5, **options}
    return model, SGLD(model.parameters(), 0.01, **settings)


def run(model: nn.Module, sampler: SGLD, steps: int, start: int = 0) -> list[Array]:
    for i in range(start, start + steps):
        sampler.zero_grad()
        x = torch.tensor(inputs(8, seed=i), dtype=torch.float32)
        model(x).square().mean().backward()
        sampler.step()
    return [array(p) for p in model.parameters()]


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    one, same, other = (run(*networks(seed=seed), 10) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("taken", [3, 8])
def test_the_state_is_complete(taken: int) -> None:
    model, sampler = networks(seed=4)
    run(model, sampler, taken)
    state = pickle.dumps((model.state_dict(), sampler.state_dict()))
    expected = run(model, sampler, 8, start=taken)
    model, sampler = networks(seed=9)
    of_model, of_sampler = pickle.loads(state)  # noqa: S301 (our own bytes)
    model.load_state_dict(of_model)
    sampler.load_state_dict(of_sampler)
    got = run(model, sampler, 8, start=taken)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_without_temperature_it_is_preconditioned_descent() -> None:
    model, sampler = networks(temperature=0.0, burn_in=100)
    got = run(model, sampler, 6)
    model, _ = networks()
    pre, descent = BNP(model), torch.optim.SGD(model.parameters(), lr=0.01)
    for i in range(6):
        descent.zero_grad()
        model(torch.tensor(inputs(8, seed=i), dtype=torch.float32)).square().mean().backward()
        pre.step()
        descent.step()
    assert all(np.array_equal(a, array(b)) for a, b in zip(got, model.parameters(), strict=True))


def test_the_moments_follow_until_they_are_frozen() -> None:
    model, sampler = networks()
    assert sampler.preconditioner is not None
    moments = sampler.preconditioner.moments["0"]
    means = []
    for i in range(8):
        run(model, sampler, 1, start=i)
        means.append(array(moments.mean))
    moved = [not np.array_equal(a, b) for a, b in pairwise(means)]
    assert moved == [True] * 4 + [False] * 3


def test_what_has_no_gradient_stays() -> None:
    model, sampler = networks()
    model.append(nn.Linear(1, 1))  # of no optimizer
    for p in model[4].parameters():
        p.requires_grad_(False)
    before = array(model.get_parameter("4.weight")).copy()
    run(model, sampler, 2)
    assert np.array_equal(before, array(model.get_parameter("4.weight")))


def test_the_closure_is_called_and_its_loss_returned() -> None:
    model, sampler = networks()

    def closure() -> float:
        sampler.zero_grad()
        loss = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        return float(loss.detach())

    assert sampler.step(closure) > 0.0
    assert sampler.steps == 1


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("lr", {"lr": -1.0}),
        ("samples", {"samples": 0.0}),
        ("prior_precision", {"prior_precision": float("inf")}),
        ("temperature", {"temperature": -1.0}),
        ("burn_in", {"burn_in": 0}),
    ],
)
def test_arguments_out_of_range_are_refused(field: str, options: dict[str, Any]) -> None:
    arguments = {"lr": 0.1, "samples": 10, **options}
    with pytest.raises(ConfigurationError) as error:
        SGLD(nn.Linear(2, 1).parameters(), **arguments)
    assert error.value.field == field


def test_a_step_scale_that_depends_on_the_sample_is_refused() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(ConfigurationError, match="biases the posterior"):
        SGLD(model.parameters(), 0.1, samples=10, preconditioner=BNP(model, step_scale="norm"))


def test_a_layer_is_sampled_whole() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(ConfigurationError, match="lacks parameters"):
        SGLD([model.weight], 0.1, samples=10, preconditioner=BNP(model))


def test_a_state_of_another_sampler_is_refused() -> None:
    model, sampler = networks()
    with pytest.raises(StateError, match="not the state of a sampler"):
        sampler.load_state_dict(torch.optim.SGD(model.parameters(), 0.1).state_dict())
    _, plain = networks(preconditioner=None)
    with pytest.raises(StateError, match="has a preconditioner"):
        sampler.load_state_dict(plain.state_dict())
