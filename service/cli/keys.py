"""``keys``: the API keys of the server."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..auth.key_file import add_key, file_of, show_key
from ..auth.keys import KeysError, new_secret, parse_key
from ..auth.scopes import SCOPES
from ..settings import read_settings
from .output import CommandError, note

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _keys() -> None:
    """Manage the API keys of the server."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="Name of the key, for people and the log.")],
    scopes: Annotated[str, typer.Option(help=f"Scopes, of {','.join(SCOPES)}; separated by commas.")],
    models: Annotated[
        str | None, typer.Option(help="Names of models, separated by commas; default: all.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC) on which it is invalid.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of keys; default: BNP_KEYS_FILE, or keys in BNP_DATA_DIR.")
    ] = None,
) -> None:
    """Create a key: print it once, and add its hash to the file of keys."""
    if len(name.split()) != 1:
        raise CommandError("--name: give one word, such as sensors", 2)
    if unknown := sorted(set(scopes.split(",")) - set(SCOPES)):
        raise CommandError(f"--scopes: {unknown[0]!r} is no scope: choose from {', '.join(SCOPES)}", 2)
    path = file or file_of(read_settings())
    secret = new_secret()
    words = [name, scopes, secret]
    words += [f"models={models}"] if models else []
    words += [f"expires={expires.date()}"] if expires else []
    try:
        add_key(parse_key(" ".join(words), hashed=False), path, partial(show_key, secret))
    except KeysError as error:
        raise CommandError(str(error), 2) from None
    note(f"Its hash is in {path}. A running server reads the file again on SIGHUP.")
