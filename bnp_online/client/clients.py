"""`Client` and `AsyncClient`: the calls of the HTTP API, with httpx."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from . import calls
from .bulk import (
    LINES,
    Batch,
    LearnSummary,
    Lines,
    Outcome,
    Predicted,
    Sample,
    learn_lines,
    learn_table,
    predict_lines,
    predict_table,
)
from .exchange import Call, Reply, Request, Steps, exchange
from .frames import Roles, batches, is_frame, rows
from .nodes import Nodes, ReadFrom
from .schemas import DEFAULT_MODEL

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
#: Errors after which the server cannot have received the request.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class _Settings:
    """Base of the two clients: see `Client`."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
        read_from: ReadFrom = "owner",
        consistent: bool = False,
    ) -> None:
        self._nodes = Nodes([url] if isinstance(url, str) else url, read_from, consistent)
        self.url = self._nodes.urls[0]
        self.patience = patience
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._open({"timeout": timeout, "headers": headers})

    def _open(self, options: dict[str, Any]) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _broken(
        self, request: Request, error: httpx.TransportError, status: int = 0, body: bytes = b""
    ) -> Reply:
        reason = f"no answer from {request.base}: {error or type(error).__name__}"
        return Reply(status, body, reason, sent=not isinstance(error, _UNSENT))


def _reply(response: httpx.Response, body: bytes) -> Reply:
    headers = response.headers
    return Reply(
        response.status_code, body, retry_after=headers.get("retry-after"), owner=headers.get("bnp-owner")
    )


def _to_learn(model: str, size: int) -> Lines:
    def body(sample: Sample | tuple[Any, Any]) -> dict[str, Any]:
        x, y, id, w = Sample(*sample)
        return calls.learn_body(x, y, model, id, w)

    return Lines(body, size)


def _to_predict(model: str, interval: float | None, size: int) -> Lines:
    return Lines(lambda x: calls.predict_body(x, model, interval=interval), size)


def _blocking(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(exchange(build(*args, **kwargs), self.patience))

    return method


def _awaiting(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    @functools.wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(exchange(build(*args, **kwargs), self.patience))

    return method


class Client(_Settings):
    """Blocking client of the server, safe for use by several threads.

    A call is repeated, with increasing pauses, while the server is unreachable or busy. Repeating is safe:
    every sample has an id, and a request that must not run twice is not repeated. `bnp_online.client.calls`
    documents the arguments of the calls, and `bnp_online.client.errors` the exceptions.

    Parameters
    ----------
    url : str or sequence of str
        URL of the server, of a proxy, or of several nodes of a cluster. A node that does not own a model
        names its owner; while a node is unreachable, the others are tried.
    key : str
        API key, if the server requires one.
    timeout : float
        Seconds to wait for a connection, and for each part of a response.
    patience : float
        Seconds for which a failed call is repeated; 0 for one attempt.
    read_from : {"owner", "replicas"}
        Which nodes of a cluster answer predictions without an id: the owner of the model, or standbys and
        replicas, in turn, which may lag behind. The client asks for the nodes (`cluster`) with a key of the
        scope `read` for all models.
    consistent : bool
        Whether a prediction sees all that this client has learned or has seen of the model before: read your
        own writes. After a rollback by another client, such predictions are refused (`not_there_yet`).
    """

    def _open(self, options: dict[str, Any]) -> None:
        self._http = httpx.Client(**options)

    learn_one = _blocking(calls.learn_one)
    predict_one = _blocking(calls.predict_one)
    explain = _blocking(calls.explain)
    evidence = _blocking(calls.evidence)
    predict_proba_one = _blocking(calls.predict_proba_one)
    label = _blocking(calls.label)
    models = _blocking(calls.models)
    describe = _blocking(calls.describe)
    create = _blocking(calls.create)
    patch = _blocking(calls.patch)
    delete = _blocking(calls.delete)
    metrics = _blocking(calls.metrics)
    fingerprint = _blocking(calls.fingerprint)
    checkpoints = _blocking(calls.checkpoints)
    checkpoint = _blocking(calls.checkpoint)
    rollback = _blocking(calls.rollback)
    forget = _blocking(calls.forget)
    shadows = _blocking(calls.shadows)
    add_shadow = _blocking(calls.add_shadow)
    delete_shadow = _blocking(calls.delete_shadow)
    promote = _blocking(calls.promote)
    upgrade = _blocking(calls.upgrade)
    export = _blocking(calls.export)
    import_ = _blocking(calls.import_)
    cluster = _blocking(calls.cluster)
    ready = _blocking(calls.ready)

    def learn_many(
        self,
        samples: Iterable[Sample | tuple[Any, Any]] | Any,
        *,
        model: str = DEFAULT_MODEL,
        size: int = LINES,
        progress: Callable[[Sequence[Outcome]], None] | None = None,
        target: str = "y",
        id: str = "id",
        weight: str = "w",
    ) -> LearnSummary:
        """Learn samples in order, in successive requests.

        Parameters
        ----------
        samples : iterable of (x, y) or Sample, or data frame
            Samples, in any number: memory holds those of one request. A data frame is of pandas, polars or
            Arrow, or has ``__arrow_c_stream__``. It is sent as Arrow, which needs pyarrow on both sides.
        model : str
            Name of the model.
        size : int
            Largest number of samples in one request, 1 to 1,000; choose a small one for a slow stream.
        progress : callable
            Takes the outcomes of each request: an answer or an error for each sample.
        target, id, weight : str
            Columns of a data frame with the target, the ids and the weights; the latter two may be missing.
            All other columns are features; dates and durations are seconds.

        Returns
        -------
        LearnSummary
            Numbers of learned and refused samples. Learning continues after a refused sample.
        """
        summary, lines = LearnSummary(), _to_learn(model, size)
        if is_frame(samples):
            roles = Roles(target, id, weight)
            for batch in batches(samples, roles, size, labelled=True):
                summary.tell(self._run(learn_table(batch, roles, model, self.patience)), progress)
            return summary
        for sample in samples:
            if lines.add(sample):
                self._learn(lines.take(), model, summary, progress)
        self._learn(lines.take(), model, summary, progress)
        return summary

    def _learn(
        self,
        batch: Batch,
        model: str,
        summary: LearnSummary,
        progress: Callable[[Sequence[Outcome]], None] | None,
    ) -> None:
        summary.tell(self._run(learn_lines(batch, model, self.patience)), progress)

    def predict_many(
        self,
        xs: Iterable[Any] | Any,
        *,
        model: str = DEFAULT_MODEL,
        interval: float | None = None,
        min_step: int | None = None,
        size: int = LINES,
        target: str = "y",
        id: str = "id",
        weight: str = "w",
    ) -> Iterator[Predicted]:
        """Predict samples in order, in successive requests; each is sent when its predictions are needed.

        Parameters
        ----------
        xs : iterable of dict, nested list or array, or data frame
            Features of samples, in any number: memory holds those of one request. See `learn_many`.
        model : str
            Name of the model.
        interval, min_step : float and int
            As for `predict_one`.
        size : int
            Largest number of samples in one request, 1 to 1,000.
        target, id, weight : str
            Columns of a data frame that are no features, if it has them.

        Yields
        ------
        PredictAnswer or ServerError
            The prediction of each sample, or the error of an invalid sample.
        """
        lines = _to_predict(model, interval, size)
        roles = Roles(target, id, weight)
        if is_frame(xs) and interval is not None:
            xs = rows(xs, roles)
        if is_frame(xs):
            for batch in batches(xs, roles, size, labelled=False):
                yield from self._run(predict_table(batch, model, self.patience, min_step))
            return
        for x in xs:
            if lines.add(x):
                yield from self._run(predict_lines(lines.take(), model, self.patience, min_step))
        yield from self._run(predict_lines(lines.take(), model, self.patience, min_step))

    def _run(self, steps: Steps[T]) -> T:
        steps = self._nodes.run(steps)
        reply: Reply | None = None  # the first value that a generator takes; ignored after a pause
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Request):
                    reply = self._send(step)
                else:
                    time.sleep(step)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # the generator returns a T

    def _send(self, request: Request) -> Reply:
        status, body = 0, bytearray()
        try:
            with self._http.stream(
                request.method, request.base + request.path, content=request.content, headers=request.headers
            ) as response:
                status = response.status_code
                for chunk in response.iter_bytes():
                    body += chunk
                return _reply(response, bytes(body))
        except httpx.TransportError as error:
            return self._broken(request, error, status, bytes(body))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


class AsyncClient(_Settings):
    """Client for asyncio, with the parameters and calls of `Client` as coroutines."""

    def _open(self, options: dict[str, Any]) -> None:
        self._http = httpx.AsyncClient(**options)

    learn_one = _awaiting(calls.learn_one)
    predict_one = _awaiting(calls.predict_one)
    explain = _awaiting(calls.explain)
    evidence = _awaiting(calls.evidence)
    predict_proba_one = _awaiting(calls.predict_proba_one)
    label = _awaiting(calls.label)
    models = _awaiting(calls.models)
    describe = _awaiting(calls.describe)
    create = _awaiting(calls.create)
    patch = _awaiting(calls.patch)
    delete = _awaiting(calls.delete)
    metrics = _awaiting(calls.metrics)
    fingerprint = _awaiting(calls.fingerprint)
    checkpoints = _awaiting(calls.checkpoints)
    checkpoint = _awaiting(calls.checkpoint)
    rollback = _awaiting(calls.rollback)
    forget = _awaiting(calls.forget)
    shadows = _awaiting(calls.shadows)
    add_shadow = _awaiting(calls.add_shadow)
    delete_shadow = _awaiting(calls.delete_shadow)
    promote = _awaiting(calls.promote)
    upgrade = _awaiting(calls.upgrade)
    export = _awaiting(calls.export)
    import_ = _awaiting(calls.import_)
    cluster = _awaiting(calls.cluster)
    ready = _awaiting(calls.ready)

    async def learn_many(
        self,
        samples: Iterable[Sample | tuple[Any, Any]] | AsyncIterable[Sample | tuple[Any, Any]] | Any,
        *,
        model: str = DEFAULT_MODEL,
        size: int = LINES,
        progress: Callable[[Sequence[Outcome]], None] | None = None,
        target: str = "y",
        id: str = "id",
        weight: str = "w",
    ) -> LearnSummary:
        """Learn samples in order, from an iterable or asynchronous iterable. See `Client.learn_many`."""
        summary, lines = LearnSummary(), _to_learn(model, size)
        if is_frame(samples):
            roles = Roles(target, id, weight)
            for batch in batches(samples, roles, size, labelled=True):
                summary.tell(await self._run(learn_table(batch, roles, model, self.patience)), progress)
            return summary
        async for sample in samples if isinstance(samples, AsyncIterable) else _aiter(samples):
            if lines.add(sample):
                await self._learn(lines.take(), model, summary, progress)
        await self._learn(lines.take(), model, summary, progress)
        return summary

    async def _learn(
        self,
        batch: Batch,
        model: str,
        summary: LearnSummary,
        progress: Callable[[Sequence[Outcome]], None] | None,
    ) -> None:
        summary.tell(await self._run(learn_lines(batch, model, self.patience)), progress)

    async def predict_many(
        self,
        xs: Iterable[Any] | AsyncIterable[Any] | Any,
        *,
        model: str = DEFAULT_MODEL,
        interval: float | None = None,
        min_step: int | None = None,
        size: int = LINES,
        target: str = "y",
        id: str = "id",
        weight: str = "w",
    ) -> AsyncIterator[Predicted]:
        """Predict samples in order, from an iterable or asynchronous iterable. See `Client.predict_many`."""
        lines = _to_predict(model, interval, size)
        roles = Roles(target, id, weight)
        if is_frame(xs) and interval is not None:
            xs = rows(xs, roles)
        if is_frame(xs):
            for batch in batches(xs, roles, size, labelled=False):
                for outcome in await self._run(predict_table(batch, model, self.patience, min_step)):
                    yield outcome
            return
        async for x in xs if isinstance(xs, AsyncIterable) else _aiter(xs):
            if lines.add(x):
                for outcome in await self._run(predict_lines(lines.take(), model, self.patience, min_step)):
                    yield outcome
        for outcome in await self._run(predict_lines(lines.take(), model, self.patience, min_step)):
            yield outcome

    async def _run(self, steps: Steps[T]) -> T:
        steps = self._nodes.run(steps)
        reply: Reply | None = None  # the first value that a generator takes; ignored after a pause
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, Request):
                    reply = await self._send(step)
                else:
                    await asyncio.sleep(step)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # the generator returns a T

    async def _send(self, request: Request) -> Reply:
        status, body = 0, bytearray()
        try:
            async with self._http.stream(
                request.method, request.base + request.path, content=request.content, headers=request.headers
            ) as response:
                status = response.status_code
                async for chunk in response.aiter_bytes():
                    body += chunk
                return _reply(response, bytes(body))
        except httpx.TransportError as error:
            return self._broken(request, error, status, bytes(body))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.aclose()


async def _aiter(samples: Iterable[T]) -> AsyncIterator[T]:
    for sample in samples:
        yield sample
