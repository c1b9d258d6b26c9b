"""``demo``: the server learns a real data set, compared with two other learners.

The data set is River's ImageSegments: 2,310 samples, 18 features, 7 classes. The server learns it with a
separate model through ``POST /learn``, one sample per request. The other learners see the same samples in the
same order, in this process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bnp_online.client import Client
from bnp_online.client.errors import UnknownModelError

from ..telemetry.progress import progress
from .launch import ServerProcess, StartError
from .options import AsJson, Key, Url, connected
from .output import CommandError, show_rows

_MODEL = "demo"
Samples = list[tuple[Any, Any]]
Result = dict[str, Any]


def demo(
    url: Url = None,
    key: Key = None,
    once: Annotated[bool, typer.Option("--once", help="Stop the server after the data set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a server learn a real data set, and compare it with two other learners.

    Without --url a server is started, with the settings of the environment. A row has the `learner`, its
    `accuracy` and `log_loss`, and `samples/s`.
    """
    if url is not None:
        _compare(url, key, as_json=as_json)
        return
    with contextlib.suppress(KeyboardInterrupt), ServerProcess(echo=True) as server:
        try:
            url = server.ready()
        except StartError:
            raise CommandError(
                "The server did not start. If its port is in use, set BNP_PORT to another."
            ) from None
        _compare(url, key, as_json=as_json)
        if not once:
            print(f"The server keeps running: Ctrl-C stops it. Its dashboard: {url}", flush=True)
            server.wait(None)


def _compare(url: str, key: str | None, *, as_json: bool) -> None:
    from river import datasets, dummy, linear_model, multiclass, preprocessing  # late: it takes a second

    from bnp_online.evaluation.prequential import prequential

    samples: Samples = list(datasets.ImageSegments())
    logistic = multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    others: dict[str, Any] = {
        "River StandardScaler | LogisticRegression": preprocessing.StandardScaler() | logistic,
        "majority class": dummy.PriorClassifier(),
    }
    with connected(url, key) as client, progress("BNP over HTTP", len(samples)) as done:
        rows = [_learn(client, samples, done)]
    for name, other in others.items():
        with progress(name, len(samples)) as done:
            found = prequential(samples, other, "classification", progress=done)
        rows.append(_row(name, found.metrics, found.n / found.seconds))
    show_rows(rows, list(rows[0]), as_json=as_json)


def _learn(client: Client, samples: Samples, done: Callable[[int], None]) -> Result:
    with contextlib.suppress(UnknownModelError):  # a new model, so that each run gives the same result
        client.delete(_MODEL)
    client.create(_MODEL)
    start = time.perf_counter()
    for n, (x, y) in enumerate(samples, 1):
        client.learn_one(x, y, model=_MODEL)
        done(n)
    rate = len(samples) / (time.perf_counter() - start)
    return _row("BNP over HTTP", client.metrics(_MODEL).cumulative, rate)


def _row(name: str, scores: dict[str, Any], rate: float) -> Result:
    return {"learner": name, "accuracy": scores["Accuracy"], "log_loss": scores["LogLoss"], "samples/s": rate}
