"""``cluster ray`` without a Ray cluster: its options, the number of replicas, and the end of a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.ray_nodes import NodeSpec, Scaling
from tests.support.programs import ROOT

STORE = "postgresql://bnp@127.0.0.1:1/bnp"


def run(*options: str, prefix: str = "", **environment: str) -> tuple[int, str]:
    code = f"{prefix}\nfrom service.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "cluster", "ray", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ((), "BNP_STORE is not set"),
        (("--env", "BNP_LOG_LEVEL"), "not of the form NAME=VALUE"),
        (("--env", "BNP_ROLE=owner"), "the command sets it"),
        (("--env", f"BNP_STORE={STORE}", "--shards", "a-b"), "not of the form 0-63"),
        (("--env", f"BNP_STORE={STORE}", "--shards", "1,2", "--owners", "3"), "cannot share 2 shards"),
        (("--env", f"BNP_STORE={STORE}", "--min-replicas", "3", "--max-replicas", "2"), "is less than"),
        (("--env", f"BNP_STORE={STORE}", "--max-replicas", "2"), "give at least 1"),
        (("--env", f"BNP_STORE={STORE}"), "need API keys"),
        (("--env", f"BNP_STORE={STORE}", "--host", "10.0.0.5"), "need API keys"),
        (("--stop", "--status"), "either --stop or --status"),
    ],
)
def test_a_mistake_is_a_usage_error_with_its_remedy(options: tuple[str, ...], remedy: str) -> None:
    code, said = run(*options)
    assert code == 2
    assert remedy in said
    assert said.count("\n") == 1


def test_without_ray_it_says_what_to_install() -> None:
    code, said = run("--status", prefix="import sys; sys.modules['ray'] = None")
    assert code == 1
    assert said == "Ray is not installed: pip install 'bnp-online[ray]'\n"


def test_a_node_has_its_own_name_place_and_folder() -> None:
    settings = {"BNP_STORE": STORE, "BNP_API_KEY": "bnp_secret", "BNP_DATA_DIR": "/var/bnp"}
    spec = NodeSpec("owner-1", "owner", "0-31", 8001, None, settings, gpus=1.0)
    assert spec.environment("10.0.0.5") == {
        "BNP_STORE": STORE,
        "BNP_DEVICE": "auto",
        "BNP_DATA_DIR": "/var/bnp/owner-1",
        "BNP_HOST": "10.0.0.5",
        "BNP_PORT": "8001",
        "BNP_ROLE": "owner",
        "BNP_SHARDS": "0-31",
        "BNP_ADDRESS": "http://10.0.0.5:8001",
        "BNP_NODE": "owner-1",
    }


def test_more_load_adds_replicas_at_once_and_less_removes_one_a_minute() -> None:
    scaling = Scaling(least=1, most=4, rate=1000.0)
    assert scaling.wanted(900.0, 1, 0.0) == 1
    assert scaling.wanted(2500.0, 1, 5.0) == 3
    assert scaling.wanted(9000.0, 3, 10.0) == 4
    assert scaling.wanted(3000.0, 4, 15.0) == 4  # three would be too busy
    assert scaling.wanted(100.0, 4, 20.0) == 4
    assert scaling.wanted(2900.0, 4, 60.0) == 4  # the minute begins again
    assert scaling.wanted(100.0, 4, 70.0) == 4
    assert scaling.wanted(100.0, 4, 129.0) == 4
    assert scaling.wanted(100.0, 4, 130.0) == 3
    assert scaling.wanted(100.0, 3, 135.0) == 3
    assert scaling.wanted(0.0, 3, 195.0) == 2
    assert scaling.wanted(0.0, 1, 500.0) == 1


def test_a_server_ends_with_its_actor(tmp_path: Path) -> None:
    code = "from service.cli.ray_nodes import serve; serve()"
    environment = {**os.environ, "BNP_PORT": "0", "BNP_DATA_DIR": str(tmp_path), "BNP_LOG_LEVEL": "info"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stderr is not None
        assert any("running on" in line for line in server.stderr)
        server.stdin.close()
        assert server.wait(30) == 0
