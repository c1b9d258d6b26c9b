"""``replay``: a data set of River, as a stream."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bnp_online.client import Client
from bnp_online.client.errors import ModelExistsError

from ..schemas import ModelSpec, Task
from .learning import Delay, Save, Spec, finish, read_spec, result_of
from .options import DEFAULT_MODEL, AsJson, Key, Model, Url, connected
from .output import Bar, CommandError
from .samples import Line, plain

if TYPE_CHECKING:
    from river.datasets.base import Dataset

_TASKS: dict[str, Task] = {
    "Binary classification": "classification",
    "Multi-class classification": "classification",
    "Regression": "regression",
}


def bundled() -> dict[str, Callable[[], Dataset]]:
    """Return the data sets that come with River and have one target, by name in lower case."""
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


def replay(
    name: Annotated[str, typer.Argument(help="Of the data set, such as Phishing; a wrong one lists them.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples.")] = None,
    delay: Delay = None,
    save: Save = None,
    spec: Spec = "{}",
    url: Url = None,
    model: Model = DEFAULT_MODEL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Learn a data set that comes with River, sample by sample, and score the predictions made before.

    With --url the model on the server learns; it is made if it is not there.
    """
    known = bundled()
    if name.lower() not in known:
        names = ", ".join(type(make()).__name__ for make in known.values())
        raise CommandError(f"there is no data set {name!r}: take one of {names}", 2)
    if url is not None and save is not None:
        raise CommandError("with --url the server keeps the model: leave --save out, and use export", 2)
    from .teaching import Local, Remote, make_estimator, teach, teach_at_once  # late: torch

    stream = known[name.lower()]()
    total = stream.n_samples if limit is None else min(limit, stream.n_samples)
    lines, task = _lines(stream, total), _TASKS[stream.task]
    with Bar(f"replaying {type(stream).__name__}", total) as bar:
        if url is None:
            pupil = Local(make_estimator(read_spec(spec, task), None))
            report = teach(lines, pupil, delay, bar.done)
            scores = pupil.scores.report()["cumulative"]
            if save is not None:
                pupil.estimator.save(save)
        else:
            with connected(url, key, patience=10.0) as client:
                _make(client, model, read_spec(spec, task))
                if delay is None:
                    report = teach_at_once(lines, client, model, bar.done)
                else:
                    report = teach(lines, Remote(client, model), delay, bar.done)
                scores = client.metrics(model).cumulative
    result = {"dataset": type(stream).__name__, **result_of(report), "metrics": scores}
    finish(result, report, as_json=as_json)


def _lines(stream: Dataset, total: int) -> Iterator[Line]:
    for number, (x, y) in enumerate(stream.take(total), 1):
        yield Line(number, {str(name): plain(value) for name, value in x.items()}, y)


def _make(client: Client, model: str, spec: ModelSpec) -> None:
    """Make a model, unless it is there; one that is there learns on, if it is of the task."""
    options = spec.model_dump(mode="json", exclude_unset=True, exclude={"name", "task"})
    with contextlib.suppress(ModelExistsError):
        client.create(model, spec.task, **options)
    task = client.describe(model).spec.task
    if task != spec.task:
        raise CommandError(
            f"the model {model} is for {task}, this is {spec.task}: give another with --model", 2
        )
