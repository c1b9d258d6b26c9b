"""Lines that a learner reads as rows: the bits of samples that are learned one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.blocks import padded
from bnp_online.learner import BlockReader

Learner = BNPClassifier | BNPRegressor
Line = dict[str, Any]


def reader() -> BlockReader:
    return BlockReader(max_line=10_000, max_id=128)


def learn(learner: Learner, line: Line) -> None:
    learner.learn_one(line["x"], line["y"], w=line.get("w", 1.0))


def learn_in_blocks(learner: Learner, lines: list[Line], most: int = 256) -> int:
    """Learn lines by a reader, and those that it does not read alone; return how many it read."""
    raw = [orjson.dumps(line) for line in lines]
    buffer, starts = padded(b"\n".join((*raw, b""))), np.cumsum([0, *(len(each) + 1 for each in raw)])
    source, i, count = reader(), 0, 0
    while i < len(lines):
        block = source.read(learner, buffer, int(starts[i]), most)
        if block is None:
            learn(learner, lines[i])
            source.note(learner, raw[i], lines[i])
            i += 1
            continue
        assert learner.knows(block.rows)
        assert block.end == starts[i + len(block.lines)]
        for k, (start, end) in enumerate(block.lines.tolist()):
            assert bytes(buffer[start:end]) == raw[i + k]
        for k, (start, end) in enumerate(block.ids.tolist()):
            assert lines[i + k].get("id") == (bytes(buffer[start:end]).decode() if start >= 0 else None)
        done = 0
        while done < len(block.lines):
            learned, _ = learner.learn_rows(block.rows.part(done, len(block.lines)))
            assert learned > 0
            done += learned
        i, count = i + done, count + done
    return count


def stream(seed: int, task: str) -> Iterator[Line]:
    """Yield samples of a few forms, with heavy tails, strings, missing values and late features."""
    rng = random.Random(seed)  # noqa: S311
    choices: list[list[Any]] = [["a", "b"], [False, True], [7, 3, 5]]
    labels = choices[seed % 3]
    for i in range(400):
        x: dict[str, Any] = {name: rng.gauss(0, 1) ** 5 for name in "abc"}
        if i > 100:
            x["late"] = rng.randint(0, 9)
        if i > 50 and rng.random() < 0.1:
            x["b"] = rng.choice(["n/a", "off"])
        x["town"] = rng.choice(["Oslo", "Lund", "Rome"][: 2 + (i > 200)])
        if rng.random() < 0.05:
            x[rng.choice("abc")] = None
        line: Line = {"x": x, "y": rng.gauss(0, 1) if task == "regression" else rng.choice(labels)}
        if i % 3 == 0:
            line["w"] = rng.random()
        if i % 4 == 0:
            line["id"] = f"sample {i}"
        yield line


MAKE: dict[str, Callable[[], Learner]] = {
    "classification": lambda: BNPClassifier(hidden=(8,)),
    "one network": lambda: BNPClassifier(hidden=(8,), lr=0.1),
    "first generation": lambda: BNPClassifier(hidden=(8,), learner=1),
    "regression": lambda: BNPRegressor(hidden=(8,)),
    "intervals": lambda: BNPRegressor(hidden=(8,), lr=0.1, intervals=50),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("seed", range(3))
def test_blocks_have_the_bits_of_single_samples(name: str, seed: int) -> None:
    task = "regression" if isinstance(MAKE[name](), BNPRegressor) else "classification"
    lines = list(stream(seed, task))
    alone, blocks = MAKE[name](), MAKE[name]()
    for line in lines:
        learn(alone, line)
    assert learn_in_blocks(blocks, lines, most=[256, 7, 1][seed]) > 200
    assert blocks.fingerprint() == alone.fingerprint()


def read_first(learner: Learner, noted: Line, line: Line) -> int:
    """Return how many of two equal lines are read after another line was noted."""
    source, raw = reader(), orjson.dumps(line)
    source.note(learner, orjson.dumps(noted), noted)
    block = source.read(learner, padded(raw + b"\n" + raw + b"\n"), 0, 256)
    return 0 if block is None else len(block.lines)


KNOWN = {"x": {"a": 1.5, "town": "Oslo"}, "y": "no"}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ({"x": {"a": -2.0, "town": "Oslo"}, "y": "no"}, 2),
        ({"x": {"a": None, "town": "Oslo"}, "y": "no"}, 0),  # null was never noted
        ({"x": {"a": -2.0, "town": "Lund"}, "y": "no"}, 0),
        ({"x": {"a": -2.0, "town": "Oslo"}, "y": "yes"}, 0),
        ({"x": {"town": "Oslo", "a": -2.0}, "y": "no"}, 0),
        ({"x": {"a": 1e101, "town": "Oslo"}, "y": "no"}, 0),
        ({"x": {"a": -2.0, "town": "Oslo"}, "y": "no", "w": 1.0}, 0),
    ],
)
def test_only_lines_of_a_known_form_and_with_known_words_are_read(line: Line, count: int) -> None:
    model = BNPClassifier(hidden=(4,))
    for each in (KNOWN, {**KNOWN, "y": "yes"}):
        learn(model, each)
    assert read_first(model, KNOWN, line) == count


def test_what_the_learner_forgets_is_not_read() -> None:
    model, empty = BNPClassifier(hidden=(4,)), BNPClassifier(hidden=(4,))
    state = empty.state_dict()
    learn(model, KNOWN)
    assert read_first(model, KNOWN, KNOWN) == 2
    source, raw = reader(), orjson.dumps(KNOWN)
    source.note(model, raw, KNOWN)
    block = source.read(model, padded(raw + b"\n"), 0, 1)
    assert block is not None
    model.load_state_dict(state)
    assert not model.knows(block.rows)
    assert source.read(model, padded(raw + b"\n"), 0, 1) is None
    learn(model, {"x": {"town": "Oslo", "b": 1.0}, "y": "no"})  # other columns
    assert not model.knows(block.rows)


@pytest.mark.parametrize(
    "options",
    [
        {"text": ("a",)},
        {"sparse": ("a*",)},
        {"input_shape": (2,)},
        {"network": "cnn", "input_shape": (1, 8, 8)},
    ],
)
def test_learners_that_read_no_rows(options: dict[str, Any]) -> None:
    model = BNPClassifier(**options)
    assert model.layout() is None
    shape = options.get("input_shape")
    model.learn_one({"a": 1.0} if shape is None else np.ones(shape), "no")
    assert model.layout() is None
