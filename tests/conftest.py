"""What every test shares: one torch thread, so that the bits do not depend on the cores, and the order."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.postgres import PostgresServer, running
from tests.support.simulated_cuda import SimulatedGPU, simulated_cuda

# Examples are the same in every run, and a slow machine is no failure.
settings.register_profile(
    "bnp", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("bnp")

#: Files with long tests, in their order. No process is left with one of them at the end.
_LONG = (
    "tests/bnp_online/test_jit.py",
    "tests/cluster/test_faults.py",
    "tests/cluster/",
    "tests/recovery/test_chaos.py",
    "tests/docs/test_commands.py",
    "tests/recovery/",
    "tests/benchmarks/",
    "tests/bnp_online/engines/",
    "tests/service/models/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first."""
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of garbage collections, each of which would visit all of them."""
    gc.collect()
    gc.freeze()


def _rank(item: pytest.Item) -> int:
    found = (rank for rank, start in enumerate(_LONG) if item.nodeid.startswith(start))
    return next(found, len(_LONG))


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _simulation(request: pytest.FixtureRequest) -> Iterator[SimulatedGPU | None]:
    """Simulate GPUs during a test with the mark `simulated`, and during nothing else."""
    if request.node.get_closest_marker("simulated") is None:
        yield None
        return
    with simulated_cuda() as gpu:
        yield gpu


@pytest.fixture
def simulated_gpu(_simulation: SimulatedGPU | None) -> SimulatedGPU:
    """State of the GPUs that are simulated during a test with the mark `simulated`."""
    assert _simulation is not None
    return _simulation


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of PostgreSQL that the tests share, in schemas of their own; none of them ends the machine."""
    with running(fsync="off") as server:
        yield server
