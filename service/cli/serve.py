"""``serve`` and ``version``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bnp_online import __version__

from .options import AsJson
from .output import show


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (BNP_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one (BNP_PORT).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data folder (BNP_DATA_DIR).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1 (BNP_DEVICE).")] = None,
) -> None:
    """Run the server until SIGINT or SIGTERM. Environment variables BNP_… are its other settings."""
    given = {"BNP_HOST": host, "BNP_PORT": port, "BNP_DATA_DIR": data_dir, "BNP_DEVICE": device}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    from ..__main__ import main

    main()


def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        show({"version": __version__}, as_json=True)
    else:
        print(__version__)
