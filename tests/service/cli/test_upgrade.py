"""``upgrade``: at a server, and in place on a data folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.commands import command
from tests.support.running import Json, Server, serving

Serve = Callable[..., Server]
SPEC: dict[str, Any] = {"hidden": [4], "replay": 1, "memory": 30}


def old(server: Server, **spec: Any) -> None:
    """Create the model ``m`` of an earlier version."""
    server.create(name="m", learner=1, **SPEC, **spec)
    learn(server, "m")


def learn(server: Server, model: str, count: int = 60) -> None:
    for i in range(count):
        server.learn({"a": i % 7, "b": i % 3}, ["cat", "dog"][i * i % 5 > 1], model=model)


def fresh(server: Server) -> Json:
    server.create(name="new", **SPEC)
    learn(server, "new")
    return server.fingerprint("new")


def test_at_a_server(serve: Serve) -> None:
    server = serve()
    old(server)
    done = command("upgrade", "m", "--url", server.url, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"model": "m", "step": 60, "upgraded": True}
    assert server.fingerprint("m") == fresh(server)
    again = command("upgrade", "m", "--url", server.url, "--json")
    assert json.loads(again.out) == {"model": "m", "step": 60, "upgraded": False}
    missing = command("upgrade", "n", "--url", server.url)
    assert (missing.code, missing.out) == (1, "")
    assert "there is no model 'n'" in missing.err
    assert "did you mean 'm'?" in missing.err or "the names are" in missing.err


def test_a_folder_is_upgraded_in_place(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = serve()
    old(server, drift={"detector": "page_hinkley", "threshold": 1.0, "action": "reset_slowest"})
    file = server.client.get("/models/m/export").content
    octets = {"content-type": "application/octet-stream"}
    server.client.put("/models/imported/import", content=file, headers=octets).raise_for_status()
    running = command("upgrade", "m", "--data-dir", folder)
    assert running.code == 1
    assert "another server" in running.err
    server.stop()

    done = command("upgrade", "m", "--data-dir", folder, "--json")
    assert (done.code, json.loads(done.out)) == (0, {"model": "m", "step": 60, "upgraded": True})
    again = command("upgrade", "m", "--data-dir", folder)
    assert (again.code, "False" in again.out) == (0, True)
    unknown = command("upgrade", "n", "--data-dir", folder)
    assert (unknown.code, "the models are default, m, imported" in unknown.err) == (1, True)
    lacking = command("upgrade", "imported", "--data-dir", folder)
    assert (lacking.code, "0 of the 60 samples" in lacking.err) == (1, True)
    assert command("upgrade", "imported", "--kept", "--data-dir", folder).code == 0

    with serving(folder) as again_served:
        described = again_served.get("/models/m")
        assert (described["spec"]["learner"], described["step"], described["upgrade"]) == (2, 60, None)
        again_served.create(name="new", **SPEC, drift=described["spec"]["drift"])
        learn(again_served, "new")
        assert again_served.fingerprint("m") == again_served.fingerprint("new")
        assert again_served.get("/models/imported")["step"] == 0
        again_served.post("/models/m/rollback", step=59).raise_for_status()
        assert again_served.get("/models/m")["spec"]["learner"] == 1


def test_wrong_usage() -> None:
    both = command("upgrade", "m", "--url", "http://localhost:1", "--data-dir", "data")
    assert (both.code, "Give either --url or --data-dir" in both.err) == (2, True)
    nowhere = command("upgrade", "m", "--data-dir", "/nowhere/at/all")
    assert (nowhere.code, "There is no folder /nowhere/at/all" in nowhere.err) == (1, True)


def test_the_description_names_the_experts(serve: Serve) -> None:
    server = serve()
    server.create(name="m", **SPEC)
    learn(server, "m", 30)
    shown = command("models", "m", "--url", server.url).out
    assert "network, rate 0.3, replay, mean of weights" in shown
    assert " lead" in shown
    told = json.loads(command("models", "m", "--url", server.url, "--json").out)
    assert told["mixture"] == server.get("/models/m")["mixture"]
    assert told["leading"] == server.get("/models/m")["leading"]
