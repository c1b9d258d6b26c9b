"""The history of the scores is a part of the model: any replay gives the one of the uninterrupted run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnp_online.evaluation.importance import EVERY
from service.models.experts import MOST, ShareHistory
from service.models.validation import Learn
from tests.service.models.test_durability import crash, forget
from tests.support.hosted import SPEC, Model, default, lines
from tests.support.running import Json, Server, serving
from tests.support.streaming import post_lines

COUNT = 1500
#: Steps of the first shares of experts.
FIRST = (1, 2, 4, 8, 16, 32)


def history(server: Server, query: str = "") -> Json:
    """Return the history, without automatic checkpoints, which the server takes and removes."""
    found = server.get(f"/models/default/history{query}")
    return {**found, "marks": [mark for mark in found["marks"] if mark["kind"] != "checkpoint"]}


def timeless(found: Json) -> Json:
    """Return a history without times."""
    marks = [{key: value for key, value in mark.items() if key != "time"} for mark in found["marks"]]
    return {**found, "time": None, "marks": marks, "experts": {**found["experts"], "time": None}}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_streams_single_samples_and_replays_have_one_history(tmp_path: Path, task: str) -> None:
    sent = lines(task, COUNT)
    drift = {"action": "reset_slowest", "detector": "page_hinkley", "threshold": 5.0}
    spec = default(task, drift=drift)
    with serving(tmp_path / "single", default_model=spec, group_size=5) as single:
        for each in sent:
            single.post("/learn", **each)
        expected = timeless(history(single))
    with serving(tmp_path / "data", default_model=spec, checkpoint_every=10**6) as server:
        post_lines(server, sent[:400])
        server.client.post("/models/default/checkpoints").raise_for_status()
        post_lines(server, sent[400:])
        found = history(server)
        marks = server.get("/models/default/history")["marks"]
        [mark] = [each for each in marks if each["kind"] == "checkpoint" and each["step"] == 400]
        assert found["time"][0] < mark["time"] < found["time"][-1]
        assert timeless(found) == expected
        killed = crash(server, tmp_path / "killed")
    assert found["step"][-1] == found["model_step"] == COUNT
    assert found["experts"]["step"] == [*FIRST, *range(EVERY, COUNT, EVERY)]
    times = dict(zip(found["step"], found["time"], strict=True))
    at = dict(zip(found["experts"]["step"], found["experts"]["time"], strict=True))
    assert {step: times[step] for step in times.keys() & at.keys()} == {
        step: at[step] for step in times.keys() & at.keys()
    }
    assert times.keys() & at.keys()
    assert sum(found["n"]) == COUNT - 1
    kinds = {mark["kind"] for mark in found["marks"]}
    assert kinds == {"drift", "action"}
    assert found["time"] == sorted(found["time"])
    bare = Path(shutil.copytree(killed, tmp_path / "bare"))
    shutil.rmtree(bare / "checkpoints")
    for folder in (tmp_path / "data", killed, bare):
        with serving(folder) as server:
            assert history(server) == found  # with all times


def test_the_scores_are_those_of_the_answers(serve: Callable[..., Server]) -> None:
    server = serve(default_model=default("classification"))
    sent = lines("classification", 700)
    answers = post_lines(server, sent)
    right = [given["prediction"] == each["y"] for given, each in zip(answers, sent, strict=True)][1:]
    found = history(server)
    n, accuracy = np.array(found["n"]), np.array(found["scores"]["Accuracy"])
    assert np.cumsum(n * accuracy).round().tolist() == np.cumsum(right)[np.cumsum(n) - 1].tolist()
    metrics = server.get("/models/default/metrics")["cumulative"]
    assert (n * accuracy).sum() / n.sum() == pytest.approx(metrics["Accuracy"])
    losses = np.array(found["scores"]["LogLoss"])
    assert (n * losses).sum() / n.sum() == pytest.approx(metrics["LogLoss"])
    few = history(server, query="?points=5")
    assert len(few["step"]) <= 5
    assert (few["step"][-1], sum(few["n"])) == (700, 699)


def test_a_rollback_and_an_unlearning_change_it_as_they_change_the_model(tmp_path: Path) -> None:
    sent, spec = lines("regression", 400), default("regression")
    gone = ["e7", "e21", "e105"]
    with serving(tmp_path / "data", default_model=spec) as server:
        post_lines(server, sent[:200])
        before = history(server)
        post_lines(server, sent[200:])
        server.post("/models/default/rollback", step=200)
        back = history(server)
        assert {**back, "marks": None} == {**before, "marks": None}
        assert [(mark["kind"], mark["step"]) for mark in back["marks"]] == [("rollback", 200)]
        post_lines(server, sent[200:])
        forget(server, *gone)
        found = history(server)
    assert [(mark["kind"], mark.get("events")) for mark in found["marks"]][-1] == ("unlearning", 3)
    assert found["marks"][-1]["step"] == 397
    with serving(tmp_path / "data") as server:
        assert history(server) == found
    with serving(tmp_path / "other", default_model=spec) as other:
        post_lines(other, [each for each in sent if each.get("id") not in gone])
        assert {**timeless(history(other)), "marks": None} == {**timeless(found), "marks": None}


def test_an_import_begins_it_anew(tmp_path: Path) -> None:
    octets = {"content-type": "application/octet-stream"}
    with serving(tmp_path, default_model=default("classification")) as server:
        post_lines(server, lines("classification", 100))
        file = server.client.get("/models/default/export").content
        server.client.put("/models/default/import", content=file, headers=octets).raise_for_status()
        begun = history(server)
        assert (begun["step"], begun["model_step"]) == ([], 100)
        post_lines(server, [{"x": {"a": 1.0, "b": i}, "y": "cat"} for i in range(25)])
        found = history(server)
        assert (found["start"], found["step"]) == (100, [110, 120, 125])
        imports = [mark for mark in found["marks"] if mark["kind"] == "import"]
        assert [mark["step"] for mark in imports] == [100]
    with serving(tmp_path) as server:
        assert {**history(server), "marks": None} == {**found, "marks": None}


def test_a_state_of_an_earlier_version_opens_with_an_empty_history(tmp_path: Path) -> None:
    model = Model(tmp_path, default("classification"))
    samples = [Learn(each["x"], each["y"]) for each in lines("classification", 60)]
    model.learn(*samples)
    removed, opened, same = model.earlier("history")
    assert removed["step"] == 60
    assert len(opened.history) == 0
    assert same.history.state_dict() == model.hosted.history.state_dict()
    model.hosted = opened
    model.learn(*samples[:5])
    model.log.close()
    assert opened.history.report()["start"] == 60
    assert opened.history.report()["step"] == [65]


def test_new_events_of_another_node_give_the_history_of_a_recovery(tmp_path: Path) -> None:
    model = Model(tmp_path, default("regression"))
    model.learn(*(Learn(each["x"], each["y"]) for each in lines("regression", 120)))
    recovered, following = model.followed(tmp_path)
    model.log.close()
    assert following.history.state_dict() == recovered.history.state_dict()
    assert len(recovered.history) == 12


def test_a_model_on_demand_keeps_it(serve: Callable[..., Server]) -> None:
    server = serve(models_in_memory=1, default_model=default("classification"))
    post_lines(server, lines("classification", 55))
    found = history(server)
    server.create(name="other", **SPEC)
    [listed] = [each for each in server.get("/models")["models"] if each["name"] == "default"]
    assert listed["state"] == "stored"
    assert history(server) == found


def test_looking_at_it_changes_nothing(serve: Callable[..., Server]) -> None:
    server = serve(default_model=default("classification"))
    assert history(server)["step"] == []
    post_lines(server, lines("classification", 15))
    before = server.fingerprint()
    assert history(server)["step"] == [10, 15]
    assert server.fingerprint() == before


def test_single_samples_on_a_killed_server_have_the_shares_of_experts(tmp_path: Path) -> None:
    """A replay learns in large groups what arrived alone."""
    with serving(tmp_path / "data", default_model=default("classification")) as server:
        for each in lines("classification", 200):
            server.post("/learn", **each)
        found = server.get("/models/default/history")["experts"]
        shown = server.get("/models/default/dashboard")["shares"]
        killed = crash(server, tmp_path / "killed")
        server.post("/models/default/rollback", step=150).raise_for_status()
        back = server.get("/models/default/history")["experts"]
    assert found["step"] == [*FIRST, 64, 128, 192]
    assert shown.keys() == found["shares"].keys()
    assert all(
        sum(each) == pytest.approx(1.0, abs=1e-3) for each in zip(*found["shares"].values(), strict=True)
    )
    assert back == {
        "step": found["step"][:-1],
        "time": found["time"][:-1],
        "shares": {kind: values[:-1] for kind, values in found["shares"].items()},
    }
    with serving(killed) as server:
        assert server.get("/models/default/history")["experts"] == found


def test_shares_of_experts_of_an_earlier_version_open() -> None:
    """Its points are at any steps; new ones follow the rule of this version."""
    history = ShareHistory()
    points = [[20 + 47 * i, float(i), {"networks": 1.0}] for i in range(MOST - 1)]
    history.load_state_dict({"every": 40, "points": points})
    assert history.report()["step"] == [point[0] for point in points]
    taken = [step for step in range(12_000, 12_200) if history.is_due(step)]
    assert taken == [12_032, 12_096, 12_160]
    for step in taken:
        history.add(step, float(step), {"networks": 1.0})
    found = history.report()["step"]
    assert found[0] == 20
    assert len(found) == len({step // 128 for step in found})
    assert found[-2:] == [12_032, 12_160]


def test_the_shares_of_a_long_life_are_bounded() -> None:
    history = ShareHistory()
    for step in range(1, 100_001):
        if history.is_due(step):
            history.add(
                step, float(step), {"networks": 1.0} if step < 500 else {"networks": 0.4, "stack": 0.6}
            )
    found = history.report()
    assert 120 <= len(found["step"]) <= MOST
    assert found["step"] == [1, *range(512, 100_001, 512)]
    assert (found["shares"]["stack"][0], found["shares"]["stack"][-1]) == (0.0, 0.6)
    other = ShareHistory()
    other.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert other.report() == found
    assert other.copy().state_dict() == history.state_dict()
