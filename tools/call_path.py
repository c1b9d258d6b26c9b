"""``python -m tools.call_path``: calls of the product's functions that one ``POST /learn`` makes.

The tool runs ``python -m service`` in its own process, with an empty data folder and the default settings,
and sends requests over loopback. After 200 requests it records 30, 30 requests apart, with
``sys.setprofile``: on the thread of the event loop and on every thread that starts later. A
checkpoint changes the figures of single requests; on a busy machine the server hands a step to another thread
(231 calls, 38 modules, 110 returns at commit 1288187). The tool reports the first request whose figures are
the most frequent, among those without a step on another thread if there are any.

Definitions:

- Calls: calls of Python functions whose globals belong to a module of `service` or `bnp_online`. A generated
  ``__init__`` of a dataclass counts. Each resumption of a coroutine or generator counts. Calls of C
  functions, of the standard library and of other packages do not count.
- Modules: the modules of these calls.
- Returns to a module left before: successive calls in one module are one visit; each visit to a module after
  its first is a return. So returns = visits − modules. The end of a call is no visit.

The threads are concatenated, the event loop first, since their interleaving varies. The sample has a number,
a string and a class, without an id. It is sent in one write; two writes would wake uvicorn twice.

At commit 1288187 the figures are 225 calls, 38 modules and 108 returns on all threads (206, 36 and 103 on the
event loop). A measurement with another definition gave 230, 39 and 108.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import runpy
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from tools.request_cost import Connection

PRODUCT = ("service", "bnp_online")
_WARM_REQUESTS = 200
_RECORDED_REQUESTS = 30
#: Requests between two recorded ones.
_BETWEEN = 30
#: Seconds after a response until its background work has ended.
_AFTER = 0.1


class Event(NamedTuple):
    """A call: its module, its function and its depth in calls of the product."""

    module: str
    function: str
    depth: int


class Figures(NamedTuple):
    """Figures of a sequence of calls."""

    calls: int
    modules: int
    returns: int


def figures(modules: Iterable[str]) -> Figures:
    """Return the figures of calls, given the module of each.

    Examples
    --------
    >>> figures(["a", "a", "b", "a", "c", "c", "b"])
    Figures(calls=7, modules=3, returns=2)
    """
    sequence = list(modules)
    visits = sum(1 for i, module in enumerate(sequence) if i == 0 or sequence[i - 1] != module)
    return Figures(len(sequence), len(set(sequence)), visits - len(set(sequence)))


class Recorder:
    """Records the calls of the product, by thread.

    Attributes
    ----------
    recording : bool
        Whether calls are recorded now.
    events : dict
        Calls of the current request by thread identifier, in order.
    """

    def __init__(self) -> None:
        self.recording = False
        self.events: dict[int, list[Event]] = {}
        self._depths: dict[int, int] = {}

    def start(self) -> None:
        """Begin to record a request."""
        self.events = {}
        self._depths = {}
        self.recording = True

    def stop(self) -> dict[int, list[Event]]:
        """End the recording, and return its calls by thread."""
        self.recording = False
        return self.events

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record an event; to be passed to ``sys.setprofile``."""
        if not self.recording or event not in ("call", "return"):
            return
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in PRODUCT:
            return
        thread = threading.get_ident()
        depth = self._depths.get(thread, 0)
        if event == "call":
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
            self.events.setdefault(thread, []).append(Event(module, name, depth))
            self._depths[thread] = depth + 1
        else:  # a return from a call that began before the recording has depth 0
            self._depths[thread] = max(0, depth - 1)


class Drive(threading.Thread):
    """Sends requests to a server in this process, records some of them, and stops the server.

    Parameters
    ----------
    server : uvicorn.Server
        Started server.
    loop : asyncio.AbstractEventLoop
        Its event loop.
    recorder : Recorder
        Recorder of the calls.
    """

    def __init__(self, server: uvicorn.Server, loop: asyncio.AbstractEventLoop, recorder: Recorder) -> None:
        super().__init__(name="call-path", daemon=True)
        self.error: Exception | None = None
        self.requests: list[dict[int, list[Event]]] = []
        self._server = server
        self._loop = loop
        self._recorder = recorder

    def run(self) -> None:
        """Send the requests, and stop the server in any case."""
        sys.setprofile(None)
        try:
            self._record()
        except Exception as error:  # noqa: BLE001 (raised again by `record`, once the server has ended)
            self.error = error
        finally:
            self._server.should_exit = True

    def _record(self) -> None:
        listening: socket.socket = self._server.servers[0].sockets[0]
        connection = Connection(listening.getsockname()[1])
        number = 0
        for recorded in range(_RECORDED_REQUESTS):
            # After an idle time or a recorded request the server estimates that a step is long, and hands it
            # to another thread: the requests between two recorded ones correct the estimate.
            for _ in range(_BETWEEN if recorded else _WARM_REQUESTS):
                connection.post("/learn", _body(number))
                number += 1
            self._on_loop(lambda: sys.setprofile(self._recorder.profile))
            self._recorder.start()
            connection.post("/learn", _body(number))
            number += 1
            time.sleep(_AFTER)
            self.requests.append(self._recorder.stop())
            self._on_loop(lambda: sys.setprofile(None))
        connection.close()

    def _on_loop(self, do: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(do)
        self._loop.call_soon_threadsafe(done.set)
        done.wait()


def _body(number: int) -> bytes:
    x = {"size": number % 7 / 7, "place": ("north", "south")[number % 2]}
    return json.dumps({"x": x, "y": number % 2 == 0}).encode()


def record(checkout: Path) -> tuple[list[Event], list[Event]]:
    """Return the calls of a typical request: on the thread of the event loop, and on the others.

    Call it at most once in a process, from the main thread.
    """
    recorder = Recorder()
    drives: list[Drive] = []
    start = uvicorn.Server.startup

    async def startup(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await start(server, sockets)
        drives.append(Drive(server, asyncio.get_running_loop(), recorder))
        drives[0].start()

    uvicorn.Server.startup = startup  # type: ignore[assignment, method-assign]  # where a server says it has started
    threading.setprofile(recorder.profile)  # of threads that start from here on
    for name in [name for name in os.environ if name.startswith("BNP_")]:
        del os.environ[name]
    sys.path.insert(0, str(checkout))
    sys.argv = ["service"]
    with tempfile.TemporaryDirectory(prefix="bnp-path-") as folder:
        os.environ |= {"BNP_PORT": "0", "BNP_DATA_DIR": folder, "BNP_DEVICE": "cpu"}
        os.environ |= {"BNP_LOG_LEVEL": "info"}
        try:
            runpy.run_module("service", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    threading.setprofile(None)
    if drives[0].error is not None:
        raise drives[0].error
    if not Path(sys.modules["service"].__file__ or "").resolve().is_relative_to(checkout):
        raise RuntimeError(f"`service` was not imported from {checkout}")
    main = threading.get_ident()
    paths = []
    for events in drives[0].requests:
        others = [event for thread, calls in sorted(events.items()) if thread != main for event in calls]
        paths.append((events.get(main, []), others))
    paths = [path for path in paths if not any(e.module.startswith("bnp_online") for e in path[1])] or paths
    counted = [figures(event.module for event in [*loop, *others]) for loop, others in paths]
    usual = Counter(counted).most_common(1)[0][0]
    return paths[counted.index(usual)]


def main() -> None:
    """Count the calls, modules and returns to a module of one ``POST /learn``."""
    parser = argparse.ArgumentParser(prog="python -m tools.call_path", description=main.__doc__)
    parser.add_argument("--checkout", type=Path, default=Path(), help="default: this folder")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--trace", action="store_true", help="print every call too, indented")
    options = parser.parse_args()
    loop, others = record(options.checkout.resolve())
    counted = {
        "event loop": figures(event.module for event in loop),
        "all threads": figures(event.module for event in [*loop, *others]),
    }
    if options.json:
        modules = sorted({event.module for event in [*loop, *others]})
        print(json.dumps({name: found._asdict() for name, found in counted.items()} | {"passed": modules}))
        return
    if options.trace:
        for name, events in (("event loop", loop), ("other threads", others)):
            print(f"{name}:", *("  " * (e.depth + 1) + f"{e.module} {e.function}" for e in events), sep="\n")
    for name, found in counted.items():
        print(
            f"{name}: {found.calls} calls, {found.modules} modules, "
            f"{found.returns} returns to a module left before"
        )


if __name__ == "__main__":
    main()
