"""The models of a server: look at them, keep and go back, move them as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_MODEL, DEFAULT_URL, AsJson, Key, ModelArgument, ServerUrl, connected
from .output import CommandError, show, show_rows, written


def models(
    name: Annotated[str | None, typer.Argument(help="One model, to be told more of it.")] = None,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the models of a server, or look at one: what it is, and how well it predicts."""
    with connected(url, key) as client:
        if name is None:
            rows = [model.model_dump() for model in client.models().models]
            show_rows(rows, ("name", "task", "step", "state"), as_json=as_json)
            return
        described = client.describe(name).model_dump(mode="json")
        scores = client.metrics(name).model_dump()
    if not as_json:
        spec = described.pop("spec")
        described["hidden"], described["features"] = spec["hidden"], len(described["features"])
        described["mixture"] = [f"lr {c['lr']:g}: {c['weight']:.0%}" for c in described["mixture"]]
    show({**described, "metrics": scores if as_json else scores["cumulative"]}, as_json=as_json)


def checkpoint(
    name: ModelArgument = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    listed: Annotated[bool, typer.Option("--list", help="Take none: list those that are kept.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a checkpoint of a model, or list them."""
    with connected(url, key) as client:
        if listed:
            rows = [each.model_dump() for each in client.checkpoints(name).checkpoints]
            show_rows(rows, ("checkpoint", "step", "time", "bytes", "current"), as_json=as_json)
        else:
            show(client.checkpoint(name).model_dump(), as_json=as_json)


def rollback(
    name: ModelArgument = DEFAULT_MODEL,
    step: Annotated[int | None, typer.Option(min=0, help="To the state after so many samples.")] = None,
    to: Annotated[str | None, typer.Option("--checkpoint", help="To a checkpoint.")] = None,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier state of a model, exactly."""
    if (step is None) == (to is None):
        raise CommandError("where to? Give --step or --checkpoint; checkpoint --list shows them", 2)
    with connected(url, key) as client:
        show(client.rollback(name, step=step, checkpoint=to).model_dump(), as_json=as_json)


def export(
    file: Annotated[Path, typer.Argument(help="Where to write it; replaced if it is there.")],
    name: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")] = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Write a model of a server to a file, which `learn --load`, `import` and `bnp_online.load` read."""
    with connected(url, key) as client:
        body = client.export(name)
    with written(file) as sink:
        sink.write(body)
    show({"file": str(file), "bytes": len(body)}, as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="As export or --save wrote it.")],
    name: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")] = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Put the model in a file in the place of one on a server."""
    with connected(url, key) as client:
        described = client.import_(file.read_bytes(), model=name)
    show({"model": described.name, "step": described.step}, as_json=as_json)
