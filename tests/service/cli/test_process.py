"""``python -m service`` and ``bnp-online demo`` as a person runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from river import datasets

from service.cli import demo
from service.cli.launch import ServerProcess
from service.cli.output import CommandError
from tests.support.programs import ROOT
from tests.support.running import Server
from tests.support.server_process import process


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal by now."""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def test_arguments_of_the_module_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        cwd=ROOT,
        env={**os.environ, "BNP_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "bnp-online serve --help" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with (
        process(tmp_path, ServerProcess) as running,
        httpx.Client(base_url=running.ready(), timeout=60.0) as client,
    ):
        assert client.get("/health/ready").status_code == 200

        def learn(i: int) -> int | None:
            try:
                return client.post("/learn", json={"x": {"a": i}, "y": i % 2}).status_code
            except httpx.TransportError:  # it came too late, so it was never taken
                return None

        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(learn, i) for i in range(40)]
            assert waiting[0].result() == 200
            running.process.send_signal(number)
            answered = [future.result() for future in waiting]
        assert set(answered) <= {200, None}
        assert running.wait() == 0
    assert (tmp_path / "made" / "by the server").is_dir()


def test_a_signal_ends_its_start_too(tmp_path: Path) -> None:
    with process(tmp_path, ServerProcess) as running:
        while not catches(running.process.pid, signal.SIGTERM):
            pass
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("name", "value"), [("BNP_PORT", "many"), ("BNP_DEFAULT_MODEL", '{"hidden": [0]}'), ("BNP_DEVICE", "tpu")]
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    with process(tmp_path, ServerProcess, **{name: value}) as running:
        assert running.wait() == 2
        assert running.lines[0].split()[0].rstrip(":") == name


def test_importing_does_no_work() -> None:
    code = "import service.app, threading; assert threading.active_count() == 1"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def show(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    samples = list(datasets.ImageSegments().take(40))
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "ImageSegments", lambda: samples)
        demo.demo(**options)


def test_the_demo_can_be_run_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    fingerprints = []
    for _ in range(2):
        show(monkeypatch, url=server.url)
        printed = capsys.readouterr().out
        assert all(
            word in printed
            for word in ("accuracy", "log loss", "samples/s", "BNP over HTTP", "majority class")
        )
        fingerprints.append(server.fingerprint("demo"))
    assert fingerprints[0] == fingerprints[1]
    assert server.fingerprint()["step"] == 0


def test_the_demo_starts_a_server_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("BNP_PORT", str(port))
    monkeypatch.setenv("BNP_DATA_DIR", str(tmp_path))
    show(monkeypatch, once=True)
    printed = capsys.readouterr().out
    assert "BNP over HTTP" in printed
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health/live")


def test_the_demo_says_when_its_server_cannot_start(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that stands on the port already must not be taken for one's own."""
    monkeypatch.setenv("BNP_PORT", serve().url.rpartition(":")[2])
    monkeypatch.setenv("BNP_DATA_DIR", str(tmp_path))
    with pytest.raises(CommandError, match="BNP_PORT"):
        show(monkeypatch, once=True)
