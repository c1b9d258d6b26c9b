"""Shadows: they learn what their champion learns, are compared with it, and take its place, exactly."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import StorageFullError
from service.models import shadowing
from service.models.checkpointer import Checkpointer
from tests.support import turning
from tests.support.exposition import samples, text_of
from tests.support.running import Json, Server, error, serving
from tests.support.server_process import wait_until
from tests.support.turning import DRIFTING, learn, sample

Serve = Callable[..., Server]
#: A champion and a shadow that learn in different ways.
PLAIN: dict[str, Any] = {"hidden": [5], "replay": 1, "memory": 60, "seed": 3}
OTHER: dict[str, Any] = {"hidden": [], "lr": 0.2, "replay": 0, "seed": 7}


def stream(server: Server, numbers: Iterable[int], model: str = "m") -> None:
    lines = [json.dumps(dict(zip("xy", sample(i), strict=True))) for i in numbers]
    answer = server.client.post(
        f"/models/{model}/learn", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    assert answer.status_code == 200
    assert b"error" not in answer.content


def add(server: Server, name: str = "other", **spec: Any) -> Json:
    answer = server.post("/models/m/shadows", name=name, **{**OTHER, **spec})
    assert answer.status_code == 201, answer.text
    added: Json = answer.json()
    return added


def promote(server: Server, name: str = "other") -> Json:
    answer = server.post("/models/m/promote", shadow=name)
    assert answer.status_code == 200, answer.text
    done: Json = answer.json()
    return done


def shadows(server: Server) -> dict[str, Json]:
    """Return the reports of the shadows by name, once they have all events."""
    wait_until(lambda: all(not each["behind"] for each in server.get("/models/m/shadows")["shadows"]))
    return {each["name"]: each for each in server.get("/models/m/shadows")["shadows"]}


def digest(server: Server, shadow: str | None = None, model: str = "m") -> str:
    """Return the fingerprint of a model alone, or of its shadow once it has all events."""
    if shadow is None:
        return str(server.fingerprint(model)["model_sha256"])
    shadows(server)
    return str(server.get(f"/models/{model}/fingerprint?shadow={shadow}")["model_sha256"])


def fresh(server: Server, numbers: Iterable[int], **spec: Any) -> str:
    """Return the digest of a new model that learned samples."""
    return str(turning.fresh(server, numbers, **spec)["model_sha256"])


@pytest.mark.parametrize("drift", [{}, DRIFTING])
def test_a_shadow_is_the_model_that_a_new_one_would_be(serve: Serve, drift: Json) -> None:
    server = serve()
    server.create(name="m", **PLAIN, **drift)
    learn(server, range(40))
    added = add(server, **drift)
    assert (added["name"], added["spec"]["name"], added["step"]) == ("other", "other", 0)
    learn(server, range(40, 90))
    stream(server, range(90, 400))
    expected = fresh(server, range(40, 400), **OTHER, **drift)
    found = shadows(server)["other"]
    assert (found["step"], found["skipped"], found["failure"]) == (360, 0, None)
    assert digest(server, "other") == expected
    assert server.get("/models/m")["step"] == 400  # the champion is as it was
    assert digest(server) == fresh(server, range(400), **PLAIN, **drift)


def test_a_shadow_is_judged_by_what_it_predicted_before_the_label_came(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(20))
    server.predict(sample(5)[0], model="m", id="early")
    add(server, "plain", **{"lr": "auto", **PLAIN})
    add(server)
    for model in ("m", "new"):
        if model == "new":
            server.create(name="new", **PLAIN)
        learn(server, range(20, 60), model)
        for i in range(60, 90):
            server.predict(sample(i)[0], model=model, id=f"p{i}")
        learn(server, range(90, 120), model)
        for i in range(60, 90):
            server.label(f"p{i}", sample(i)[1], model=model)
    assert digest(server, "plain") == digest(server, model="new")
    compared = shadows(server)["plain"]["comparison"]
    scores = server.get("/models/new/metrics")["cumulative"]
    assert compared["n"] == 99  # all but the first, which had no label to predict
    assert compared["shadow"] == pytest.approx({name: scores[name] for name in ("Accuracy", "LogLoss")})
    server.label("early", sample(5)[1], model="m")
    found = shadows(server)
    assert [found[name]["comparison"]["n"] for name in ("plain", "other")] == [99, 99]
    assert [found[name]["step"] for name in ("plain", "other")] == [101, 101]


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_both_are_scored_over_the_same_samples(serve: Serve, task: str, blocks: bool) -> None:
    server = serve()

    def data(i: int) -> tuple[Json, Any]:
        x, y = sample(i)
        return x, y if task == "classification" else 3.0 * x["a"] + x["b"]

    def send(model: str, numbers: range) -> list[Json]:
        rows = [{"x": x, "y": y} for x, y in map(data, numbers)]
        if not blocks:
            return [server.learn(row["x"], row["y"], model=model) for row in rows]
        lines = "\n".join(map(json.dumps, rows))
        kind = {"content-type": "application/x-ndjson"}
        answer = server.client.post(f"/models/{model}/learn", content=lines, headers=kind)
        return [json.loads(line) for line in answer.text.splitlines()]

    server.create(name="m", task=task, **PLAIN)
    server.create(name="twin", task=task, **OTHER)
    send("m", range(10))
    add(server, task=task)
    ours, theirs = send("m", range(10, 400)), send("twin", range(10, 400))
    pairs = [(a["loss"], b["loss"]) for a, b in zip(ours, theirs, strict=True) if b["loss"] is not None]
    assert len(pairs) >= 389
    compared = shadows(server)["other"]["comparison"]
    assert compared["n"] == len(pairs)
    for side, losses in zip(("champion", "shadow"), zip(*pairs, strict=True), strict=True):
        mean = sum(losses) / len(losses)
        if task == "classification":
            assert compared[side]["LogLoss"] == pytest.approx(mean)
        else:
            assert compared[side]["RMSE"] == pytest.approx(mean**0.5)
            assert compared[side]["MAE"] == pytest.approx(sum(loss**0.5 for loss in losses) / len(losses))
    assert compared["low"] < compared["difference"] < compared["high"]
    assert compared["confidence"] == 0.95


def test_a_promotion_is_exact_and_is_reverted_in_the_same_way(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(30))
    early = server.predict(sample(9)[0], model="m", id="early")
    add(server)
    add(server, "third", seed=9)
    learn(server, range(30, 100))
    waiting = server.predict(sample(0)[0], model="m", id="before")
    shadow, champion = digest(server, "other"), digest(server)
    assert promote(server) == {"model": "m", "champion": "other", "shadow": "original", "step": 70}
    assert (digest(server), digest(server, "original")) == (shadow, champion)
    described = server.get("/models/m")
    assert (described["name"], described["spec"]["seed"], described["step"]) == ("m", 7, 70)
    listed = server.get("/models/m/shadows")
    assert (listed["champion"], [each["name"] for each in listed["shadows"]]) == (
        "other",
        ["third", "original"],
    )
    assert {each["comparison"]["n"] for each in listed["shadows"]} == {0}
    # The answer that the client got is the one that is scored, and that it gets again.
    assert server.predict(sample(0)[0], model="m", id="before") == waiting
    assert server.label("before", sample(0)[1], model="m")["prediction"] == waiting["prediction"]
    assert server.label("early", sample(9)[1], model="m")["prediction"] == early["prediction"]

    learn(server, range(100, 150))
    assert {each["comparison"]["n"] for each in shadows(server).values()} == {50}
    third = digest(server, "third")
    assert promote(server, "original") == {
        "model": "m",
        "champion": "original",
        "shadow": "other",
        "step": 152,
    }
    learn(server, range(150, 160))
    numbers = [*range(100), 0, 9, *range(100, 160)]
    server.create(name="new", **PLAIN)
    for i in numbers:  # without ids: two samples were learned twice
        server.learn(*sample(i), model="new")
    assert digest(server) != champion
    promote(server)
    server.create(name="same", **OTHER)
    for i in numbers[30:]:
        server.learn(*sample(i), model="same")
    assert digest(server) == digest(server, model="same")
    assert digest(server, "third") != third


def test_a_rollback_returns_to_the_shadows_of_that_step(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(30))
    add(server)
    learn(server, range(30, 60))
    at_60 = digest(server), digest(server, "other"), shadows(server)["other"]
    learn(server, range(60, 80))
    at_80 = digest(server), digest(server, "other")
    promote(server)  # step 50 from here on
    learn(server, range(80, 90))
    add(server, "late")
    server.client.post("/models/m/checkpoints").raise_for_status()

    server.post("/models/m/rollback", step=80).raise_for_status()
    assert (digest(server), digest(server, "other")) == at_80
    server.post("/models/m/rollback", step=60)
    reports = shadows(server)
    assert (digest(server), digest(server, "other")) == at_60[:2]
    assert reports == {"other": at_60[2]}
    learn(server, range(200, 230))
    other = digest(server, "other")
    server.post("/models/m/rollback", step=20).raise_for_status()
    assert shadows(server) == {}
    assert other == fresh(server, [*range(30, 60), *range(200, 230)], **OTHER)


def test_unlearned_samples_are_unlearned_by_shadows(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(30))
    add(server)
    learn(server, range(30, 60))
    promote(server)
    learn(server, range(60, 90))
    server.post("/models/m/forget", ids=["s10", "s40", "s70"]).raise_for_status()
    wait_until(lambda: server.get("/models/m")["state"] == "ready")
    left = [i for i in range(90) if i not in (10, 40, 70)]
    assert digest(server, "original") == fresh(server, left, **PLAIN)
    assert digest(server) == fresh(server, left[29:], **OTHER)
    server.post("/models/m/rollback", step=50).raise_for_status()  # of the shadow that is the champion
    assert digest(server) == fresh(server, left[29:79], **OTHER)
    server.post("/models/m/rollback", step=49).raise_for_status()
    server.post("/models/m/rollback", step=28).raise_for_status()  # of the champion before
    assert digest(server) == fresh(server, left[:28], **PLAIN)


def held(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let shadows learn nothing while the list has True."""
    hold, follow = [True], shadowing.Shadowing._follow

    async def wait(self: Any, name: str) -> bool:
        return False if hold[0] else await follow(self, name)

    monkeypatch.setattr(shadowing.Shadowing, "_follow", wait)
    return hold


def test_a_start_goes_on_with_shadows_that_are_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, few = held(monkeypatch), {"retain_events": 0, "keep_checkpoints": 1, "checkpoint_every": 20}
    with serving(tmp_path, **few) as server:
        server.create(name="m", **PLAIN)
        learn(server, range(30))
        add(server)
        learn(server, range(30, 90))
        server.client.post("/models/m/checkpoints").raise_for_status()
        listed = server.get("/models/m/shadows")["shadows"][0]
        assert (listed["behind"], listed["step"], listed["comparison"]["n"]) == (60, 0, 0)
    with serving(tmp_path, **few) as server:  # the log still has what the shadow lacks, and nothing before
        learn(server, range(90, 100))
        server.client.post("/models/m/checkpoints").raise_for_status()
        events = server.get("/models/m/events?limit=1000")["events"]
        assert next(each["id"] for each in events if each["kind"] == "learn") == "s30"
        hold[0] = False
        found = shadows(server)["other"]
        assert (found["step"], found["comparison"]["n"]) == (70, 69)
        assert digest(server, "other") == fresh(server, range(30, 100), **OTHER)
        hold[0] = True
        learn(server, range(100, 120))
        promote(server)  # it learns the rest first
        assert digest(server) == fresh(server, range(30, 120), **OTHER)
    hold[0] = False
    with serving(tmp_path, **few) as server:
        assert digest(server) == fresh(server, range(30, 120), **OTHER)
        assert digest(server, "original") == fresh(server, range(120), **PLAIN)


def test_a_log_without_the_samples_of_a_shadow_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(monkeypatch)
    with serving(tmp_path) as server:
        server.create(name="m", **PLAIN)
        add(server)
        learn(server, range(20))
        number = server.registry.get("m").history.model
        server.registry._log.prune(number, number + 15, 0, 0, 0.0)  # as after a repair
        monkeypatch.undo()
        wait_until(lambda: server.get("/models/m/shadows")["shadows"][0]["failure"])
        assert error(server.post("/models/m/promote", shadow="other")) == (409, "shadow_failed", "shadow")
        learn(server, range(20, 30))
        assert server.client.delete("/models/m/shadows/other").status_code == 204


def test_a_file_and_an_upgrade_take_the_place_of_model_and_shadows(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN, learner=1)
    learn(server, range(30))
    add(server)
    learn(server, range(30, 40))
    promote(server)
    promote(server, "original")
    exported = server.client.get("/models/m/export").content
    before = digest(server, "other")
    server.client.post("/models/m/upgrade").raise_for_status()
    wait_until(lambda: server.get("/models/m")["state"] == "ready")
    assert shadows(server) == {}
    assert digest(server) == fresh(server, range(40), **PLAIN)
    learn(server, range(40, 50))
    add(server, "second")
    kind = {"content-type": "application/octet-stream"}
    server.client.put("/models/m/import", content=exported, headers=kind).raise_for_status()
    listed = server.get("/models/m/shadows")
    assert (listed["champion"], listed["shadows"]) == ("original", [])
    learn(server, range(50, 60))
    server.post("/models/m/rollback", step=39).raise_for_status()
    assert before != digest(server, "other") == fresh(server, range(30, 39), **OTHER)


def test_a_promotion_cancels_an_upgrade(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.upgrading.Upgrading.start", lambda self: None)
    with serving(tmp_path / "data") as server:
        server.create(name="m", **PLAIN, learner=1)
        learn(server, range(30))
        add(server)
        server.client.post("/models/m/upgrade").raise_for_status()
        late = server.post("/models/m/shadows", name="late", **OTHER)
        assert error(late) == (409, "rebuilding", None)
        learn(server, range(30, 40))
        promote(server)
        assert server.get("/models/m")["state"] == "ready"
    monkeypatch.undo()
    with serving(tmp_path / "data") as server:
        assert server.get("/models/m")["state"] == "ready"
        assert digest(server) == fresh(server, range(30, 40), **OTHER)


def test_a_shadow_that_cannot_learn_does_not_disturb_its_champion(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(10))
    add(server, "few", max_classes=2)
    add(server, "wild", hidden=[4], lr=1e11)
    learn(server, range(10, 40))
    for i, scale in enumerate((1e3, 1e6, 1e9)):
        server.learn({"a": scale, "b": -scale}, sample(i)[1], model="m")
    for i in range(3):
        server.learn(sample(i)[0], "bird", model="m")
    learn(server, range(40, 60))
    wait_until(lambda: server.get("/models/m/shadows")["shadows"][1]["failure"])
    wait_until(lambda: not server.get("/models/m/shadows")["shadows"][0]["behind"])
    few, wild = server.get("/models/m/shadows")["shadows"]
    assert (few["skipped"], few["step"], few["failure"], few["comparison"]["n"]) == (3, 53, None, 52)
    assert "diverged" in wild["failure"]
    assert error(server.post("/models/m/promote", shadow="wild")) == (409, "shadow_failed", "shadow")
    assert server.get("/models/m")["step"] == 66
    server.client.post("/models/m/checkpoints").raise_for_status()
    server.post("/models/m/rollback", step=66).raise_for_status()  # from the checkpoint
    assert "diverged" in server.get("/models/m/shadows")["shadows"][1]["failure"]


def test_task_and_shape_can_be_omitted(serve: Serve) -> None:
    server = serve()
    server.create(name="m", task="regression", input_shape=[2], hidden=[3])
    answer = server.post("/models/m/shadows", name="s", hidden=[4])
    assert answer.status_code == 201, answer.text
    spec = answer.json()["spec"]
    assert (spec["task"], spec["input_shape"], spec["hidden"]) == ("regression", [2], [4])


def test_invalid_requests_change_nothing(serve: Serve) -> None:
    server = serve(max_shadows=2)
    server.create(name="m", **PLAIN)
    server.create(name="images", input_shape=[2, 2], hidden=[3])
    learn(server, range(10))
    add(server)
    before = server.fingerprint("m"), server.get("/models/m")["sequence"]
    post = server.post

    def refused(name: str, **spec: Any) -> tuple[int, str, str | None]:
        return error(post("/models/m/shadows", name=name, **spec))

    assert refused("other") == (409, "shadow_exists", "name")
    assert refused("original") == (409, "shadow_exists", "name")
    assert refused("a b") == (422, "invalid_spec", "name")
    assert refused("x", task="regression") == (422, "invalid_spec", "task")
    assert refused("x", input_shape=[2]) == (422, "invalid_spec", "input_shape")
    assert refused("x", hidden=[4096] * 8, max_features=4096) == (422, "invalid_spec", "hidden")
    assert refused("x", wide=3) == (422, "invalid_spec", "wide")
    flat = error(post("/models/images/shadows", name="x", hidden=[3], input_shape=None))
    assert flat == (422, "invalid_spec", "input_shape")
    assert error(post("/models/none/shadows", name="x")) == (404, "unknown_model", "model")
    assert error(post("/models/m/promote", shadow="x")) == (404, "unknown_shadow", "shadow")
    assert error(post("/models/m/promote")) == (422, "invalid_spec", "shadow")
    assert error(server.client.delete("/models/m/shadows/x")) == (404, "unknown_shadow", "shadow")
    unknown = server.client.get("/models/m/fingerprint?shadow=x")
    assert error(unknown) == (404, "unknown_shadow", "shadow")
    assert unknown.json()["error"]["message"] == "the model has no shadow 'x': its shadows are 'other'"
    assert (server.fingerprint("m"), server.get("/models/m")["sequence"]) == before
    add(server, "second")
    third = post("/models/m/shadows", name="third")
    assert error(third) == (409, "too_many_shadows", None)
    assert "delete one, or raise BNP_MAX_SHADOWS" in third.json()["error"]["message"]
    assert server.client.delete("/models/m/shadows/second").status_code == 204
    add(server, "third")
    assert server.client.delete("/models/m").status_code == 204
    assert error(server.client.get("/models/m/shadows")) == (404, "unknown_model", "model")


def test_what_happens_is_in_the_history_the_metrics_and_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(log_level="info")
    server.create(name="m", **PLAIN)
    add(server)
    learn(server, range(80))
    shadows(server)
    found = {
        name: value
        for (name, labels), value in samples(text_of(server)).items()
        if dict(labels).get("shadow")
    }
    assert found["bnp_shadow_learned_total"] == 80
    assert (found["bnp_shadow_compared"], found["bnp_shadow_behind_events"]) == (79, 0)
    assert (found["bnp_shadow_up"], found["bnp_shadow_skipped_total"]) == (1, 0)
    assert "bnp_shadow_difference" in found
    with server.client.stream("GET", "/events?model=m") as events:
        with caplog.at_level("INFO", "service.audit"):
            promote(server)
        for line in events.iter_lines():
            if line.startswith("data:") and '"former"' in line:
                told = json.loads(line[5:])
                break
    assert (told["shadow"], told["former"], told["step"]) == ("other", "original", 80)
    [mark] = [each for each in server.get("/models/m/history")["marks"] if each["kind"] == "promotion"]
    assert (mark["step"], mark["shadow"]) == (80, "other")
    server.client.delete("/models/m/shadows/original").raise_for_status()
    assert [record.message for record in caplog.records if "shadow" in record.message][
        -1
    ] == "shadow promoted"
    kinds = [each["kind"] for each in server.get("/models/m/events?limit=1000")["events"]]
    assert [kind for kind in kinds if kind != "learn"] == ["create", "shadow", "promote", "unshadow"]


def test_marks_of_a_former_champion_have_its_name(serve: Serve) -> None:
    """Until it is the champion again; another model of the same name is another one."""

    def marks() -> list[tuple[str, int, str | None]]:
        found = server.get("/models/m/history")["marks"]
        return [(each["kind"], each["step"], each.get("champion")) for each in found]

    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(30))
    server.client.post("/models/m/checkpoints").raise_for_status()
    add(server)
    learn(server, range(30, 50))
    promote(server)
    server.client.post("/models/m/checkpoints").raise_for_status()
    then = [("checkpoint", 30, "original"), ("promotion", 20, None), ("checkpoint", 20, None)]
    assert marks() == then
    promote(server, "original")
    back = [("checkpoint", 30, None), ("promotion", 20, "other"), ("checkpoint", 20, "other")]
    assert marks() == [*back, ("promotion", 50, None)]
    promote(server)
    server.client.delete("/models/m/shadows/original").raise_for_status()
    add(server, "original")
    promote(server, "original")
    promotions = [("promotion", 20, "other"), ("promotion", 0, None)]
    assert marks() == [*then[:1], *back[1:], ("promotion", 50, "original"), *promotions]
    server.post("/models/m/rollback", step=30).raise_for_status()
    assert marks() == [("checkpoint", 30, None), ("rollback", 30, None)]


def test_an_unlearning_of_a_former_champion_has_its_name_and_step(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **PLAIN)
    learn(server, range(30))
    server.post("/models/m/forget", ids=["s3", "s4"]).raise_for_status()
    wait_until(lambda: server.get("/models/m")["step"] == 28)

    def unlearning() -> tuple[int, int, str | None]:
        marks = server.get("/models/m/history")["marks"]
        [mark] = [each for each in marks if each["kind"] == "unlearning"]
        return mark["step"], mark["events"], mark.get("champion")

    assert unlearning() == (28, 2, None)
    add(server)
    learn(server, range(30, 50))
    promote(server)
    assert unlearning() == (30, 2, "original")
    promote(server, "original")
    assert unlearning() == (20, 2, None)  # the last point of the history before it


def test_a_server_that_knows_no_shadows_does_not_open_their_log(tmp_path: Path) -> None:
    def version() -> int:
        with closing(sqlite3.connect(tmp_path / "events.sqlite3")) as log:
            [(found,)] = log.execute("PRAGMA user_version")
        return int(found)

    with serving(tmp_path) as server:
        server.create(name="m", **PLAIN)
        server.learn(*sample(0), model="m")
        assert version() == 2
        add(server)
        assert version() == 3
    with serving(tmp_path) as server:
        assert list(shadows(server)) == ["other"]


def test_a_sample_that_the_champion_refused_after_the_commit_is_not_learned(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    server.create(name="m", **PLAIN, standardize=False, learner=1)  # which does not bound values
    learn(server, range(10))
    add(server)
    learn(server, range(10, 20))

    def full(self: Checkpointer, refused: object, steps: object) -> None:
        raise StorageFullError("no room")

    monkeypatch.setattr(Checkpointer, "correct", full)  # the log does not get the refusal
    refused = server.post("/learn", x={"a": 1e39}, y="cat", model="m")
    assert error(refused) == (422, "non_finite_state", None)
    learn(server, range(20, 40))
    expected = fresh(server, range(10, 40), **OTHER)
    assert digest(server, "other") == expected
    monkeypatch.undo()
    server.client.post("/models/m/checkpoints").raise_for_status()
    server.post("/models/m/rollback", step=40).raise_for_status()
    assert digest(server, "other") == expected


def test_a_champion_that_diverges_keeps_its_shadows(serve: Serve) -> None:
    server = serve()
    server.create(name="m", hidden=[4], lr=1e11)
    add(server)
    accepted = []
    for i, (x, y) in enumerate(map(sample, range(100))):
        if server.post("/learn", x=x, y=y, model="m", id=f"s{i}").status_code == 200:
            accepted.append(i)
    assert len(accepted) < 100
    assert digest(server, "other") == fresh(server, accepted, **OTHER)
    assert shadows(server)["other"]["comparison"]["n"] > len(accepted) // 2


def test_a_stored_model_has_its_shadows_in_its_checkpoint(serve: Serve) -> None:
    server = serve(models_in_memory=1)
    server.create(name="m", **PLAIN)
    add(server)
    learn(server, range(30))
    found = digest(server, "other"), shadows(server)
    server.predict(sample(0)[0])  # of another model, for which this one makes room
    wait_until(
        lambda: {each["name"]: each["state"] for each in server.get("/models")["models"]}["m"] == "stored"
    )
    assert (digest(server, "other"), shadows(server)) == found


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.004), (0.2, 0.016)])
def test_a_busy_champion_gets_its_share(
    monkeypatch: pytest.MonkeyPatch, share: float, expected: float
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def turn() -> None:
        slept.append(-1.0)

    monkeypatch.setattr(shadowing, "asyncio", SimpleNamespace(sleep=sleep))
    model, fair_turns = SimpleNamespace(sequence=5), SimpleNamespace(next=turn)
    worker: Any = SimpleNamespace(model=model, queue_depth=0, fair_turns=fair_turns)
    turns: Any = object.__new__(shadowing.Shadowing)
    turns._worker, turns._seen, turns._settings = worker, 5, SimpleNamespace(shadow_share=share)

    def pause(spent: float, *, hurried: bool = False) -> float:
        turns._spent = spent
        asyncio.run(turns._pause(hurried=hurried))
        return slept.pop()

    assert pause(0.0005) == -1.0  # short calls share the passes of the event loop
    assert pause(0.004) == 0.0  # the champion does nothing
    worker.queue_depth = 1
    assert pause(0.004) == pytest.approx(expected)
    worker.queue_depth, model.sequence = 0, 9  # it learned meanwhile
    assert pause(0.004) == pytest.approx(expected)
    worker.queue_depth = 1
    assert pause(0.004, hurried=True) == 0.0
