"""``cluster haproxy``: a configuration of HAProxy, which sends each request to a node that can serve it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

_HEAD = """\
# HAProxy in front of a cluster of bnp-online: made by `bnp-online cluster haproxy`.
# Port {port} reaches the owner of the model that the path (/models/NAME/...) or the header BNP-Model names,
# or of the model "default". Port {reads} reaches the nodes that follow: for predictions without an id.
global
    log stdout format raw local0 notice
    maxconn 4000

defaults
    mode http
    log global
    option redispatch 1
    option http-keep-alive
    retries 8
    retry-on conn-failure  # a request that was sent is not sent again: the node may have learned it
    timeout connect 250ms  # also the pause before a retry; a takeover takes about as long
    timeout client 75s
    timeout server 75s
    timeout http-request 30s
    timeout check 2s
    default-server check inter 250ms fastinter 100ms fall 1 rise 1 {resolving}
    default-server on-marked-down shutdown-sessions
{resolvers}
frontend models
    bind :{port}
    acl named path_beg /models/
    http-request set-var(txn.model) path,field(3,/),url_dec if named
    http-request set-var(txn.model) req.hdr(BNP-Model) if !named {{ req.hdr(BNP-Model) -m found }}
    http-request set-var(txn.model) str(default) if !{{ var(txn.model) -m found }}
    http-request set-var(txn.shard) var(txn.model),crc32,mod({shards})
    # What names no model, such as the dashboard and the list of models, is for a node that knows all models.
    use_backend followers if METH_GET !named {{ nbsrv(followers) gt 0 }}
    use_backend shard_%[var(txn.shard)]

frontend predictions
    bind :{reads}
    default_backend followers

backend followers
    balance leastconn
    option httpchk GET /health/replica
{followers}
"""
_SHARD = """
backend shard_{shard}
    option httpchk GET /health/owner/{shard}
{servers}
"""
_RESOLVERS = """
resolvers names
    parse-resolv-conf
    hold valid 5s
"""


class Server(NamedTuple):
    """A node: name, role, and URL."""

    name: str
    role: str
    address: str


def configuration(shards: int, nodes: Sequence[Server], port: int = 8080, reads: int = 8081) -> str:
    """Return a configuration of HAProxy 2.6 or later.

    Parameters
    ----------
    shards : int
        Number of shards of the cluster.
    nodes : sequence of Server
        All nodes. A node with a host name in its address is looked up again while HAProxy runs.
    port, reads : int
        Ports on which HAProxy listens, for owners and for nodes that follow.
    """
    owning = [node for node in nodes if node.role != "replica"]
    following = [node for node in nodes if node.role != "owner"]
    head = _HEAD.format(
        port=port,
        reads=reads,
        shards=shards,
        resolving="resolvers names init-addr last,libc,none",
        resolvers=_RESOLVERS,
        followers=_servers(following),
    )
    return head + "".join(_SHARD.format(shard=shard, servers=_servers(owning)) for shard in range(shards))


def _servers(nodes: Iterable[Server]) -> str:
    lines = []
    for node in nodes:
        parts = urlsplit(node.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        tls = " ssl verify required ca-file @system-ca" if parts.scheme == "https" else ""
        lines.append(f"    server {node.name} {parts.hostname}:{port}{tls}")
    return "\n".join(lines) or "    # no node of this role"
