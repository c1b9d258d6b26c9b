"""Servers in child processes, for the benchmarks that send requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from service.cli.launch import ServerProcess

from ..common.report import ROOT


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
def serve(folder: Path, prefix: str = "", **settings: str) -> Iterator[Served]:
    """Run ``python -m service`` on a data folder.

    Parameters
    ----------
    folder : path
        Data folder.
    prefix : str
        Python code that the process runs first.
    **settings
        Environment variables.
    """
    code = f"{prefix}\nimport runpy; runpy.run_module('service', run_name='__main__')"
    own = {"BNP_PORT": "0", "BNP_DATA_DIR": str(folder), "BNP_DEVICE": "cpu", **settings}
    with run("-c", code, environment=own) as served:
        yield served


@contextmanager
def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Run a server with these arguments of Python, and wait until it accepts requests."""
    with ServerProcess(*arguments, cwd=ROOT, environment=environment) as server:
        url = server.ready()
        yield Served(url, urlsplit(url).port or 0, server)
