"""Node of a cluster: claims and releases shards, and follows the shards of other nodes.

A node *owns* a shard, or *follows* it, or does neither. The models of an owned shard learn and predict. Those
of a followed shard predict, at the step that the node has read from the log. Standbys and replicas follow all
shards. A standby claims a shard whose owner has ended: its models then lack only the last events of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bnp_online.errors import ConfigurationError

from ..errors import (
    ModelFailedError,
    NotOwnerError,
    NotReadyError,
    OwnershipLostError,
    RequestError,
    StorageError,
    WrongNodeError,
)
from ..schemas import DEFAULT_MODEL
from ..settings import Settings
from ..storage.interfaces import Record
from .cluster import numbers
from .following import Following, creations, name_of
from .registry import Registry
from .stores import join
from .threads import Threads
from .worker import Worker, report_error

if TYPE_CHECKING:
    from ..storage.postgres import PostgresLog
    from ..storage.postgres_cluster import Membership, Node, Shard

#: Seconds between two looks at the shards, of a standby and of other nodes.
_STANDBY, _OTHER = 0.1, 0.5
#: Seconds for which owners may take their locks again after the server of the log was restarted.
_RESTARTED = 3.0
#: Seconds for which a shard is locked without a lease before it is claimed by force.
_CLAIMING = 2.0
#: Most names of failed models in a heartbeat.
_NAMED = 100

_logger = logging.getLogger(__name__)


class ClusterNode(Collector):
    """Node of a cluster with its log in PostgreSQL, and its metrics; implements `Cluster`.

    Construct it on a running event loop.

    Parameters
    ----------
    settings : Settings
        Name, role and shards of the node.
    log : PostgresLog
        Log of the cluster, of which this process owns no shard yet.
    registry : Registry
        Models of this process.
    threads : Threads
        Threads of all models.
    """

    def __init__(self, settings: Settings, log: PostgresLog, registry: Registry, threads: Threads) -> None:
        self._settings = settings
        self._log = log
        self._registry = registry
        self.shards = log.shards
        self._serving: set[int] = set()  # owned shards whose models are recovered
        self._broken: set[int] = set()  # shards whose last claim could not be completed
        self._known: dict[int, Shard] = {}
        self._free: dict[int, float] = {}  # since when a shard has no owner
        self._following = (
            None if settings.role == "owner" else Following(settings, log, registry, threads, self.elsewhere)
        )
        self._pulled = settings.role != "owner"
        self._task: asyncio.Task[None] | None = None
        self._member: Membership
        self._looked = False
        registry.elsewhere, registry.attach = self.elsewhere, self._attach
        registry.readiness.in_cluster = self._fault

    async def start(self) -> None:
        """Join the cluster.

        Raises
        ------
        StorageError
            If the log cannot be reached.
        """
        following = self._following
        changed = None if following is None else following.announced
        self._member = await asyncio.to_thread(join, self._settings, self._log, self._detail, changed)
        if following is not None and self._member.follower is not None:
            following.follower = self._member.follower
        name, role = self._settings.node, self._settings.role
        _logger.info(
            "node %s joined the cluster, role %s; number of shards: %d", name, role, self._log.shards
        )
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the process after an unexpected error: no other node could claim its shards."""
        report_error(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.lose(OwnershipLostError("this node failed to look at the shards of the cluster"))

    async def close(self) -> None:
        """Stop to claim and to follow. The registry then ends the models, and the log releases the shards."""
        if self._task is None:
            return  # the node has not joined
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._following is not None:
            await self._following.close()
        await asyncio.to_thread(self._member.close)

    # The interface `Cluster`.

    def shard_of(self, name: str) -> int:
        """Return the shard of the model with a name."""
        return self._log.shard_of(name)

    def owns(self, shard: int) -> bool:
        """Return whether this node serves the models of a shard as its owner."""
        return shard in self._serving and not self._cut_off

    def stale(self) -> bool:
        """Return whether a shard or a model that this node follows lags, or an owned one may have gone."""
        if self._cut_off and self._serving:
            return True
        following = self._following
        return following is not None and following.staleness() > self._settings.max_staleness

    def failed(self) -> list[str]:
        """Return the names of the models that this node cannot restore from the log, or cannot follow."""
        following = self._following
        return sorted({*self._registry.failed(), *(following.failed() if following is not None else ())})

    async def description(self) -> dict[str, Any]:
        """Return the fields of `ClusterDescription`."""
        shards, nodes = await asyncio.to_thread(lambda: (self._member.shards(), self._member.nodes()))
        follower = self._member.follower
        heard = {} if follower is None else {**follower.heard}
        lag = {shard: 1000 * (time.monotonic() - at) for shard, at in heard.items()}
        owners = {each.shard: each.owner for each in shards if each.held}  # not those that were killed
        return {
            "node": self._settings.node,
            "role": self._settings.role,
            "shards": [
                {
                    "shard": each.shard,
                    "epoch": each.epoch,
                    "owner": owners.get(each.shard),
                    "address": (each.address or None) if each.held else None,
                    "models": each.models,
                    "lag_ms": None if each.shard in self._serving else lag.get(each.shard),
                }
                for each in shards
            ],
            "nodes": [
                {
                    "node": each.name,
                    "role": each.role,
                    "address": each.address or None,
                    "seen_seconds": each.seen_seconds,
                    "owned": [
                        shard for shard in each.detail.get("owned", []) if owners.get(shard) == each.name
                    ],
                    "staleness_ms": each.detail.get("staleness_ms"),
                    "failed": each.detail.get("failed", []),
                }
                for each in nodes
            ],
        }

    def elsewhere(self, name: str) -> RequestError | None:
        """Return the error for a request to a model of another node; None if this one owns the shard."""
        shard = self.shard_of(name)
        if shard in self._serving:
            return None
        known = self._known.get(shard)
        if known is not None and known.owner not in (None, self._settings.node):
            return WrongNodeError(name, known.owner or "", known.address or None)
        return NotReadyError(f"shard {shard} of model {name!r:.80} has no owner yet: try again", "model")

    def _fault(self) -> str | None:
        """Return why this node is not ready; None if it is."""
        if not self._looked:
            return "the shards of this node are being claimed"
        return "the node lags behind the log, or cannot reach it" if self.stale() else None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the node; a thread calls this."""
        yield GaugeMetricFamily(
            "bnp_cluster_up",
            "1, or 0 while the node lags behind the log, or cannot reach it.",
            self._fault() is None,
        )
        shards = GaugeMetricFamily(
            "bnp_cluster_shards", "Shards that the node owns, and those without an owner.", labels=["state"]
        )
        shards.add_metric(["owned"], len(self._serving))
        shards.add_metric(["free"], len(self._free))
        yield shards
        if self._following is not None:
            yield GaugeMetricFamily(
                "bnp_cluster_staleness_seconds",
                "Time by which the node lags behind the log, at the worst of its models.",
                self._following.staleness(),
            )

    # Shards.

    def _detail(self) -> dict[str, Any]:
        staleness = math.inf if self._following is None else self._following.staleness()
        return {
            "owned": sorted(self._serving),
            "staleness_ms": round(1000 * staleness, 1) if math.isfinite(staleness) else None,
            "failed": self.failed()[:_NAMED],
        }

    @property
    def _cut_off(self) -> bool:
        """Whether the lease could not be extended for so long that another node may own the shards."""
        return time.monotonic() - self._log.confirmed > self._settings.takeover_after

    async def _run(self) -> None:
        failed = False
        while True:
            try:
                if self._following is not None and not self._following.began:
                    await self._following.begin()
                await self._look()
                self._looked, failed = True, False
            except StorageError as error:
                if not failed:
                    _logger.warning("the cluster cannot be read: %s", error)
                failed = True
            await asyncio.sleep(_STANDBY if self._settings.role == "standby" else _OTHER)

    async def _look(self) -> None:
        """Look at the shards once; release and claim what is due."""
        shards = await asyncio.to_thread(self._member.shards)
        if self._following is not None:
            self._following.wake_all()
        now = time.monotonic()
        before = self._known
        self._known = {each.shard: each for each in shards}
        self._free = {
            each.shard: now if self._changed(before.get(each.shard), each) else self._free[each.shard]
            for each in shards
            if each.free or each.expired
        }
        wished = await asyncio.to_thread(self._member.wishes)
        asked = self._free or wished
        live = await asyncio.to_thread(partial(self._member.nodes, live=True)) if asked else []
        own = self._settings.node
        able = {each.name for each in live if each.role != "replica"}
        wished = {number: node for number, node in wished.items() if node in able}
        if fulfilled := [number for number in self._serving if wished.get(number) == own]:
            await asyncio.to_thread(self._member.withdraw, fulfilled)
        leaving = [shard for shard in sorted(self._serving) if wished.get(shard, own) != own]
        for shard in leaving:
            await self._release(shard)
        if leaving:
            _logger.info("shards %s released", numbers(leaving))
        if self._settings.role == "replica":
            return
        await self._claim([each for each in shards if self._is_due(each, wished, live)])
        if not (self._pulled or self._free):
            self._pulled = True
            await self._pull(shards)

    def _changed(self, before: Shard | None, shard: Shard) -> bool:
        """Return whether a shard without an owner had one at the last look, or was claimed meanwhile."""
        same = before is not None and (before.free, before.epoch) == (shard.free, shard.epoch)
        return shard.shard not in self._free or not same

    def _is_due(self, shard: Shard, wished: Mapping[int, str], live: Sequence[Node]) -> bool:
        """Return whether to claim a shard now, or to complete a claim that an error has interrupted."""
        if shard.shard in self._log.epochs:
            return shard.shard not in self._serving
        return self._may_claim(shard, wished, live)

    def _may_claim(self, shard: Shard, wished: Mapping[int, str], live: Sequence[Node]) -> bool:
        """Return whether to claim a shard now."""
        since = self._free.get(shard.shard)
        if since is None:
            return False
        now = time.monotonic()
        waited = now - since >= self._settings.takeover_after
        if shard.expired and now - since < _CLAIMING:
            return False  # perhaps another node claims it now, and its lease is not written yet
        if shard.leased and now < self._member.reconnected + _RESTARTED:
            return False  # perhaps all connections were lost, and the owner serves
        if (node := wished.get(shard.shard)) is not None:
            return node == self._settings.node
        if self._settings.role == "standby":  # a shard without a former owner is for the owners
            return shard.owner is not None or waited
        if self._settings.shards != "auto":
            return shard.shard in self._settings.shards
        standbys = any(each.role == "standby" and each.name != shard.owner for each in live)
        if waited or (shard.owner is not None and not standbys):
            return True
        return shard.owner is None and len(self._log.epochs) < self._share(live)

    def _share(self, live: Sequence[Node]) -> int:
        """Return the number of shards of an owner, if all owners have as many."""
        owners = sum(each.role == "owner" for each in live)
        return -(-self.shards // max(owners, 1))

    async def _pull(self, shards: Sequence[Shard]) -> None:
        """Wish for the shards of this owner that others have in its place: once, after its start.

        These are shards of standbys, which took over while this owner was away. With ``auto`` the owner also
        wishes for shards that other owners have in excess, up to its own share.
        """
        live = await asyncio.to_thread(partial(self._member.nodes, live=True))
        own, share = self._settings.shards, self._share(live)
        excess: list[int] = []
        for node in live:
            owned = [each.shard for each in shards if each.owner == node.name]
            if node.role == "standby":
                excess += [shard for shard in owned if own == "auto" or shard in own]
            elif own == "auto" and node.name != self._settings.node:
                excess += owned[share:]
        most = self.shards if own != "auto" else share - len(self._log.epochs)
        if wishes := dict.fromkeys(excess[: max(most, 0)], self._settings.node):
            await asyncio.to_thread(self._member.wish, wishes)

    async def _claim(self, shards: Sequence[Shard]) -> None:
        """Become the owner of shards, and serve their models.

        An error of one shard stops no other one. The next look at the shards claims it again.
        """
        began, claimed, models = time.monotonic(), [], 0
        for shard in shards:
            try:
                found = await self._claim_one(shard)
            except StorageError as error:
                if shard.shard not in self._broken:
                    _logger.warning("shard %d cannot be claimed now: %s", shard.shard, error)
                self._broken.add(shard.shard)
                self._serving.discard(shard.shard)
            else:
                self._broken.discard(shard.shard)
                if found is not None:
                    claimed.append(shard.shard)
                    models += found
        if claimed:
            seconds = time.monotonic() - began
            _logger.info("shards %s claimed: %d models, in %.2f s", numbers(claimed), models, seconds)

    async def _claim_one(self, shard: Shard) -> int | None:
        """Become the owner of a shard, and serve its models.

        Another call continues after an error: each part has no effect if it was done before.

        Returns
        -------
        int or None
            Number of the models; None if another node was faster.
        """
        number = shard.shard
        try:
            await asyncio.to_thread(self._log.claim, number, 0.0, force=shard.expired)
        except OwnershipLostError:
            raise
        except NotOwnerError:
            return None
        records = await asyncio.to_thread(creations, self._log, number)
        if self._following is not None:
            await self._following.retain(number, {record.model for record in records})
        for record in records:
            await self._lead(record)
        self._serving.add(number)
        self._free.pop(number, None)
        await self._create_default(number)
        self._registry.resume_removals()
        return len(records)

    async def _create_default(self, shard: int) -> None:
        """Create the default model, once per cluster: its shard never had a model before."""
        if shard == self.shard_of(DEFAULT_MODEL) and not await asyncio.to_thread(self._log.had_models, shard):
            try:
                await self._registry.create(self._settings.default_model)
            except StorageError:
                raise
            except (RequestError, ConfigurationError) as error:
                _logger.warning("the default model cannot be created: %s", error)

    async def _lead(self, record: Record) -> None:
        """Serve a model of a claimed shard."""
        name, following = name_of(record), self._following
        if not self._registry.leads(record.model):
            head = await asyncio.to_thread(self._log.head, record.model)
            if following is not None and await following.take(record.model, head):
                await self._registry.lead(name)
            else:
                self._registry.add(record)
        if self._settings.models_in_memory is None:
            with contextlib.suppress(ModelFailedError):  # logged; the others are served
                await self._registry.load(name)

    def _attach(self, worker: Worker) -> None:
        """Let the worker of an owned model refuse reads that may be too old."""
        worker.guard, worker.staleness = self._require_lease, None

    def _require_lease(self) -> None:
        if self._cut_off:
            raise NotReadyError("this node cannot reach the log, and another one may own the model")

    async def _release(self, shard: int) -> None:
        """Give a shard up, with a checkpoint of each model."""
        self._serving.discard(shard)
        records = await asyncio.to_thread(creations, self._log, shard)
        for record in records:
            try:
                await self._registry.release(name_of(record), keep=True)
            except StorageError as error:  # the log has all that the checkpoint would have
                _logger.warning("model %r is released without a checkpoint: %s", name_of(record), error)
        await asyncio.to_thread(self._log.release, shard)
        if self._following is not None:
            for record in records:
                await self._following.follow(record, shard)
