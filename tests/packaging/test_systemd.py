"""The unit for systemd: systemd accepts it, and the server behaves as it assumes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.launch import ServerProcess, StartError
from service.settings import Settings
from tests.support.programs import DOCS, ROOT

UNIT = ROOT / "docker" / "systemd" / "bnp-online.service"
_LINE = re.compile(r"^([A-Za-z]+)=(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def unit() -> dict[str, str]:
    """Settings of the unit; no name occurs twice."""
    lines = _LINE.findall(UNIT.read_text(encoding="utf-8"))
    found = dict(lines)
    assert len(found) == len(lines)
    return found


def environment(unit: dict[str, str], folder: Path) -> dict[str, str]:
    """Return the variables of the unit, with folders of a test."""
    given = unit["Environment"].replace("%S", f"{folder}/state").replace("%C", f"{folder}/cache")
    return dict(each.split("=", 1) for each in given.split()) | {"BNP_PORT": "0"}


def test_systemd_accepts_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text(encoding="utf-8")
    # systemd also checks that the program exists.
    (tmp_path / UNIT.name).write_text(text.replace("/opt/bnp/bin/bnp-online", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_program_starts_reads_its_keys_again_and_stops(unit: dict[str, str], tmp_path: Path) -> None:
    assert unit["ExecStart"] == "/opt/bnp/bin/bnp-online serve"
    variables = environment(unit, tmp_path)
    assert Path(variables["BNP_DATA_DIR"]).name == unit["StateDirectory"]
    assert Path(variables["NUMBA_CACHE_DIR"]).name == unit["CacheDirectory"]
    del variables["NUMBA_CACHE_DIR"]  # it is empty: the test would compile for a minute
    server = ServerProcess("-m", "service.cli", "serve", cwd=ROOT, environment=variables)
    server.ready()
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    os.kill(server.process.pid, signal.SIGHUP)
    assert server.stop() == 0  # SIGTERM, systemd's default
    assert any("keys reloaded" in line for line in server.lines)
    assert (Path(variables["BNP_DATA_DIR"]) / "events.sqlite3").exists()


def test_it_is_not_started_again_with_a_wrong_setting(unit: dict[str, str], tmp_path: Path) -> None:
    wrong = environment(unit, tmp_path) | {"BNP_PORT": "many"}
    server = ServerProcess("-m", "service.cli", "serve", cwd=ROOT, environment=wrong)
    with pytest.raises(StartError):
        server.ready()
    assert server.wait() == int(unit["RestartPreventExitStatus"])


def test_its_limits_are_those_of_the_server(unit: dict[str, str]) -> None:
    settings = Settings()
    assert int(unit["TimeoutStopSec"]) > settings.shutdown_timeout
    assert int(unit["LimitNOFILE"]) > 2 * settings.max_connections


def test_the_page_installs_it_as_it_is(unit: dict[str, str]) -> None:
    page = (DOCS / "how-to" / "deploy.md").read_text(encoding="utf-8")
    assert f"useradd --system --home-dir /var/lib/{unit['StateDirectory']} {unit['User']}\n" in page
    assert f"cp {UNIT.relative_to(ROOT)} /etc/systemd/system/\n" in page
    assert unit["EnvironmentFile"].removeprefix("-") in page
    assert unit["ExecStart"].split()[0].removesuffix("/bin/bnp-online") in page
