"""`DistributedDataParallel`: two processes learn as one with the joint mini-batch."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import bnp_online as bnp

STEPS, BATCH = 6, 5
SCALES = ("paper", "norm")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 1)
    )


def batches(rank: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the mini-batches of one of two processes, or the joint ones."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(STEPS):
        x = torch.randn(2 * BATCH, 2, 4, generator=generator) * 3 + 1
        y = torch.randn(2 * BATCH, 1, generator=generator)
        part = slice(None) if rank is None else slice(rank * BATCH, (rank + 1) * BATCH)
        found.append((x[part], y[part]))
    return found


def train(model: nn.Module, rank: int | None, scale: Any) -> dict[str, Any]:
    pre = bnp.BNP(model, step_scale=scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in batches(rank):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        pre.step()
        optimizer.step()
    moments = [(each.mean, each.var) for each in pre.moments.values()]
    return {"weights": [*model.parameters()], "moments": moments}


def process(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {scale: train(DistributedDataParallel(network()), rank, scale) for scale in SCALES}
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()
    gc.collect()  # torch 2.13: the threads of Gloo must end before Python does


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("distributed")
    spawn(process, (folder,), nprocs=2)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("scale", SCALES)
def test_processes_learn_as_one_with_the_joint_batch(trained: list[Any], scale: str) -> None:
    joint = train(network(), None, scale)
    for ours in trained:
        torch.testing.assert_close(ours[scale], joint, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_processes_stay_equal_bit_for_bit(trained: list[Any], scale: str) -> None:
    torch.testing.assert_close(trained[0][scale], trained[1][scale], rtol=0, atol=0)
