"""``cluster ray``: servers on the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..auth.keyring import is_loopback
from .options import AsJson
from .output import CommandError, note, show_rows

if TYPE_CHECKING:
    from .ray_nodes import NodeSpec

#: Settings that each node has of its own.
_OWN = {"BNP_HOST", "BNP_PORT", "BNP_ROLE", "BNP_SHARDS", "BNP_ADDRESS", "BNP_NODE"}
_COLUMNS = ("node", "role", "shards", "address", "state", "pid", "starts")
_NO_KEYS = (
    "Servers that other machines reach need API keys, the same on all: set BNP_API_KEYS, or BNP_KEYS_FILE to "
    "a file that each machine has (`bnp-online keys new`). On one machine: --host 127.0.0.1"
)
#: Seconds to wait for the answer of an actor.
_PATIENCE = 10.0


def ray_(
    owners: Annotated[int, typer.Option(min=1, help="Servers that share the shards.")] = 1,
    standbys: Annotated[int, typer.Option(min=0, help="Servers that take over from an owner.")] = 0,
    shards: Annotated[str, typer.Option(help="Shards of the owners, as 0-63 or 0,3,5; auto: all.")] = "auto",
    min_replicas: Annotated[int, typer.Option(min=0, help="Least number of replicas.")] = 0,
    max_replicas: Annotated[
        int | None, typer.Option(min=0, help="Greatest number of replicas; default: the least.")
    ] = None,
    predictions: Annotated[
        float, typer.Option(help="Predictions per second of a replica, above which another one is added.")
    ] = 2000.0,
    cpus: Annotated[float, typer.Option(min=0.0, help="CPU cores that Ray reserves for a server.")] = 1.0,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs that Ray reserves for an owner or standby.")
    ] = 0.0,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default: that of the machine in the Ray cluster."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=1, max=65000, help="Port of the first server; each next server has the next one."),
    ] = 8000,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Setting of the servers; repeatable. BNP_... are passed on."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Address of the Ray cluster; auto: the one on this machine.")
    ] = "auto",
    name: Annotated[str, typer.Option(help="Namespace of the actors in the Ray cluster.")] = "bnp-online",
    stop: Annotated[bool, typer.Option("--stop", help="Stop all servers.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the servers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the servers of a cluster as actors of Ray, which places them and starts them again.

    The store is BNP_STORE. The servers listen themselves, and continue after this command has ended. If some
    of them run already, the others are added. With --gpus, their device is auto, else cpu.

    A row has a `node`, its `role`, `shards`, `address`, `state` and `pid`, and how often it was started
    (`starts`).
    """
    if stop and status:
        raise CommandError("Give either --stop or --status.", 2)
    if stop or status:
        with _connected(address, name):
            _stop() if stop else show_rows(_status(), _COLUMNS, as_json=as_json)
        return
    settings = _settings(env or (), os.environ)
    most = min_replicas if max_replicas is None else max_replicas
    if most < min_replicas:
        raise CommandError(f"--max-replicas: {most} is less than --min-replicas, {min_replicas}", 2)
    if most and not min_replicas:
        raise CommandError("--min-replicas: give at least 1, whose load decides whether there are more", 2)
    specs = _nodes(_groups(shards, owners), standbys, settings, host, port, cpus, gpus)
    if not {"BNP_API_KEYS", "BNP_KEYS_FILE"} & settings.keys() and not (host and is_loopback(host)):
        raise CommandError(_NO_KEYS, 2)
    with _connected(address, name):
        from .ray_nodes import REPLICA, NodeSpec, Scaling, start

        for spec in specs:
            start(spec)
        if most:
            first = NodeSpec(REPLICA, REPLICA, "auto", port + len(specs), host, settings, cpus)
            _scale(first, Scaling(min_replicas, most, predictions))
        show_rows(_status(), _COLUMNS, as_json=as_json)


def _settings(given: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of all nodes, from the environment and from ``--env``."""
    settings = {
        key: value for key, value in environment.items() if key.startswith("BNP_") and key not in _OWN
    }
    for each in given:
        key, equals, value = each.partition("=")
        if not (equals and key):
            raise CommandError(f"--env: {each!r} is not of the form NAME=VALUE", 2)
        if key in _OWN:
            raise CommandError(f"--env: {key} differs between the servers: the command sets it", 2)
        settings[key] = value
    if "BNP_STORE" not in settings:
        raise CommandError("BNP_STORE is not set: the servers share a log in PostgreSQL, postgresql://...", 2)
    return settings


def _groups(shards: str, owners: int) -> list[str]:
    """Return the shards of each owner.

    Examples
    --------
    >>> _groups("0-63", 2)
    ['0-31', '32-63']
    >>> _groups("0,3,5", 2)
    ['0,3', '5']
    """
    if shards == "auto":
        return ["auto"] * owners
    try:
        numbers: list[int] = []
        for part in shards.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise CommandError(f"--shards: {shards!r} is not of the form 0-63, 0,3,5 or auto", 2) from None
    numbers = sorted(set(numbers))
    if len(numbers) < owners:
        raise CommandError(f"--owners: {owners} owners cannot share {len(numbers)} shards", 2)
    bounds = [round(k * len(numbers) / owners) for k in range(owners + 1)]
    return [_written(numbers[bounds[k] : bounds[k + 1]]) for k in range(owners)]


def _written(numbers: Sequence[int]) -> str:
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def _nodes(
    groups: Sequence[str],
    standbys: int,
    settings: Mapping[str, str],
    host: str | None,
    port: int,
    cpus: float,
    gpus: float,
) -> list[NodeSpec]:
    from .ray_nodes import OWNER, STANDBY, NodeSpec

    nodes = [(f"{OWNER}-{k}", OWNER, group) for k, group in enumerate(groups)]
    nodes += [(f"{STANDBY}-{k}", STANDBY, "auto") for k in range(standbys)]
    first = NodeSpec("", "", "", port, host, settings, cpus, gpus)
    return [
        replace(first, name=node, role=role, shards=group, port=port + k)
        for k, (node, role, group) in enumerate(nodes)
    ]


@contextlib.contextmanager
def _connected(address: str, namespace: str) -> Any:
    """Connect to the Ray cluster, and disconnect at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent elsewhere
    try:
        import ray
    except ModuleNotFoundError:
        raise CommandError("Ray is not installed: pip install 'bnp-online[ray]'") from None
    try:
        _reach(address)
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        reason = str(error).partition("\n")[0]
        remedy = "start one with `ray start --head`, or correct --address"
        raise CommandError(f"No Ray cluster answers {where} ({reason}): {remedy}") from None
    try:
        yield
    finally:
        sys.stderr.flush()
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise an `OSError` if nothing listens at an address: Ray would wait for more than a minute."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), _PATIENCE).close()


def _scale(first: NodeSpec, scaling: Any) -> None:
    """Create the actor that scales the replicas, unless it exists."""
    import ray

    from .ray_nodes import SCALER, Scaler

    actor: Any = ray.remote(Scaler).options(
        name=SCALER,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=4,
    )
    ray.get(actor.remote(first, scaling).status.remote())


def _status() -> list[dict[str, Any]]:
    """Return a row for each server."""
    import ray

    from .ray_nodes import SCALER

    names = sorted(name for name in ray.util.list_named_actors() if name != SCALER)
    calls: dict[str, Any] = {name: ray.get_actor(name).status.remote() for name in names}
    if calls:
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=_PATIENCE)
    rows = []
    for name, call in calls.items():
        row: dict[str, Any] = dict.fromkeys(_COLUMNS, "")
        row |= {"node": name, "role": name.rpartition("-")[0], "state": "waits for Ray"}
        with contextlib.suppress(ray.exceptions.RayError):
            row = ray.get(call, timeout=0.1)
        rows.append(row)
    return rows


def _stop() -> None:
    """Stop the servers: first the scaler, then those that only read."""
    import ray

    from .ray_nodes import OWNER, REPLICA, SCALER, STANDBY, end

    order = (SCALER, REPLICA, STANDBY, OWNER)
    names = ray.util.list_named_actors()
    for name in sorted(names, key=lambda each: order.index(each.rpartition("-")[0] or each)):
        end(name)
        note(f"{name} is stopped.")
    if not names:
        note("No server runs.")
