"""HAProxy in front of a cluster, with the configuration of `bnp-online cluster haproxy`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from service.cli.cluster_haproxy import Server, configuration
from tests.support.postgres import free_port
from tests.support.server_process import wait_until


@contextlib.contextmanager
def haproxy(folder: Path, shards: int, nodes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Run HAProxy; yield its URLs for owners and for reads. The test is skipped where it is not installed.

    Parameters
    ----------
    folder : path
        For its files.
    shards : int
        Number of shards of the cluster.
    nodes : dict of str to int
        Ports of the nodes, by name.
    """
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    servers = [Server(name, "standby", f"http://127.0.0.1:{port}") for name, port in nodes.items()]
    owners, reads = free_port(), free_port()
    (folder / "haproxy.cfg").write_text(configuration(shards, servers, owners, reads))
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen([program, "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(owners), 60.0)
        yield f"http://127.0.0.1:{owners}", f"http://127.0.0.1:{reads}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
