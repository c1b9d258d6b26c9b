"""Limit of the lines that clients can cause."""

from __future__ import annotations

import logging
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from service.cli.launch import ServerProcess
from service.telemetry.logs import RateLimit, TextFormatter
from tests.support.programs import ROOT
from tests.support.server_process import end, process


def record(
    created: float, message: str = "refused", level: int = logging.INFO, **fields: int
) -> logging.LogRecord:
    made = logging.LogRecord("service.requests", level, "file", 1, message, (), None)
    made.created = created
    made.fields = fields
    return made


def test_further_lines_of_a_kind_are_counted() -> None:
    limit = RateLimit(most=3, period=60)
    made = [record(float(i)) for i in range(50)]
    assert [limit.filter(each) for each in made] == [True] * 3 + [False] * 47
    assert "note=further lines of this kind are left out for up to 60 s" in TextFormatter().format(made[2])
    for other in (record(50, "other"), record(50, level=logging.WARNING), record(50, status=401)):
        assert limit.filter(other)
    later = record(60)
    assert limit.filter(later)
    assert "left_out=47" in TextFormatter().format(later)
    rare = record(1000)
    assert limit.filter(rare)
    assert "left_out" not in TextFormatter().format(rare)


def test_debug_lines_are_not_limited() -> None:
    limit = RateLimit(most=1)
    assert all(limit.filter(record(0, level=logging.DEBUG)) for _ in range(5))


def test_the_number_of_kinds_is_limited() -> None:
    limit = RateLimit()
    assert all(limit.filter(record(0, f"kind {i}")) for i in range(5000))
    assert len(limit._kinds) <= 1000


def test_clients_without_a_key_cannot_fill_the_log(tmp_path: Path) -> None:
    with process(tmp_path, BNP_API_KEYS="me learn kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk") as running:
        url = running.ready()
        address = urlsplit(url)
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(100):
                assert client.post("/learn", json={}).status_code == 401
        bad = [b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"]
        for i in range(100):
            with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
                connection.sendall(bad[i % 3])
                assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
        _, log = end(running)
    assert "status=401" in log
    assert "not valid HTTP" in log
    assert len(log.splitlines()) < 50


def test_health_checks_are_logged_for_debugging_only(tmp_path: Path) -> None:
    """A proxy asks each node several times a second, and most of them do not own the shard."""
    prefix = "/health/owner/0"
    patch = (
        "import runpy, service.models.cluster as c; c.SingleNode.owns = lambda self, shard: False; "
        "runpy.run_module('service', run_name='__main__')"
    )
    for level, expected in (("info", 0), ("debug", 3)):
        settings = {"BNP_PORT": "0", "BNP_DATA_DIR": str(tmp_path / level), "BNP_LOG_LEVEL": level}
        with ServerProcess("-c", patch, cwd=ROOT, stdout=subprocess.PIPE, environment=settings) as server:
            url = server.ready()
            assert {httpx.get(f"{url}{prefix}").status_code for _ in range(3)} == {503}
            _, log = end(server)
        assert log.count("route=/health/owner/{shard}") == expected
