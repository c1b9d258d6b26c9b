"""``repair``: let a server start in spite of a damaged event, or of a log that has lost events."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..settings import Settings, read_settings
from .output import CommandError

if TYPE_CHECKING:
    from ..storage.interfaces import EventLog


def repair(
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL:EVENT", help="Numbers of a damaged event, as the server reported them."),
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
        raise CommandError("Give either --skip MODEL:EVENT or --from, as the server reported it.", 2)
    settings = read_settings()
    from ..models.recovery import START_ERRORS, start_failure  # late: torch

    try:
        said = _skip(settings, skip) if skip else _continue(settings, source)
    except START_ERRORS as error:
        raise CommandError(start_failure(error, settings)) from None
    print("\n".join([*said, "The server can start."]))


def _skip(settings: Settings, events: list[str]) -> list[str]:
    from ..models.stores import log_to_repair
    from ..storage.rows import DAMAGED

    with log_to_repair(settings) as log:
        found = [_event(log, each) for each in events]
        for model, event in found:
            log.correct(model, {event: DAMAGED}, {})
    return [f"Skipped from now on: {', '.join(f'{model}:{event}' for model, event in found)}."]


def _event(log: EventLog, text: str) -> tuple[int, int]:
    """Return the numbers of model and event in an option. Earlier versions named the event alone."""
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if match is None:
        raise CommandError(f"--skip {text}: give the number of a model and of its event, as in --skip 1:7", 2)
    from ..storage.history import History

    event = int(match[2])
    models = [made.model for made in log.models()] if match[1] is None else [int(match[1])]
    found = [(model, event) for model in models if History(log, model).holds(event)]
    if len(found) != 1:
        many = f"is one of models {', '.join(str(model) for model, _ in found)}: name the model"
        raise CommandError(f"--skip {text}: this event {many if found else 'is not in the log'}")
    return found[0]


def _continue(settings: Settings, source: str | None) -> list[str]:
    from ..models import continuation
    from ..storage.data_dir import lock

    if settings.store is not None:
        raise CommandError(
            "--from is for a data folder: restore a backup of PostgreSQL instead (BNP_STORE)", 2
        )
    with lock(settings.data_dir):
        if source == "checkpoints":
            return continuation.from_checkpoints(settings)
        return continuation.from_log(settings) if source == "log" else continuation.from_nothing(settings)
