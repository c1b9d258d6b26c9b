"""``learn``, ``replay`` and ``predict``: streams of samples, in this process or at a server."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from bnp_online.client import Client
from bnp_online.client.bulk import LINES
from bnp_online.client.calls import probabilities
from bnp_online.client.errors import ModelExistsError
from bnp_online.client.schemas import ModelSpec, Task

from ..problems import explain
from ..telemetry.progress import progress
from .options import DEFAULT_MODEL, AsJson, Key, Load, Model, Url, connected
from .output import CommandError, show, written
from .samples import Format, Line, format_of, opened, plain

if TYPE_CHECKING:
    from river.datasets.base import Dataset

    from .learners import Report

File = Annotated[str, typer.Argument(help="CSV, Parquet or NDJSON file; - is standard input.")]
FileFormat = Annotated[Format | None, typer.Option("--format", help="Default: by the name of the file.")]
Target = Annotated[str | None, typer.Option(help="Column with the target; lines with x and y need none.")]
Delay = Annotated[int | None, typer.Option(min=0, help="Delay of each label, in samples.")]
Save = Annotated[Path | None, typer.Option(help="File for the model; an existing file is replaced.")]
TaskOption = Annotated[Task, typer.Option(help="Task of a new model.")]
Spec = Annotated[str, typer.Option(help='Parameters of a new model as JSON: {"hidden": [64], "lr": 0.3}.')]
Size = Annotated[
    int, typer.Option("--lines", min=1, max=LINES, help="Most samples per request; few for a slow stream.")
]

#: Refusals that are printed.
_SHOWN = 5
_TASKS: dict[str, Task] = {
    "Binary classification": "classification",
    "Multi-class classification": "classification",
    "Regression": "regression",
}


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
    """Learn a file, sample by sample; each sample is predicted before it is learned, and scored.

    With --save the model learns in this process; the file is written after the last sample, and Ctrl-C leaves
    it unchanged. With --url a model of a server learns, and the server stores it. A bad sample is reported
    and skipped.
    """
    if (url is None) == (save is None):
        raise CommandError("Where should the model be saved? Give --save FILE, or --url of a server.", 2)
    if url is not None and load is not None:
        raise CommandError("--load needs --save. To load a file into a server: `bnp-online import`.", 2)
    new = _read_spec(spec, task)
    source = opened(file, format_of(file, form), target, labelled=True)
    from .learners import learn_at_server, learn_here, make_estimator  # late: torch

    with source as lines, progress(f"learning {file}", None) as done:
        if url is None:
            estimator = make_estimator(new, load)
            report = learn_here(lines, estimator, delay, done)
        else:
            with connected(url, key, patience=10.0) as client:
                report = learn_at_server(lines, client, model, delay, done, size)
    if save is not None:
        if not report.learned:
            reason = report.refusals[0] if report.refusals else "the file is empty"
            raise CommandError(f"No sample was learned: {reason}")
        estimator.save(save)
    _finish(report.result(), report, as_json=as_json)


def replay(
    name: Annotated[str, typer.Argument(help="Data set, such as Phishing; a wrong name lists all.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Number of samples; default: all.")] = None,
    delay: Delay = None,
    save: Save = None,
    spec: Spec = "{}",
    url: Url = None,
    model: Model = DEFAULT_MODEL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Learn a data set of River, sample by sample; each sample is predicted before it is learned, and scored.

    With --url a model of a server learns; it is created if it does not exist.
    """
    known = _data_sets()
    if name.lower() not in known:
        names = ", ".join(type(make()).__name__ for make in known.values())
        raise CommandError(f"There is no data set {name!r}. The data sets are {names}.", 2)
    if url is not None and save is not None:
        raise CommandError("With --url the server keeps the model: use `bnp-online export` for --save.", 2)
    from .learners import learn_at_server, learn_here, make_estimator  # late: torch

    stream = known[name.lower()]()
    total = stream.n_samples if limit is None else min(limit, stream.n_samples)
    lines, new = _lines(stream, total), _read_spec(spec, _TASKS[stream.task])
    with progress(f"replaying {type(stream).__name__}", total) as done:
        if url is None:
            estimator = make_estimator(new, None)
            report = learn_here(lines, estimator, delay, done)
            if save is not None:
                estimator.save(save)
        else:
            with connected(url, key, patience=10.0) as client:
                _make(client, model, new)
                report = learn_at_server(lines, client, model, delay, done)
    _finish({"dataset": type(stream).__name__, **report.result()}, report, as_json=as_json)


def predict(
    file: File,
    load: Load = None,
    url: Url = None,
    model: Model = DEFAULT_MODEL,
    key: Key = None,
    target: Annotated[str | None, typer.Option(help="Column with the target, which is no feature.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the predictions.")] = None,
    form: FileFormat = None,
) -> None:
    """Predict each sample of a file: one line of JSON per sample, in order. The model does not change."""
    if (url is None) == (load is None):
        raise CommandError("Which model should predict? Give --load FILE, or --url of a server.", 2)
    source = opened(file, format_of(file, form), target, labelled=False)
    with source as lines, _sink(output) as sink, _predictor(load, url, key, model) as answer:
        bad = 0
        with progress(f"predicting {file}", None) as done:
            for n, line in enumerate(lines, 1):
                if line.error is None:
                    said = answer(line)
                else:
                    said = {"error": f"sample {line.number} {line.error}"}
                    bad += 1
                sink.write(json.dumps(said).encode() + b"\n")
                done(n)
        if output is None:
            sink.flush()
    if bad:
        raise CommandError(f"{bad} samples are invalid: their lines in the output give the reasons")


def _data_sets() -> dict[str, Callable[[], Dataset]]:
    """Return the data sets in River's package that have one target, by name in lower case."""
    from river import datasets
    from river.datasets.base import Dataset, RemoteDataset

    return {
        name.lower(): kind
        for name, kind in ((name, getattr(datasets, name)) for name in datasets.__all__)
        if inspect.isclass(kind)
        and issubclass(kind, Dataset)
        and not issubclass(kind, RemoteDataset)
        and not inspect.signature(kind).parameters
        and _task(kind) in _TASKS
    }


def _task(kind: Callable[[], Dataset]) -> str:
    return str(kind().task)


def _lines(stream: Dataset, total: int) -> Iterator[Line]:
    for number, (x, y) in enumerate(stream.take(total), 1):
        yield Line(number, {str(name): plain(value) for name, value in x.items()}, y)


def _make(client: Client, model: str, spec: ModelSpec) -> None:
    """Create a model; an existing model of the same task is used as it is."""
    options = spec.model_dump(mode="json", exclude_unset=True, exclude={"name", "task"})
    with contextlib.suppress(ModelExistsError):
        client.create(model, spec.task, **options)
    task = client.describe(model).spec.task
    if task != spec.task:
        raise CommandError(f"The task of {model} is {task}, not {spec.task}: choose another --model.", 2)


def _read_spec(text: str, task: Task) -> ModelSpec:
    try:
        return ModelSpec.model_validate_json(json.dumps({"task": task, **json.loads(text)}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CommandError(f"--spec: {explain(first, where)}", 2) from None
    except (ValueError, TypeError) as error:
        raise CommandError(f"--spec is not a JSON object: {error}", 2) from None


def _finish(result: dict[str, Any], report: Report, *, as_json: bool) -> None:
    """Print the result; refused samples make the command fail."""
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
        from .learners import library_errors, make_estimator

        estimator = make_estimator(ModelSpec(), load)
        with library_errors():
            yield lambda line: _answer(*estimator.predict(line.x))


def _answer(prediction: Any, by_class: dict[Any, float]) -> dict[str, Any]:
    if not by_class:
        return {"prediction": prediction}
    # By name, as the server writes them.
    named = {name if isinstance(name, str) else json.dumps(name): p for name, p in by_class.items()}
    return {"prediction": prediction, "probabilities": named}
