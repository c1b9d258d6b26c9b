"""``python -m service.demo``: a real stream through a server, and what came of it.

It starts the server, or takes a running one, and replays River's ImageSegments (2,310 samples, 18 features,
7 classes) through ``POST /learn``, one sample a request, into a model of its own. It compares with two
learners that see the same samples in the same order. A server with API keys needs one in BNP_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from river import datasets, dummy, linear_model, multiclass, preprocessing

from bnp_online.evaluate import prequential
from service.cli.output import Bar
from service.client import Client, NoAnswerError
from service.client.errors import AccessError, UnknownModelError
from service.launch import StartError, running_server, url_of
from service.settings import Settings

MODEL = "demo"
KEY_VARIABLE = "BNP_API_KEY"

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """How one learner did on the stream."""

    name: str
    accuracy: float
    log_loss: float
    samples_per_second: float


def main() -> None:
    """Replay the stream into a server, print the table; Ctrl-C ends it at any time."""
    arguments = _arguments()
    console = Console()
    try:
        if arguments.url is not None:
            show(arguments.url, console)
        else:
            _serve(console, once=arguments.once)
    except StartError as error:
        sys.exit(str(error))
    except NoAnswerError as error:
        sys.exit(str(error))
    except AccessError as error:
        sys.exit(f"{error}\nSet {KEY_VARIABLE} to a key with the scopes learn, read and admin.")
    except KeyboardInterrupt:
        console.print("Ended.")


def _serve(console: Console, *, once: bool) -> None:
    settings = Settings()
    url = url_of(settings)
    console.print(f"Starting the server on {url} …")
    with running_server(settings) as server:
        show(url, console)
        if not once:
            console.print(f"The server stays up: Ctrl-C ends it; its documentation is at {url}/docs")
            server.wait()


def show(url: str, console: Console) -> None:
    """Replay the stream through the server at `url`, then through its rivals; print how they did."""
    samples = list(datasets.ImageSegments())
    with Client(url, key=os.environ.get(KEY_VARIABLE), patience=2.0) as client:
        _begin(client)
        with Bar("learning over HTTP", len(samples), console) as bar:
            outcomes = [_replay(client, samples, bar.done)]
    for name, rival in _rivals().items():
        with Bar(name, len(samples), console) as bar:
            outcomes.append(_compare(name, rival, samples, bar.done))
    console.print(_table(outcomes, len(samples)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="of a running server; by default one is started, from the settings")
    parser.add_argument(
        "--once", action="store_true", help="end the server that was started after the stream"
    )
    return parser.parse_args()


def _begin(client: Client) -> None:
    """Make the model anew, so that the demo shows the same each time."""
    with suppress(UnknownModelError):
        client.delete(MODEL)
    client.create(MODEL)


def _replay(client: Client, samples: list[tuple[Any, Any]], advance: Advance) -> Outcome:
    start = time.perf_counter()
    for n, (x, y) in enumerate(samples, 1):
        client.learn_one(x, y, model=MODEL)
        advance(n)
    seconds = time.perf_counter() - start
    scores = client.metrics(MODEL).cumulative
    accuracy, log_loss = scores["Accuracy"] or 0.0, scores["LogLoss"] or 0.0
    return Outcome("BNP over HTTP", accuracy, log_loss, len(samples) / seconds)


def _rivals() -> dict[str, Any]:
    logistic = multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    return {
        "River StandardScaler | LogisticRegression": preprocessing.StandardScaler() | logistic,
        "majority class": dummy.PriorClassifier(),
    }


def _compare(name: str, rival: Any, samples: list[tuple[Any, Any]], advance: Advance) -> Outcome:
    result = prequential(samples, rival, "classification", progress=advance)
    scores = result.metrics
    return Outcome(name, scores["Accuracy"], scores["LogLoss"], result.n / result.seconds)


def _table(outcomes: list[Outcome], n: int) -> Table:
    table = Table(
        title=f"ImageSegments, {n:,} samples: each predicted, then learned",
        caption="The server learns through one connection, a sample a request; the others in process.",
    )
    table.add_column("learner")
    for heading in ("accuracy", "log loss", "samples/s"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.accuracy:.1%}",
            f"{outcome.log_loss:.3f}",
            f"{outcome.samples_per_second:,.0f}",
        )
    return table


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
