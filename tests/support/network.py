"""Network namespaces: machines of their own on this one, with a link that can be taken down."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Proxy

_NEW_NETWORK = 0x40000000
#: Python code that a process runs first.
ENTER = f"""
import ctypes, os
descriptor = os.open("/run/netns/{{}}", os.O_RDONLY)
assert ctypes.CDLL(None, use_errno=True).setns(descriptor, {_NEW_NETWORK}) == 0, "setns failed"
"""


class Namespace:
    """Network namespace with a link to this machine.

    Attributes
    ----------
    here : str
        Address of this machine in it.
    """

    def __init__(self, number: int) -> None:
        self.name = f"bnp-{os.getpid()}-{number}"
        self.link = f"bnp{os.getpid() % 10**6}x{number}"
        net = f"10.98.{number}"
        self.here = f"{net}.1"
        _ip("netns", "add", self.name)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "up0", "netns", self.name)
        _ip("addr", "add", f"{self.here}/24", "dev", self.link)
        _ip("link", "set", self.link, "up")
        for command in ("addr add {}.2/24 dev up0", "link set up0 up", "link set lo up"):
            _ip("-n", self.name, *command.format(net).split())

    def take_down(self) -> None:
        """Take the link down: packets are lost, and nobody learns of it."""
        _ip("link", "set", self.link, "down")

    def bring_up(self) -> None:
        """Bring the link up again."""
        _ip("link", "set", self.link, "up")

    def close(self) -> None:
        """Remove it."""
        _ip("netns", "del", self.name)


class NamespaceProxy(Proxy):
    """Proxy on this machine for a port of 127.0.0.1 in a namespace."""

    def __init__(self, port: int, namespace: Namespace) -> None:
        self._namespace = namespace
        super().__init__(port)

    def _accept(self) -> None:
        path = Path("/run/netns") / self._namespace.name
        with path.open() as file:  # this thread enters it, and connects from it
            assert ctypes.CDLL(None).setns(file.fileno(), _NEW_NETWORK) == 0
        super()._accept()


@contextlib.contextmanager
def namespace(number: int) -> Iterator[Namespace]:
    """Yield a namespace; the test is skipped where it cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2: apt-get install iproute2")
    try:
        made = Namespace(number)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
