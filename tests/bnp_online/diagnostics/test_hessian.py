"""The Hessian's spectrum against matrices written out in float64, and the convergence that it predicts."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNP, ConfigurationError
from bnp_online.diagnostics import Conditioning, condition_number, spectrum
from bnp_online.diagnostics.spectra import dense_spectrum
from tests.support.reference import Array, array, input_matrices, preconditioner

Model = Callable[[], nn.Module]


def rows(count: int, n: int, seed: int = 0) -> Tensor:
    """Samples whose columns differ in mean and size."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(rng.normal(0, 2, n), 10.0 ** rng.uniform(-0.7, 0.7, n), (count, n)))


def damped(H: Array, *, centred: bool) -> Array:
    spread = H.var(axis=0) if centred else np.square(H).mean(axis=0)
    damped: Array = spread + 1e-2 * spread.max() + 1e-4
    return damped


def explicit(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], X: Tensor, y: Tensor) -> Array:
    """The Hessian in all parameters, in the order of ``named_parameters``, by torch's own routine."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def of(*flat: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, dict(zip(shapes, flat, strict=True)), (X,)), y)

    values = tuple(parameter.detach() for parameter in model.parameters())
    blocks = torch.autograd.functional.hessian(of, values)  # type: ignore[no-untyped-call]  # torch's
    sizes = [value.numel() for value in values]
    return np.block(
        [
            [array(block.reshape(m, n)) for block, n in zip(row, sizes, strict=True)]
            for row, m in zip(blocks, sizes, strict=True)
        ]
    )


@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_by_its_explicit_matrices(bias: bool) -> None:
    X, N = rows(40, 5), 40
    found = condition_number(nn.Linear(5, 1, bias=bias), F.mse_loss, (X, X.sum(1, keepdim=True)))
    H = array(X)
    P = preconditioner(H.mean(axis=0), damped(H, centred=bias), centred=bias)
    if bias:
        H = np.hstack([np.ones((N, 1)), H])
    expected = np.linalg.eigvalsh(2.0 * H.T @ H / N)
    assert found.before.eigenvalues == pytest.approx(expected, rel=1e-10)
    assert found.before.condition == pytest.approx(expected[-1] / expected[0], rel=1e-9)
    expected = np.linalg.eigvalsh(2.0 * (H @ P).T @ (H @ P) / N)
    assert found.after.eigenvalues == pytest.approx(expected, rel=1e-10)
    assert found.after.condition == pytest.approx(expected[-1] / expected[0], rel=1e-9)


def test_every_parameter_of_a_network_by_an_explicit_transform() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    X, y = rows(50, 4), torch.randint(0, 3, (50,))
    found = condition_number(model, F.cross_entropy, (X, y), batch_size=2)
    P = np.zeros((0, 0))
    inner = X
    for module in model:
        n = sum(parameter.numel() for parameter in module.parameters())
        block = np.eye(n)
        if isinstance(module, nn.Linear):
            H, out, columns = array(inner), module.out_features, module.in_features
            unit = preconditioner(H.mean(axis=0), damped(H, centred=True), centred=True)
            unit = unit / np.sqrt(max(columns / 2, 1.0))
            for i in range(out):  # torch's order: all weights, then the biases
                at = [out * columns + i, *range(i * columns, (i + 1) * columns)]
                block[np.ix_(at, at)] = unit
        P = np.block([[P, np.zeros((len(P), n))], [np.zeros((n, len(P))), block]])
        inner = module(inner)
    H = explicit(model, F.cross_entropy, X, y)
    for got, matrix in ((found.before, H), (found.after, P.T @ H @ P)):
        expected = np.linalg.eigvalsh(matrix)
        assert got.eigenvalues is not None
        assert np.abs(got.eigenvalues - expected).max() <= 1e-10 * np.abs(expected).max()


def test_one_convolution_in_groups_by_its_patches() -> None:
    torch.manual_seed(2)
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    model = nn.Sequential(conv, nn.Flatten()).double()
    X = rows(5 * 16, 4).view(5, 4, 4, 4).movedim(-1, 1)
    y = torch.zeros(5, 96, dtype=torch.float64)
    found = condition_number(model, F.mse_loss, (X, y), "0")
    channels = array(X.movedim(1, -1).reshape(-1, 4))
    scale = damped(channels, centred=True).repeat(9)
    mean = channels.mean(axis=0).repeat(9)
    before, after = [], []
    for group, H in enumerate(input_matrices(conv, array(X))):
        here = slice(18 * group, 18 * (group + 1))
        P = preconditioner(mean[here], scale[here], centred=True) / np.sqrt(max(18 / 5, 1.0))
        extended = np.hstack([np.ones((len(H), 1)), H])
        for _ in range(3):
            before += list(np.linalg.eigvalsh(2.0 * extended.T @ extended / y.numel()))
            after += list(np.linalg.eigvalsh(2.0 * (extended @ P).T @ (extended @ P) / y.numel()))
    assert found.before.eigenvalues == pytest.approx(np.sort(before), rel=1e-9)
    assert found.after.eigenvalues == pytest.approx(np.sort(after), rel=1e-9)


def test_lanczos_agrees_with_the_dense_computation() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 15), nn.Tanh(), nn.Linear(15, 4))
    data = rows(200, 12), torch.randint(0, 4, (200,))
    dense = condition_number(model, F.cross_entropy, data)
    large = condition_number(model, F.cross_entropy, data, dense_limit=0)
    for few, all_ in ((large.before, dense.before), (large.after, dense.after)):
        assert few.largest == pytest.approx(all_.largest, rel=1e-7)
        assert few.lowest == pytest.approx(all_.lowest, rel=1e-5)
        assert [few.condition, few.smallest, few.rank, few.eigenvalues] == [None] * 4
        assert "was not computed for 259 parameters" in str(few)
        assert few.weights.sum() == pytest.approx(1.0)
        points = np.linspace(all_.lowest - 1.0, all_.largest + 1.0, 4001)
        width = 0.02 * all_.largest
        apart = np.abs(few.density(points, width) - all_.density(points, width))
        assert np.trapezoid(apart, points) < 0.2
        assert np.trapezoid(all_.density(points, width), points) == pytest.approx(1.0, abs=1e-3)


def test_lanczos_ends_where_its_start_sees_nothing_more() -> None:
    """A Hessian with few different eigenvalues has a small invariant subspace."""
    X = torch.eye(30, dtype=torch.float64)
    found = spectrum(nn.Linear(30, 4, bias=False), F.mse_loss, (X, torch.zeros(30, 4)), dense_limit=0)
    assert found.largest == pytest.approx(2.0 / 120.0)
    assert found.nodes == pytest.approx(np.full_like(found.nodes, 2.0 / 120.0))


def test_zeros_count_as_zeros() -> None:
    assert dense_spectrum(np.zeros((3, 3))).condition == 1.0
    found = dense_spectrum(np.diag([4.0, -2.0, 1e-17]))
    assert (found.rank, found.smallest, found.condition) == (2, 2.0, 2.0)


def test_nothing_of_the_model_changes() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    pre = BNP(model)
    model(rows(8, 3).float()).square().mean().backward()
    pre.step()
    before, moments = deepcopy(model.state_dict()), deepcopy(pre.state_dict())
    grads = [array(p.grad).copy() for p in model.parameters() if p.grad is not None]
    condition_number(model, F.cross_entropy, (rows(20, 3).float(), torch.arange(20) % 2), preconditioner=pre)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    after = [array(p.grad) for p in model.parameters() if p.grad is not None]
    assert all(np.array_equal(a, b) for a, b in zip(after, grads, strict=True))
    assert len(grads) == 6
    for name, state in pre.state_dict().items():
        assert torch.equal(state["mean"], moments[name]["mean"])
        assert state["weight"] == moments[name]["weight"]


def test_the_moments_of_a_preconditioner_are_used_and_its_skipped_layers_left() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    data = rows(30, 3).float(), rows(30, 2).float()
    skipping = BNP(model, skip=["0", "2"])
    nothing = condition_number(model, F.mse_loss, data, preconditioner=skipping)
    assert nothing.after.eigenvalues == pytest.approx(nothing.before.eigenvalues)
    young = BNP(model)  # mean 0, variance 1: it scales all alike
    found = condition_number(model, F.mse_loss, data, "0", preconditioner=young)
    assert found.after.condition == pytest.approx(found.before.condition, rel=0.02)
    assert found.after.eigenvalues == pytest.approx(found.before.eigenvalues, rel=0.02)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"layer": "9"}, "layer"), ({"layer": "1"}, "layer"), ({"batch_size": 0}, "batch_size")],
)
def test_a_wrong_argument_is_named(options: dict[str, str | int], field: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    with pytest.raises(ConfigurationError, match=field):
        condition_number(model, F.mse_loss, (rows(5, 3).float(), torch.zeros(5, 4)), **options)  # type: ignore[arg-type]  # one of many


# The theorem at work: gradient descent contracts the error by (κ − 1)/(κ + 1) a step, κ the condition over
# the range, with the best rate 2/(λ_max + λ_min).


def descend(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    lr: float,
    pre: BNP | None,
    steps: int,
) -> list[float]:
    """Full-batch gradient descent; return the losses, the first one before the first step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model(data[0]), data[1])
        losses.append(value.item())
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if pre is not None:
            pre.step()
        optimizer.step()
    return losses


def contraction(losses: list[float], tail: int) -> float:
    """By which factor the error shrinks in a step, before it is lost in rounding: the loss is its square."""
    losses = [loss for loss in losses if loss > 1e-26]
    return float((losses[-1] / losses[-1 - tail]) ** (0.5 / tail))


def best(condition: float | None) -> float:
    assert condition is not None
    return (condition - 1.0) / (condition + 1.0)


def rate(found: Conditioning, *, after: bool) -> float:
    """The best learning rate: 2 over the sum of the ends of the range."""
    spectrum = found.after if after else found.before
    assert spectrum.smallest is not None
    return 2.0 / (spectrum.largest + spectrum.smallest)


@pytest.mark.parametrize("after", [False, True])
def test_descent_converges_as_the_condition_over_the_range_predicts(after: bool) -> None:
    """Least squares with a null space: one column is the sum of two others."""
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.standard_normal((64, 4)))
    H = basis @ np.diag([1.0, 2.0, 3.0, 4.0]) + np.array([0.3, 0.0, -0.2, 0.4])
    X = torch.from_numpy(np.hstack([H, H[:, :1] + H[:, 1:2]]))
    y = X @ torch.tensor([1.0, -2.0, 0.5, 1.5, 1.0], dtype=torch.float64)[:, None] + 3.0
    torch.manual_seed(5)
    model = nn.Linear(5, 1).double()
    found = condition_number(model, F.mse_loss, (X, y))
    assert found.before.rank == found.after.rank == 5  # of 6
    pre = BNP(model, rho=0.0) if after else None
    condition = found.after.condition if after else found.before.condition
    losses = descend(model, F.mse_loss, (X, y), rate(found, after=after), pre, 40 if after else 600)
    assert contraction(losses, 5) == pytest.approx(best(condition), rel=0.02)
    assert best(found.after.condition) < 0.9 * best(found.before.condition)


class _ScaleInvariant(nn.Module):
    """A linear unit whose output is brought to mean 0 and variance 1: no scale of its weights counts."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.unit = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        a: Tensor = self.unit(x)
        return (a - a.mean()) / a.var(correction=0).sqrt()


@pytest.mark.parametrize("after", [False, True])
def test_a_scale_invariant_unit_converges_as_the_hessian_at_its_minimum_predicts(after: bool) -> None:
    """Its Hessian has a null space, the weights' own direction and the bias: it is never strongly convex."""
    X = rows(80, 4, seed=6)
    w = torch.tensor([1.0, -1.0, 0.5, 0.8], dtype=torch.float64)[:, None] / X.std(0)[:, None]
    target = X @ w
    y = (target - target.mean()) / target.var(correction=0).sqrt()
    model = _ScaleInvariant(4).double()
    with torch.no_grad():
        model.unit.weight.copy_(w.T)
        model.unit.bias.zero_()
    found = condition_number(model, F.mse_loss, (X, y))
    assert found.before.rank == found.after.rank == 3  # of 5
    with torch.no_grad():  # a little away from the minimum
        model.unit.weight.add_(1e-3 * model.unit.weight * torch.tensor([1.0, -1.0, 2.0, 0.5]))
    pre = BNP(model, rho=0.0) if after else None
    condition = found.after.condition if after else found.before.condition
    losses = descend(model, F.mse_loss, (X, y), rate(found, after=after), pre, 60 if after else 3000)
    assert contraction(losses, 5) == pytest.approx(best(condition), rel=0.02)
    assert best(found.after.condition) < best(found.before.condition)
