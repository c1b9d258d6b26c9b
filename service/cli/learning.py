"""``learn`` and ``replay``: streams of samples, in this process or at a server."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from bnp_online.client import Client
from bnp_online.client.bulk import LINES
from bnp_online.client.errors import ModelExistsError, UnknownModelError
from bnp_online.client.schemas import ModelDescription, ModelSpec, Task

from ..problems import first_problem
from ..telemetry.progress import progress
from .options import (
    DEFAULT_MODEL,
    AsJson,
    Key,
    Load,
    Model,
    SampleFile,
    Url,
    connected,
    reads_samples,
)
from .output import CommandError, file_errors, note, require_writable, show
from .report import Report

if TYPE_CHECKING:
    from river.datasets.base import Dataset

    from bnp_online.files import Row

    from .learners import Estimator

Delay = Annotated[int | None, typer.Option(min=0, help="Delay of each label, in samples.")]
Save = Annotated[Path | None, typer.Option(help="File for the model; an existing file is replaced.")]
TaskOption = Annotated[Task | None, typer.Option(help="Task of a new model; default: classification.")]
Spec = Annotated[str, typer.Option(help='Parameters of a new model as JSON: {"hidden": [64], "lr": 0.3}.')]
Size = Annotated[
    int, typer.Option("--lines", min=1, max=LINES, help="Most samples per request; few for a slow stream.")
]

#: Reasons of refusals that are printed.
_SHOWN = 5
_TASKS: dict[str, Task] = {
    "Binary classification": "classification",
    "Multi-class classification": "classification",
    "Regression": "regression",
}


@reads_samples
def learn(
    source: SampleFile,
    delay: Delay = None,
    save: Save = None,
    load: Load = None,
    task: TaskOption = None,
    spec: Spec = "{}",
    url: Url = None,
    model: Model = None,
    key: Key = None,
    size: Size = LINES,
    as_json: AsJson = False,
) -> None:
    """Learn a file, sample by sample; each sample is predicted before it is learned, and scored.

    The model learns in this process, and is lost at the end without --save. The file of --save is written
    after the last sample, and Ctrl-C leaves it unchanged. With --url a model of a server learns, and the
    server stores it; --task creates it if it does not exist. A bad sample is reported and skipped.

    The result: samples `learned` and `refused`, `seconds`, `samples_per_second`, and prequential `metrics`;
    with --json also the first reasons of `refusals`.
    """
    new = _read_spec(spec, task, source.text or [])
    _check_place(url, save, load, model)
    if url is not None:
        report = _learn_at_server(source, new, url, model or DEFAULT_MODEL, key, delay, size)
    else:
        report = _learn_here(source, new, load, save, delay)
    if url is None and save is None:
        note("The model was not saved: give --save FILE, or --url of a server.")
    _finish(report.result(), report, as_json=as_json)


def _check_place(url: str | None, save: Path | None, load: Path | None, model: str | None) -> None:
    """Check the options that say where the model is, before the file is read."""
    if url is None and model is not None:
        raise CommandError("--model is the name of a model of a server: give its --url too.", 2)
    if url is not None and load is not None:
        raise CommandError(
            "--load is for learning in this process: `bnp-online import` loads a file into a server.", 2
        )
    if url is not None and save is not None:
        raise CommandError(
            "With --url the server keeps the model: leave out --save, and use `bnp-online export`.", 2
        )
    if save is not None:
        require_writable(save)


def _learn_here(
    source: SampleFile, new: ModelSpec, load: Path | None, save: Path | None, delay: int | None
) -> Report:
    loaded = None if load is None else _loaded(load, new)
    report = Report(new.task if loaded is None else loaded.task)
    features = () if loaded is None else loaded.feature_names
    fields, text = ((), new.text) if loaded is None else (loaded.fields, loaded.text)
    with (
        source.rows(labelled=True, task=report.task, features=features, fields=[*fields], text=text) as rows,
        progress(f"learning {source.name}", None, fraction=lambda: rows.fraction, score=report.score) as done,
    ):
        from .learners import learn_here, make_estimator  # late: torch

        estimator = make_estimator(new) if loaded is None else loaded
        learn_here(rows, estimator, report, delay, done)
    report.require_learned()
    if save is not None:
        with file_errors(save):
            estimator.save(save)
    return report


def _loaded(file: Path, new: ModelSpec) -> Estimator:
    """Return the estimator in a file; the options of a new model must not contradict it."""
    from .learners import load_estimator  # late: torch

    estimator = load_estimator(file)
    if "task" in new.model_fields_set and new.task != estimator.task:
        raise CommandError(
            f"{file} is a model for {estimator.task}, not {new.task}: leave out --task, or load another.", 2
        )
    _check_text(new, estimator.text, str(file))
    if new.model_fields_set - {"task", "text"}:
        raise CommandError("--spec is for a new model: leave it out, or leave out --load.", 2)
    return estimator


def _check_text(new: ModelSpec, text: Sequence[str], model: str) -> None:
    """Refuse --text for a column that an existing model reads otherwise."""
    if others := [name for name in new.text if name not in text]:
        raise CommandError(
            f"{model} has no text {others[0]!r}: a model has its texts from its creation. Leave out --text "
            f"{others[0]}, or make a new model.",
            2,
        )


def _learn_at_server(
    source: SampleFile, new: ModelSpec, url: str, model: str, key: str | None, delay: int | None, size: int
) -> Report:
    with connected(url, key, patience=10.0) as client:
        found = _find(client, model, new)
        task = new.task if found is None else found.spec.task
        report = Report(task)
        features = () if found is None else found.features
        fields, text = ((), new.text) if found is None else (found.fields, found.spec.text)
        with (
            source.rows(labelled=True, task=task, features=features, fields=[*fields], text=text) as rows,
            progress(
                f"learning {source.name}", None, fraction=lambda: rows.fraction, score=report.score
            ) as done,
        ):
            from .learners import learn_at_server  # late: torch

            if found is None:
                _create(client, model, new)
            learn_at_server(rows, client, model, report, delay, done, size)
    report.require_learned()
    return report


def _find(client: Client, model: str, new: ModelSpec) -> ModelDescription | None:
    """Return the description of a model of a server; None if it can be created, so that its task is given."""
    asked = new.task if "task" in new.model_fields_set else None
    try:
        found = client.describe(model)
    except UnknownModelError:
        if asked is not None:
            return None
        near = get_close_matches(model, [each.name for each in client.models().models], 1)
        raise CommandError(
            f"There is no model {model!r} at {client.url}: create it with --task classification or "
            f"--task regression{f', or did you mean {near[0]!r}?' if near else ''}",
            2,
        ) from None
    task = found.spec.task
    if asked not in (None, task):
        raise CommandError(
            f"The model {model} is for {task}, not {asked}: choose another --model, or leave out --task.", 2
        )
    _check_text(new, found.spec.text, f"The model {model}")
    if new.model_fields_set - {"task", "text"}:
        note(f"The model {model} exists: --spec is not used.")
    return found


def _create(client: Client, model: str, spec: ModelSpec) -> None:
    options = spec.model_dump(mode="json", exclude_unset=True, exclude={"name", "task"})
    try:
        client.create(model, spec.task, **options)
        note(f"Created the model {model} ({spec.task}).")
    except ModelExistsError:  # another client has created it since
        _find(client, model, spec)


def replay(
    name: Annotated[str, typer.Argument(help="Data set, such as Phishing; a wrong name lists all.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Number of samples; default: all.")] = None,
    delay: Delay = None,
    save: Save = None,
    spec: Spec = "{}",
    url: Url = None,
    model: Model = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Learn a data set of River, sample by sample; each sample is predicted before it is learned, and scored.

    With --url a model of a server learns; it is created if it does not exist.

    The result is that of `learn`, with the name of the `dataset`.
    """
    known = _data_sets()
    if name.lower() not in known:
        names = ", ".join(type(make()).__name__ for make in known.values())
        raise CommandError(f"There is no data set {name!r}. The data sets are {names}.", 2)
    _check_place(url, save, None, model)
    stream = known[name.lower()]()
    new = _read_spec(spec, _TASKS[stream.task])
    from .learners import learn_at_server, learn_here, make_estimator  # late: torch

    total = stream.n_samples if limit is None else min(limit, stream.n_samples)
    rows, report = _rows(stream, total), Report(new.task)
    with progress(f"replaying {type(stream).__name__}", total, score=report.score) as done:
        if url is None:
            estimator = make_estimator(new)
            learn_here(rows, estimator, report, delay, done)
            if save is not None:
                with file_errors(save):
                    estimator.save(save)
        else:
            with connected(url, key, patience=10.0) as client:
                if _find(client, model or DEFAULT_MODEL, new) is None:
                    _create(client, model or DEFAULT_MODEL, new)
                learn_at_server(rows, client, model or DEFAULT_MODEL, report, delay, done)
    _finish({"dataset": type(stream).__name__, **report.result()}, report, as_json=as_json)


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


def _rows(stream: Dataset, total: int) -> Iterator[Row]:
    from bnp_online.files import Row

    for number, (x, y) in enumerate(stream.take(total), 1):
        yield Row(number, {str(name): value for name, value in x.items()}, y)


def _read_spec(text: str, task: Task | None, columns: Sequence[str] = ()) -> ModelSpec:
    """Return the specification of a new model; `columns` have text."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise CommandError(
            f'--spec is not JSON ({error}): write {{"hidden": [64]}} between single quotes', 2
        ) from None
    if not isinstance(given, dict):
        raise CommandError('--spec must be a JSON object, such as {"hidden": [64]}', 2)
    if task is not None and given.setdefault("task", task) != task:
        raise CommandError(f"--task is {task}, and --spec has another task: leave out one of the two", 2)
    if columns and isinstance(texts := given.get("text", []), list):
        given["text"] = [*dict.fromkeys([*texts, *columns])]
    try:
        return ModelSpec.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise CommandError(f"--spec: {first_problem(error, ModelSpec)[0]}", 2) from None


def _finish(result: dict[str, Any], report: Report, *, as_json: bool) -> None:
    """Print the result; refused samples make the command fail."""
    show({**result, "refusals": report.refusals} if as_json else result, as_json=as_json)
    if report.refused:
        raise CommandError("\n".join(f"Not learned: {each}" for each in report.refused_rows(_SHOWN)))
