"""``repair``: let a server start in spite of a damaged event, or of a log that has lost events."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..settings import Settings, read_settings
from .output import CommandError


def repair(
    skip: Annotated[
        list[int] | None,
        typer.Option(metavar="SEQ", help="Number of a damaged event, as the server reported it."),
    ] = None,
    source: Annotated[
        Literal["checkpoints", "log", "nothing"] | None,
        typer.Option("--from", help="What the models continue from if the log has lost events."),
    ] = None,
) -> None:
    """Let a server start again after its data folder was damaged.

    With --skip, events are marked as damaged: the models lose what they learned from them. With --from, files
    that are no longer used are moved to a folder aside-... in the data folder. Nothing is deleted.
    """
    if bool(skip) == (source is not None):
        raise CommandError("Give either --skip SEQ or --from, as the server reported it.", 2)
    settings = read_settings()
    from ..models.recovery import START_ERRORS, start_failure  # late: torch
    from ..storage.data_dir import lock

    try:
        with lock(settings.data_dir):
            said = _skip(settings, skip) if skip else _continue(settings, source)
    except START_ERRORS as error:
        raise CommandError(start_failure(error, settings)) from None
    print("\n".join([*said, "The server can start."]))


def _skip(settings: Settings, events: list[int]) -> list[str]:
    from ..storage.sqlite import DAMAGED, SqliteLog

    log = SqliteLog(settings.data_dir)
    log.correct(dict.fromkeys(events, DAMAGED), {})
    log.close()
    return [f"Skipped from now on: {', '.join(map(str, events))}."]


def _continue(settings: Settings, source: str | None) -> list[str]:
    from ..models import continuation

    if source == "checkpoints":
        return continuation.from_checkpoints(settings)
    return continuation.from_log(settings) if source == "log" else continuation.from_nothing(settings)
