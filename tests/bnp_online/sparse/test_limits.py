"""Limits of the sparse stage: memory of a value, of many classes, and of many samples in one call."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor, NonFiniteStateError
from bnp_online.sparse import SparseStage, state, step
from bnp_online.sparse.columns import evidence_columns
from bnp_online.sparse.state import BY_ROW, MAX_VALUES, OF_ROWS, TEXT, State, most_values, width_of

_MILLION = 2**20


def _fill(stage: SparseStage, field: str, count: int) -> None:
    """Give the stage values with names of 12 bytes, in the way in which one-hot values get rows."""
    for start in range(0, count, 2**17):
        names = [f"{i:012d}" for i in range(start, min(start + 2**17, count))]
        items = stage.items([field] * len(names), names, [1.0] * len(names))
        stage._reserve(len(items.ends), len(items.text))
        step.enter(items.text, items.ends, items.fields, np.full(len(names), -1), *stage.state)


def _bytes(s: State, names: tuple[str, ...]) -> int:
    return sum(getattr(s, name).nbytes for name in names)


def test_a_value_takes_60_bytes_and_its_name_120() -> None:
    stage = SparseStage(False, 0, _MILLION)
    for _ in range(2):
        stage.add_class()
    stage.adopt(stage.laid_out(evidence_columns([("t", TEXT)], 2), {"t": TEXT}), {"t": TEXT})
    _fill(stage, "t", _MILLION)
    assert stage.values == _MILLION
    of_names = ("names", "start", "length", "field", "slots")
    of_values = tuple(name for name in (*BY_ROW, *OF_ROWS) if name not in of_names)
    assert _bytes(stage.state, of_values) <= 60 * _MILLION
    assert _bytes(stage.state, of_names) <= 120 * _MILLION
    stage.front(stage.items(["t"], [f"{_MILLION - 1:012d}"], [1.0]), np.zeros(5))
    assert not stage.unknown()


def test_many_samples_in_one_call_do_not_copy_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BNPClassifier(hidden=(4,), replay=0, memory=50)
    for i in range(20):
        model.learn_one({"t": [f"w{i % 3}", "v"]}, i % 2)
    assert model._stage is not None
    _fill(model._stage, "t", 600_000)
    before = model.fingerprint()
    with monkeypatch.context() as patch:
        results = iter([model._engine.learn, lambda *_, **__: (0, np.zeros((1, 2)))])
        patch.setattr(model._engine, "learn", lambda *given, **options: next(results)(*given, **options))
        with pytest.raises(NonFiniteStateError, match=r"^row 1: "):
            _learn_two(model)
    assert model.fingerprint() == before
    assert _learn_two(model) < 6_000_000  # bytes; the values take 31 MB
    assert model.fingerprint() != before


def _learn_two(model: BNPClassifier) -> int:
    """Learn two samples in one call; return the greatest size of the memory that it allocated."""
    rows = [{"t": ["w0", "v", f"{i:012d}", f"new{i}"]} for i in range(2)]
    tracemalloc.start()
    try:
        model.learn_many(rows, [0, 1])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_values_times_classes_are_limited() -> None:
    assert [width_of(classes) for classes in (1, 2, 3, 8, 9)] == [2, 2, 4, 8, 16]
    assert [most_values(_MILLION, width) for width in (1, 2, 16, 32, 1024)] == [
        _MILLION,
        _MILLION,
        _MILLION,
        _MILLION // 2,
        _MILLION // 64,
    ]
    assert most_values(2**24, 2) == 2**24
    assert most_values(100, 1024) == 100


def _samples(model: BNPClassifier, first: int, last: int) -> None:
    """Learn a value for each class, seven times, in order of the classes."""
    for y in range(first, last):
        for i in range(7):
            model.learn_one({"city": f"c{y}", "other": [f"o{(7 * y + i) % 40}"]}, y)


def test_a_class_beyond_the_limit_has_no_weights_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded, the others predict as before, and the state can be saved."""
    monkeypatch.setattr(state, "MOST_CELLS", 1000)
    monkeypatch.setattr("bnp_online.sparse.stage.MOST_CELLS", 2**18)
    model = BNPClassifier(hidden=(4,), replay=0, memory=50, max_values=200)
    _samples(model, 0, 8)  # 48 values times 8
    stage = model._stage
    assert stage is not None
    assert stage.state.counts.shape[1] == 8
    assert stage.state.config[MAX_VALUES] == 125
    _samples(model, 8, 33)  # 49 values times 16, then too many for times 32
    assert stage.state.counts.shape[1] == 16
    assert stage.state.pair_counts.shape[1] == 16
    assert len(model.labels) == 33
    assert stage.state.config[MAX_VALUES] == 1000 // 16
    assert stage.values == 62
    assert stage.recycled > 0
    weights, counts = (stage.state_dict()[f"sparse.{name}"] for name in ("weights", "counts"))
    assert weights.shape == (62, 3, 16)
    assert counts.shape == (62, 16)
    loaded = BNPClassifier(hidden=(4,), replay=0, memory=50, max_values=200)
    loaded.load_state_dict(model.state_dict())
    for each in (model, loaded):
        _samples(each, 30, 36)
    assert loaded.fingerprint() == model.fingerprint()
    model.predict({"city": "c3"})


def test_the_128th_class_is_the_last_with_evidence() -> None:
    columns = evidence_columns([("t", TEXT)], 1000)
    assert max(column.output for column in columns) == 127
    assert len(columns) < 400


def test_fields_beyond_the_greatest_number_of_features_are_ignored() -> None:
    models = [BNPClassifier(hidden=(4,), replay=0, memory=50, max_features=40) for _ in range(2)]
    for i in range(200):
        for model, order in zip(models, (1, -1), strict=True):
            x = {"t": ["a", f"w{i}"], f"s{i}": "x", f"l{i}": ["b"], f"z{i % 50}": f"v{i}"}
            model.learn_one(dict([*x.items()][::order]), i % 2)
        if i == 100:
            models[1] = copy.deepcopy(models[1])
    assert [len(model.fields) for model in models] == [40, 40]
    assert models[0].fingerprint() == models[1].fingerprint()
    assert models[0].unknown_features({"t": ["a"], "s1": "x", "s199": "x", "l150": ["b"]}) == ["s199", "l150"]
    assert models[0].predict({"t": ["a"]}) == models[0].predict({"t": ["a"], "s199": "x", "l150": ["b"]})


@pytest.mark.parametrize("scale", [1e45, 1e99])
def test_targets_beyond_the_range_of_float32_leave_the_state_finite(scale: float) -> None:
    model, loaded = (BNPRegressor(hidden=(4,), replay=0, memory=50) for _ in range(2))
    for i in range(120):
        model.learn_one({"u": f"u{i % 40}", "v": f"v{i % 3}"}, scale * (i % 5 - 1))
    loaded.load_state_dict(model.state_dict())
    assert loaded.fingerprint() == model.fingerprint()
    assert abs(model.predict_one({"u": "u1", "v": "v1"})) <= 10.0 * scale


def test_the_order_of_thousands_of_new_words_has_no_effect_on_any_bit() -> None:
    words = [f"w{i * 7919 % 3000}" for i in range(3000)]
    models = [BNPClassifier(hidden=(4,), replay=0, memory=50, text=("t",)) for _ in range(2)]
    for model, order in zip(models, (1, -1), strict=True):
        model.learn_one({"t": words[::order]}, 0)
        model.learn_one({"t": sorted(words)[:99]}, 1)
    assert models[0].fields == {"t": 3000}
    assert models[0].fingerprint() == models[1].fingerprint()
