"""The benchmark of the paper's claims: its stacked copies, its resumption, its verdicts, and its page."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from benchmarks import paper_mlp
from benchmarks.paper_stack import Stack
from bnp_online import BNP


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(0)


def _plainly(network: nn.Sequential, rate: float, bnp: bool, x: Tensor, y: Tensor) -> nn.Sequential:
    """Train a copy by itself, through autograd, hooks and torch's own optimizer."""
    network = copy.deepcopy(network)
    pre = BNP(network) if bnp else None
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for rows, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(network(rows), labels).backward()
        if pre is not None:
            pre.step()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("activation", paper_mlp.ACTIVATIONS)
@pytest.mark.parametrize("name", paper_mlp.METHODS)
def test_stacked_copies_learn_as_each_would_by_itself(name: str, activation: str, batch: int) -> None:
    method = paper_mlp.METHODS[name]
    if batch == 1 and method.norm is nn.BatchNorm1d:
        pytest.skip("a mini-batch of one has no variance")
    kind = paper_mlp.ACTIVATIONS[activation]
    networks = [paper_mlp.network(12, kind, method, seed).double() for seed in (0, 1)]
    rates = (0.3, 0.03)
    x = 1.0 + torch.randn(12, 2, batch, 12, dtype=torch.float64)
    y = torch.randint(10, (12, 2, batch))
    stack = Stack(networks, rates, bnp=method.bnp)
    for rows, labels in zip(x, y, strict=True):
        stack.step(rows, labels)

    test_x, test_y = torch.randn(7, 12, dtype=torch.float64), torch.randint(10, (7,))
    losses, accuracies = stack.score(test_x, test_y)
    for i, (network, rate) in enumerate(zip(networks, rates, strict=True)):
        alone = _plainly(network, rate, method.bnp, x[:, i], y[:, i])
        for key, value in alone.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                torch.testing.assert_close(stack.tensors[key][i].detach(), value, rtol=1e-9, atol=1e-11)
        out = alone(test_x)
        torch.testing.assert_close(losses[i], F.cross_entropy(out, test_y).detach())
        assert accuracies[i] == (out.argmax(1) == test_y).double().mean()
