"""The lane for samples: requests to learn whose heads were served before, from the socket to the model.

A head (request line and headers) enters the lane after a request with it was parsed, passed the guard and
was answered with success. A later request with the same bytes as head would give the same route, headers and
key. Only the key may have changed, and is checked again.

The samples of one pass of the event loop for one model are queued together: as blocks where they fit the
templates of the model, else as they are. A request that is refused is declined: the ordinary path, which gets
the same bytes, answers it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.datastructures import State
from starlette.types import Scope

from ..auth.keys import Key
from ..blocks import Block, LineReader, model_of
from ..errors import REFUSALS
from ..http.lane import DATA, Connection, LaneRequest
from ..http.requests import HEADERS as REQUEST_HEADERS
from ..http.requests import Shape, read_fields
from ..http.responses import encode, error_response
from ..models.queue import Outcomes
from ..models.validation import Learn
from ..models.worker import Worker
from ..schemas import DEFAULT_MODEL
from ..telemetry.logs import REQUEST_ID
from ..telemetry.middleware import HEADERS

#: Heads that are known, and the longest one in bytes.
_HEADS, _LONGEST = 4096, 1024
#: Headers of requests that take the ordinary path: their values differ from request to request, or change
#: the response or the body.
_UNUSUAL = frozenset(
    (b"x-request-id", b"origin", b"content-encoding", b"transfer-encoding", b"expect", b"upgrade")
)
#: Parts of a model on their way. Further samples wait, and become a larger block.
_FLYING = 1
#: Samples that are read in one pass of the event loop.
_MOST = 64

_COMMON = b"x-request-id: %b\r\n" + b"".join(b"%b: %b\r\n" % header for header in HEADERS)
_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\n" + _COMMON


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A head that was served.

    Attributes
    ----------
    length, size : int
        Length in bytes: of the head, and of the request.
    path : str
        Path of the route.
    status : int
        Status of an answer.
    shape : Shape
        Shape of the body.
    model : str or None
        Name of the model in the path or a header.
    caller : Key
        Key of the request.
    keys : tuple of Key
        Keys of the server then.
    """

    length: int
    size: int
    path: str
    status: int
    shape: Shape
    model: str | None
    caller: Key
    keys: tuple[Key, ...]


class SampleRequest(LaneRequest):
    """A request with a sample, in the lane; it is settled once its sample is queued, or it is declined."""

    __slots__ = ("body", "known", "settled", "start")

    def __init__(self, connection: Connection, data: bytes, known: Known, body: bytes, start: float) -> None:
        super().__init__(connection, data)
        self.known = known
        self.body = body
        self.start = start
        self.settled = False


@dataclass(slots=True, eq=False)
class _Model:
    """Requests of a model that wait, and the number of parts on their way."""

    worker: Worker
    waiting: list[SampleRequest] = field(default_factory=list)
    flying: int = 0
    scheduled: bool = False


class SampleLane:
    """Lane of a server.

    Parameters
    ----------
    state : State
        State of the application.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._heads: dict[bytes, Known] = {}
        self._models: dict[Worker, _Model] = {}
        self._context = Context()  # that of no request

    def note(self, scope: Scope, raw: bytes, path: str, status: int, shape: Shape, model: str | None) -> None:
        """Let later requests with the head of a request that was answered with success take the lane."""
        data: bytes = scope.get(DATA, b"")
        headers: Mapping[bytes, bytes] = scope[REQUEST_HEADERS]
        size = len(data) - len(raw)
        if (
            0 < size <= _LONGEST
            and data.startswith(b"POST /")
            and data.endswith(raw)
            and data.find(b"\r\n\r\n") == size - 4
            and headers.get(b"content-length") == b"%d" % len(raw)
            and not headers.keys() & _UNUSUAL
        ):
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            keys = self._state.keyring.keys
            self._heads[data[:size]] = Known(
                size, len(data), path, status, shape, model, scope["caller"], keys
            )

    def find(self, data: bytes) -> Known | None:
        """Return the head of a request from its first bytes, None if it is not known."""
        return self._heads.get(data[: data.find(b"\r\n\r\n", 0, _LONGEST) + 4])

    def take(self, connection: Connection, data: bytes, head: Known, start: float) -> LaneRequest | None:
        """Take a request, or return None."""
        if head.keys is not self._state.keyring.keys or head.caller.expired:
            return None
        body = data[head.length :]
        worker = self._worker(head, model_of(body))
        bodies = self._state.bodies
        if worker is None or bodies.taken >= bodies.limit:
            return None
        try:
            worker.reserve()
        except REFUSALS:
            return None
        bodies.taken += len(body)
        request = SampleRequest(connection, data, head, body, start)
        model = self._models.get(worker)
        if model is None:
            model = self._models[worker] = _Model(worker)
        model.waiting.append(request)
        if not model.scheduled and model.flying < _FLYING:
            self._schedule(model)
        return request

    def _worker(self, known: Known, named: str | None) -> Worker | None:
        """Return the worker of a model in memory that the key covers, None if there is none."""
        name = known.model
        if name is None:
            name = named
        elif named not in (None, name):
            return None
        if not known.caller.covers(DEFAULT_MODEL if name is None else name):
            return None
        try:
            worker: Worker = self._state.models.get(name)
        except REFUSALS:
            return None
        return worker

    def _schedule(self, model: _Model) -> None:
        model.scheduled = True
        asyncio.get_running_loop().call_soon(self._read, model, context=self._context)

    def _read(self, model: _Model) -> None:
        """Read the requests of a model that wait, and queue their samples."""
        most = min(_MOST, self._state.settings.group_size)
        requests, model.waiting = model.waiting[:most], model.waiting[most:]
        model.scheduled = False
        try:
            for some, samples in self._samples(model.worker, requests):
                self._queue(model, some, samples)
        finally:  # after an unexpected error, the ordinary path answers
            if left := [each for each in requests if not each.settled]:
                self._decline(model.worker, left)
        if model.waiting and model.flying < _FLYING:
            self._schedule(model)
        self._forget(model)

    def _samples(
        self, worker: Worker, requests: Sequence[SampleRequest]
    ) -> Iterator[tuple[Sequence[SampleRequest], Block | list[Learn]]]:
        """Return the samples of requests that are queued together; decline the requests that have none."""
        learner, reader = worker.model.estimator, self._state.line_reader
        lines = [b"" if b"\n" in each.body else each.body for each in requests]
        source = reader.open(worker, lines) if len(lines) > 1 else None
        together: list[SampleRequest] = []
        samples: list[Learn] = []
        i = 0
        while i < len(requests):
            block = None if source is None else source.read(learner, i)
            if block is not None:
                if together:
                    yield together, samples
                    together, samples = [], []
                yield requests[i : i + len(block)], block
                i += len(block)
                continue
            request = requests[i]
            sample = self._decode(worker, request)
            if sample is not None:
                together.append(request)
                samples.append(sample)
                if source is not None or not reader.knows(worker):
                    _note(reader, worker, sample)
            i += 1
        if together:
            yield together, samples

    def _decode(self, worker: Worker, request: SampleRequest) -> Learn | None:
        """Return the sample of a request; decline the request if it has none."""
        raw, known = request.body, request.known
        try:
            fields = read_fields(raw, known.shape, self._state.settings)
            if self._worker(known, fields.get("model")) is worker:
                weight = fields.get("w")
                return Learn(
                    fields["x"], fields["y"], 1.0 if weight is None else weight, fields.get("id"), raw
                )
        except REFUSALS:
            pass
        self._decline(worker, [request])
        return None

    def _decline(self, worker: Worker, requests: Sequence[SampleRequest]) -> None:
        worker.release(len(requests))
        self._free(requests)
        for request in requests:
            request.settled = True
            request.connection.decline(request)

    def _free(self, requests: Sequence[SampleRequest]) -> None:
        self._state.bodies.free(sum(len(request.body) for request in requests))

    def _queue(self, model: _Model, requests: Sequence[SampleRequest], samples: Block | list[Learn]) -> None:
        try:
            outcomes = model.worker.queue_reserved(samples)
        except REFUSALS:
            self._decline(model.worker, requests)
            return
        for request in requests:
            request.settled = True
        model.flying += 1
        outcomes.add_done_callback(partial(self._answer, model, requests), context=self._context)

    def _answer(self, model: _Model, requests: Sequence[SampleRequest], outcomes: Outcomes) -> None:
        """Answer requests."""
        model.flying -= 1
        self._free(requests)
        for request, outcome in zip(requests, outcomes.result(), strict=True):
            self._respond(request, outcome)
        if model.waiting and not model.scheduled:
            self._schedule(model)
        self._forget(model)

    def _forget(self, model: _Model) -> None:
        if not (model.waiting or model.flying):
            self._models.pop(model.worker, None)

    def _respond(self, request: SampleRequest, outcome: Any) -> None:
        known, identifier = request.known, self._state.requests.identify()
        status = known.status
        if isinstance(outcome, Exception):
            response = error_response({"path": known.path}, outcome)
            status, body = response.status_code, bytes(response.body)
            head = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers) + _COMMON % identifier
        else:
            body = outcome[:-1] if type(outcome) is bytes else encode(outcome)
            head = _HEAD % (len(body), identifier)
        request.connection.respond(request, status, head, body)
        REQUEST_ID.set(identifier.decode())
        seconds = time.perf_counter() - request.start
        self._state.requests.report(known.path, "POST", status, seconds, known.caller.name)


def _note(reader: LineReader, worker: Worker, sample: Learn) -> None:
    """Take a template from a sample that was read otherwise."""
    if sample.raw is not None:
        fields = {"x": sample.x, "y": sample.y, "w": sample.w, "id": sample.id, "model": worker.model.name}
        reader.note(worker, worker.model.estimator, sample.raw, fields)
