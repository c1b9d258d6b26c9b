"""Models of a server: description, checkpoints, rollback, export and import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnp_online.client.errors import InvalidFileError

from .options import DEFAULT_MODEL, DEFAULT_URL, AsJson, Key, ModelArgument, ServerModel, ServerUrl, connected
from .output import CommandError, file_errors, show, show_rows, written


def models(
    name: Annotated[str | None, typer.Argument(help="Name of one model, for its details.")] = None,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the models of a server, or describe one with its scores.

    Of one model the fields are those of `GET /models/{m}`, and its `metrics`. With --json these are those of
    `GET /models/{m}/metrics`, without it the scores over all samples.
    """
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
        described["learner"], mixture = spec["learner"], described.pop("mixture")
    show({**described, "metrics": scores if as_json else scores["cumulative"]}, as_json=as_json)
    if not as_json and len(mixture) > 1:
        mixture.sort(key=lambda expert: -expert["weight"])
        rows = [{"expert": each["expert"], "share": f"{each['weight']:.1%}"} for each in mixture]
        print()
        show_rows(rows, ("expert", "share"), as_json=False)


def checkpoint(
    name: ModelArgument = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    listed: Annotated[bool, typer.Option("--list", help="List the checkpoints.")] = False,
    as_json: AsJson = False,
) -> None:
    """Save a checkpoint of a model, or list its checkpoints.

    A checkpoint has a name (`checkpoint`), the `step` of the model, a `time`, and its `bytes`. `current` says
    whether a rollback to it is possible.
    """
    with connected(url, key) as client:
        if listed:
            rows = [each.model_dump() for each in client.checkpoints(name).checkpoints]
            show_rows(rows, ("checkpoint", "step", "time", "bytes", "current"), as_json=as_json)
        else:
            show(client.checkpoint(name).model_dump(), as_json=as_json)


def rollback(
    name: ModelArgument = DEFAULT_MODEL,
    step: Annotated[int | None, typer.Option(min=0, help="Number of samples learned.")] = None,
    to: Annotated[str | None, typer.Option("--checkpoint", help="Name of a checkpoint.")] = None,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Restore an earlier state of a model, exactly.

    The result: `model`, its `step`, and the new `branch` of its history.
    """
    if (step is None) == (to is None):
        raise CommandError("Which state? Give --step or --checkpoint (`checkpoint --list` lists them).", 2)
    with connected(url, key) as client:
        show(client.rollback(name, step=step, checkpoint=to).model_dump(), as_json=as_json)


def export(
    file: Annotated[Path, typer.Argument(help="File to write; an existing file is replaced.")],
    name: ServerModel = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Write a model of a server to a file, for `learn --load`, `import` and `bnp_online.load`.

    The result: `file`, and its `bytes`.
    """
    with written(file) as sink, connected(url, key) as client:
        body = client.export(name)
        sink.write(body)
    show({"file": str(file), "bytes": len(body)}, as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="Written by export or --save.")],
    name: ServerModel = DEFAULT_MODEL,
    url: ServerUrl = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Replace a model of a server by the model in a file, or create it.

    The result: `model`, and its `step`.
    """
    with file_errors(file):
        body = file.read_bytes()
    with connected(url, key) as client:
        try:
            described = client.import_(body, model=name)
        except InvalidFileError as error:
            raise CommandError(f"{file} is not a model file, or is damaged: {error}") from None
    show({"model": described.name, "step": described.step}, as_json=as_json)
