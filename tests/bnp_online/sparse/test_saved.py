"""State of the sparse stage: saved at any moment, damaged, undone and limited."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnp_online import (
    BNPClassifier,
    BNPRegressor,
    ConfigurationError,
    NonFiniteStateError,
    StateError,
    load,
)

_Estimator = BNPClassifier | BNPRegressor
_Stream = list[tuple[dict[str, Any], Any, float]]


def _stream(rng: random.Random, task: str, count: int = 90) -> _Stream:
    """Return samples of some kinds of features, in which each of them may appear or end at any time."""
    kinds = rng.sample(["few", "many", "text", "list", "counts", "number", "late"], rng.randrange(1, 7))
    classes = rng.choice([2, 3, 9])
    samples: _Stream = []
    for i in range(count):
        x: dict[str, Any] = {}
        for kind in kinds:
            present = rng.random() < 0.9
            if kind == "few" and present:
                x["few"] = rng.choice(["a", "b", "ä\udc80", None])
            elif kind == "many" and present:
                x["many"] = f"m{rng.randrange(90)}"
            elif kind == "text" and present:
                x["text"] = " ".join(f"w{rng.randrange(30)}" for _ in range(rng.randrange(5)))
            elif kind == "list" and present:
                x["list"] = [f"v{rng.randrange(9)}"] * rng.randrange(3)
            elif kind == "counts" and present:
                x |= {f"c:{rng.randrange(20)}": rng.choice([0, 1, -2, 50]), "c:0": 0.5}
            elif kind == "number" and present:
                x["number"] = rng.choice([None, 0.0, rng.gauss(0.0, 1.0), 1e9])
            elif kind == "late" and i > count // 2:
                x[f"late{i % 3}"] = f"l{rng.randrange(40)}"
        y: Any = rng.randrange(min(classes, 1 + i // 9))
        samples.append((x, float(y) if task == "regression" else y, rng.choice([1.0, 1.0, 0.0, 2.5])))
    return samples


def _make(task: str) -> _Estimator:
    kind = BNPRegressor if task == "regression" else BNPClassifier
    return kind(hidden=(4,), text=("text",), sparse=("c:*",), max_values=40, memory=50, replay=1)


def _copies(model: _Estimator, folder: Path) -> list[_Estimator]:
    model.save(folder / "model")
    loaded = _make(model.task)
    loaded.load_state_dict(model.state_dict())
    pickled: _Estimator = pickle.loads(pickle.dumps(model))  # noqa: S301 (our own)
    return [load(folder / "model"), loaded, copy.deepcopy(model), pickled]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_copies_of_any_moment_learn_on_with_equal_bits(task: str, seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"{seed} {task}")  # noqa: S311
    samples, model, copies = _stream(rng, task), _make(task), list[_Estimator]()
    moments = {*rng.sample(range(len(samples)), 3)}
    for i, (x, y, w) in enumerate(samples):
        if i in moments:
            copies += _copies(model, tmp_path)
            assert {each.fingerprint() for each in copies} == {model.fingerprint()}
        for each in (model, *copies):
            each.learn_one(x, y, w)
    assert {each.fingerprint() for each in copies} == {model.fingerprint()}
    for x, *_ in samples[-5:]:
        predictions = [each.predict(x) for each in (model, *copies)]
        assert all(each == predictions[0] for each in predictions)


def _opened(task: str = "classification", count: int = 90) -> _Estimator:
    """Return a model that recycles values."""
    model = _make(task)
    for i in range(count):
        x = {"many": f"m{i % 60}", "few": f"f{i % 5}", "text": f"w{i % 7} w{i % 3}", "number": i / 9}
        model.learn_one(x, i % 3)
    return model


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_damaged_tensors_are_refused_or_harmless(task: str) -> None:
    """No damage of one tensor crashes the compiled code; a refusal changes nothing."""
    model, rng = _opened(task), np.random.default_rng(0)
    state = model.state_dict()
    names = sorted(name for name in state["tensors"] if name.startswith("sparse."))
    refused = 0
    for name in names:
        whole = state["tensors"][name]
        damaged = [whole[..., None], whole.to(torch.bfloat16)]
        if whole.ndim:
            damaged += [whole[1:], whole[:0], torch.cat([whole, whole])]
        if whole.numel():
            for value in (-1.0, 0.0, 2.0**40, float("nan"), float("inf")):
                other = whole.clone() if whole.dtype == torch.uint8 else whole.to(torch.float64)
                flat = other.reshape(-1)
                flat[int(rng.integers(len(flat)))] = value if other.dtype == torch.float64 else 0
                damaged.append(other)
        for each in damaged:
            loaded = _make(task)
            before = loaded.fingerprint()
            try:
                loaded.load_state_dict(state | {"tensors": state["tensors"] | {name: each}})
            except StateError:
                refused += 1
                assert loaded.fingerprint() == before
            else:
                loaded.learn_one({"many": "new", "few": "f1", "text": "w1 w2 new"}, 1)
    assert refused > 4 * len(names)
    for fields in ([["many", 1]], [["many", 7]], [[1, 1]], "x", 3, [["many", 1]] * 2):
        with pytest.raises(StateError):
            _make(task).load_state_dict(state | {"fields": fields})
    without = {name: value for name, value in state.items() if name != "fields"}
    with pytest.raises(StateError, match="sparse stage"):
        _make(task).load_state_dict(without)


def _refusing(model: _Estimator, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make the engine refuse the sample after some."""
    learn: Callable[..., Any] = model._engine.learn
    learned = 0

    def refuse(x: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal learned
        learned += len(x)
        return (0, np.zeros((len(x), 3))) if learned > after else learn(x, *arguments, **options)

    monkeypatch.setattr(model._engine, "learn", refuse)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_many_samples_are_learned_all_or_none(task: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(f"{seed} {task}")  # noqa: S311
    samples, model, start = _stream(rng, task), _make(task), rng.randrange(60)
    for x, y, w in samples[:start]:
        model.learn_one(x, y, w)
    twin = copy.deepcopy(model)
    before, rest = model.fingerprint(), samples[start:]
    rows, targets = [x for x, *_ in rest], [y for _, y, _ in rest]
    with monkeypatch.context() as patch:
        _refusing(model, patch, 25)
        with pytest.raises(NonFiniteStateError, match=r"^row 25: "):
            model.learn_many(rows, targets)
    assert model.fingerprint() == before
    model.learn_many(rows, targets)
    twin.learn_many(rows, targets)
    assert model.fingerprint() == twin.fingerprint()
    assert model.fields == twin.fields


def test_a_lower_limit_of_values_is_refused_and_a_higher_one_makes_room() -> None:
    model = _opened()
    with pytest.raises(ConfigurationError, match="max_values: the model has 40 values"):
        model.set_limits(max_values=39)
    with pytest.raises(ConfigurationError, match="max_values: must be int ≥ 32"):
        model.set_limits(max_values=31)
    with pytest.raises(ConfigurationError, match="max_features"):
        model.set_limits(max_values=100, max_features=1)
    assert model.max_values == 40
    model.set_limits(max_values=60)
    for i in range(50):
        model.learn_one({"many": f"new{i}"}, 1)
    assert sum(model.fields.values()) == 60
    loaded = BNPClassifier(hidden=(4,), text=("text",), sparse=("c:*",), max_values=60, memory=50, replay=1)
    loaded.load_state_dict(model.state_dict())
    assert loaded.fingerprint() == model.fingerprint()


@pytest.mark.parametrize("seed", range(6))
def test_each_feature_is_unknown_for_itself(seed: int) -> None:
    """Other features of the sample, and their order, have no effect on it."""
    rng = random.Random(seed)  # noqa: S311
    samples, model = _stream(rng, "classification"), _make("classification")
    for x, y, w in samples[:60]:
        model.learn_one(x, y, w)
    for x, *_ in samples[60:]:
        given = x | {"many": "never", "list": ["v1", "strange"], "c:new": 1, "other": 2.0, "text": "w1 w77"}
        found = model.unknown_features({name: given[name] for name in rng.sample(list(given), len(given))})
        assert {*found} == {name for name, value in given.items() if model.unknown_features({name: value})}
        assert len({*found}) == len(found)
