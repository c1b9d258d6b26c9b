"""``store``: copies of event logs and checkpoints between a data folder and PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import read_settings
from .options import AsJson
from .output import CommandError, show

if TYPE_CHECKING:
    from ..storage.copying import CheckpointContents, Source, Target

_FOLDER = "sqlite:"
_URLS = ("postgresql://", "postgres://")
#: The place of the setting.
_SETTING = "BNP_STORE"

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _store() -> None:
    """Copy models between a data folder and PostgreSQL."""


@app.command("copy")
def copy_(
    source: Annotated[
        str, typer.Argument(help="sqlite:FOLDER, postgresql://..., or BNP_STORE for the URL in this setting.")
    ],
    target: Annotated[str, typer.Argument(help="As SOURCE. It must be empty, or not exist.")],
    shards: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Number of shards of a new cluster; default: 64.")
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            envvar="BNP_CHECKPOINTS",
            help="Folder or URL of the checkpoints of PostgreSQL; default: in PostgreSQL too.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy all models of a store into an empty one, exactly. No server may use either of them meanwhile.

    A copy that was interrupted is not used: servers refuse to open it, and the same command begins anew. The
    result has the numbers of `models`, `events` and `checkpoints`.
    """
    kinds = [place.startswith(_FOLDER) for place in (source, target)]
    if all(kinds):
        raise CommandError("Both are data folders: stop the server, and copy the folder.", 2)
    from ..models.recovery import START_ERRORS  # late: torch
    from ..storage.copying import copy

    try:
        with ExitStack() as stack:
            copied = copy(_source(source, checkpoints, stack), _target(target, checkpoints, shards, stack))
    except ImportError as error:
        raise CommandError(f"PostgreSQL needs psycopg: pip install 'bnp-online[cluster]' ({error})") from None
    except START_ERRORS as error:
        raise CommandError(str(error)) from None
    show(asdict(copied), as_json=as_json)


def _source(place: str, checkpoints: str | None, stack: ExitStack) -> Source:
    if not place.startswith(_FOLDER):
        from ..storage.postgres_copying import ClusterSource

        return stack.enter_context(closing(ClusterSource(_url(place), _outside(checkpoints))))
    from ..models import snapshot
    from ..models.stores import open_store
    from ..storage.event_codec import loads
    from ..storage.sqlite_copying import FolderSource

    folder = Path(place.removeprefix(_FOLDER))
    if not folder.is_dir():
        raise CommandError(f"There is no folder {folder}: give the data folder of a server")
    settings = read_settings().model_copy(update={"data_dir": folder, "store": None, "checkpoints": None})
    stack.enter_context(closing(open_store(settings)))
    return stack.enter_context(
        closing(FolderSource(folder, lambda body: snapshot.specification(loads(body)).name))
    )


def _target(place: str, checkpoints: str | None, shards: int | None, stack: ExitStack) -> Target:
    if place.startswith(_FOLDER):
        from ..storage.sqlite_copying import FolderTarget

        return stack.enter_context(closing(FolderTarget(Path(place.removeprefix(_FOLDER)))))
    from ..storage.postgres_copying import ClusterTarget

    return stack.enter_context(closing(ClusterTarget(_url(place), _outside(checkpoints), shards)))


def _url(place: str) -> str:
    if place == _SETTING:
        store = read_settings().store
        if store is None:
            raise CommandError("BNP_STORE is not set", 2)
        return store.get_secret_value()
    if not place.startswith(_URLS):
        raise CommandError(
            f"{place} is no store: give sqlite:FOLDER, a URL postgresql://..., or BNP_STORE", 2
        )
    return place


def _outside(checkpoints: str | None) -> CheckpointContents | None:
    if checkpoints is None:
        return None
    from ..storage.shared_checkpoints import at

    return at(checkpoints)
