"""What a process knows of its cluster: its shards and their owners, for routes and health checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from starlette.types import Scope

from ..settings import Settings


class Cluster(Protocol):
    """Cluster of a process; `SingleNode` is that of a process without one."""

    shards: int
    """Number of shards."""

    def shard_of(self, name: str) -> int:
        """Return the shard of the model with a name."""
        ...

    def owns(self, shard: int) -> bool:
        """Return whether this process owns a shard."""
        ...

    def stale(self) -> bool:
        """Return whether this process follows a shard and lags by more than `BNP_MAX_STALENESS`."""
        ...

    def failed(self) -> list[str]:
        """Return the names of the models that this process cannot restore from the log, or cannot follow."""
        ...

    async def description(self) -> dict[str, Any]:
        """Return the fields of `ClusterDescription`."""
        ...


class SingleNode:
    """Cluster of one process, which owns everything.

    Parameters
    ----------
    settings : Settings
        Name and address of the process.
    """

    shards = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: Returns the names of the models that could not be restored.
        self.failures: Callable[[], list[str]] = list

    def shard_of(self, name: str) -> int:
        """Return 0."""
        return 0

    def owns(self, shard: int) -> bool:
        """Return whether a number is that of a shard: with every configuration of a proxy."""
        return shard >= 0

    def stale(self) -> bool:
        """Return False."""
        return False

    def failed(self) -> list[str]:
        """Return the names of the models whose frozen backbone is missing; others prevent the start."""
        return self.failures()

    async def description(self) -> dict[str, Any]:
        """Return the description of a cluster without shards."""
        settings = self._settings
        node: dict[str, Any] = {
            "node": settings.node,
            "role": settings.role,
            "address": settings.address,
            "seen_seconds": 0.0,
            "owned": [],
            "staleness_ms": None,
            "failed": self.failed(),
        }
        return {"node": settings.node, "role": settings.role, "shards": [], "nodes": [node]}


def cluster_of(scope: Scope) -> Cluster:
    """Return the cluster of the server of a request."""
    return cast(Cluster, scope["app"].state.cluster)


def numbers(shards: Sequence[int]) -> str:
    """Return numbers in order, as the setting BNP_SHARDS has them.

    Examples
    --------
    >>> numbers([0, 1, 2, 5])
    '0-2,5'
    """
    parts: list[list[int]] = []
    for each in shards:
        if parts and parts[-1][-1] == each - 1:
            parts[-1][1:] = [each]
        else:
            parts.append([each])
    return ",".join("-".join(map(str, part)) for part in parts)
