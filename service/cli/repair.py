"""``repair``: let a server start in spite of a damaged event in its log."""

from __future__ import annotations

from typing import Annotated

import typer

from ..settings import read_settings
from .output import CommandError


def repair(
    skip: Annotated[
        list[int], typer.Option(metavar="SEQ", help="Number of a damaged event, as the server reported it.")
    ],
) -> None:
    """Mark events as damaged. The server then skips them, and the models lose what they learned from them."""
    settings = read_settings()
    from ..models.recovery import START_ERRORS  # late: torch
    from ..storage.data_dir import lock
    from ..storage.sqlite import DAMAGED, SqliteLog

    try:
        with lock(settings.data_dir):
            log = SqliteLog(settings.data_dir)
            log.correct(dict.fromkeys(skip, DAMAGED), {})
            log.close()
    except START_ERRORS as error:
        raise CommandError(str(error)) from None
    print(f"Skipped from now on: {', '.join(map(str, skip))}. The server can start.")
