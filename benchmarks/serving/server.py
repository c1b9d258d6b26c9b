"""Servers in child processes, for the benchmarks that send requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from service.cli.launch import ServerProcess

from ..common.report import ROOT

#: Seconds within which a server accepts requests: another checkout may compile its kernels first.
_READY = 600.0


class Served(NamedTuple):
    """A server that accepts requests.

    Attributes
    ----------
    url : str
        Its address.
    port : int
        Its port on this machine.
    server : ServerProcess
        Its process.
    """

    url: str
    port: int
    server: ServerProcess


@contextmanager
def serve(folder: Path, prefix: str = "", checkout: Path = ROOT, **settings: str) -> Iterator[Served]:
    """Run ``python -m service`` on a data folder.

    Parameters
    ----------
    folder : path
        Data folder.
    prefix : str
        Python code that the process runs first.
    checkout : path
        Source of the server; default: this checkout.
    **settings
        Environment variables.
    """
    code = f"{prefix}\nimport runpy; runpy.run_module('service', run_name='__main__')"
    own = {"BNP_PORT": "0", "BNP_DATA_DIR": str(folder), "BNP_DEVICE": "cpu", "PYTHONPATH": str(checkout)}
    with run("-c", code, checkout=checkout, environment={**own, **settings}) as served:
        yield served


@contextmanager
def run(
    *arguments: str, checkout: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run a server with these arguments of Python, and wait until it accepts requests."""
    with ServerProcess(*arguments, cwd=checkout, environment=environment) as server:
        url = server.ready(_READY)
        yield Served(url, urlsplit(url).port or 0, server)


def processor_time(process: int, thread: int | None = None) -> float:
    """Return the seconds of processor time that a process, or a thread of it, has taken (Linux).

    Both are given by their numbers; that of the main thread is that of the process.
    """
    total = 0
    for each in Path(f"/proc/{process}/task").glob(f"{thread or '*'}/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            total += int(each.read_text().split()[0])
    return total / 1e9
