"""Clients that send valid and invalid requests, and record the acknowledgements."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx

Json = dict[str, Any]
MODELS = ("default", "numbers")


@dataclass
class Promises:
    """Acknowledgements of the server.

    Attributes
    ----------
    learned : dict
        Acknowledged step and body, by model and id.
    pending : dict
        Bodies of predictions that wait for their label, by id.
    labelled, refused : set
        Ids of labelled predictions, and of refused samples.
    """

    learned: dict[tuple[str, str], tuple[int, Json]] = field(default_factory=dict)
    pending: dict[str, Json] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


Act: TypeAlias = Callable[[httpx.Client, str, random.Random], None]


class Threads:
    """Clients in threads that run until `stop` or until the server is gone.

    Parameters
    ----------
    url : str
        Of the server.
    seed : int
        Seed of the requests.
    run : int
        Part of the ids.
    count : int
        Number of clients.
    pause : float
        Longest pause between two requests of a client, in seconds.
    """

    #: Time within which the server must answer, in seconds.
    timeout = 20.0

    def __init__(self, url: str, seed: int, run: int, count: int, pause: float = 0.0) -> None:
        self._url = url
        self._run = run
        self._pause = pause
        self._stopped = threading.Event()
        self.failures: list[str] = []
        self.threads = [
            threading.Thread(target=self._work, args=(i, random.Random(1000 * seed + i)))  # noqa: S311
            for i in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def acts(self) -> tuple[Act, ...]:
        """Return the requests to choose from."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop, and wait until all have."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Wait until all have stopped: the server has gone."""
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self.failures, self.failures

    def _work(self, number: int, rng: random.Random) -> None:
        acts = self.acts()
        with httpx.Client(base_url=self._url, timeout=self.timeout) as client:
            for n in range(100_000):
                if self._stopped.wait(rng.uniform(0.0, self._pause)):
                    return
                try:
                    rng.choice(acts)(client, f"r{self._run}-c{number}-{n}", rng)
                except httpx.TransportError:
                    return  # the server is gone
                except (AssertionError, KeyError) as error:
                    self.failures.append(repr(error))
                    return


class Clients(Threads):
    """Clients that learn, predict and label, on two models.

    Parameters
    ----------
    promises : Promises
        Record of the acknowledgements.
    url, seed, run, count
        See `Threads`.
    """

    def __init__(self, url: str, promises: Promises, seed: int, run: int, count: int = 6) -> None:
        self._promises = promises
        super().__init__(url, seed, run, count)

    def acts(self) -> tuple[Act, ...]:
        """Return the requests to choose from."""
        return (self._learn, self._learn, self._stream, self._predict, self._label, self._err)

    @staticmethod
    def _sample(rng: random.Random, model: str) -> Json:
        a = rng.gauss(0.0, 1.0)
        x = {"a": a, "b": rng.gauss(0.0, 2.0), "town": rng.choice(("Oslo", "Lund", "Bergen"))}
        return {"x": x, "y": ("cat" if a > 0 else "dog") if model == "default" else 3.0 * a, "model": model}

    def _learn(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = rng.choice(MODELS)
        body = {**self._sample(rng, model), "id": name, "w": rng.choice((0.5, 1.0))}
        answer = client.post("/learn", json=body)
        if answer.status_code == 200:
            self._promises.learned[model, name] = answer.json()["step"], body

    def _stream(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = rng.choice(MODELS)
        bodies = [{**self._sample(rng, model), "id": f"{name}-{i}"} for i in range(rng.randrange(1, 60))]
        content = "\n".join(map(json.dumps, bodies))
        headers = {"content-type": "application/x-ndjson"}
        with client.stream("POST", "/learn", content=content, headers=headers) as answers:
            for body, line in zip(bodies, answers.iter_lines(), strict=False):
                answer = json.loads(line)
                if "step" in answer:
                    self._promises.learned[model, str(body["id"])] = answer["step"], body

    def _predict(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        body = {"x": self._sample(rng, "default")["x"], "id": name}
        answer = client.post("/predict", json=body)
        if answer.status_code == 200:
            self._promises.pending[name] = {**body, "answer": answer.json()}

    def _label(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        try:
            identifier, waiting = self._promises.pending.popitem()
        except KeyError:
            return
        answer = client.post("/label", json={"id": identifier, "y": "cat"})
        assert answer.status_code in (200, 429, 503), answer.text
        if answer.status_code == 200:
            assert answer.json()["prediction"] == waiting["answer"]["prediction"]
            self._promises.labelled.add(identifier)

    def _err(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        bad = rng.choice(({"x": {"a": [1]}, "y": "cat"}, {"x": {"a": 1.0}, "y": 1.5}, {"x": 1, "y": "cat"}))
        answer = client.post("/learn", json={**bad, "id": name})
        assert answer.status_code == 422, answer.text
        self._promises.refused.add(name)
