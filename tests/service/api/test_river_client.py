"""The client of the River API Spec, as it is on PyPI, against a server on a socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from river import datasets, linear_model
from riverapi.main import Client

import bnp_online as bnp
from service.auth.keys import new_secret
from service.auth.scopes import SCOPES
from tests.support.running import Json, Server, serving
from tests.support.server_process import restartable

SMALL = {"hidden": [6], "replay": 1, "memory": 50}
KEY, READER = new_secret(), new_secret()
KEYS = f"everything {','.join(SCOPES)} {KEY}; reader read {READER}"


@pytest.fixture(scope="module", params=["without a key", "with a key"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server; where that has keys, the client knows a user and a token."""
    keys = {"api_keys": KEYS} if request.param == "with a key" else {}
    with serving(tmp_path_factory.mktemp("river"), **keys) as server:
        client = Client(server.url, quiet=True)
        client.user, client.token = ("somebody", KEY) if keys else (None, None)
        yield client


def make(client: Client, flavor: str, name: str | None = None, **spec: Any) -> str:
    """Make a model, as the client can: by a request of its own, for `upload_model` sends a pickle."""
    path = f"/model/{flavor}/" if name is None else f"/model/{flavor}/{name}/"
    made: Json = client.post(path, json={**SMALL, **spec})
    assert made.keys() == {"name"}
    return cast(str, made["name"])


def test_info(known: Client) -> None:
    info = known.info()
    assert (info["status"], info["version"]) == ("running", "1.0.0")
    before = known.apiroot
    known.check()
    assert known.apiroot == before


def test_regression(known: Client) -> None:
    name = make(known, "regression")
    first = known.predict(name, {"a": 1.0})
    assert first["prediction"] is None
    for x, y in datasets.TrumpApproval().take(50):
        assert known.learn(name, x=x, y=y) == "Successful learn."
    answer = known.predict(name, x)
    assert answer.keys() == {"model", "prediction", "identifier"}
    assert (answer["model"], type(answer["prediction"])) == (name, float)
    assert known.metrics(name).keys() == {"MAE", "RMSE", "R2"}


@pytest.mark.parametrize(("flavor", "labels"), [("binary", [True, False]), ("multiclass", ["a", "b", "c"])])
def test_classification(known: Client, flavor: str, labels: list[Any]) -> None:
    name = make(known, flavor)
    assert known.predict(name, {"a": 1})["prediction"] == {}
    for i in range(30):
        known.learn(name, {"a": i % len(labels), "b": "red"}, labels[i % len(labels)])
    prediction = known.predict(name, {"a": 1})["prediction"]
    assert prediction.keys() == {label if isinstance(label, str) else json.dumps(label) for label in labels}
    assert sum(prediction.values()) == pytest.approx(1)
    assert {"Accuracy", "LogLoss"} <= known.metrics(name).keys()


def test_label(known: Client) -> None:
    name = make(known, "multiclass")
    given = [known.predict(name, {"a": i})["identifier"] for i in range(4)]
    assert len(set(given)) == 4
    for identifier in given:
        assert known.label("cat", identifier, name) == "Successful label."
    description = known.get_model_json(name)
    assert (description["step"], description["pending"], description["classes"]) == (4, 0, ["cat"])
    with pytest.raises(SystemExit):  # it has had its label: the client ends the program on any error
        known.label("cat", given[0], name)


def test_models(known: Client) -> None:
    name = make(known, "regression", "of-its-own")
    assert name == "of-its-own"
    assert name in known.models()["models"]
    description = known.get_model_json(name)
    assert (description["name"], description["spec"]["task"]) == (name, "regression")
    assert known.delete_model(name) == "Successful delete."
    assert name not in known.models()["models"]
    with pytest.raises(SystemExit):
        known.get_model_json(name)


def test_stats(known: Client) -> None:
    name = make(known, "regression")
    nothing = {
        "n_calls": 0, "mean_duration": 0, "mean_duration_human": "0ns",
        "ewm_duration": 0, "ewm_duration_human": "0ns",
    }  # fmt: skip
    assert known.stats(name) == {"learn": nothing, "predict": nothing}
    for i in range(3):
        known.learn(name, {"a": i}, i)
        given = known.predict(name, {"a": i})
        known.predict(name, {"a": i})
    known.label(1.0, given["identifier"], name)
    with pytest.raises(SystemExit):
        known.learn(name, {"a": 1}, "cat")  # refused: it does not count
    stats = known.stats(name)
    assert (stats["learn"]["n_calls"], stats["predict"]["n_calls"]) == (4, 6)
    for times in stats.values():
        assert times["mean_duration"] > 0
        assert times["ewm_duration"] > 0
        assert times["mean_duration_human"].endswith("s")


def test_download(known: Client, tmp_path: Path) -> None:
    name = make(known, "multiclass")
    twin = bnp.BNPClassifier(hidden=(6,), replay=1, memory=50, device="cpu")
    for i in range(12):
        known.learn(name, {"a": i / 3, "b": -i}, i % 3)
        twin.learn_one({"a": i / 3, "b": -i}, i % 3)
    path = known.download_model(name, str(tmp_path / "model.safetensors"))
    loaded = bnp.load(path)
    assert loaded.fingerprint() == twin.fingerprint()
    assert loaded.predict_one({"a": 1, "b": 2}) == twin.predict_one({"a": 1, "b": 2})


def test_a_pickled_model_is_refused(known: Client) -> None:
    before = known.models()
    for name in (None, "uploaded"):
        with pytest.raises(SystemExit):
            known.upload_model(linear_model.LinearRegression(), "regression", name)
    assert known.models() == before


@contextmanager
def listening(lines: Iterator[str]) -> Iterator[Callable[[Callable[[str, Any], bool]], None]]:
    """Read a stream in a thread; gives a function that waits for a line that is as it should be."""
    seen: list[tuple[str, Any]] = []
    changed, over = threading.Condition(), threading.Event()

    def read() -> None:
        for line in lines:
            label, colon, value = line.partition(": ")
            assert colon
            with changed:
                seen.append((label, json.loads(value)))
                changed.notify_all()
        over.set()

    def wait(wanted: Callable[[str, Any], bool]) -> None:
        with changed:
            assert changed.wait_for(lambda: any(wanted(*line) for line in seen), 60), seen

    thread = threading.Thread(target=read)
    thread.start()
    yield wait
    thread.join(60)
    assert over.is_set()


def test_streams(tmp_path: Path) -> None:
    """What is learned is told, until the server ends."""
    with ExitStack() as stack:
        with serving(tmp_path, api_keys=KEYS) as server:
            client, listener = Client(server.url, quiet=True), Client(server.url, quiet=True)
            client.set_header("Authorization", f"Bearer {KEY}")
            listener.set_header("Authorization", f"Bearer {READER}")
            name = make(client, "regression")
            events = stack.enter_context(listening(listener.stream_events()))
            metrics = stack.enter_context(listening(listener.stream_metrics()))
            wait_for_listeners(server, 2)
            for i in range(5):
                client.learn(name, {"a": i}, i)
            given = client.predict(name, {"a": 1})
            client.label(1.0, given["identifier"], name)
            events(lambda label, value: label == "learn" and (value["model"], value["step"]) == (name, 6))
            events(lambda label, value: label == "predict" and value["model"] == name)
            events(lambda label, value: label == "label" and value["count"] == 1)
            now = client.metrics(name)
            metrics(lambda label, value: (label, value) == (name, now))
        events(lambda label, value: label == "notice" and value["reason"] == "shutting_down")


def wait_for_listeners(server: Server, count: int) -> None:
    """Wait until so many streams are open: what happened before is not told."""
    while len(server.registry.feed._listeners) < count:
        threading.Event().wait(0.005)


def test_the_token_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and a token from the environment lead to a bearer token, by way of the realm of a 401."""
    with serving(tmp_path, api_keys=KEYS) as server:
        monkeypatch.setenv("RIVER_ML_USER", "somebody")
        monkeypatch.setenv("RIVER_ML_TOKEN", KEY)
        client = Client(server.url, quiet=True)
        assert client.models() == {"models": ["default"]}
        assert client.headers["Authorization"] == f"Bearer {KEY}"
        monkeypatch.delenv("RIVER_ML_TOKEN")
        by_hand = Client(server.url, quiet=True)
        by_hand.set_basic_auth("somebody", KEY)
        assert by_hand.predict("default", {"a": 1})["prediction"] == {}
        nobody = Client(server.url, quiet=True)
        assert nobody.info()["status"] == "running"
        for token in (None, "wrong", KEY[:-1]):
            if token is not None:
                nobody.set_basic_auth("somebody", token)
            with pytest.raises(SystemExit):
                nobody.models()
        reader = Client(server.url, quiet=True)
        reader.user, reader.token = "somebody", READER
        assert reader.models() == {"models": ["default"]}
        with pytest.raises(SystemExit):
            reader.learn("default", {"a": 1}, "cat")


def test_what_waits_for_its_label_outlives_a_kill(tmp_path: Path) -> None:
    with restartable(tmp_path / "data") as server:
        server.start()
        client = Client(str(server.client.base_url), quiet=True)
        name = make(client, "binary")
        for i in range(10):
            client.learn(name, {"a": i}, i % 2)
        made = client.predict(name, {"a": 3})["identifier"]
        before = server.client.get(f"/models/{name}/fingerprint").json()
        server.kill()
        server.start()
        client = Client(str(server.client.base_url), quiet=True)
        assert server.client.get(f"/models/{name}/fingerprint").json() == before
        assert client.label(1, made, name) == "Successful label."
        assert client.get_model_json(name)["step"] == 11
