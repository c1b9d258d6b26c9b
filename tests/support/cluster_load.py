"""Clients of a cluster: they learn at the owners, predict at any node, and record each acknowledgement."""

from __future__ import annotations

import bisect
import contextlib
import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

#: Statuses and error codes with which any request may be refused: the client tries again.
RETRYABLE = {
    (421, "wrong_node"),
    (503, "not_ready"),
    (503, "not_there_yet"),
    (503, "too_stale"),
    (503, "outcome_unknown"),
    (503, "storage_failed"),
    (503, "shutting_down"),
    (503, "not_owner"),
    (503, ""),  # of HAProxy: no node is the owner now
    (502, ""),  # of HAProxy: the node was killed before it answered
    (504, ""),
    (429, "queue_full"),
}
#: Seconds between two attempts of a client.
_PAUSE = 0.02
#: Seconds after which a client asks another node.
_PATIENCE = 5.0


@dataclass
class Record:
    """What the cluster acknowledged.

    Attributes
    ----------
    learned : dict
        Step that was answered for each sample with an id, by model and id.
    tokens : set
        Acknowledged samples without an id, as model and token: a value that no other sample has.
    holders : dict
        Sample whose acknowledgement named a step, by model and step.
    refusals : Counter
        Refusals, by status and code.
    problems : list of str
        Answers that no client may get.
    acknowledged : list of float
        Times of all acknowledgements.
    predictions : int
        Number of predictions.
    allowed : set
        Statuses and codes of refusals that are no problem.
    """

    learned: dict[tuple[str, str], int] = field(default_factory=dict)
    tokens: set[tuple[str, int]] = field(default_factory=set)
    holders: dict[tuple[str, int], str] = field(default_factory=dict)
    refusals: Counter[tuple[int, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    predictions: int = 0
    allowed: set[tuple[int, str]] = field(default_factory=lambda: {*RETRYABLE})
    _steps: dict[str, tuple[list[float], list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, model: str, sample: str, token: int | None, answer: Json) -> None:
        """Record the acknowledgement of a sample, now."""
        with self.lock:
            now, step = time.monotonic(), int(answer["step"])
            self.acknowledged.append(now)
            if token is None:
                if self.learned.setdefault((model, sample), step) != step:
                    self.problems.append(f"{model}: {sample} was answered with two steps")
            else:
                self.tokens.add((model, token))
            if (other := self.holders.setdefault((model, step), sample)) != sample:
                self.problems.append(f"{model}: step {step} was answered for {other} and for {sample}")
            times, steps = self._steps[model]
            times.append(now)
            steps.append(max(step, steps[-1] if steps else 0))

    def step_at(self, model: str, moment: float) -> int:
        """Return the largest step that was acknowledged before a moment."""
        with self.lock:
            times, steps = self._steps[model]
            count = bisect.bisect_left(times, moment)
            return steps[count - 1] if count else 0

    def gap(self, since: float, model: str | None = None) -> float:
        """Return the longest time between two acknowledgements, in seconds, from a moment until now."""
        with self.lock:
            all_ = self.acknowledged if model is None else self._steps[model][0]
            times = [since, *(each for each in all_ if each > since), time.monotonic()]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


class Router:
    """Connections of one client to the nodes: it finds the node that answers.

    Parameters
    ----------
    urls : sequence of str
        Addresses of the nodes, or of a proxy.
    record : Record
        Takes the refusals.
    """

    def __init__(self, urls: Sequence[str], record: Record) -> None:
        self.urls = urls
        self._record = record
        self._at: dict[str, str] = {}
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def post(self, url: str, path: str, body: Json) -> tuple[int, Json, Any]:
        """Return status, body and headers of one answer."""
        connection = self._connections.get(url)
        if connection is None:
            parts = urlsplit(url)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)
            self._connections[url] = connection
        answer = None
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except BaseException:
            self._connections.pop(url).close()
            if answer is not None:
                answer.close()
            raise
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = {}
        return answer.status, parsed, answer.headers

    def attempt(self, model: str, path: str, body: Json, url: str | None = None) -> tuple[Json, Any] | None:
        """Return body and headers of a success; None if another attempt is due."""
        target = url or self._at.get(model) or self.urls[0]
        try:
            status, answer, headers = self.post(target, path, body)
        except (OSError, http.client.HTTPException):
            self._next(model, target)
            return None
        if status == 200:
            self._at[model] = target
            return answer, headers
        code = answer.get("error", {}).get("code", "") if isinstance(answer, dict) else ""
        with self._record.lock:
            self._record.refusals[status, code] += 1
            if (status, code) not in self._record.allowed:
                self._record.problems.append(f"{path} of {model} at {target}: {status} {answer}")
        owner = headers.get("BNP-Owner")
        if url is None and owner in self.urls and owner != target:
            self._at[model] = owner
        elif url is None and status != 429:
            self._next(model, target)
        return None

    def _next(self, model: str, target: str) -> None:
        place = self.urls.index(target) if target in self.urls else -1
        self._at[model] = self.urls[(place + 1) % len(self.urls)]

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()


class Traffic:
    """Threads of clients that learn and predict until `stop`.

    Parameters
    ----------
    urls : sequence of str
        Addresses of the nodes, or of a proxy, for learning.
    models : sequence of str
        Models that exist.
    reads : sequence of str
        Addresses of nodes for predictions.
    learners, readers : int
        Number of threads.
    pause : float
        Seconds between two samples of a thread.
    rewinding : sequence of str
        Models that are rolled back or unlearn: their steps are not compared.
    """

    def __init__(
        self,
        urls: Sequence[str],
        models: Sequence[str],
        *,
        reads: Sequence[str] = (),
        learners: int = 4,
        readers: int = 1,
        pause: float = 0.004,
        rewinding: Sequence[str] = (),
    ) -> None:
        self.record = Record()
        self._urls, self._models, self._reads = urls, models, reads
        self._rewinding = {*rewinding}
        self._pause = pause
        self._stopped = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._run, args=(self._learn, i)) for i in range(learners)),
            *(
                threading.Thread(target=self._run, args=(self._predict, i))
                for i in range(readers if reads else 0)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, work: Any, number: int) -> None:
        router = Router(self._urls, self.record)
        try:
            work(router, number, random.Random(number))  # noqa: S311
        except Exception as error:  # noqa: BLE001 (a thread: the test must learn of it)
            self.record.problems.append(f"a client failed: {error!r}")
        finally:
            router.close()

    def _learn(self, router: Router, number: int, rng: random.Random) -> None:
        count = 0
        while not self._stopped.wait(self._pause):
            count += 1
            model = rng.choice(self._models)
            token = number * 1_000_000 + count
            x: Json = {"a": rng.randrange(7), "b": rng.randrange(3), "n": token / 2**40}
            body: Json = {"x": x, "y": rng.randrange(2), "model": model}
            path = f"/models/{model}/learn"
            del body["model"]
            if (
                count % 5 == 0
            ):  # without an id: it is sent once, since it may be learned though no answer comes
                if (answer := router.attempt(model, path, body)) is not None:
                    self._acknowledge(model, f"token {token}", token, answer[0])
                continue
            body["id"] = f"c{number}-{count}"
            tries = time.monotonic() + 90.0
            while (answer := router.attempt(model, path, body)) is None:
                if time.monotonic() > tries:
                    raise TimeoutError(f"no node learned {body['id']} of {model}: {self.record.refusals}")
                if self._stopped.wait(_PAUSE) and time.monotonic() > tries - 60.0:
                    return
            self._acknowledge(model, body["id"], None, answer[0])

    def _acknowledge(self, model: str, sample: str, token: int | None, answer: Json) -> None:
        if model in self._rewinding:
            answer = {**answer, "step": -1 - len(self.record.acknowledged)}
            with self.record.lock:
                self.record.acknowledged.append(time.monotonic())
                if token is None:
                    self.record.learned[model, sample] = 0
                else:
                    self.record.tokens.add((model, token))
        else:
            self.record.learn(model, sample, token, answer)

    def _predict(self, router: Router, number: int, rng: random.Random) -> None:
        while not self._stopped.wait(self._pause):
            model, url = rng.choice(self._models), rng.choice(self._reads)
            began = time.monotonic()
            found = router.attempt(model, f"/models/{model}/predict", {"x": {"a": 1, "b": 2}}, url)
            if found is None or model in self._rewinding:
                continue
            answer, headers = found
            self.record.predictions += 1
            staleness = float(headers.get("BNP-Staleness-Ms", 0.0)) / 1000
            least = self.record.step_at(model, began - staleness)
            if answer["step"] < least:
                self.record.problems.append(
                    f"{url} predicted {model} at step {answer['step']}, stale by {staleness:.3f} s; "
                    f"step {least} was acknowledged before"
                )

    def stop(self) -> Record:
        """Stop the clients, and return their record."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()
        return self.record


@contextlib.contextmanager
def traffic(*arguments: Any, **options: Any) -> Iterator[Traffic]:
    """Yield clients that are stopped in the end."""
    clients = Traffic(*arguments, **options)
    try:
        yield clients
    finally:
        clients.stop()
