"""The configuration of HAProxy that `bnp-online cluster haproxy` prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from service.cli.cluster_haproxy import Server, configuration
from tests.support.programs import ROOT

NODES = (("owner-1", "owner"), ("owner-2", "owner"), ("standby-1", "standby"), ("standby-2", "standby"))


def test_the_compose_file_has_the_configuration_of_its_nodes() -> None:
    nodes = [Server(name, role, f"http://{name}:8000") for name, role in NODES]
    assert (ROOT / "docker/haproxy/haproxy.cfg").read_text() == configuration(16, nodes)


def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is not installed: apt-get install haproxy")
    nodes = [Server("a", "owner", "http://127.0.0.1:9000"), Server("b", "replica", "https://127.0.0.1")]
    text = configuration(4, nodes, 9001, 9002)
    assert text.count("server a 127.0.0.1:9000") == 4
    assert text.count("server b 127.0.0.1:443 ssl") == 1
    (tmp_path / "haproxy.cfg").write_text(text)
    checked = subprocess.run(
        [program, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
