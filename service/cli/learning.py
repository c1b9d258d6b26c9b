"""``learn`` and ``predict``: files of samples, in this process or at a server."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from bnp_online.client.bulk import LINES
from bnp_online.client.calls import probabilities

from ..schemas import ModelSpec, Task
from .options import DEFAULT_MODEL, AsJson, Key, Load, Model, Url, connected
from .output import Bar, CommandError, show, written
from .samples import Format, Line, format_of, opened

if TYPE_CHECKING:
    from .teaching import Report

File = Annotated[str, typer.Argument(help="CSV, Parquet or NDJSON; - is standard input.")]
FileFormat = Annotated[Format | None, typer.Option("--format", help="By default as the name says.")]
Target = Annotated[str | None, typer.Option(help="Column with the target; lines of JSON may have x and y.")]
Delay = Annotated[int | None, typer.Option(min=0, help="How many samples later each label comes.")]
Save = Annotated[Path | None, typer.Option(help="Where to keep the model; replaced if it is there.")]
TaskOption = Annotated[Task, typer.Option(help="What a new model does.")]
Spec = Annotated[str, typer.Option(help='A new model as JSON: {"hidden": [64], "lr": 0.3}.')]

Size = Annotated[
    int, typer.Option("--lines", min=1, max=LINES, help="Most samples a request; few for a slow stream.")
]

#: Refusals that are shown.
_SHOWN = 5


def learn(
    file: File,
    target: Target = None,
    delay: Delay = None,
    save: Save = None,
    load: Load = None,
    task: TaskOption = "classification",
    spec: Spec = "{}",
    url: Url = None,
    model: Model = DEFAULT_MODEL,
    key: Key = None,
    form: FileFormat = None,
    size: Size = LINES,
    as_json: AsJson = False,
) -> None:
    """Learn a file, sample by sample; each is predicted first, and that is the score.

    In this process the model is written to --save once all is learned: Ctrl-C leaves the file as it was. With
    --url the model on the server learns, and keeps what it has learned. A bad sample is told and left out.
    """
    if (url is None) == (save is None):
        raise CommandError("where shall the model be? Give --save FILE, or --url of a server", 2)
    if url is not None and load is not None:
        raise CommandError("a server's model takes a file with `bnp-online import`: leave --load out", 2)
    new = read_spec(spec, task)
    source = opened(file, format_of(file, form), target, labelled=True)
    from .teaching import Local, Remote, make_estimator, teach, teach_at_once  # late: torch

    with source as lines, Bar(f"learning {file}", None) as bar:
        if url is None:
            pupil = Local(make_estimator(new, load))
            report = teach(lines, pupil, delay, bar.done)
            result = {**result_of(report), "metrics": pupil.scores.report()["cumulative"]}
        else:
            with connected(url, key, patience=10.0) as client:
                if delay is None:
                    report = teach_at_once(lines, client, model, bar.done, size)
                else:
                    report = teach(lines, Remote(client, model), delay, bar.done)
                result = {**result_of(report), "metrics": client.metrics(model).cumulative}
    if save is not None:
        if not report.learned:
            raise CommandError(
                f"nothing was learned: {'; '.join(report.refusals[:1]) or 'the file is empty'}"
            )
        pupil.estimator.save(save)
    finish(result, report, as_json=as_json)


def predict(
    file: File,
    load: Load = None,
    url: Url = None,
    model: Model = DEFAULT_MODEL,
    key: Key = None,
    target: Annotated[str | None, typer.Option(help="Column that is no feature: the target.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write to.")] = None,
    form: FileFormat = None,
) -> None:
    """Predict each sample of a file: a line of JSON for each, in order. The model does not change."""
    if (url is None) == (load is None):
        raise CommandError("which model? Give --load FILE, or --url of a server", 2)
    source = opened(file, format_of(file, form), target, labelled=False)
    with source as lines, _sink(output) as sink, _predictor(load, url, key, model) as answer:
        bad = 0
        with Bar(f"predicting {file}", None) as bar:
            for line in lines:
                if line.error is None:
                    said = answer(line)
                else:
                    said = {"error": f"sample {line.number} {line.error}"}
                    bad += 1
                sink.write(json.dumps(said).encode() + b"\n")
                bar.advance()
        if output is None:
            sink.flush()
    if bad:
        raise CommandError(f"{bad} samples could not be read: their lines say why")


def read_spec(text: str, task: Task) -> ModelSpec:
    """Return the model that options ask for."""
    try:
        return ModelSpec.model_validate_json(json.dumps({"task": task, **json.loads(text)}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise CommandError(f"--spec: {where}: {first['msg']}", 2) from None
    except (ValueError, TypeError) as error:
        raise CommandError(f"--spec is no JSON object: {error}", 2) from None


def result_of(report: Report) -> dict[str, Any]:
    """Return how much was learned, and how fast."""
    return {
        "learned": report.learned,
        "refused": report.refused,
        "seconds": report.seconds,
        "samples_per_second": report.learned / report.seconds,
    }


def finish(result: dict[str, Any], report: Report, *, as_json: bool) -> None:
    """Show what was learned; it has failed where a sample was refused."""
    show({**result, "refusals": report.refusals} if as_json else result, as_json=as_json)
    if report.refused:
        more = report.refused - min(report.refused, _SHOWN)
        rest = [f"and {more} more"] if more else []
        raise CommandError("\n".join(["Not learned:", *report.refusals[:_SHOWN], *rest]))


@contextlib.contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
    else:
        with written(output) as file:
            yield file


@contextlib.contextmanager
def _predictor(
    load: Path | None, url: str | None, key: str | None, model: str
) -> Iterator[Callable[[Line], dict[str, Any]]]:
    if url is not None:
        with connected(url, key) as client:
            yield lambda line: _answer(
                (said := client.predict_one(line.x, model=model)).prediction, probabilities(said)
            )
    else:
        from .teaching import library_errors, make_estimator

        estimator = make_estimator(ModelSpec(), load)
        with library_errors():
            yield lambda line: _answer(*estimator.predict(line.x))


def _answer(prediction: Any, chances: dict[Any, float]) -> dict[str, Any]:
    if not chances:
        return {"prediction": prediction}
    # By name, as the server writes them.
    named = {name if isinstance(name, str) else json.dumps(name): p for name, p in chances.items()}
    return {"prediction": prediction, "probabilities": named}
