"""What every test shares: one torch thread, so that the bits do not depend on the cores, and the order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Examples are the same in every run, and a slow machine is no failure.
settings.register_profile(
    "bnp", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("bnp")

#: Files with long tests. They begin first, so that no process is left with one of them at the end.
_LONG = (
    "tests/docs/test_commands.py",
    "tests/bnp_online/test_jit.py",
    "tests/recovery/",
    "tests/benchmarks/",
    "tests/service/models/test_durability.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
