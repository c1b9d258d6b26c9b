"""``upgrade``: relearn the samples of a model with the latest generation of the learner."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import read_settings
from ..telemetry.progress import progress
from .options import DEFAULT_URL, AsJson, Key, connected
from .output import CommandError, show

if TYPE_CHECKING:
    from bnp_online.client import Client

#: Seconds between two questions for the progress.
_PERIOD = 0.5


def upgrade(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    kept: Annotated[
        bool, typer.Option("--kept", help="Relearn the samples in the log, although it lacks earlier ones.")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", help=f"URL of the server; default: {DEFAULT_URL}.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Data folder of a server that does not run, instead of a URL.")
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Relearn the samples of a model with the latest generation of the learner, as a new model would.

    A server keeps serving and learning with the model meanwhile, also if this command is interrupted. A
    rollback restores the model as it was.

    The result: `model`, its `step`, and whether it was `upgraded`: false if it was of the latest generation.
    """
    if url is not None and data_dir is not None:
        raise CommandError("Give either --url or --data-dir: a server that runs upgrades its own models.", 2)
    if data_dir is None:
        with connected(url or DEFAULT_URL, key) as client:
            step, changed = _at_server(client, name, kept=kept)
    else:
        step, changed = _in_place(data_dir, name, kept=kept)
    show({"model": name, "step": step, "upgraded": changed}, as_json=as_json)


def _at_server(client: Client, name: str, *, kept: bool) -> tuple[int, bool]:
    asked = client.upgrade(name, kept=kept)
    shown = client.describe(name)

    def share() -> float | None:
        return shown.upgrade.done / shown.upgrade.events if shown.upgrade and shown.upgrade.events else None

    with progress(f"relearning {name}", None, fraction=share) as advance:
        while shown.upgrade is not None:
            if shown.state == "failed":
                raise CommandError(f"{name} failed meanwhile: see the log of the server.")
            advance(shown.upgrade.done)
            time.sleep(_PERIOD)
            shown = client.describe(name)
    if shown.spec.learner != asked.learner:
        raise CommandError(f"A rollback or an import canceled the upgrade of {name}. Start it again.")
    return shown.step, asked.rebuilding


def _in_place(data_dir: Path, name: str, *, kept: bool) -> tuple[int, bool]:
    if not data_dir.is_dir():
        raise CommandError(f"There is no folder {data_dir}: give the data folder of a server")
    os.environ["BNP_DATA_DIR"] = str(data_dir)
    settings = read_settings()
    from ..errors import RequestError
    from ..models.recovery import START_ERRORS  # late: torch
    from ..models.upgrading import upgrade_in_place

    try:
        return upgrade_in_place(settings, name, kept=kept)
    except (*START_ERRORS, RequestError) as error:
        raise CommandError(str(error)) from None
