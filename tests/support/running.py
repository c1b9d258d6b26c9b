"""Server in a thread of the test's process, on a real socket."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
import uvloop
from fastapi import FastAPI

from service.app import create_app
from service.http.uvicorn_protocol import uvicorn_config
from service.models.registry import Registry
from service.settings import Settings

T = TypeVar("T")
Json = dict[str, Any]


class Server:
    """Running server with a client."""

    def __init__(self, settings: Settings) -> None:
        self.app: FastAPI = create_app(settings)
        self._uvicorn = uvicorn.Server(uvicorn_config(self.app, settings, self.app.state.lane))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._uvicorn.serve()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    def start(self) -> None:
        self._thread.start()
        while not self._uvicorn.started:
            assert self._thread.is_alive(), "the server did not start"
            threading.Event().wait(0.005)
        host, port = self._uvicorn.servers[0].sockets[0].getsockname()[:2]
        self.host, self.port, self.url = host, port, f"http://{host}:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60.0)

    def ask_to_stop(self) -> None:
        self._uvicorn.should_exit = True

    def join(self) -> None:
        self._thread.join()

    def stop(self) -> None:
        self.client.close()
        self.ask_to_stop()
        self.join()

    def listens(self) -> bool:
        """Whether it accepts new connections."""
        return any(listener.is_serving() for listener in self._uvicorn.servers)

    @property
    def connections(self) -> set[Any]:
        """Open connections."""
        return set(self._uvicorn.server_state.connections)

    @property
    def registry(self) -> Registry:
        registry: Registry = self.app.state.models
        return registry

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def on_loop_soon(self, function: Callable[[], object]) -> None:
        """Run a function on the server's event loop, and do not wait for it."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    @contextmanager
    def held(self, model: str = "default") -> Iterator[None]:
        """Hold the writer of a model, so that later requests wait."""
        reached, release = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            reached.set()
            release.wait(60)

        assert self._loop is not None
        waiting = asyncio.run_coroutine_threadsafe(self.registry.get(model).ask(hold), self._loop)
        reached.wait(60)
        try:
            yield
        finally:
            release.set()
            waiting.result(60)

    def wait_for_queue(self, depth: int, model: str = "default") -> None:
        """Wait until the queue of a model has this many jobs, including the one that holds it."""
        while self.registry.get(model).queue_depth < depth:
            threading.Event().wait(0.005)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def learn(self, x: Any, y: Any, **more: Any) -> Json:
        return self._done(self.post("/learn", x=x, y=y, **more))

    def predict(self, x: Any, **more: Any) -> Json:
        return self._done(self.post("/predict", x=x, **more))

    def label(self, identifier: str, y: Any, **more: Any) -> Json:
        return self._done(self.post("/label", id=identifier, y=y, **more))

    def create(self, **spec: Any) -> Json:
        answer = self.post("/models", **spec)
        assert answer.status_code == 201, answer.text
        created: Json = answer.json()
        return created

    def get(self, path: str) -> Json:
        return self._done(self.client.get(path))

    def fingerprint(self, model: str = "default") -> Json:
        return self.get(f"/models/{model}/fingerprint")

    @staticmethod
    def _done(answer: httpx.Response) -> Json:
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body


@contextmanager
def serving(data_dir: Path, **settings: Any) -> Iterator[Server]:
    """Run a server during the block."""
    server = Server(
        Settings(**{"data_dir": data_dir, "device": "cpu", "port": 0, "log_level": "critical", **settings})
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def killed_copy(folder: Path, to: Path) -> Path:
    """Copy the data folder of a server that runs, as a kill leaves it.

    A copy takes a while. If a background task of the server writes meanwhile, the files are of different
    moments, which no kill leaves: the copy is made again.
    """

    def state() -> list[tuple[Path, int, int]]:
        files = [each for each in sorted(folder.rglob("*")) if each.is_file() and each.suffix != ".lock"]
        return [(each, (about := each.stat()).st_size, about.st_mtime_ns) for each in files]

    while True:
        try:
            before = state()
            shutil.copytree(folder, to)
            time.sleep(0.01)  # files have times in steps of some milliseconds
            if state() == before:
                return to
        except (FileNotFoundError, shutil.Error):  # a file was renamed
            pass
        shutil.rmtree(to, ignore_errors=True)


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Return status, code and field of an error, and check its envelope."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message", "field"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["error"]["field"]


def head(path: str, length: int, method: str = "POST", **headers: str) -> bytes:
    """Return the head of a request with a JSON body, as bytes."""
    lines = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(length),
        **headers,
    }
    rest = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{rest}\r\n".encode()
