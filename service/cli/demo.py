"""A server of one's own, as a child process: for the demo.

``python -m service.cli.demo``: a real stream through a server, and what came of it.

It starts the server, or takes a running one, and replays River's ImageSegments (2,310 samples, 18 features,
7 classes) through ``POST /learn``, one sample a request, into a model of its own. It compares with two
learners that see the same samples in the same order. A server with API keys needs one in BNP_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from river import datasets, dummy, linear_model, multiclass, preprocessing

from bnp_online.client import Client, NoAnswerError
from bnp_online.client.errors import AccessError, UnknownModelError
from bnp_online.evaluation.prequential import prequential

from ..settings import Settings
from .output import Bar


class StartError(Exception):
    """The server did not become ready; what it printed says why."""


@contextmanager
def running_server(settings: Settings, timeout: float = 120.0) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``python -m service``, wait until it is ready, and end it when the block ends.

    Parameters
    ----------
    settings : Settings
        Where it will listen; the child reads the same environment.
    timeout : float
        Seconds for it to become ready.

    Raises
    ------
    StartError
        If its port is taken, it ended, or was not ready in time.
    """
    _require_free(settings)
    # A session of its own: Ctrl-C reaches whoever started this, who then ends the server in order.
    child = subprocess.Popen([sys.executable, "-m", "service"], start_new_session=True)
    try:
        _wait(child, url_of(settings), timeout)
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def _require_free(settings: Settings) -> None:
    """Refuse a port that is taken: its owner's answers must not pass for the child's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; set BNP_PORT to another"
            ) from None


def url_of(settings: Settings) -> str:
    """Return the address at which a server with these settings answers on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 (not a bind)
    return f"http://{host}:{settings.port}"


def _wait(child: subprocess.Popen[bytes], url: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise StartError(f"the server ended with exit code {child.returncode}")
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise StartError(f"no server was ready at {url} within {timeout:g} s")


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
    parser = argparse.ArgumentParser(prog="python -m service.cli.demo", description=__doc__.split("\n")[0])
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
