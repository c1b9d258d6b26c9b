"""The compiled step: rows of a call, with and without predictions, and a call that is paused."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.engines import numba_engine
from bnp_online.engines.numba_buffers import RUN
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.threads import set_threads
from bnp_online.values import SampleRows

#: Widths below, at and above a whole number of vectors; outputs of one, and of a part of four rows.
LEARNERS: dict[str, dict[str, Any]] = {
    "one network": {"hidden": (7,), "lr": 0.3},
    "deep, tanh": {"hidden": (16, 33, 3), "lr": 0.1, "activation": "tanh"},
    "no hidden layer": {"hidden": (), "lr": 0.1},
    "default": {"hidden": (20, 5)},
    "first generation": {"hidden": (20, 5), "learner": 1},
}
COUNT, COLUMNS = 130, 18


@pytest.fixture(autouse=True)
def _threads_again() -> Iterator[None]:
    yield
    set_threads(None)


@pytest.fixture
def in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small mixtures learn several rows in a run, as large ones do."""
    monkeypatch.setattr(numba_engine, "LEAST_PARAMETERS", 0)


def _samples(classes: int) -> tuple[Any, Any]:
    """Return rows with missing and absurd values, and targets: numbers without classes."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(COUNT, COLUMNS))
    y = x[:, 0] - x[:, 1] + 0.1 * rng.normal(size=COUNT)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[70, 3] = 1e7
    return x, np.digitize(y, np.linspace(-1.0, 1.0, classes - 1)) if classes else y


def _dicts(x: Any) -> list[dict[str, float | None]]:
    return [
        {f"f{j:02}": None if np.isnan(value) else value for j, value in enumerate(row)} for row in x.tolist()
    ]


def _made(classes: int, options: dict[str, Any]) -> Any:
    return BNPClassifier(**options) if classes else BNPRegressor(**options)


def _rows(x: Any, targets: Any) -> SampleRows:
    return SampleRows((), x, targets, (), np.ones(len(targets)))


def _prediction(model: Any, row: dict[str, float | None]) -> list[float]:
    if isinstance(model, BNPRegressor):
        return [model.predict_one(row)]
    probabilities = model.predict_proba_one(row)
    return [probabilities[label] for label in model.labels]


@pytest.mark.parametrize("classes", [0, 2, 6])
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.usefixtures("in_runs")
def test_a_call_with_predictions_has_the_bits_of_calls_for_each_row(name: str, classes: int) -> None:
    x, y = _samples(classes)
    rows, targets = _dicts(x), y.tolist()
    one, apart, blocks = (_made(classes, LEARNERS[name]) for _ in range(3))
    start = 30
    for each in (one, apart, blocks):
        each.learn_many(rows[:start], targets[:start])
    expected = []
    for row, target in zip(rows[start:], targets[start:], strict=True):
        one.learn_one(row, target)
        expected.append(_prediction(apart, row))
        apart.learn_one(row, target)
    codes = np.array([blocks.labels.index(y) for y in targets] if classes else targets, np.float64)
    found, done = [], start
    while done < COUNT:
        count, values = blocks.learn_rows(_rows(x, codes).part(done, COUNT))
        assert count > 0
        found += values[:count].tolist()
        done += count
    assert one.fingerprint() == apart.fingerprint() == blocks.fingerprint()
    assert found == expected


def _engine(model: BNPClassifier | BNPRegressor) -> NumbaEngine:
    engine = model._engine
    assert isinstance(engine, NumbaEngine)
    return engine


def _learned(classes: int, options: dict[str, Any], *, lost: bool = False) -> tuple[Any, str]:
    """Return the predictions of rows in calls of several lengths, and the fingerprint after them.

    With `lost`, networks have diverged before, the first one among them; and rows are refused.
    """
    x, y = _samples(classes)
    model = _made(classes, options)
    rows, targets = _dicts(x), y.tolist()
    model.learn_many(rows[:30], targets[:30])
    engine, weights = _engine(model), np.ones(COUNT)
    if lost:
        state = engine.state_dict()
        state["network.head.weight"][:2] = np.inf
        state["average.head.weight"][0] = np.nan
        engine.load_state_dict(state)
        weights[[60, 77]] = 1e13  # no network can take the step
        weights[[52, 90]] = 1e12  # those with a large rate cannot
    codes = np.array([model.labels.index(label) for label in targets] if classes else targets, np.float64)
    found, done, lengths = [], 30, iter([1, 3, 40, 2, 17] * COUNT)
    while done < COUNT:
        part = slice(done, done + next(lengths))
        count, values = engine.learn(x[part], codes[part], weights[part], predict=True)
        found += values[:count].tolist()
        done += count + (count < len(x[part]))  # a refused row is left out
    return found, hashlib.sha256(b"".join(map(_bytes, engine.state_dict().items()))).hexdigest()


def _bytes(item: tuple[str, Any]) -> bytes:
    name, tensor = item
    return name.encode() + bytes(tensor.numpy().tobytes())


@pytest.mark.parametrize("lost", [False, True], ids=["sound", "diverged"])
@pytest.mark.parametrize("classes", [0, 6])
@pytest.mark.parametrize("name", ["default", "first generation"])
def test_runs_and_threads_change_no_bit(
    name: str, classes: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _learned(classes, LEARNERS[name], lost=lost)
    assert lost == (len(alone[0]) < COUNT - 30)
    monkeypatch.setattr(numba_engine, "LEAST_PARAMETERS", 0)
    for threads in (1, 2, 3):
        set_threads(threads)
        assert _learned(classes, LEARNERS[name], lost=lost) == alone


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("in_runs")
def test_a_pause_ends_a_call_after_a_run(threads: int) -> None:
    set_threads(threads)
    x, y = _samples(0)
    model, pause = BNPRegressor(hidden=(20, 5), input_shape=(COLUMNS,)), np.ones(1, np.int64)
    model.learn_many(np.nan_to_num(x[:20]), y[:20])
    counts = [model.learn_rows(_rows(x, y).part(20, COUNT), pause)[0] for _ in range(3)]
    assert all(0 < count <= RUN for count in counts)
    assert counts[1] == RUN  # from a multiple of 8 on


def test_a_pause_ends_a_call_between_rows() -> None:
    x, y = _samples(0)
    model, twin = (BNPRegressor(hidden=(300, 300), input_shape=(COLUMNS,), lr=0.1) for _ in range(2))
    x, y = np.nan_to_num(np.tile(x, (400, 1))), np.tile(y, 400)
    pause, samples = np.ones(1, np.int64), _rows(x, y)
    model.learn_many(x[:20], y[:20])
    assert model.learn_rows(samples.part(20, len(y)), pause)[0] == 1  # asked before: one row
    pause[0] = 0
    timer = threading.Timer(0.05, lambda: pause.fill(1))  # the call holds no lock of the interpreter
    timer.start()
    done = 21 + model.learn_rows(samples.part(21, len(y)), pause)[0]
    timer.join()
    assert 21 < done < len(y)
    twin.learn_many(x[:done], y[:done])
    assert model.fingerprint() == twin.fingerprint()
