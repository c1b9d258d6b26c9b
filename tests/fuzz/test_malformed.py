"""Malformed bodies without end: none is answered by a 5xx, and what is refused changes no fingerprint.

What is accepted after all is done to a twin in this process as well: answers and fingerprints must agree.
"""

from __future__ import annotations

import json
import os
import random
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from service.schemas import ModelSpec
from tests.fuzz.mutations import LINES, Request, bodies, small_state
from tests.fuzz.twin import Json, Twin
from tests.support.running import Server, serving

SPEC: Json = {"hidden": [3], "replay": 1, "memory": 10, "max_features": 20}
SPECS: dict[str, Json] = {
    "default": {"task": "classification", "max_classes": 4, **SPEC},
    "numbers": {"task": "regression", **SPEC},
    "spare": {"task": "classification", "max_classes": 4, **SPEC},
}
LIMITS = {
    "max_features": 50,
    "max_classes": 10,
    "max_models": 5,
    "max_body_bytes": 20_000,
    "max_parameters": 50_000,
}
#: After so many bodies the models are made anew, so that their histories stay short.
ROUND = 1000
COUNT = int(os.environ.get("BNP_TEST_BODIES", "100_000"))
SEED = int(os.environ.get("BNP_TEST_SEED", "0"))


class Attack:
    """Sends bodies to a server, and keeps twins of its models."""

    def __init__(self, server: Server, connection: HTTPConnection) -> None:
        self._server = server
        self._connection = connection
        self._state = small_state()
        self.counts: Counter[str] = Counter()

    def round(self, seed: int) -> None:
        """Make models, and send them bodies."""
        self._rng = random.Random(seed)  # noqa: S311 (it must be repeatable)
        for name, spec in SPECS.items():
            self._server.client.delete(f"/models/{name}")
            self._server.create(name=name, **spec)
        self._twins = {name: Twin(SPECS[name]) for name in ("default", "numbers")}
        self._spare = self._server.fingerprint("spare")
        for i in range(ROUND):
            request = bodies(self._rng, self._state)
            try:
                self._one(request)
                if i % 50 == 49:
                    self._compare()
            except BaseException as error:
                error.add_note(f"round {seed}, body {i}: {request._replace(body=request.body[:3000])}")
                raise

    def _compare(self) -> None:
        for name, twin in self._twins.items():
            told = self._server.fingerprint(name)
            assert told["model_sha256"] == twin.estimator.fingerprint()
            assert self._server.get(f"/models/{name}")["pending"] == twin.waiting

    def _one(self, request: Request) -> None:
        status, answer = self._send(request)
        accepted = status < 300
        self.counts[str(status)] += 1
        assert status < 500, answer
        if not accepted:
            assert json.loads(answer)["error"]["message"]
        if request.path.startswith("/models/spare"):
            self._check_spare(accepted)
        elif request.path in ("/learn", "/predict", "/label") and request.kind == LINES:
            if accepted:
                lines = [line for line in request.body.split(b"\n") if line.removeprefix(BOM_UTF8).strip()]
                self._follow_each(request.path, lines, map(json.loads, answer.splitlines()))
        elif accepted:
            body, told = json.loads(request.body.decode("utf-8-sig")), json.loads(answer)
            if isinstance(body, list):
                self._follow_each(request.path, [json.dumps(item).encode() for item in body], told)
            else:
                self._follow(request.path, body, told)

    def _send(self, request: Request) -> tuple[int, bytes]:
        headers = {"content-type": request.kind} if request.kind else {}
        self._connection.request(request.method, request.path, request.body, headers)
        with self._connection.getresponse() as response:
            return response.status, response.read()

    def _check_spare(self, accepted: bool) -> None:
        now = self._server.fingerprint("spare")
        assert accepted or now == self._spare
        self._spare = now

    def _follow_each(self, path: str, bodies: list[bytes], answers: Iterable[Json]) -> None:
        """Let a twin do what was accepted of lines or of the items of an array."""
        for body, answer in zip(bodies, answers, strict=True):
            if "error" in answer:
                self.counts["lines refused"] += 1
            else:
                self._follow(path, json.loads(body.decode("utf-8-sig")), answer)

    def _follow(self, path: str, body: Json, told: Json) -> None:
        """Let a twin do what was accepted."""
        if path == "/models":
            assert self._server.client.delete(f"/models/{told['name']}").status_code == 204
            return
        expected = self._expected(path, body)
        assert {key: told[key] for key in expected} == expected

    def _expected(self, path: str, body: Json) -> Json:
        if path.startswith("/models/"):
            _, _, name, action = path.split("/")
            twin = self._twins[name]
            if action == "forget":
                while self._server.get(f"/models/{name}")["state"] == "rebuilding":
                    pass
                return twin.forget(body["ids"])
            if body.get("checkpoint") is not None:
                return twin.roll_back_to_checkpoint(body["checkpoint"])
            return twin.roll_back_to_step(int(body["step"]))
        twin = self._twins[body.pop("model", None) or "default"]
        acts: dict[str, Callable[..., Json]] = {
            "/learn": twin.learn,
            "/predict": twin.predict,
            "/label": twin.label,
        }
        return acts[path](**body)


def attack(folder: Path, rounds: range) -> Counter[str]:
    """Send rounds of bodies to a server; return how many were answered how."""
    default = ModelSpec.model_validate_json(json.dumps(SPECS["default"]))
    with (
        serving(folder, default_model=default, **LIMITS) as server,
        closing(HTTPConnection(server.host, server.port, timeout=60)) as connection,
    ):
        attacker = Attack(server, connection)
        for seed in rounds:
            attacker.round(seed)
        assert server.get("/health/ready") == {"status": "ready"}
        assert 'status="5' not in server.client.get("/metrics").text
    return attacker.counts


def test_a_thousand_malformed_bodies(tmp_path: Path) -> None:
    counts = attack(tmp_path, range(1))
    assert {"200", "201", "202", "400", "404", "409", "413", "415", "422", "lines refused"} <= counts.keys()


@pytest.mark.fuzz
@pytest.mark.timeout(300 + COUNT // 20)
def test_a_hundred_thousand_malformed_bodies(tmp_path: Path) -> None:
    counts = attack(tmp_path, range(SEED, SEED + COUNT // ROUND))
    print(dict(sorted(counts.items())))
