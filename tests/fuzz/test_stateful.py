"""Any sequence of requests, restarts and kills: the server does what a model of it in a few lines does.

After every step the two agree in all that the server tells of its models; a model's fingerprint is that of an
estimator in this process that learned the samples that count.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.schemas import ModelSpec
from tests.fuzz.twin import Json, RefusedError, Twin, attempt
from tests.support.running import Server, error, killed_copy, serving

SMALL = {"replay": 1, "memory": 10}
SPECS: list[Json] = [
    {"task": "classification", "hidden": [3], **SMALL},
    {"task": "classification", "hidden": [], **SMALL},
    {"task": "regression", "hidden": [3], **SMALL},
]
# Few names and values, so that they meet again; the last name is never that of a model.
NAMES = st.sampled_from(["default", "default", "other", "third", "nobody"])
IDS = st.sampled_from([f"e{i}" for i in range(5)])
XS = st.sampled_from([{}, {"a": 1.0}, {"a": -2.5, "b": 3}, {"b": None, "c": "red"}, {"c": "blue", "d": True}])
YS = st.sampled_from(["p", "q", "p", "q", "r", 2, 0.5, -1.5])
SAMPLES = st.fixed_dictionaries({"x": XS, "y": YS}, optional={"id": IDS, "w": st.sampled_from([0.5, 0.0])})
#: What no model takes: the way, the body, the status and the code.
BAD: list[tuple[str, bytes, int, str]] = [
    ("/learn", b'{"x": {"a": 1}, "y": "p"', 400, "invalid_json"),
    ("/learn", b'{"x": {"a": 1, "a": 2}, "y": "p"}', 400, "duplicate_key"),
    ("/learn", b'{"x": {"a": 1e999}, "y": "p"}', 422, "non_finite_feature"),
    ("/learn", b'{"x": {"a": [1]}, "y": "p"}', 422, "invalid_feature"),
    ("/learn", b'{"x": {"a": 1}, "y": "p", "w": "1"}', 422, "invalid_type"),
    ("/learn", b'{"x": {"a": 1}}', 422, "missing_field"),
    ("/predict", b'{"x": {"a": 1}, "y": 1}', 422, "unknown_field"),
    ("/predict", b'{"x": {"a": 1}, "id": ""}', 422, "invalid_id"),
    ("/label", b'{"id": "never", "y": 1}', 404, "unknown_id"),
    ("/models", b'{"name": "bad", "hidden": [0]}', 422, "invalid_spec"),
    ("/models/default/rollback", b"{}", 422, "invalid_spec"),
]


class ServerMachine(RuleBasedStateMachine):
    """A server, and a twin of each of its models."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.running = self.stack.enter_context(ExitStack())
        self.starts = 0

    @initialize(spec=st.sampled_from(SPECS))
    def begin(self, spec: Json) -> None:
        self.default = ModelSpec.model_validate_json(json.dumps(spec))
        self.serve()
        self.models = {"default": Twin(spec)}

    def serve(self) -> None:
        # No checkpoints but those that a test asks for: nothing happens behind the answers.
        limits = {"max_models": 2, "checkpoint_every": 10**6, "keep_checkpoints": 1000}
        folder = self.root / str(self.starts)
        self.server: Server = self.running.enter_context(
            serving(folder, default_model=self.default, **limits)
        )

    def teardown(self) -> None:
        self.stack.close()

    def twin(self, name: str) -> Twin:
        if name not in self.models:
            raise RefusedError(404, "unknown_model")
        return self.models[name]

    def agree(self, answer: httpx.Response, expect: Callable[[], Any], status: int = 200) -> None:
        """Check that the server has answered what its twin does now."""
        expected = attempt(expect)
        if isinstance(expected, RefusedError):
            assert error(answer)[:2] == expected.answer
            return
        assert answer.status_code == status, answer.text
        if expected is not None:
            told = answer.json()
            assert {key: told[key] for key in expected} == expected

    @rule(name=NAMES, sample=SAMPLES)
    def learn(self, name: str, sample: Json) -> None:
        answer = self.server.post("/learn", **sample, model=name)
        self.agree(answer, lambda: self.twin(name).learn(**sample))

    @rule(name=NAMES, samples=st.lists(SAMPLES, min_size=1, max_size=6))
    def learn_lines(self, name: str, samples: list[Json]) -> None:
        body = "".join(json.dumps({**sample, "model": name}) + "\n" for sample in samples)
        headers = {"content-type": "application/x-ndjson"}
        answer = self.server.client.post("/learn", content=body, headers=headers)
        assert answer.status_code == 200
        for line, sample in zip(answer.text.splitlines(), samples, strict=True):
            told, expected = json.loads(line), attempt(partial(lambda s: self.twin(name).learn(**s), sample))
            if isinstance(expected, RefusedError):
                assert told["error"]["code"] == expected.answer[1]
            else:
                assert {key: told[key] for key in expected} == expected

    @rule(name=NAMES, x=XS, identifier=st.none() | IDS)
    def predict(self, name: str, x: Json, identifier: str | None) -> None:
        answer = self.server.post("/predict", x=x, id=identifier, model=name)
        self.agree(answer, lambda: self.twin(name).predict(x, identifier))

    @rule(name=NAMES, identifier=IDS, y=YS)
    def label(self, name: str, identifier: str, y: Any) -> None:
        answer = self.server.post("/label", id=identifier, y=y, model=name)
        self.agree(answer, lambda: self.twin(name).label(identifier, y))

    @rule(name=NAMES)
    def take_checkpoint(self, name: str) -> None:
        answer = self.server.client.post(f"/models/{name}/checkpoints")
        self.agree(answer, lambda: self.twin(name).checkpoint(answer.json()["checkpoint"]), 201)

    @rule(name=NAMES, back=st.integers(-1, 6))
    def roll_back_steps(self, name: str, back: int) -> None:
        step = max(self.models[name].estimator.step - back, 0) if name in self.models else 0
        answer = self.server.post(f"/models/{name}/rollback", step=step)
        self.agree(answer, lambda: self.twin(name).roll_back_to_step(step))

    @precondition(lambda self: any(twin.checkpoints for twin in self.models.values()))
    @rule(data=st.data())
    def roll_back_to_checkpoint(self, data: st.DataObject) -> None:
        there = [(name, it) for name, twin in self.models.items() for it in twin.checkpoints]
        name, checkpoint = data.draw(st.sampled_from([*there, ("default", "step7-branch0-event9-head9")]))
        answer = self.server.post(f"/models/{name}/rollback", checkpoint=checkpoint)
        self.agree(answer, lambda: self.twin(name).roll_back_to_checkpoint(checkpoint))

    @rule(name=NAMES, ids=st.lists(IDS, min_size=1, max_size=2, unique=True))
    def forget(self, name: str, ids: list[str]) -> None:
        answer = self.server.post(f"/models/{name}/forget", ids=ids)
        self.agree(answer, lambda: self.twin(name).forget(ids), 202)
        while name in self.models and self.server.get(f"/models/{name}")["state"] == "rebuilding":
            pass

    @rule(name=NAMES.filter(lambda name: name != "nobody"), spec=st.sampled_from(SPECS))
    def create(self, name: str, spec: Json) -> None:
        self.agree(self.server.post("/models", name=name, **spec), lambda: self.created(name, spec), 201)

    def created(self, name: str, spec: Json) -> None:
        if name in self.models:
            raise RefusedError(409, "model_exists")
        if len(self.models) == 2:
            raise RefusedError(409, "too_many_models")
        self.models[name] = Twin(spec)

    @rule(name=NAMES, really=st.sampled_from([True, False, False]))
    def delete(self, name: str, really: bool) -> None:
        name = name if really else "nobody"
        self.agree(self.server.client.delete(f"/models/{name}"), lambda: self.deleted(name), 204)

    def deleted(self, name: str) -> None:
        self.twin(name)
        del self.models[name]

    @precondition(lambda self: "default" in self.models)
    @rule(bad=st.sampled_from(BAD))
    def err(self, bad: tuple[str, bytes, int, str]) -> None:
        path, body, *expected = bad
        headers = {"content-type": "application/json"}
        assert error(self.server.client.post(path, content=body, headers=headers))[:2] == tuple(expected)

    @rule()
    def restart(self) -> None:
        self.running.close()
        self.serve()

    @rule()
    def kill(self) -> None:
        """Go on with the folder as a kill at this moment leaves it."""
        before, self.starts = self.root / str(self.starts), self.starts + 1
        killed_copy(before, self.root / str(self.starts))
        self.running.close()
        self.serve()

    @invariant()
    def they_agree(self) -> None:
        listed = {model["name"]: model["step"] for model in self.server.get("/models")["models"]}
        assert listed == {name: twin.estimator.step for name, twin in self.models.items()}
        for name, twin in self.models.items():
            told = self.server.get(f"/models/{name}")
            assert told["state"] == "ready"
            assert told["features"] == list(twin.estimator.feature_names)
            assert told["classes"] == list(getattr(twin.estimator, "labels", []))
            assert told["pending"] == twin.waiting
            assert self.server.fingerprint(name)["model_sha256"] == twin.estimator.fingerprint()


def test_the_server_does_what_a_model_of_it_does() -> None:
    """A few sequences, the same in every run."""
    run_state_machine_as_test(ServerMachine, settings=settings(max_examples=15, stateful_step_count=30))


#: How many sequences the long run takes: others in every run of `make fuzz`, the same ones without a time.
EXAMPLES = int(os.environ.get("BNP_TEST_EXAMPLES", "200"))
RANDOM = os.environ.get("BNP_TEST_FUZZ_SECONDS", "0") != "0"


@pytest.mark.fuzz
@pytest.mark.timeout(300 + 20 * EXAMPLES)
def test_it_does_so_in_many_long_sequences() -> None:
    effort = settings(max_examples=EXAMPLES, stateful_step_count=80, derandomize=not RANDOM)
    run_state_machine_as_test(ServerMachine, settings=effort)
