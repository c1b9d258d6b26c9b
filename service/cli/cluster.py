"""``cluster``: servers on several machines with one log in PostgreSQL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StorageError
from ..models.cluster import numbers
from ..settings import read_settings
from ..telemetry.progress import progress
from .cluster_haproxy import Server, configuration
from .cluster_ray import ray_
from .options import AsJson
from .output import CommandError, show, show_rows

if TYPE_CHECKING:
    from ..storage.postgres_cluster import Cluster, Node, Shard

#: Seconds between two looks at the tables.
_PERIOD = 0.2
#: Shards of a new cluster.
_SHARDS = 64

_Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait until the shards are moved.")]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _cluster() -> None:
    """Run servers on several machines with one log in PostgreSQL (BNP_STORE)."""


app.command("ray")(ray_)


@app.command()
def init(
    shards: Annotated[
        int, typer.Option(min=1, max=4096, help="Number of shards, which never changes.")
    ] = _SHARDS,
    as_json: AsJson = False,
) -> None:
    """Create the tables of a new cluster in the store. The result: the number of `shards`."""
    url = _store()
    with _errors():
        from ..storage.postgres_cluster import create

        made = create(url, shards)
    if not made:
        with _opened() as cluster:
            models = sum(shard.models for shard in cluster.shards())
            raise CommandError(
                f"The store has a cluster already, with {cluster.count} shards and {models} models: use it, "
                "or choose another database or schema (BNP_STORE)"
            )
    show({"shards": shards}, as_json=as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the nodes of the cluster, and the owner of each shard.

    A node has a `role`, an `address`, the time when it was last `seen`, and its `shards`. A shard has an
    `owner`, an `epoch` that rises with each owner, a number of `models`, and a `lease`: the time that is left
    to the owner. With --json the fields are those of `GET /cluster`, with `lease_seconds`, and the node to
    which a shard is `moving_to`.
    """
    with _opened() as cluster:
        nodes, shards, wishes = cluster.nodes(), cluster.shards(), cluster.wishes()
    if as_json:
        described = {
            "nodes": [_node(node, shards) for node in nodes],
            "shards": [_shard(shard, wishes) for shard in shards],
        }
        show(described, as_json=True)
        return
    rows = [{**_node(node, shards), "seen": f"{node.seen_seconds:.1f} s ago"} for node in nodes]
    for row in rows:
        row["shards"] = numbers(row["owned"])
    show_rows(rows, ("node", "role", "address", "seen", "shards"), as_json=False)
    print()
    show_rows(_ranges(shards, wishes), ("shards", "owner", "epoch", "models", "lease"), as_json=False)


@app.command()
def haproxy(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port for learning, and for all other requests.")
    ] = 8080,
    reads: Annotated[
        int, typer.Option(min=1, max=65535, help="Port for predictions by standbys and replicas.")
    ] = 8081,
) -> None:
    """Print a configuration of HAProxy for the nodes that run now. Start all nodes first."""
    with _opened() as cluster:
        nodes = cluster.nodes(live=True)
    if hidden := [node.name for node in nodes if not node.address]:
        raise CommandError(f"Node {hidden[0]} has no address: set BNP_ADDRESS there, and start it again")
    if not nodes:
        raise CommandError("No node runs: start the servers first")
    servers = [Server(node.name, node.role, node.address) for node in nodes]
    print(configuration(cluster.count, servers, port, reads), end="")


@app.command()
def move(
    shard: Annotated[int, typer.Argument(min=0, help="Number of the shard.")],
    node: Annotated[str, typer.Argument(help="Name of the new owner.")],
    timeout: _Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Move a shard to another node, and wait until that node owns it.

    The result: `shard`, and its `node`.
    """
    with _opened() as cluster:
        if shard >= cluster.count:
            raise CommandError(f"There is no shard {shard}: the last one is {cluster.count - 1}", 2)
        targets = _targets(cluster.nodes(live=True))
        if node not in targets:
            raise CommandError(f"Node {node} {_why_not(cluster.nodes(), node)}: {_choice(targets)}")
        _move(cluster, {shard: node}, timeout)
    show({"shard": shard, "node": node}, as_json=as_json)


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="Name of the node that gives up its shards.")],
    timeout: _Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Move all shards of a node to the other nodes, and wait until they own them.

    The result: `node`, and the shards that `moved`, by new owner.
    """
    with _opened() as cluster:
        from ..storage.postgres_cluster import spread

        shards, nodes = cluster.shards(), cluster.nodes()
        if node not in {each.name for each in nodes} | {each.owner for each in shards}:
            names = [each.name for each in nodes]
            raise CommandError(f"Node {node} {_why_not(nodes, node)}: {_choice(names)}")
        others = [name for name in _targets(cluster.nodes(live=True)) if name != node]
        if not others and any(each.owner == node for each in shards):
            raise CommandError(
                f"No other owner or standby runs that could take the shards of {node}: start one"
            )
        moves = spread(shards, others, node)
        _move(cluster, moves, timeout)
    taken = {name: sorted(each for each, to in moves.items() if to == name) for name in others}
    if as_json:
        show({"node": node, "moved": taken}, as_json=True)
    else:
        show({"node": node, "moved": len(moves), **{k: numbers(v) for k, v in taken.items()}}, as_json=False)


def _move(cluster: Cluster, moves: Mapping[int, str], timeout: float) -> None:
    """Wish that shards go to nodes, and wait until these own them. A failure withdraws the wishes left."""
    end = time.monotonic() + timeout
    left = _left(cluster, moves)
    cluster.wish({shard: moves[shard] for shard in left})
    try:
        with progress("moving shards", len(moves)) as advance:
            while left := _left(cluster, moves):
                advance(len(moves) - len(left))
                if time.monotonic() > end:
                    raise CommandError(_late(cluster, moves, left, timeout))
                time.sleep(_PERIOD)
    finally:
        cluster.withdraw(left)


def _left(cluster: Cluster, moves: Mapping[int, str]) -> list[int]:
    """Return the shards that the node of their move does not own yet."""
    return [
        each.shard
        for each in cluster.shards()
        if each.shard in moves and not (each.held and each.owner == moves[each.shard])
    ]


def _late(cluster: Cluster, moves: Mapping[int, str], left: Sequence[int], timeout: float) -> str:
    live = {node.name for node in cluster.nodes(live=True)}
    owners = {each.shard: each for each in cluster.shards()}
    first = owners[left[0]]
    target = moves[first.shard]
    if first.held and first.owner != target:
        why = f"{first.owner} has not released shard {first.shard}"
    elif target not in live:
        why = f"{target} does not answer any more"
    else:
        why = f"{target} has not claimed shard {first.shard}"
    return (
        f"After {timeout:g} s, {len(left)} of {len(moves)} shards are not moved: {why}. Their move is "
        "canceled. See the logs of both servers, or allow more time with --timeout"
    )


def _why_not(nodes: Sequence[Node], name: str) -> str:
    """Return why a node cannot own a shard."""
    for node in nodes:
        if node.name == name:
            return "is a replica, which owns no shards" if node.role == "replica" else "does not answer"
    return "is not in the cluster"


def _choice(names: Sequence[str]) -> str:
    return f"choose from {', '.join(names)}" if names else "no server runs"


def _targets(live: Sequence[Node]) -> list[str]:
    """Return the names of the nodes that can own shards."""
    return [node.name for node in live if node.role != "replica"]


def _node(node: Node, shards: Sequence[Shard]) -> dict[str, Any]:
    """Return a node as `GET /cluster` does."""
    return {
        "node": node.name,
        "role": node.role,
        "address": node.address,
        "seen_seconds": round(node.seen_seconds, 3),
        "owned": [each.shard for each in shards if each.held and each.owner == node.name],
        "staleness_ms": node.detail.get("staleness_ms"),
        "failed": node.detail.get("failed", []),
    }


def _shard(shard: Shard, wishes: Mapping[int, str]) -> dict[str, Any]:
    """Return a shard as `GET /cluster` does, with its lease, and the node to which it should go."""
    return {
        "shard": shard.shard,
        "epoch": shard.epoch,
        "owner": shard.owner if shard.held else None,
        "address": shard.address if shard.held else None,
        "models": shard.models,
        "lag_ms": None,
        "lease_seconds": None if shard.lease_seconds is None else round(shard.lease_seconds, 3),
        "moving_to": wishes.get(shard.shard),
    }


def _ranges(shards: Sequence[Shard], wishes: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return rows of the shards that have the same owner, epoch and lease."""
    groups: dict[tuple[str | None, int, str], list[Shard]] = {}
    for each in shards:
        owner = each.owner if each.held else None
        lease = "expired" if each.expired else f"{each.lease_seconds or 0:.0f} s" if each.held else None
        target = wishes.get(each.shard)
        key = (f"{owner or '–'} → {target}" if target else owner, each.epoch, lease or "–")
        groups.setdefault(key, []).append(each)
    return [
        {
            "shards": numbers([each.shard for each in group]),
            "owner": owner,
            "epoch": epoch,
            "models": sum(each.models for each in group),
            "lease": lease,
        }
        for (owner, epoch, lease), group in groups.items()
    ]


def _store() -> str:
    """Return the URL of the store."""
    settings = read_settings()
    if settings.store is None:
        raise CommandError(
            "BNP_STORE is not set: a cluster needs a store in PostgreSQL, as in "
            "BNP_STORE=postgresql://user:password@host/database",
            2,
        )
    return settings.store.get_secret_value()


@contextlib.contextmanager
def _opened() -> Iterator[Cluster]:
    """Open the cluster of the settings."""
    url = _store()
    with _errors():
        from ..storage.postgres_cluster import Cluster  # only here: psycopg is optional

        with contextlib.closing(Cluster(url)) as cluster:
            yield cluster


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Report failures of the store."""
    try:
        yield
    except ImportError as error:
        raise CommandError(f"BNP_STORE needs psycopg: pip install 'bnp-online[cluster]' ({error})") from error
    except StorageError as error:
        raise CommandError(str(error)) from None
