"""Predictive intervals over HTTP: as in process, asked for in every way, and exact after a kill."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from bnp_online import BNPRegressor
from bnp_online.client import Client, RemoteRegressor
from bnp_online.client.errors import ClientError
from tests.support.running import Json, Server, error, killed_copy, serving
from tests.support.streaming import post_lines

SPEC: Json = {"hidden": [5], "lr": 0.3, "intervals": 4, "task": "regression"}
X = {"a": 0.5, "b": 1.0}


def samples(count: int) -> list[tuple[Json, float]]:
    rng = random.Random(0)  # noqa: S311
    found = []
    for i in range(count):
        x = {"a": rng.gauss(0.0, 1.0), "b": float(i % 3)}
        found.append((x, x["a"] + rng.gauss(0.0, 1.0 + x["b"])))
    return found


def teach(server: Server, name: str, count: int = 40, **spec: Any) -> None:
    server.create(name=name, **{**SPEC, **spec})
    post_lines(server, [{"x": x, "y": y, "model": name} for x, y in samples(count)])


def in_process(count: int = 40) -> BNPRegressor:
    model = BNPRegressor((5,), lr=0.3, intervals=4)
    for x, y in samples(count):
        model.learn_one(x, y)
    return model


def test_an_interval_is_that_of_the_estimator(server: Server) -> None:
    teach(server, "same")
    expected = in_process().predict_interval_one(X, 0.8)
    assert expected is not None
    assert "interval" not in server.predict(X, model="same")
    assert server.predict(X, model="same", interval=0.8)["interval"] == [*expected]
    asked = [{"x": X, "model": "same", **more} for more in ({"interval": 0.8}, {}, {"interval": 0.95})]
    assert post_lines(server, asked, "/predict") == [server.predict(**one) for one in asked]


def test_with_an_id_it_is_kept_with_the_prediction(server: Server) -> None:
    teach(server, "kept")
    answer = server.predict(X, model="kept", interval=0.8, id="t")
    assert len(answer["interval"]) == 2
    assert server.predict(X, model="kept", interval=0.8, id="t") == answer
    assert server.label("t", 1.0, model="kept")["prediction"] == answer["prediction"]


def test_before_enough_samples_it_is_null(server: Server) -> None:
    teach(server, "young", 20)
    assert server.predict(X, model="young", interval=0.8)["interval"] is None


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, 10**30])
def test_a_level_out_of_range_is_refused(server: Server, level: float) -> None:
    answer = server.post("/predict", x=X, interval=level)
    assert error(answer) == (422, "invalid_level", "interval")
    assert error(server.post("/predict", x=X, interval="0.9")) == (422, "invalid_type", "interval")


def test_in_a_stream_a_level_out_of_range_is_an_error_of_its_line(server: Server) -> None:
    teach(server, "many")
    asked = [{"x": X, "model": "many", "interval": level} for level in (0.8, 0, 0.9)]
    first, refused, last = post_lines(server, asked, "/predict")
    assert (refused["error"]["code"], refused["error"]["field"], refused["line"]) == (
        "invalid_level",
        "interval",
        2,
    )
    assert len(first["interval"]) == len(last["interval"]) == 2


def test_a_model_without_intervals_has_none(server: Server) -> None:
    teach(server, "plain", intervals=0)
    for name, field in (("plain", "intervals"), ("default", "interval")):  # the default is a classification
        answer = server.post("/predict", x=X, model=name, interval=0.9)
        assert error(answer) == (422, "invalid_spec", field)
    [line] = post_lines(server, [{"x": X, "interval": 0.9}], "/predict")
    assert line["error"]["code"] == "invalid_spec"


def test_a_classification_with_intervals_is_refused(server: Server) -> None:
    answer = server.post("/models", name="classes", intervals=4)
    assert error(answer) == (422, "invalid_spec", "intervals")
    assert "omit intervals" in answer.json()["error"]["message"]
    assert server.client.get("/models/classes").status_code == 404


def test_the_clients_know_them(server: Server) -> None:
    teach(server, "asked")
    with Client(server.url) as client:
        interval = client.predict_one(X, model="asked", interval=0.8).interval
        assert interval == in_process().predict_interval_one(X, 0.8)
        assert client.predict_one(X, model="asked").interval is None
        with pytest.raises(ClientError):
            client.predict_one(X, model="asked", interval=2.0)
    remote = RemoteRegressor(server.url, model="asked")
    assert remote.predict_interval_one(X, 0.8) == interval
    remote.close()


def test_a_kill_and_an_import_change_nothing(tmp_path: Path) -> None:
    """With a checkpoint and a log after it, and from the log alone."""
    with serving(tmp_path / "data", checkpoint_every=25) as server:
        teach(server, "m")
        server.post("/models/m/checkpoints")
        post_lines(server, [{"x": x, "y": y, "model": "m"} for x, y in samples(10)])
        server.predict(X, model="m", interval=0.8, id="waits")
        expected = [server.fingerprint("m"), server.predict(X, model="m", interval=0.9)["interval"]]
        waiting = server.predict(X, model="m", interval=0.8, id="waits")
        killed = killed_copy(server.app.state.settings.data_dir, tmp_path / "killed")
        bare = Path(shutil.copytree(killed, tmp_path / "bare"))
        shutil.rmtree(bare / "checkpoints")
        exported = server.client.get("/models/m/export").content
    for folder in (killed, bare):
        with serving(folder) as server:
            assert server.predict(X, model="m", interval=0.8, id="waits") == waiting
            got = [server.fingerprint("m"), server.predict(X, model="m", interval=0.9)["interval"]]
            assert got == expected
    with serving(tmp_path / "other") as server:
        server.create(name="m", **SPEC)
        headers = {"Content-Type": "application/octet-stream"}
        assert server.client.put("/models/m/import", content=exported, headers=headers).status_code == 200
        assert server.predict(X, model="m", interval=0.9)["interval"] == expected[1]
        assert server.fingerprint("m")["model_sha256"] == expected[0]["model_sha256"]


def test_their_coverage_and_width_are_counted(tmp_path: Path) -> None:
    """Of blocks, single samples and a late label; in all answers, and again after a replay of the log."""
    model, sent = in_process(0), samples(140)
    widths, hits = list[float](), list[bool]()
    for x, y in sent:
        interval = model.predict_interval_one(x, 0.9)
        if interval is not None:
            widths.append(interval[1] - interval[0])
            hits.append(interval[0] <= y <= interval[1])
        model.learn_one(x, y)
    with serving(tmp_path / "data", checkpoint_every=60) as server:
        server.create(name="m", **SPEC)
        assert server.get("/models/m/metrics")["intervals"]["window"] == {
            "n": 0,
            "coverage": None,
            "width": None,
        }
        post_lines(server, [{"x": x, "y": y, "model": "m"} for x, y in sent[:90]])
        for x, y in sent[90:139]:
            server.learn(x, y, model="m")
        server.predict(sent[139][0], model="m", id="late")
        server.label("late", sent[139][1], model="m")
        found = server.get("/models/m/metrics")["intervals"]
        assert (found["level"], found["cumulative"]["n"]) == (0.9, len(widths))
        for over, latest in (("cumulative", len(widths)), ("window", len(widths)), ("recent", 100)):
            assert found[over]["coverage"] == pytest.approx(sum(hits[-latest:]) / latest)
            assert found[over]["width"] == pytest.approx(sum(widths[-latest:]) / latest)
        assert 0.7 < found["cumulative"]["coverage"] < 1.0
        assert server.get("/models/m/dashboard")["scores"]["intervals"] == found
        history = server.get("/models/m/history")["intervals"]
        assert history["n"] == [0, 0, 9, *[10] * 11]
        mean = sum(n * (width or 0) for n, width in zip(history["n"], history["width"], strict=True))
        assert mean / len(widths) == pytest.approx(found["cumulative"]["width"])
        text = server.client.get("/metrics").text
        for name in ("coverage", "width"):
            line = f'bnp_model_interval_{name}{{model="m",over="window"}} {found["window"][name]}'
            assert line in text.splitlines()
        bare = killed_copy(server.app.state.settings.data_dir, tmp_path / "bare")
        shutil.rmtree(bare / "checkpoints")
    for folder in (tmp_path / "data", bare):
        with serving(folder) as server:
            assert server.get("/models/m/metrics")["intervals"] == found
            assert server.get("/models/m/history")["intervals"] == history
            assert "intervals" not in server.get("/models/default/metrics")
