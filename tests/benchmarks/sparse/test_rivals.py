"""Contestants of the sparse streams: each learns, and none knows a label before it learns it."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from benchmarks.common.streams import Sample, Stream
from benchmarks.sparse import forms
from benchmarks.sparse.passes import run_model
from benchmarks.sparse.rivals import CONTESTANTS
from benchmarks.sparse.vowpal import Binary, OneAgainstAll, Regressor
from bnp_online.engines.base import Task

_RIVALS = [contestant for contestant in CONTESTANTS if contestant.name != "Floor"]


def _stream(kind: str) -> Stream:
    """Return a stream whose target depends on the value of one of two fields."""
    rng = random.Random(0)  # noqa: S311 (reproducible samples, no secrets)
    samples: list[Sample] = []
    for _ in range(300):
        value = rng.randrange(40)
        x = {"a": f"v{value}", "text": f"w{rng.randrange(200)} w{value % 3}", "n": rng.lognormvariate(0, 2)}
        y = {"binary": value % 3 == 0, "classes": "xyz"[value % 3], "numbers": 10.0 + value % 3}[kind]
        samples.append((x, y))
    task: Task = "regression" if kind == "numbers" else "classification"
    return Stream(kind, task, "", samples, texts=("text",))


@pytest.mark.parametrize("kind", ["binary", "classes", "numbers"])
@pytest.mark.parametrize("name", [contestant.name for contestant in _RIVALS])
def test_every_contestant_learns_strings_words_and_numbers(kind: str, name: str) -> None:
    stream = _stream(kind)
    contestant = next(each for each in _RIVALS if each.name == name)
    settings = contestant.settings(stream.describe())
    assert bool(settings) == (name != "Bayes*" or kind != "numbers")
    found = []
    for setting in settings[2:3] or settings:
        run = contestant.run(stream, 0, setting, lambda n: None)
        assert run.seconds > 0.0
        assert run.metrics is not None
        found.append(run.metrics["RMSE"] if kind == "numbers" else run.metrics["LogLoss"])
    floor = {"binary": math.log(3) - 2 / 3 * math.log(2), "classes": math.log(3), "numbers": math.sqrt(2 / 3)}
    assert not found or min(found) < (2.0 if kind == "numbers" else 1.1) * floor[kind]


@pytest.mark.parametrize("options", ["", "-q ::", "--nn 5"])
def test_a_step_of_vowpal_wabbit_returns_the_prediction_from_before(options: str) -> None:
    # without the numbers, whose first great value scales their weights down
    lines = [line.partition("|n")[0] for line, _ in itertools.islice(forms.lines(_stream("binary")), 40)]
    model, other = Binary(options, 1.0, 0), Binary(options, 1.0, 0)
    assert model.step(lines[0], True) == pytest.approx({False: 0.5, True: 0.5}, abs=0.01)
    other.step(lines[0], True)
    # the same prediction for either label that follows
    assert model.step(lines[1], True) == other.step(lines[1], False)
    for line in lines:
        before = model.step(line, True)[True]
        assert model.step(line, True)[True] > before
    classes = OneAgainstAll(["x", "y", "z"], options, 1.0, 0)
    for line in lines:
        assert sum(classes.step(line, "x").values()) == pytest.approx(1.0, abs=1e-5)
    given = classes.step(lines[0], "y")
    assert max(given, key=given.__getitem__) == "x"
    regressor = Regressor(options, 0.5, 0)
    assert regressor.step(lines[0], 1000.0) == 0.0
    assert regressor.step(lines[0], 1000.0) == 1000.0


class _Answers:
    """Model with given answers."""

    def __init__(self, answers: list[object]) -> None:
        self._answers = iter(answers)

    def step(self, x: object, y: object) -> object:
        """Return the next answer."""
        return next(self._answers)


def test_every_sample_is_scored_and_no_answer_counts_as_equal_probabilities() -> None:
    stream = Stream("s", "classification", "", [({}, "a"), ({}, "b")])
    answers: list[object] = [{}, {"a": 0.75, "b": 0.25}]
    run = run_model(lambda *_: _Answers(answers), forms.given, stream, 0, {}, lambda n: None)
    assert run.metrics is not None
    assert run.metrics["LogLoss"] == pytest.approx((math.log(2) + math.log(4)) / 2)
    diverged: list[object] = [{"a": math.nan, "b": math.nan}] * 2
    run = run_model(lambda *_: _Answers(diverged), forms.given, stream, 0, {}, lambda n: None)
    assert run.metrics is None
