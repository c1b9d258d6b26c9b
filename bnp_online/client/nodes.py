"""Nodes of a cluster: to which of them a request goes, without I/O.

A node that does not own a model names its owner (status 421), which the client remembers. Several URLs, or
the nodes in the description of the cluster, are tried one after the other while a node is unreachable. See
`exchange` for the generators.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError

from . import schemas
from .exchange import Reply, Request, Steps, refused_unchanged

T = TypeVar("T")
ReadFrom: TypeAlias = Literal["owner", "replicas"]

#: Seconds for which a node that did not answer is tried last, and between two looks at the cluster.
_AVOIDED, _LOOK = 5.0, 10.0


class Nodes:
    """Nodes that a client knows.

    Parameters
    ----------
    urls : sequence of str
        URLs of nodes, or of a proxy.
    read_from : {"owner", "replicas"}
        Nodes that answer predictions.
    consistent : bool
        Whether a prediction must have seen all that this client learned and saw.
    """

    def __init__(self, urls: Sequence[str], read_from: ReadFrom, consistent: bool) -> None:
        if not urls:
            raise ValueError("a client needs a URL")
        if read_from not in ("owner", "replicas"):
            raise ValueError(f'read_from is "owner" or "replicas", not {read_from!r}')
        for url in urls:
            httpx.URL(url)  # an invalid one is refused now
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._read_from = read_from
        self._consistent = consistent
        self._owners: dict[str, str] = {}
        self._replicas: list[str] = []
        self._others: list[str] = []
        self._looked = float("-inf")
        self._turns = itertools.count()
        self._avoided: dict[str, float] = {}
        self._steps: dict[str, int] = {}

    def run(self, steps: Steps[T]) -> Steps[T]:
        """Run a call, each request of which goes to the node that it is for."""
        reply: Reply | None = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                if self._consistent:
                    self._observe(end.value)
                return end.value  # type: ignore[no-any-return]  # the generator returns a T
            reply = (yield from self._send(step)) if isinstance(step, Request) else (yield step)

    def _send(self, request: Request) -> Steps[Reply]:
        """Send a request to one node after the other, until one takes it; return the last reply."""
        if request.reads and self._read_from == "replicas" and time.monotonic() - self._looked > _LOOK:
            yield from self._look(self._candidates(request)[0])
        reply, tried, left = None, set[str](), deque(self._candidates(request))
        while left:
            if (url := left.popleft()) in tried:
                continue
            tried.add(url)
            reply = yield replace(request, base=url, min_step=self._min_step(request))
            assert reply is not None  # noqa: S101 (the protocol of the generator)
            if reply.broken is not None:
                self._avoid(url)
                if reply.sent:  # the caller decides whether to repeat it
                    return reply
            elif reply.status == 421:
                owner = yield from self._owner(request, reply, url)
                if owner is not None:
                    left.appendleft(owner)
            elif not (request.reads and refused_unchanged(reply)):
                self._keep(request, reply, url)
                return reply
        assert reply is not None  # noqa: S101 (there is a URL)
        return reply

    def _candidates(self, request: Request) -> list[str]:
        """Return the nodes for a request, the best first."""
        found: list[str] = []
        if request.reads and self._replicas:
            first = next(self._turns) % len(self._replicas)
            found += [*self._replicas[first:], *self._replicas[:first]]
        if request.model in self._owners:
            found.append(self._owners[request.model])
        found += [*self.urls, *self._others]
        now = time.monotonic()
        return sorted(dict.fromkeys(found), key=lambda url: self._avoided.get(url, now) > now)

    def _avoid(self, url: str) -> None:
        self._avoided[url] = time.monotonic() + _AVOIDED
        for model in [model for model, owner in self._owners.items() if owner == url]:
            self._owners.pop(model, None)

    def _keep(self, request: Request, reply: Reply, url: str) -> None:
        """Remember the node that took a request, unless it refused."""
        self._avoided.pop(url, None)
        if request.model is None or request.reads:
            return
        if reply.status < 500:
            self._owners[request.model] = url
        else:
            self._owners.pop(request.model, None)

    def _owner(self, request: Request, reply: Reply, url: str) -> Steps[str | None]:
        """Return the address of the owner of a model, from another node; None if it is unknown."""
        if request.model is None:
            return None
        owner = reply.owner
        if owner is None:
            cluster = yield from self._look(url)
            if cluster is not None and cluster.shards:
                shard = zlib.crc32(request.model.encode()) % len(cluster.shards)
                owner = next((each.address for each in cluster.shards if each.shard == shard), None)
        if owner is None or not self._trusted(owner):
            self._owners.pop(request.model, None)
            return None
        self._owners[request.model] = owner.rstrip("/")
        return self._owners[request.model]

    def _look(self, url: str) -> Steps[schemas.ClusterDescription | None]:
        """Ask a node for the cluster; return None if it does not tell."""
        self._looked = time.monotonic()
        reply = yield Request("GET", "/cluster", base=url)
        assert reply is not None  # noqa: S101 (the protocol of the generator)
        if reply.broken is not None:
            self._avoid(url)
        if reply.broken is not None or reply.status != 200:
            return None
        try:
            cluster = schemas.ClusterDescription.model_validate_json(reply.body)
        except ValidationError:
            return None
        live = [node for node in cluster.nodes if node.address and self._trusted(node.address)]
        self._others = [(node.address or "").rstrip("/") for node in live]
        self._replicas = [(node.address or "").rstrip("/") for node in live if node.role != "owner"]
        return cluster

    def _trusted(self, address: str) -> bool:
        """Return whether to send requests, and the key, to an address that a node named."""
        return address.startswith("https://" if self.urls[0].startswith("https://") else "http")

    def _min_step(self, request: Request) -> int | None:
        """Return the step that the answer to a request must have seen."""
        if not request.reads or request.min_step is not None or request.model is None:
            return request.min_step
        return self._steps.get(request.model)

    def _observe(self, answer: object) -> None:
        """Remember the step of an answer, which later predictions must have seen."""
        for each in answer if isinstance(answer, list) else [answer]:
            if isinstance(each, schemas.LearnAnswer | schemas.PredictAnswer):
                self._steps[each.model] = max(each.step, self._steps.get(each.model, 0))
            elif isinstance(each, schemas.RollbackAnswer):
                self._steps[each.model] = each.step
            elif isinstance(each, schemas.ModelDescription):  # created, imported or described
                self._steps[each.name] = each.step
            elif isinstance(each, schemas.ForgetAnswer | schemas.UpgradeAnswer):
                self._steps.pop(each.model, None)
