"""Streams that are read as blocks: answers, states, metrics and logs equal those of single requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from service.blocks import lines as block_lines
from tests.support.lines import Lines, in_blocks, observed, written
from tests.support.running import Json, Server, serving
from tests.support.streaming import NDJSON


def learned(folder: Path, spec: Json, bodies: list[bytes]) -> tuple[list[bytes], Json, Json]:
    """Return the answers to streams, and what a server tells before and after a restart."""
    with serving(folder) as server:
        server.create(name="m", hidden=[8], **spec)
        answers = [
            server.client.post("/models/m/learn", content=body, headers={"content-type": NDJSON}).content
            for body in bodies
        ]
        before = observed(server)
        assert (in_blocks(server) > 50) == (block_lines.FEWEST < MANY)
    (folder / "checkpoints").rename(folder / "gone")
    with serving(folder) as server:
        return answers, before, observed(server)


#: Samples that no block has.
MANY = 10**9
DRIFT = {"detector": "page_hinkley", "threshold": 0.5, "action": "forget_moments"}


@pytest.mark.parametrize("seed", range(4))
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    lines = Lines(seed)
    spec: Json = {"task": lines.task, "seed": seed}
    if seed == 0:
        spec["drift"] = DRIFT
    bodies = [lines.body(250) for _ in range(3)]
    answers, before, after = learned(tmp_path / "blocks", spec, bodies)
    monkeypatch.setattr(block_lines, "FEWEST", MANY)  # every sample takes the exact path
    alone = learned(tmp_path / "alone", spec, bodies)
    assert (answers, before, after) == alone
    assert after["fingerprint"] == before["fingerprint"]
    assert seed or before["drift"]["actions"] > 0


def test_a_line_without_a_name_is_of_the_default_model(serve: Callable[..., Server]) -> None:
    """Lines of one form, which another request sent to a model by its path, among lines that name it."""
    server = serve()
    server.create(name="a", hidden=[4])
    rng = random.Random(1)  # noqa: S311

    def lines(count: int, **more: str) -> list[bytes]:
        return [written({"x": {"size": rng.random()}, "y": rng.choice("uv"), **more}) for _ in range(count)]

    def learn(path: str, some: list[bytes]) -> list[str]:
        answers = server.client.post(path, content=b"\n".join(some), headers={"content-type": NDJSON})
        return [orjson.loads(each)["model"] for each in answers.text.splitlines()]

    for path in ("/learn", "/models/a/learn"):
        for _ in range(3):
            learn(path, lines(30))
    learn("/learn", lines(30, model="a"))
    some = [lines(3, model="a"), lines(3), lines(3, model="a"), lines(3)]
    assert learn("/learn", [line for each in some for line in each]) == 2 * (3 * ["a"] + 3 * ["default"])
    assert learn("/models/a/learn", some[0] + some[1]) == 6 * ["a"]


def test_models_of_one_stream(serve: Callable[..., Server]) -> None:
    """Lines of several models, one of which is named in the features of another."""
    server = serve()
    for name in ("a", "b"):
        server.create(name=name, hidden=[4])
    rng, sent = random.Random(1), dict[str, list[Json]]()  # noqa: S311
    stream = []
    for i in range(300):
        name = rng.choice("ab")
        x = {"size": rng.random(), "model": rng.choice(["a", "b", "golf"])}
        line = {"model": name, "x": x, "y": rng.choice("uv"), "id": f"{i}"}
        sent.setdefault(name, []).append(line)
        stream.append(written(line) if rng.random() < 0.9 else written({"x": x, "y": line["y"], **line}))
    body = b"".join(each + b"\n" for each in stream)
    answers = server.client.post("/learn", content=body, headers={"content-type": NDJSON}).text.splitlines()
    steps = dict.fromkeys(sent, 0)
    for line, answer in zip(map(orjson.loads, stream), map(orjson.loads, answers), strict=True):
        steps[line["model"]] += 1
        assert (answer["model"], answer["step"]) == (line["model"], steps[line["model"]])
    for name, lines in sent.items():
        server.create(name=f"{name}-alone", hidden=[4])
        for line in lines:
            server.learn(**{**line, "model": f"{name}-alone"})
        assert server.fingerprint(name) == server.fingerprint(f"{name}-alone")
