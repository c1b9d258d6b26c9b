"""A stream is stored as runs, and everything is as if its samples had come one by one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import DamagedEventError
from service.models.recovery import open_folder
from service.schemas import ModelSpec
from service.settings import Settings
from tests.support.running import Json, Server, killed_copy, serving
from tests.support.server_process import wait_until
from tests.support.streaming import post_lines

COUNT = 300
#: Groups of all lines that have arrived.
SETTINGS: dict[str, Any] = {"group_size": 2 * COUNT, "queue_size": 4 * COUNT}


def lines() -> list[Json]:
    """Return samples, of which some have an id, a weight or a feature more, and some are refused."""
    rng, found = np.random.default_rng(5), []
    for i in range(COUNT):
        a, b = rng.normal(size=2).tolist()
        line: Json = {"x": {"a": a, "b": b, **({"c": b} if i > 100 else {})}, "y": "cat" if a > 0 else "dog"}
        if i % 3 == 0:
            line["id"] = f"e{i}"
        if i % 4 == 0:
            line["w"] = 0.5
        if i % 50 == 20:
            line["x"]["a"] = [1]
        if i == 200:
            line["id"] = "e30"  # of another sample
        found.append(line)
    return found


def rows(folder: Path) -> list[int]:
    """Return the number of events of each row with samples."""
    with closing(sqlite3.connect(folder / "events.sqlite3")) as database:
        query = "SELECT count FROM event WHERE kind = 'learn' ORDER BY seq"
        return [count for (count,) in database.execute(query)]


class Pair:
    """Two servers that learn the same samples: as a stream, and one by one."""

    def __init__(self, streamed: Server, single: Server) -> None:
        self.streamed, self.single = streamed, single

    def same(self, ask: Callable[[Server], Any]) -> Any:
        found, expected = ask(self.streamed), ask(self.single)
        assert found == expected
        return found

    def check(self) -> None:
        """Compare all that can be seen, without times."""

        def events(server: Server, query: str) -> list[Json]:
            listed: list[Json] = server.get(f"/models/default/events?limit=1000{query}")["events"]
            return [{key: value for key, value in each.items() if key != "time"} for each in listed]

        found = self.same(lambda server: events(server, ""))
        self.same(lambda server: events(server, f"&after={found[len(found) // 2]['sequence']}"))
        branches = self.same(lambda server: server.get("/models/default/branches")["branches"])
        for each in branches:
            self.same(partial(events, query=f"&branch={each['number']}"))
        self.same(Server.fingerprint)

    def post(self, path: str, code: str | None = None, **body: Any) -> None:
        answer = self.same(lambda server: server.post(path, **body).json())
        assert answer.get("error", {}).get("code") == code, answer
        for server in (self.streamed, self.single):
            wait_until(partial(is_ready, server))


def is_ready(server: Server) -> bool:
    return bool(server.get("/models/default")["state"] == "ready")


def without_line(answer: Json) -> Json:
    return {key: value for key, value in answer.items() if key != "line"}


def test_runs_are_seen_as_single_samples(tmp_path: Path) -> None:
    default = ModelSpec.model_validate({"hidden": (5,), "replay": 1, "memory": 20})
    folders = tmp_path / "streamed", tmp_path / "single"
    sent = lines()
    with (
        serving(folders[0], default_model=default, **SETTINGS) as streamed,
        serving(folders[1], default_model=default, **SETTINGS) as single,
    ):
        answers = post_lines(streamed, sent)
        assert [without_line(each) for each in answers] == [
            single.post("/learn", **each).json() for each in sent
        ]
        assert max(rows(folders[0])) > 20
        assert rows(folders[1]) == [1] * sum(rows(folders[0]))
        pair = Pair(streamed, single)
        pair.check()
        pair.post("/models/default/forget", ids=["e33", "e36", "e150"])
        pair.check()
        pair.post("/models/default/rollback", step=140)
        pair.check()
        pair.post("/learn", "id_forgotten", x={"a": 1.0}, y="cat", id="e150")
        pair.post("/learn", **sent[240])  # rolled back: it is learned again
        pair.post("/learn", **sent[15])  # learned before
        pair.check()
        for server in (streamed, single):
            server.client.post("/models/default/checkpoints").raise_for_status()
        for each in sent[250:269]:
            pair.post("/learn", **each)
        pair.check()
        assert max(rows(folders[0])) > 20
        killed = [killed_copy(folder, folder.with_suffix(".killed")) for folder in folders]
        bare = [killed_copy(folder, folder.with_suffix(".bare")) for folder in folders]
        expected = streamed.fingerprint()
    for folder in bare:
        shutil.rmtree(folder / "checkpoints")
    for copies in (folders, killed, bare):
        with serving(copies[0], **SETTINGS) as streamed, serving(copies[1], **SETTINGS) as single:
            Pair(streamed, single).check()
            assert streamed.fingerprint() == expected


def test_a_refusal_within_a_run_divides_it(tmp_path: Path) -> None:
    """A sample that the model refuses after the commit, in the middle of a run."""
    default = ModelSpec.model_validate({"hidden": (4,), "lr": 1e11})
    sent = [each for each in lines() if each["x"]["a"] != [1]]
    del sent[150:]
    with serving(tmp_path, default_model=default, **SETTINGS) as server:
        answers = post_lines(server, sent)
        refused = [i for i, each in enumerate(answers) if "error" in each]
        assert {answers[i]["error"]["code"] for i in refused} == {"non_finite_state"}
        found = rows(tmp_path)
        assert sum(found) == len(sent)
        assert len(found) > len(refused) < len(sent)
        events = server.get("/models/default/events?limit=1000")["events"][1:]
        assert [i for i, each in enumerate(events) if each["refused"]] == refused
        assert [each["step"] for each in events if not each["refused"]] == [
            each["step"] for each in answers if "error" not in each
        ]
        expected = server.fingerprint()
        killed = killed_copy(tmp_path, tmp_path.with_suffix(".killed"))
    with serving(killed, default_model=default) as server:
        assert server.fingerprint() == expected


@pytest.mark.parametrize("checkpoint", [True, False])
def test_retention_within_a_run_leaves_the_model(tmp_path: Path, checkpoint: bool) -> None:
    settings = {**SETTINGS, "retain_events": 70, "keep_checkpoints": 1, "checkpoint_every": 10**6}
    with serving(tmp_path / "data", **settings) as server:
        post_lines(server, [each for each in lines() if each["x"]["a"] != [1]])
        if checkpoint:
            server.client.post("/models/default/checkpoints").raise_for_status()
            wait_until(lambda: sum(rows(tmp_path / "data")) < COUNT // 2)
            assert sum(rows(tmp_path / "data")) == 70
        expected = server.fingerprint()
        killed = killed_copy(tmp_path / "data", tmp_path / "killed")
    with serving(killed) as server:
        assert server.fingerprint() == expected


def test_a_checkpoint_inside_a_run_is_signed_by_its_event(tmp_path: Path) -> None:
    """A drift action takes a checkpoint at any sample of a run; the run is divided later."""
    default = ModelSpec.model_validate(
        {"hidden": (5,), "replay": 0, "drift": {"action": "reset_slowest", "delta": 0.9}}
    )
    rng = np.random.default_rng(2)
    sent: list[Json] = []
    for i, a in enumerate(rng.normal(size=1200).tolist()):
        sent.append({"x": {"a": a}, "y": (a > 0) == (i < 500), **({"id": f"e{i}"} if i % 10 == 0 else {})})
    with serving(tmp_path / "data", default_model=default, group_size=400, queue_size=4000) as server:
        post_lines(server, sent)
        events = server.get("/models/default/events?limit=1000&after=600")["events"]
        assert "action" in {each["kind"] for each in events}
        wait_until(lambda: bool(server.get("/models/default/checkpoints")["checkpoints"]))
        server.post("/models/default/forget", ids=["e1190"]).raise_for_status()
        wait_until(partial(is_ready, server))
        expected = server.fingerprint()
        killed = killed_copy(tmp_path / "data", tmp_path / "killed")
    with serving(killed, default_model=default) as server:
        assert server.fingerprint() == expected


def test_a_damaged_line_of_a_stream_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, **SETTINGS) as server:
        post_lines(server, [{"x": {"a": i}, "y": i % 2, "id": f"e{i}"} for i in range(20)])
    shutil.rmtree(data / "checkpoints")
    with closing(sqlite3.connect(data / "events.sqlite3")) as database:
        [(seq,)] = database.execute("SELECT seq FROM named WHERE id = 'e7'")
        [(body,)] = database.execute("SELECT body FROM event WHERE count > 1 AND seq >= ?", (seq,))
        database.execute("UPDATE event SET body = ? WHERE count > 1", (body.replace(b'"e7"', b'"f7"'),))
        database.commit()
    with pytest.raises(DamagedEventError, match=f"event {seq} of model 1 .*repair --skip 1:{seq}$"):
        open_folder(Settings(data_dir=data))
