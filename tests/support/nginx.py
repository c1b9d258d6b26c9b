"""nginx with TLS in front of a server, with the configuration of the documentation."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.postgres import free_port
from tests.support.programs import DOCS
from tests.support.server_process import wait_until

_BLOCK = re.compile(r"^```nginx\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOCATION = re.compile(r"^    location / \{.*?^    \}\n", re.MULTILINE | re.DOTALL)
_MAIN = """daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its URL without a path at the end, and a TLS context that trusts it."""

    url: str
    port: int
    context: ssl.SSLContext


def configuration(port: int, server: int, folder: Path, *, below: bool) -> str:
    """Return the configuration of the page `deploy`, for the root of the host or for its sub-path."""
    text = (DOCS / "how-to" / "deploy.md").read_text(encoding="utf-8")
    whole, location = _BLOCK.findall(text)
    if below:
        whole, count = _LOCATION.subn(location, whole)
        assert count == 1
    for given, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server_name learn.example.org", "server_name localhost"),
        ("/etc/ssl/learn", f"{folder}/learn"),
        ("127.0.0.1:8000", f"127.0.0.1:{server}"),
    ):
        assert given in whole
        whole = whole.replace(given, here)
    user = "user root;" if os.getuid() == 0 else ""
    return _MAIN.format(folder=folder, server=whole, user=user)


@contextlib.contextmanager
def nginx(folder: Path, server: int, *, below: bool) -> Iterator[Proxy]:
    """Run nginx before a server on a port. The test is skipped where nginx or OpenSSL is not installed."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx or OpenSSL is not installed: apt-get install nginx openssl")
    certificate = folder / "learn.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "learn.key", "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    port = free_port()
    (folder / "nginx.conf").write_text(configuration(port, server, folder, below=below))
    process = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf"])
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), 60.0)
        assert process.poll() is None, (folder / "error.log").read_text()
        path = "/bnp" if below else ""
        yield Proxy(f"https://localhost:{port}{path}", port, ssl.create_default_context(cafile=certificate))
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
