"""Models with strings and words: their limits, their description, and the same state after each way back."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnp_online import BNPClassifier
from bnp_online.client import Client
from tests.support.exposition import samples, text_of
from tests.support.replay import Replayer, read_log
from tests.support.running import Json, Server, error, serving
from tests.support.server_process import wait_until

Serve = Callable[..., Server]
SPEC: dict[str, Any] = {
    "hidden": [5],
    "replay": 1,
    "memory": 60,
    "seed": 3,
    "text": ["title"],
    "ngrams": 2,
    "sparse": ["w:*"],
    "max_values": 150,  # fewer than there are: values are replaced
}
BYTES = {"content-type": "application/octet-stream"}
WORDS = [f"word{i}" for i in range(60)]


def sample(i: int) -> tuple[Json, str]:
    rng = random.Random(i)  # noqa: S311
    words = rng.sample(WORDS, 4)
    x: Json = {
        "title": " ".join(words),
        "tags": rng.sample(WORDS, 2),
        "user": f"u{rng.randrange(50)}",
        "amount": rng.gauss(0.0, 1.0),
        f"w:{rng.choice(WORDS)}": rng.randrange(1, 4),
    }
    return x, "cat" if min(words) < "word2" else "dog"


def learn(server: Server, numbers: range, model: str = "m") -> None:
    for i in numbers:
        x, y = sample(i)
        if i % 5:
            server.learn(x, y, model=model, id=f"s{i}")
        else:
            server.predict(x, model=model, id=f"s{i}")
            server.label(f"s{i}", y, model=model)


def replayed(server: Server, folder: Path) -> None:
    """Check the state and the checkpoints of the model against a replay of the log in this process."""
    replica, differences = Replayer(folder).run(read_log(folder), "m")
    assert (replica.fingerprint(), differences) == (server.fingerprint("m"), [])


def test_each_way_back_gives_the_same_state(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as server:
        server.create(name="m", **SPEC)
        learn(server, range(60))
        server.client.post("/models/m/checkpoints").raise_for_status()
        learn(server, range(60, 90))
        replayed(server, folder)
        at_90 = server.fingerprint("m")
    with serving(folder) as server:  # from the checkpoint at the end
        assert server.fingerprint("m") == at_90
        learn(server, range(90, 110))
        server.post("/models/m/rollback", step=90).raise_for_status()
        assert server.fingerprint("m") == at_90
        server.post("/models/m/rollback", step=75).raise_for_status()
        learn(server, range(110, 120))
        replayed(server, folder)
        server.post("/models/m/forget", ids=["s7", "s61"]).raise_for_status()
        wait_until(lambda: server.get("/models/m")["state"] == "ready")
        replayed(server, folder)
        forgotten = server.fingerprint("m")
    with serving(folder) as server:
        assert server.fingerprint("m") == forgotten


def test_a_late_label_counts_before_the_stage_opens(serve: Serve, tmp_path: Path) -> None:
    """Its prediction may be from before the stage opened, which adds experts."""
    server = serve()
    server.create(name="m", **SPEC)
    for i in range(30):
        x, y = sample(i)
        server.predict({"amount": x["amount"]}, model="m", id=f"s{i}")
        if i >= 5:
            server.label(f"s{i - 5}", sample(i - 5)[1], model="m")
        if i >= 15:
            server.learn(x, y, model="m")
    replayed(server, tmp_path / "data")


def test_an_upgraded_model_is_that_which_a_new_one_would_be(serve: Serve) -> None:
    server = serve()
    plain = {**SPEC, "text": [], "sparse": []}
    server.create(**{**plain, "name": "m", "learner": 1})
    server.create(**{**plain, "name": "new"})
    for model in ("m", "new"):
        for i in range(80):
            server.learn({"user": f"u{i % 40}", "a": i % 3}, i % 2, model=model)
    server.client.post("/models/m/upgrade").raise_for_status()
    wait_until(lambda: server.get("/models/m")["state"] == "ready")
    assert server.get("/models/m")["fields"] == {"user": 40}
    assert server.fingerprint("m") == server.fingerprint("new")


def test_an_exported_model_is_the_estimator_in_python(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **SPEC)
    learn(server, range(30))
    file = server.client.get("/models/m/export").raise_for_status().content
    server.client.put("/models/copy/import", content=file, headers=BYTES).raise_for_status()
    found, copied = server.fingerprint("m"), server.fingerprint("copy")
    assert found["model_sha256"] == copied["model_sha256"]


def test_the_fields_are_described_and_measured(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **{**SPEC, "max_values": 1000})
    assert server.get("/models/m")["fields"] == {}
    learn(server, range(30))
    fields = server.get("/models/m")["fields"]
    assert fields.keys() == {"title", "tags", "user", "w:*"}
    shown = server.get("/models/m/dashboard")["fields"]
    assert (shown["count"], shown["values"]) == (4, sum(fields.values()))
    assert {each["name"]: each["values"] for each in shown["largest"]} == fields
    assert shown["largest"][0]["name"] == "title"
    text = samples(text_of(server))
    of = frozenset({("model", "m")})
    assert text["bnp_model_fields", of] == 4
    assert text["bnp_model_values", of] == sum(fields.values())


def test_the_number_of_values_has_a_limit_that_may_change(serve: Serve, tmp_path: Path) -> None:
    server = serve(max_values=1000)
    server.create(name="m", **SPEC)
    learn(server, range(40))
    described = server.get("/models/m")
    recycled = described["recycled_values"]
    assert (sum(described["fields"].values()), recycled > 0) == (150, True)
    of = frozenset({("model", "m")})
    assert samples(text_of(server))["bnp_model_values_recycled_total", of] == recycled
    assert server.get("/models/m/dashboard")["recycled_values"] == recycled
    before = server.fingerprint("m")
    for limit, message in (
        (149, "the model has 150 values: give 150 or more"),
        (10**9, "at most 16777216"),
        (1001, "at most 1000 on this server (BNP_MAX_VALUES)"),
        (31, "at least 32"),
    ):
        answer = server.client.patch("/models/m", json={"max_values": limit})
        assert error(answer) == (422, "invalid_spec", "max_values")
        assert message in answer.json()["error"]["message"]
    assert (server.fingerprint("m"), server.get("/models/m")["spec"]["max_values"]) == (before, 150)
    changed = server.client.patch("/models/m", json={"max_values": 1000}).raise_for_status().json()
    assert changed["spec"]["max_values"] == 1000
    learn(server, range(40, 60))
    described = server.get("/models/m")
    assert (sum(described["fields"].values()) > 150, described["recycled_values"]) == (True, recycled)
    replayed(server, tmp_path / "data")


@pytest.mark.parametrize(("name", "value"), [("text", ["other"]), ("hidden", [9]), ("name", "n")])
def test_a_change_of_a_fixed_parameter_is_refused(serve: Serve, name: str, value: object) -> None:
    server = serve()
    server.create(name="m", **SPEC)
    answer = server.client.patch("/models/m", json={name: value})
    assert error(answer) == (422, "invalid_spec", name)
    assert answer.json()["error"]["message"].endswith("create another model")


def test_the_strongest_evidence_of_a_sample(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **{**SPEC, "ngrams": 1})
    server.create(name="r", task="regression", text=["title"], hidden=[5])
    for i in range(40):
        word, y = (("free", "spam"), ("lunch", "ham"))[i % 2]
        server.learn({"title": f"the {word}", "n": i}, y, model="m")
        server.learn({"title": f"the {word}", "n": i}, 10.0 * (i % 2), model="r")
    before = server.fingerprint("m")
    x = {"title": "the free unknown", "n": 1}
    with Client(server.url) as client:
        answer, number = client.evidence(x, model="m"), client.evidence(x, model="r")
    assert [(each.feature, each.value, each.label) for each in answer.evidence] == [
        ("title", "free", "spam"),
        ("title", "the", "spam"),
    ]
    first, second = answer.evidence
    assert (first.samples, first.strength > 1.0, abs(second.strength) < 1e-9) == (20, True, True)
    free = number.evidence[0]
    assert (free.value, free.label, -5.0 < free.strength < -3.0) == ("free", None, True)
    assert server.fingerprint("m") == before
    assert error(server.post("/models/m/evidence", x={"title": [1]})) == (422, "invalid_feature", "x.title")
    server.create(name="plain")
    server.learn({"a": 1}, 1, model="plain")
    assert server.post("/models/plain/evidence", x={"a": 1}).json()["evidence"] == []


def test_the_client_sends_strings_and_lists(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **SPEC)
    spec = {**SPEC, "hidden": (5,), "text": ("title",), "sparse": ("w:*",)}
    here = BNPClassifier(**spec, device="cpu", max_features=4096, max_classes=1024)
    with Client(server.url) as client:
        for i in range(10):
            x, y = sample(i)
            x["tags"] = tuple(x["tags"])
            client.learn_one(x, y, model="m")
            here.learn_one(x, y)
        assert client.describe("m").fields == here.fields
    assert server.fingerprint("m")["model_sha256"] == here.fingerprint()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"text": "title"}, "text"),
        ({"text": [1]}, "text[0]"),
        ({"sparse": ["w"]}, "sparse"),
        ({"ngrams": 6}, "ngrams"),
        ({"max_values": 31}, "max_values"),
        ({"max_values": 101}, "max_values"),
        ({"text": ["t"], "input_shape": [2]}, "text"),
        ({"sparse": ["w:*"], "learner": 1}, "sparse"),
    ],
)
def test_a_refused_specification_names_the_field(serve: Serve, spec: Json, field: str) -> None:
    answer = serve(max_values=100).post("/models", name="m", **spec)
    assert error(answer) == (422, "invalid_spec", field)


def test_lists_of_strings_have_limits(serve: Serve) -> None:
    server = serve(max_values=100, max_features=10, max_string_length=20)
    assert server.get("/models/default")["spec"]["max_values"] == 100
    server.learn({"tags": ["a"] * 9}, 1)
    before = server.fingerprint()
    for tags, code, field in (
        (["a"] * 10, "too_many_features", "x"),
        (["a" * 21], "string_too_long", "x.tags"),
        (["a", 1], "invalid_feature", "x.tags"),
        ([["a"]], "invalid_feature", "x.tags"),
    ):
        for path in ("/learn", "/predict"):
            body = {"x": {"tags": tags}, **({"y": 1} if path == "/learn" else {})}
            assert error(server.post(path, **body)) == (422, code, field)
            [item] = server.client.post(path, json=[body]).json()
            assert (item["error"]["code"], item["error"]["field"]) == (code, f"[0].{field}")
    assert server.fingerprint() == before
