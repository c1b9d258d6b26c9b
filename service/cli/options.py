"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from bnp_online.client import Client
from bnp_online.client.clients import DEFAULT_URL
from bnp_online.client.schemas import DEFAULT_MODEL

from .output import CommandError

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="BNP_API_KEY", help="API key, where one is needed.", show_envvar=True),
]
Url: TypeAlias = Annotated[
    str | None, typer.Option(help="URL of a running server; default: in this process.")
]
ServerUrl: TypeAlias = Annotated[str, typer.Option("--url", help="URL of the server.")]
Model: TypeAlias = Annotated[str, typer.Option("--model", "-m", help="Name of the model of the server.")]
ModelArgument: TypeAlias = Annotated[str, typer.Argument(help="Name of the model.")]
Load: TypeAlias = Annotated[Path | None, typer.Option(help="Model file, written by --save or export.")]

__all__ = ["DEFAULT_MODEL", "DEFAULT_URL", "connected"]


def connected(url: str, key: str | None, patience: float = 2.0) -> Client:
    """Return a client for the server at a URL."""
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"{url} is not the URL of a server: it must begin with http:// or https://", 2)
    return Client(url, key=key, patience=patience)
