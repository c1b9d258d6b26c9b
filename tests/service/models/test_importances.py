"""Running importances are a part of the model: any replay, and blocks, give those of single samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluation.importance import DENSE, EVERY, LATER, Importances
from service.models.validation import Learn
from tests.service.models.test_durability import crash, forget
from tests.support.hosted import SPEC, Model, default, lines
from tests.support.running import Json, Server, serving
from tests.support.streaming import post_lines

COUNT = 300


def importances(server: Server, model: str = "default") -> list[Json]:
    found: list[Json] = server.get(f"/models/{model}")["importances"]
    return found


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_blocks_single_samples_and_replays_have_the_same(tmp_path: Path, task: str) -> None:
    sent = lines(task, COUNT)
    with serving(tmp_path / "single", default_model=default(task), group_size=5) as single:
        for each in sent:
            single.post("/learn", **each)
        expected = importances(single)
        model = single.app.state.models.get("default").model
        assert model.importances.count == COUNT // EVERY
    assert [each["feature"] for each in expected] == ["a", "b"]
    assert sum(each["share"] for each in expected) == pytest.approx(1.0)
    spec = default(task)
    with serving(tmp_path / "data", default_model=spec, checkpoint_every=10**6) as server:
        post_lines(server, sent[:100])
        server.client.post("/models/default/checkpoints").raise_for_status()
        post_lines(server, sent[100:])
        assert server.app.state.models.get("default").in_blocks > 0
        assert importances(server) == expected
        killed = crash(server, tmp_path / "killed")
    bare = Path(shutil.copytree(killed, tmp_path / "bare"))
    shutil.rmtree(bare / "checkpoints")
    for folder in (tmp_path / "data", killed, bare):
        with serving(folder) as server:
            assert importances(server) == expected


def test_a_rollback_and_an_unlearning_change_them_as_they_change_the_model(tmp_path: Path) -> None:
    sent, spec = lines("regression", COUNT), default("regression")
    gone = ["e7", "e21", "e105"]
    with serving(tmp_path / "data", default_model=spec) as server:
        post_lines(server, sent[:200])
        before = importances(server)
        post_lines(server, sent[200:])
        assert importances(server) != before
        server.post("/models/default/rollback", step=200)
        assert importances(server) == before
        post_lines(server, sent[200:])
        forget(server, *gone)
        found = importances(server)
    with serving(tmp_path / "other", default_model=spec) as other:
        post_lines(other, [each for each in sent if each.get("id") not in gone])
        assert importances(other) == found


def test_a_state_of_an_earlier_version_opens_without_them(tmp_path: Path) -> None:
    model = Model(tmp_path, default("classification"))
    samples = [Learn(each["x"], each["y"]) for each in lines("classification", 70)]
    model.learn(*samples)
    removed, opened, same = model.earlier("importances")
    assert removed["count"] == 1
    assert opened.importances.report(5) == []
    assert same.importances.report(5) == model.hosted.importances.report(5)
    model.hosted = opened
    model.learn(*samples[:58])  # up to step 128
    model.log.close()
    assert opened.importances.count == 1


def test_a_replica_has_those_of_a_recovery(tmp_path: Path) -> None:
    model = Model(tmp_path, default("regression"))
    model.learn(*(Learn(each["x"], each["y"]) for each in lines("regression", 150)))
    recovered, following = model.followed(tmp_path)
    model.log.close()
    assert following.importances.state_dict() == recovered.importances.state_dict()
    assert recovered.importances.count == 2


def test_they_are_taken_less_often_later(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[], lr=0.1, replay=0)
    lines = [{"x": {"a": i % 7, "b": i % 3}, "y": i % 2, "model": "m"} for i in range(DENSE + 2 * LATER)]
    post_lines(server, lines)
    model = server.app.state.models.get("m").model
    assert model.step == len(lines)
    assert model.importances.count == DENSE // EVERY + 2


def test_strings_words_and_shapes_have_them(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="words", **SPEC, text=["title"])
    texts = [{"title": f"w{i % 7} common", "n": i % 5} for i in range(4 * EVERY)]
    sent = [{"x": x, "y": i % 7 > 3, "model": "words"} for i, x in enumerate(texts)]
    post_lines(server, sent[:-1])
    assert importances(server, "words") == []
    post_lines(server, sent[-1:])  # with a sparse stage, every fourth is taken
    assert {each["feature"] for each in importances(server, "words")} == {"title", "n"}
    server.create(name="image", **SPEC, input_shape=[2, 2])
    for i in range(EVERY):
        server.post("/learn", x=[[i % 5, 0], [0, 1]], y=i % 5 > 2, model="image")
    assert importances(server, "image")[0]["feature"] == "0, 0"


def test_they_are_on_the_page_in_the_metrics_and_not_in_the_fingerprint(serve: Callable[..., Server]) -> None:
    spec = default("classification", max_features=40)
    server = serve(default_model=spec)
    post_lines(server, [{"x": {f"f{j}": (i * j) % 11 for j in range(30)}, "y": i % 2} for i in range(70)])
    found = importances(server)
    assert len(found) == 20
    shown = server.get("/models/default/dashboard")
    assert shown["importances"] == found
    lines_of_metrics = [
        line
        for line in server.client.get("/metrics").text.splitlines()
        if line.startswith("bnp_model_feature_importance{")
    ]
    assert len(lines_of_metrics) == 10
    assert f'feature="{found[0]["feature"]}",model="default"' in lines_of_metrics[0]
    model = server.app.state.models.get("default").model
    before = server.fingerprint()
    model.importances.add([f"f{j}" for j in range(30)], model.importances._values + 1.0)
    assert server.fingerprint() == before


@pytest.mark.parametrize("make", [BNPClassifier, BNPRegressor])
@pytest.mark.parametrize("options", [{}, {"lr": 0.1}, {"learner": 1}, {"engine": "torch", "lr": 0.1}])
def test_watching_changes_no_bit(make: Any, options: dict[str, Any]) -> None:
    model, other = make(hidden=(4,), memory=50, **options), make(hidden=(4,), memory=50, **options)
    seen = []

    def see(x: Any) -> None:
        found = model.contributions(x)
        assert found is not None
        seen.append((model.step, len(found[1])))

    model.watch(16, see)
    sent = lines("classification" if make is BNPClassifier else "regression", 70)
    for part in (sent[:1], sent[1:20], sent[20:]):
        for each in (model, other):
            check = each.preview().check
            each.learn_samples(
                [check({**one["x"], "c": "xy"[i % 2]}, one["y"]) for i, one in enumerate(part)]
            )
    assert [step for step, _ in seen] == [1, 2, 4, 8, 16, 32, 48, 64]
    assert model.fingerprint() == other.fingerprint()


def test_the_mean_forgets() -> None:
    importances = Importances()
    for _ in range(500):
        importances.add(["a"], [-2.0])  # type: ignore[arg-type]  # a list is enough
    for _ in range(200):
        importances.add(["a", "b"], [0.0, 3.0])  # type: ignore[arg-type]  # as above
    first, second = importances.report(2)
    assert (first["feature"], second["feature"]) == ("b", "a")
    assert second["importance"] == pytest.approx(2.0 * 0.98**200)
    assert first["importance"] == pytest.approx(3.0 * (1.0 - 0.98**200))
    copied = importances.copy()
    importances.add(["a", "b"], [1.0, 1.0])  # type: ignore[arg-type]  # as above
    assert copied.count == 700
    loaded = Importances()
    loaded.load_state_dict(json.loads(json.dumps(copied.state_dict())))
    assert loaded.report(2) == copied.report(2)
