"""Clients and administrators of many models, and a record of all that the server acknowledged."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx
import numpy as np

from tests.support.load import Act, Threads

Json = dict[str, Any]
Sample: TypeAlias = tuple[str, str]
"""Name of the model and id of the sample."""

TOKEN = re.compile(rb"i[0-9a-f]{16}z")
#: Most models at a time. Names are not used again.
MODELS = 6
WORDS = [f"word{i}" for i in range(50)]
#: Codes with which any request may be refused while the server ends or a model is busy.
_BUSY = ("queue_full", "shutting_down", "not_ready")
_FULL = ("storage_full",)


@dataclass
class Record:
    """What was sent, and what the server acknowledged or refused. Names of models are unique.

    Attributes
    ----------
    sent : dict
        Token of each sample that was sent, with its model. The id and some feature names contain it.
    numbers : dict
        Text of a number in each sample, with the token.
    learned : dict
        Acknowledged samples, with their bodies.
    predicted : dict
        Acknowledged predictions without a known label, with their answers.
    refused : set
        Samples that the server refused.
    forgetting, forgotten : set
        Samples whose unlearning was requested, and was acknowledged.
    created, deleting, deleted : set
        Names of the models whose creation was acknowledged, whose deletion was requested and may have been
        done, and whose deletion was acknowledged.
    absent : set
        Names of the models whose creation was refused.
    imported : set
        Tokens in imported files: features and samples of a state that another model takes over.
    full : bool
        Whether the disk was full since the latest start.
    counts : Counter
        Acknowledgements by kind.
    problems : list of str
        Answers that no request may get.
    """

    sent: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    learned: dict[Sample, Json] = field(default_factory=dict)
    predicted: dict[Sample, Json] = field(default_factory=dict)
    refused: set[Sample] = field(default_factory=set)
    forgetting: set[Sample] = field(default_factory=set)
    forgotten: set[Sample] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    full: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def models(self) -> list[str]:
        """Return the models that must exist."""
        with self.lock:
            return sorted(self.created - self.deleting)

    def took(self, answer: httpx.Response, what: str, *codes: str) -> bool:
        """Return whether a request succeeded; an answer with another error code is a problem."""
        if answer.is_success:
            self.counts[what] += 1
            return True
        return self.refuses(answer.text, what, answer.status_code, *codes)

    def refuses(self, text: str, what: str, status: int, *codes: str) -> bool:
        """Check the error code of an answer; return False."""
        try:
            code = json.loads(text)["error"]["code"]
        except ValueError:
            code = ""
        if code not in (*codes, *_BUSY, *(_FULL if self.full else ())) or status in (500, 502, 504):
            with self.lock:
                self.problems.append(f"{what}: {status} {text[:300]}")
        return False

    def imports(self, file: bytes) -> None:
        """Record what a file contains that is to be imported."""
        with self.lock:
            numbers = list(self.numbers)
            found = are_in(file, np.array(numbers, np.float64))
            self.imported |= {self.numbers[numbers[i]] for i in np.flatnonzero(found)}
        self.imported |= {token.decode() for token in TOKEN.findall(file)}

    def forget_models(self, live: set[str]) -> None:
        """Drop what concerns models that do not exist any more."""
        for samples in (self.learned, self.predicted):
            for sample in [each for each in samples if each[0] not in live]:
                del samples[sample]
        for group in (self.refused, self.forgetting):
            group -= {each for each in group if each[0] not in live}


def has_text(model: str) -> bool:
    """Return whether a model reads texts, lists and counts of words."""
    return model[1:2] == "t"


def are_in(data: bytes, numbers: np.ndarray) -> np.ndarray:
    """Return which numbers are in some bytes, in binary form."""
    found = np.zeros(len(numbers), bool)
    for start in range(8):
        found |= np.isin(numbers, np.frombuffer(data[start : len(data) - (len(data) - start) % 8], "<f8"))
    return found


class _Load(Threads):
    """Threads that share a record."""

    def __init__(self, url: str, record: Record, seed: int, run: int, count: int, pause: float) -> None:
        self._record = record
        super().__init__(url, seed, run, count, pause)

    def _model(self, rng: random.Random) -> str:
        return rng.choice(self._record.models() or ["default"])

    def _gone(self, model: str) -> tuple[str, ...]:
        """Return the code of a request to a model that may have been deleted."""
        return ("unknown_model",) if model in self._record.deleting else ()


class Learners(_Load):
    """Clients that learn, stream, predict, label, repeat requests, send invalid ones and give up early."""

    def acts(self) -> tuple[Act, ...]:
        """Return the requests to choose from."""
        often = (
            self._learn,
            self._learn,
            self._learn,
            self._stream,
            self._stream,
            self._predict,
            self._label,
        )
        return (*often, self._repeat, self._give_up, self._err, self._look)

    def _sample(self, model: str, rng: random.Random) -> Json:
        token, number = f"i{rng.getrandbits(64):016x}z", 0.1 + 0.9 * rng.random()
        a = rng.gauss(0.0, 1.0)
        x: Json = {
            "a": a,
            "b": rng.gauss(0.0, 2.0),
            "n": number,
            "town": rng.choice(("Oslo", "Lund", "Bergen")),
        }
        x["user"] = f"u{rng.randrange(60)}"  # more values than columns
        if rng.random() < 0.02:
            x[f"f-{token}"] = 1.0
        if has_text(model):
            x["note"] = " ".join([*rng.choices(WORDS, k=3), token, rng.choice(WORDS)])
            x["tags"] = rng.sample(WORDS, rng.randrange(3))
            x[f"w:{rng.choice(WORDS)}"] = rng.randrange(1, 4)
            if rng.random() < 0.2:
                x["from"] = x["w:" + token] = token
        turned = (len(self._record.sent) // 1500) % 2  # a drift
        y = 3.0 * a if model.startswith("r") else ("cat" if (a > 0) != turned else "dog")
        with self._record.lock:
            self._record.sent[token], self._record.numbers[repr(number)] = model, token
        return {"x": x, "y": y, "id": f"{token}{token}", "model": model}

    def _learn(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        body = {**self._sample(model, rng), "w": rng.choice((0.5, 1.0, None))}
        answer = client.post("/learn", json=body)
        with self._record.lock:
            if self._record.took(answer, "learn", *self._gone(model)):
                self._record.learned[model, body["id"]] = body
            else:
                self._record.refused.add((model, body["id"]))

    def _stream(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        bodies = [self._sample(model, rng) for _ in range(rng.randrange(1, 50))]
        content = "\n".join(map(json.dumps, bodies))
        headers = {"content-type": "application/x-ndjson"}
        with client.stream("POST", "/learn", content=content, headers=headers) as answers:
            for body, line in zip(bodies, answers.iter_lines(), strict=False):
                sample = model, body["id"]
                with self._record.lock:
                    if "step" in json.loads(line):
                        self._record.learned[sample] = body
                        self._record.counts["learn"] += 1
                    else:
                        self._record.refuses(line, "line", answers.status_code, *self._gone(model))
                        self._record.refused.add(sample)

    def _predict(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        body = self._sample(model, rng)
        answer = client.post("/predict", json={key: body[key] for key in ("x", "id", "model")})
        with self._record.lock:
            if self._record.took(answer, "predict", *self._gone(model)):
                self._record.predicted[model, body["id"]] = answer.json()

    def _label(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        with self._record.lock:
            waiting = sorted(self._record.predicted.keys() - self._record.forgetting)
            if not waiting:
                return
            model, identifier = sample = rng.choice(waiting)
            given = self._record.predicted.pop(sample)
        y = 1.0 if model.startswith("r") else "cat"
        answer = client.post("/label", json={"id": identifier, "y": y, "model": model})
        lost = ("unknown_id", "already_labelled")  # after a rollback, an import or unlearning
        if self._record.took(answer, "label", *self._gone(model), *lost):
            with self._record.lock:
                self._record.learned[sample] = {}
            assert answer.json()["prediction"] == given["prediction"]

    def _repeat(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        """Send a sample again whose answer is known; a sample of another branch is learned again."""
        with self._record.lock:
            known = [body for body in list(self._record.learned.values())[-500:] if body]
        if known:
            body = rng.choice(known)
            answer = client.post("/learn", json=body)
            forgotten = ("id_forgotten",) if (body["model"], body["id"]) in self._record.forgetting else ()
            self._record.took(answer, "repeat", *self._gone(body["model"]), *forgotten)

    def _give_up(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        """Send a sample, and close the connection before the answer."""
        body = self._sample(self._model(rng), rng)
        try:
            client.post("/learn", json=body, timeout=rng.uniform(0.0005, 0.005))
        except httpx.TimeoutException:
            self._record.counts["given up"] += 1

    def _err(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        bad = rng.choice(
            ({"x": {"a": ["b", 1]}, "y": "cat"}, {"x": {"a": 1.0}, "y": [2]}, {"x": 1, "y": "cat"})
        )
        answer = client.post("/learn", json={**bad, "id": name, "model": (model := self._model(rng))})
        invalid = ("invalid_feature", "invalid_label", "invalid_target", "invalid_type")
        if self._record.took(answer, "invalid", *self._gone(model), *invalid):
            self._record.problems.append(f"an invalid sample was learned: {bad}")

    def _look(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        of_model = rng.choice(
            ("", "/metrics", "/dashboard", "/fingerprint", "/branches", "/events", "/checkpoints")
        )
        path = rng.choice((f"/models/{model}{of_model}", "/models", "/metrics", "/health/ready"))
        self._record.took(client.get(path), f"GET {of_model}", *self._gone(model))


class Administrators(_Load):
    """Clients that create, change, restore, unlearn, export, import and delete models."""

    def acts(self) -> tuple[Act, ...]:
        """Return the requests to choose from."""
        often = (self._forget, self._forget, self._roll_back, self._create, self._create, self._delete)
        return (*often, self._patch, self._checkpoint, self._restore, self._import, self._upgrade)

    def _create(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        record = self._record
        if len(record.models()) >= MODELS:
            return
        task = rng.choice(("classification", "classification", "regression"))
        model = f"{task[0]}{rng.choice(('', 't'))}{rng.getrandbits(40):x}"
        spec = {"hidden": [rng.randrange(3, 7)], "replay": rng.randrange(2), "memory": 30, "task": task}
        spec["learner"] = rng.choice((1, 1, 2))
        if has_text(model):
            words = {"text": ["note"], "ngrams": 2, "sparse": ["w:*"], "max_values": rng.randrange(60, 400)}
            spec |= {"learner": 2, **words}
        answer = client.post("/models", json={"name": model, "drift": self._drift(rng), **spec})
        with record.lock:
            if record.took(answer, "create", "too_many_models"):
                record.created.add(model)
            else:
                record.absent.add(model)

    @staticmethod
    def _drift(rng: random.Random) -> Json:
        action = rng.choice(("none", "reset_slowest", "forget_moments"))
        detector = {"detector": "page_hinkley", "threshold": 3.0} if rng.random() < 0.5 else {"delta": 0.3}
        return {**detector, "action": action}

    def _delete(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        record = self._record
        with record.lock:
            models = record.models()
            if len(models) < 3:
                return
            model = rng.choice(models)
            record.deleting.add(model)
        answer = client.delete(f"/models/{model}")
        with record.lock:
            if record.took(answer, "delete"):
                record.deleted.add(model)
            else:
                record.deleting.discard(model)  # it must exist as before

    def _patch(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        body = {"max_features": rng.randrange(50, 4000), "drift": self._drift(rng)}
        if rng.random() < 0.5:
            body["max_values"] = rng.randrange(60, 500)
        answer = client.patch(f"/models/{model}", json=body)
        self._record.took(answer, "patch", *self._gone(model), "invalid_spec")  # it has more of them

    def _roll_back(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        answer = client.get(f"/models/{model}")
        if self._record.took(answer, "GET", *self._gone(model)) and answer.json()["step"]:
            step = max(0, answer.json()["step"] - rng.randrange(40))
            self._go_back(client, model, {"step": step})

    def _restore(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        answer = client.get(f"/models/{model}/checkpoints")
        if self._record.took(answer, "checkpoints", *self._gone(model)):
            kept = [each["checkpoint"] for each in answer.json()["checkpoints"] if each["current"]]
            if kept:
                self._go_back(client, model, {"checkpoint": rng.choice(kept)})

    def _go_back(self, client: httpx.Client, model: str, body: Json) -> None:
        answer = client.post(f"/models/{model}/rollback", json=body)
        gone = ("unknown_checkpoint", "not_kept")  # another administrator was faster, or it was pruned
        self._record.took(answer, "rollback", *self._gone(model), *gone)

    def _forget(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        record, model = self._record, self._model(rng)
        with record.lock:
            known = [s for s in (*record.learned, *record.predicted) if s[0] == model]
            known = [sample for sample in known if sample not in record.forgetting][-300:]
            if not known:
                return
            some = rng.sample(known, min(len(known), rng.randrange(1, 6)))
            record.forgetting.update(some)
        ids = [identifier for _, identifier in some]
        answer = client.post(f"/models/{model}/forget", json={"ids": ids})
        with record.lock:
            if record.took(answer, "forget", *self._gone(model), "not_kept"):
                record.forgotten.update(some)
            else:
                record.forgetting.difference_update(some)

    def _checkpoint(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model = self._model(rng)
        answer = client.post(f"/models/{model}/checkpoints")
        self._record.took(answer, "checkpoint", *self._gone(model), "rebuilding")

    def _upgrade(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        model, kept = self._model(rng), rng.choice(("true", "false"))
        answer = client.post(f"/models/{model}/upgrade?kept={kept}")
        self._record.took(answer, "upgrade", *self._gone(model), "not_kept")

    def _import(self, client: httpx.Client, name: str, rng: random.Random) -> None:
        """Put the state of a model in place of another of the same kind, or of itself."""
        models = self._record.models() or ["default"]
        source = rng.choice(models)
        kind = source[0] == "r", has_text(source)
        target = rng.choice([each for each in models if (each[0] == "r", has_text(each)) == kind])
        file = client.get(f"/models/{source}/export")
        if self._record.took(file, "export", *self._gone(source)):
            self._record.imports(file.content)
            headers = {"content-type": "application/octet-stream"}
            answer = client.put(f"/models/{target}/import", content=file.content, headers=headers)
            self._record.took(answer, "import", *self._gone(target))
