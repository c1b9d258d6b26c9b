"""Models that change while lines of a stream, which were read for the model before, are on their way."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnp_online.blocks import Templates
from service.blocks import lines as block_lines
from tests.support.running import Json, Server, serving
from tests.support.server_process import wait_until
from tests.support.streaming import post_lines, refusals

#: Samples that no block has.
MANY = 10**9


def in_blocks(server: Server, model: str) -> float:
    """Return how many samples of a model were learned in blocks."""
    name = re.escape(f'bnp_model_block_samples_total{{model="{model}"}}')
    found = re.search(rf"^{name} (\S+)$", server.client.get("/metrics").text, re.M)
    assert found is not None
    return float(found[1])


def models(server: Server) -> list[Json]:
    found: list[Json] = server.get("/models")["models"]
    return found


def samples(count: int, seed: int, **more: str) -> list[Json]:
    rng = random.Random(seed)  # noqa: S311
    return [
        {"x": {"a": rng.gauss(0, 1), "b": rng.random()}, "y": rng.choice("uv"), **more} for _ in range(count)
    ]


def test_a_missing_number_whose_feature_gets_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing value has all columns of its feature, also those that the lines before it add."""
    known, missing = samples(40, seed=1), samples(60, seed=2)
    for each in [*known[20:30], *missing[::2]]:
        each["x"]["b"] = None
    missing[0]["x"]["b"] = "red"
    found = []
    for fewest in (2, MANY):
        monkeypatch.setattr(block_lines, "FEWEST", fewest)
        folder = tmp_path / str(fewest)
        with serving(folder) as server:
            answers = [post_lines(server, some) for some in (known[:20], known[20:], missing)]
            before = server.fingerprint()
            assert (in_blocks(server, "default") > 0) == (fewest < MANY)
        (folder / "checkpoints").rename(folder / "gone")
        with serving(folder) as server:
            assert server.fingerprint() == before
        found.append((answers, before))
    assert found[0] == found[1]


def test_a_missing_string_whose_feature_gets_values(tmp_path: Path) -> None:
    """Samples alone, together in a stream, and read again from the log lead to one state."""
    rng, lines = random.Random(3), list[Json]()  # noqa: S311
    for i in range(700):  # more than a start reads at once
        few = None if i % 3 else f"few{i // 200}"
        lines.append({"x": {"a": rng.random(), "few": few, "many": f"m{rng.randrange(60)}"}, "y": i % 2})
    with serving(tmp_path) as server:
        for name in ("alone", "stream"):
            server.client.post("/models", json={"name": name, "hidden": [2], "replay": 0})
        for each in lines:
            server.client.post("/models/alone/learn", json=each)
        for some in (lines[:500], lines[500:]):
            post_lines(server, [{**each, "model": "stream"} for each in some])
        before = server.fingerprint("alone")
        assert server.fingerprint("stream") == before
    (tmp_path / "checkpoints").rename(tmp_path / "gone")
    with serving(tmp_path) as server:
        assert [server.fingerprint(name) for name in ("alone", "stream")] == [before, before]


def test_numbers_for_a_regression_that_becomes_a_classification(serve: Callable[..., Server]) -> None:
    """They are no classes, though the columns are the same."""
    server = serve()
    server.create(name="numbers", task="regression", hidden=[4])
    server.create(name="classes", hidden=[4])
    numbers = [{**each, "y": i + 0.5} for i, each in enumerate(samples(40, seed=1))]
    for some in (numbers[:10], numbers[10:]):
        post_lines(server, some, "/models/numbers/learn")
    assert in_blocks(server, "numbers") > 0
    post_lines(server, samples(20, seed=2), "/models/classes/learn")
    file = server.client.get("/models/classes/export").content
    answers: list[Json] = []

    def replace() -> None:
        headers = {"content-type": "application/octet-stream"}
        server.client.put("/models/numbers/import", content=file, headers=headers).raise_for_status()

    def send() -> None:
        answers.extend(post_lines(server, numbers, "/models/numbers/learn"))

    threads = []
    with server.held("numbers"):
        for depth, action in ((2, replace), (2 + len(numbers), send)):
            threads.append(threading.Thread(target=action))
            threads[-1].start()
            server.wait_for_queue(depth, "numbers")
    for each in threads:
        each.join()
    assert [each["error"]["code"] for each in answers] == ["invalid_label"] * len(numbers)
    before = in_blocks(server, "numbers")
    for _ in range(2):
        post_lines(server, samples(20, seed=3), "/models/numbers/learn")
    assert in_blocks(server, "numbers") > before


def test_a_model_of_a_stream_makes_no_room_for_the_next_one(serve: Callable[..., Server]) -> None:
    server = serve(models_in_memory=1)
    for name in "mn":
        server.create(name=name, hidden=[4])
        post_lines(server, samples(20, seed=1, model=name))
    for _ in range(2):
        post_lines(server, samples(20, seed=2, model="m"))
    assert in_blocks(server, "m") > 0
    wait_until(lambda: all(each["state"] == "stored" or each["name"] == "m" for each in models(server)))
    answers = post_lines(server, [*samples(20, seed=3, model="m"), *samples(20, seed=3, model="n")])
    assert [(each.get("model"), each.get("step")) for each in answers] == [
        *(("m", step) for step in range(61, 81)),
        *(("n", step) for step in range(21, 41)),
    ]


def test_refused_lines_leave_no_words(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of their names would cost memory, and time for every later line."""
    readers = list[Templates]()
    make = Templates.__init__

    def made(self: Templates, *arguments: Any, **options: Any) -> None:
        readers.append(self)
        make(self, *arguments, **options)

    monkeypatch.setattr(Templates, "__init__", made)
    server = serve()
    post_lines(server, samples(20, seed=1))
    lines = samples(40, seed=2)
    for i in range(3, len(lines), 4):
        lines[i] = {"x": {f"name {i} {j}": "text" for j in range(20)}, "y": 0.5}
    answers = post_lines(server, lines)
    assert refusals(answers) == dict.fromkeys(range(4, len(lines) + 1, 4), "invalid_label")
    assert in_blocks(server, "default") > 0
    assert not any(each.strings for each in readers)


@pytest.mark.parametrize("count", [500, 600])
def test_samples_with_few_features_of_a_wide_model(serve: Callable[..., Server], count: int) -> None:
    """Their rows would take far more memory than they do, while they wait."""
    server = serve()
    post_lines(server, [{"x": {f"n{i}": i / 7 for i in range(count)}, "y": y} for y in "uv"])
    post_lines(server, samples(20, seed=1))
    post_lines(server, samples(60, seed=2))
    assert (in_blocks(server, "default") > 0) == (count < 512)
