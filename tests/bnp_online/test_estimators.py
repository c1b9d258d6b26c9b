"""What every estimator promises, for each kind of input and of network."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import math
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it has no types of its own
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it has no types
from torch import Tensor, nn

import bnp_online as bnp
from bnp_online import (
    BNPClassifier,
    BNPRegressor,
    CheckpointError,
    ConfigurationError,
    NonFiniteStateError,
    SampleError,
    StateError,
)
from bnp_online.engines.base import LearnerSpec
from bnp_online.evaluation.prequential import prequential

Model: TypeAlias = BNPClassifier | BNPRegressor
Samples: TypeAlias = list[tuple[Any, Any]]


class Blurred(nn.Module):
    """A module of one's own, with buffers that learning moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def module() -> nn.Module:
    torch.manual_seed(0)
    return Blurred()


MAKERS: dict[str, Callable[[], Model]] = {
    "classifier": lambda: BNPClassifier((6, 5), lr=0.3),
    "linear classifier": lambda: BNPClassifier((), lr=0.3, step_scale="paper"),
    "mixed classifier": lambda: BNPClassifier((6, 5), memory=40),
    "regressor": lambda: BNPRegressor((6, 5), lr=0.3),
    "linear regressor": lambda: BNPRegressor((), lr=0.3),
    "interval regressor": lambda: BNPRegressor((6, 5), lr=0.3, intervals=3),
    "mixed regressor": lambda: BNPRegressor((6, 5), memory=40),
    "torch classifier": lambda: BNPClassifier((6, 5), lr=0.3, engine="torch", device="cpu"),
    "array classifier": lambda: BNPClassifier((6,), lr=0.3, input_shape=(1, 6, 6), activation="tanh"),
    "mixed array classifier": lambda: BNPClassifier((6,), input_shape=(1, 6, 6), memory=40),
    "array regressor": lambda: BNPRegressor((6,), lr=0.3, input_shape=(1, 6, 6), intervals=3),
    "cnn classifier": lambda: BNPClassifier((5,), input_shape=(1, 6, 6), network="cnn"),
    "cnn regressor": lambda: BNPRegressor((5,), input_shape=(1, 6, 6), network="cnn", lr=0.1),
    "module classifier": lambda: BNPClassifier(input_shape=(1, 6, 6), network=module()),
    "module regressor": lambda: BNPRegressor(input_shape=(1, 6, 6), network=module(), lr=0.1),
}
NAMES = list(MAKERS)
#: One copy: no replayed step, and no mean of copies, stands between a sample and what it does.
SINGLE = [name for name in NAMES if "mixed" not in name]
OF_DICTS = [name for name in NAMES if MAKERS[name]().input_shape is None]


def stream(model: Model, n: int, seed: int = 0) -> Samples:
    """Samples that the model can learn: growth, strings, missing values; classes arrive as c, a, b."""
    rng = random.Random(seed)  # noqa: S311
    samples: Samples = []
    for i in range(n):
        k = 0 if i < 2 else rng.randrange(2 if i < n // 3 else 3)
        centre = (-1.5, 0.0, 1.5)[k]
        if model.input_shape is None:
            x: Any = {
                "width": rng.gauss(centre, 0.5),
                "height": None if rng.random() < 0.1 else rng.gauss(5.0, 2.0),
                "round": rng.random() < 0.5,
                "colour": None if rng.random() < 0.1 else rng.choice(["red", "green", "blue"]),
            }
            if i >= n // 2:
                x |= {"late": rng.gauss(0.0, 1.0), "count": rng.randrange(10)}
        else:
            x = [[[rng.gauss(centre * (row % 2), 0.5) for _ in range(6)] for row in range(6)]]
            if rng.random() < 0.2:
                x[0][2][3] = None
        samples.append((x, "cab"[k] if model.task == "classification" else 40.0 + 7.0 * centre))
    return samples


def learned(name: str, n: int = 60, seed: int = 0) -> Model:
    model = MAKERS[name]()
    for x, y in stream(model, n, seed):
        model.learn_one(x, y)
    return model


def full_state(model: Model) -> dict[str, Any]:
    state = model.state_dict()
    return {**state, "tensors": {key: value.numpy().tobytes() for key, value in state["tensors"].items()}}


def answer(model: Model, x: Any) -> Any:
    return model.predict_proba_one(x) if isinstance(model, BNPClassifier) else model.predict_one(x)


# --- predicting


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 40])
def test_predicting_changes_nothing(name: str, n: int) -> None:
    model = learned(name, n) if n else MAKERS[name]()
    before, state = model.fingerprint(), full_state(model)
    samples = [x for x, _ in stream(model, 40, seed=1)]
    if model.input_shape is None:
        samples += [{}, {"never": 1.0, "seen": "before", "width": 3}, {"colour": "purple"}, {"never": None}]
    answers = [answer(model, x) for x in samples]
    assert [answer(model, model.check_features(x)) for x in samples] == answers
    assert model.predict_many(samples) == [model.predict_one(x) for x in samples]
    assert model.fingerprint() == before
    assert full_state(model) == state


@pytest.mark.parametrize("name", OF_DICTS)
def test_an_unknown_feature_is_ignored_in_predicting(name: str) -> None:
    model = learned(name)
    x = {"width": 1.0, "colour": "red"}
    assert answer(model, x) == answer(model, {**x, "never": 1e9, "seen": "before"})
    assert answer(model, {"colour": "purple"}) == answer(model, {})


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_prediction_before_the_first_label(name: str) -> None:
    model = MAKERS[name]()
    x = stream(model, 1)[0][0]
    nothing = None if isinstance(model, BNPClassifier) else 0.0
    assert model.predict_one(x) == nothing
    assert model.predict_many([x, x]) == [nothing, nothing]
    if isinstance(model, BNPClassifier):
        assert model.predict_proba_one(x) == {}
        assert model.labels == ()
    with pytest.raises(SampleError):
        model.predict_one(math.nan)
    assert model.step == 0


@pytest.mark.parametrize("name", [name for name in NAMES if "classifier" in name])
def test_probabilities_sum_to_1(name: str) -> None:
    model = MAKERS[name]()
    assert isinstance(model, BNPClassifier)
    for x, y in stream(model, 60):
        model.learn_one(x, y)
        probabilities = model.predict_proba_one(x)
        assert abs(math.fsum(probabilities.values()) - 1.0) < 1e-9
        assert all(0.0 <= p <= 1.0 for p in probabilities.values())
        assert model.predict_one(x) == max(probabilities, key=lambda label: probabilities[label])
    assert len(probabilities) == 3


@pytest.mark.parametrize("name", [name for name in NAMES if "classifier" in name])
def test_classes_keep_the_order_of_arrival(name: str) -> None:
    model = learned(name)
    assert isinstance(model, BNPClassifier)
    assert model.labels == ("c", "a", "b")
    assert list(model.predict_proba_one(stream(model, 1)[0][0])) == ["c", "a", "b"]


@pytest.mark.parametrize("labels", [(True, False), (7, -3), ("b", "a")])
def test_a_label_comes_back_with_its_type(labels: tuple[Any, Any]) -> None:
    model = BNPClassifier(())
    numpy_label = {bool: np.bool_, int: np.int32, str: np.str_}[type(labels[0])]
    for i in range(40):
        model.learn_one({"a": i % 2}, numpy_label(labels[i % 2]))
    assert model.labels == labels
    for i in (0, 1):
        predicted = model.predict_one({"a": i})
        assert predicted == labels[i]
        assert type(predicted) is type(labels[i])


def test_the_fingerprint_sees_the_type_of_the_labels() -> None:
    prints = set()
    for labels in [(False, True), (0, 1), ("0", "1")]:
        model = BNPClassifier((3,))
        for label in labels:
            model.learn_one({"a": 1.0}, label)
        prints.add(model.fingerprint())
    assert len(prints) == 3


def test_the_fingerprint_sees_all_that_learning_changes() -> None:
    prints = [BNPClassifier((3,), max_features=1).fingerprint()]
    model = BNPClassifier((3,), max_features=1)
    # A class, a step, a step of weight 0, an ignored feature.
    for x, y, w in [({"a": 1.0}, 0, 1.0), ({"a": 1.0}, 0, 1.0), ({"a": 1.0}, 0, 0.0), ({"b": 1.0}, 0, 0.0)]:
        model.learn_one(x, y, w)
        prints.append(model.fingerprint())
    assert len(set(prints)) == len(prints)
    assert BNPClassifier((3,), seed=1).fingerprint() != prints[0]


# --- growth


@pytest.mark.parametrize("name", [name for name in OF_DICTS if name in SINGLE])
def test_what_appears_changes_no_existing_parameter(name: str) -> None:
    model = learned(name)
    before = model.state_dict()["tensors"]
    x = {"width": 1.0, "brand": "new", "size": 3.0}
    model.learn_one(x, "new" if model.task == "classification" else 40.0, w=0.0)
    after = model.state_dict()["tensors"]
    for key in before:
        if key.startswith("network."):
            window = tuple(slice(size) for size in before[key].shape)
            assert torch.equal(after[key][window], before[key]), key
    entry = "network.body.1.weight" if model.hidden else "network.head.weight"
    assert after[entry].shape[2] == before[entry].shape[2] + 2
    assert not after[entry][:, :, before[entry].shape[2] :].any()


@pytest.mark.parametrize("name", OF_DICTS)
def test_a_new_feature_changes_no_prediction(name: str) -> None:
    model = MAKERS[name]()
    for x, y in stream(model, 60):
        # The mixture's neighbours weigh a sample with missing values by the number of all features.
        model.learn_one({key: 0 if v is None and name not in SINGLE else v for key, v in x.items()}, y)
    x, _ = stream(model, 60, seed=2)[-1]
    before = answer(model, x)
    model._engine.grow(["one", "two"], 0)
    model._features.add(["one", "two"])
    with_it = answer(model, {**x, "one": 12.0, "two": None})
    for got in (answer(model, x), with_it):
        assert got == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in SINGLE if "classifier" in name])
def test_a_new_class_changes_no_existing_logit(name: str) -> None:
    model = learned(name)
    assert isinstance(model, BNPClassifier)
    x, _ = stream(model, 60, seed=2)[-1]
    before = model.predict_proba_one(x)
    model._engine.grow([], 1)
    model._targets.add("new")
    after = model.predict_proba_one(x)
    assert list(after) == [*before, "new"]
    odds = {label: after[label] / after["c"] for label in before}
    assert odds == pytest.approx({label: before[label] / before["c"] for label in before}, rel=1e-5)
    assert after["new"] < 0.5  # its bias is the lowest


def test_features_beyond_the_limit_are_ignored_and_counted() -> None:
    model, plain = BNPClassifier((4,), max_features=3), BNPClassifier((4,))
    for i in range(20):
        x = {"b": i % 3, "a": i % 2, "c": "x"}
        more: dict[str, Any] = {"z": 5.0, "zz": "text"} if i % 2 else {}
        model.learn_one({**x, **more}, i % 2)
        plain.learn_one(x, i % 2)
    assert model.feature_names == plain.feature_names == ("a", "b", "c=x")
    assert model.ignored_features == 20
    assert model.predict_proba_one({"z": 9.0, "a": 1}) == plain.predict_proba_one({"a": 1})
    other = BNPClassifier((4,), max_features=3)
    other.load_state_dict(model.state_dict())
    assert other.ignored_features == 20


def test_one_class_too_many_is_refused() -> None:
    model = BNPClassifier((4,), max_classes=2)
    preview = model.preview()
    for label in "ab":
        preview.check({"x": 1}, label)
        model.learn_one({"x": 1}, label)
    before = model.fingerprint()
    with pytest.raises(SampleError) as caught:
        model.learn_one({"x": 1, "y": 2}, "c")
    assert (caught.value.code, caught.value.field) == ("too_many_classes", "y")
    with pytest.raises(SampleError):
        preview.check({"x": 1}, "c")
    assert model.fingerprint() == before


@pytest.mark.parametrize("name", OF_DICTS)
def test_the_order_of_keys_has_no_effect_on_any_bit(name: str) -> None:
    model, other = MAKERS[name](), MAKERS[name]()
    rng = random.Random(3)  # noqa: S311
    for x, y in stream(model, 60):
        shuffled = dict(rng.sample(list(x.items()), len(x)))
        model.learn_one(x, y)
        other.learn_one(shuffled, y)
        assert answer(model, x) == answer(other, shuffled)
    assert model.fingerprint() == other.fingerprint()
    assert model.feature_names == other.feature_names
    assert len(model.feature_names) == 8


# --- state


def by_state_dict(model: Model, path: Path) -> Model:
    other = type(model)(**model._parameters())
    for x, y in stream(model, 7, seed=5):
        other.learn_one(x, y)
    other.load_state_dict(model.state_dict())
    return other


def by_file(model: Model, path: Path) -> Model:
    model.save(path / "model.safetensors")
    return bnp.load(
        path / "model.safetensors", network=model.network if isinstance(model.network, nn.Module) else None
    )


def by_pickle(model: Model, path: Path) -> Model:
    other: Model = pickle.loads(pickle.dumps(model))  # noqa: S301
    return other


def by_copy(model: Model, path: Path) -> Model:
    return copy.deepcopy(model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", [by_state_dict, by_file, by_pickle, by_copy])
def test_a_model_goes_on_to_the_last_bit(
    name: str, way: Callable[[Model, Path], Model], tmp_path: Path
) -> None:
    model = MAKERS[name]()
    samples = stream(model, 40)
    for x, y in samples[:18]:
        model.learn_one(x, y)
    before = model.fingerprint()
    other = way(model, tmp_path)
    assert type(other) is type(model)
    assert full_state(other) == full_state(model)
    for x, y in samples[18:]:
        assert answer(other, x) == answer(model, x)
        model.learn_one(x, y)
        other.learn_one(x, y)
    assert other.fingerprint() == model.fingerprint() != before


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_model_is_kept_too(name: str, tmp_path: Path) -> None:
    model = MAKERS[name]()
    for way in (by_file, by_pickle, by_copy):
        other = way(model, tmp_path)
        assert other.fingerprint() == model.fingerprint()
        x, y = stream(model, 1)[0]
        assert answer(other, x) == answer(model, x)
        other.learn_one(x, y)
        assert model.step == 0
    assert other.fingerprint() != model.fingerprint()


def test_parameters_may_be_numpy_scalars(tmp_path: Path) -> None:
    numpy_scalars: Any = {"hidden": (np.int64(3),), "lr": np.float32(0.5), "seed": np.int64(2)}
    model = BNPClassifier(**numpy_scalars)
    model.learn_one({"a": 1}, 0)
    assert (
        by_file(model, tmp_path).fingerprint()
        == by_pickle(model, tmp_path).fingerprint()
        == model.fingerprint()
    )


def test_a_state_does_not_follow_the_model() -> None:
    model = learned("classifier", 20)
    state, before = model.state_dict(), full_state(model)
    for x, y in stream(model, 20, seed=9):
        model.learn_one(x, y)
    assert full_state(model) != before
    model.load_state_dict(state)
    assert full_state(model) == before


def without(key: str, state: dict[str, Any]) -> None:
    del state[key]


def damaged() -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    yield "nothing", lambda state: state.clear()
    for key in ("estimator", "parameters", "step", "features", "ignored", "labels", "tensors"):
        yield f"no {key}", functools.partial(without, key)
    yield "another estimator", lambda state: state.update(estimator="BNPRegressor")
    yield "another parameter", lambda state: state["parameters"].update(lr=0.25)
    yield "an unknown parameter", lambda state: state["parameters"].update(momentum=0.9)
    yield "a step in words", lambda state: state.update(step="three")
    yield "one feature more", lambda state: state["features"].append("more")
    yield "one feature less", lambda state: state["features"].pop()
    yield "a feature twice", lambda state: state.update(features=["a"] * len(state["features"]), values=[])
    yield "a value that is no name", lambda state: state.update(values=[[0, 0]])
    yield "a column that does not exist", lambda state: state.update(values=[[99, 0]])
    yield "more joined columns than columns", lambda state: state.update(joined=99)
    yield "one class less", lambda state: state["labels"].pop()
    yield "labels that are lists", lambda state: state.update(labels=[[1], [2], [3]])
    yield "no tensors at all", lambda state: state.update(tensors={})
    yield "a tensor less", lambda state: state["tensors"].pop("network.body.1.weight")
    yield "a tensor more", lambda state: state["tensors"].update(more=torch.zeros(1))
    yield "a wrong shape", lambda state: state["tensors"].update({"network.body.3.bias": torch.zeros(1, 9)})
    yield "no tensor", lambda state: state["tensors"].update({"network.body.3.bias": 3.0})


@pytest.mark.parametrize("change", [c for _, c in damaged()], ids=[name for name, _ in damaged()])
def test_a_state_that_does_not_fit_changes_nothing(change: Callable[[dict[str, Any]], object]) -> None:
    model, donor = learned("classifier", 20), learned("classifier", 40, seed=1)
    before = full_state(model)
    state = copy.deepcopy(donor.state_dict())
    change(state)
    with pytest.raises(StateError):
        model.load_state_dict(state)
    assert full_state(model) == before
    model.learn_one({"width": 1.0, "new": "feature"}, "c")


def set_tensor(name: str, change: Callable[[Tensor], Tensor], state: dict[str, Any]) -> None:
    state["tensors"][name] = change(state["tensors"][name].clone())


def lies() -> Iterator[tuple[str, str, Callable[[dict[str, Any]], object]]]:
    """States whose shapes an engine would take, and that it could not compute with."""
    both, classes, numbers = "mixed classifier", "mixed classifier", "mixed regressor"
    yield "a step that is no count", both, lambda state: state.update(step=-1)
    yield "a step that floats cannot hold", both, lambda state: state.update(step=2**60)
    yield "a step that is true", both, lambda state: state.update(step=True)
    yield "a count below 0", both, lambda state: state.update(ignored=-1)
    yield "two steps", both, lambda state: state.update(step=3)
    yield "features that are numbers", both, lambda state: state.update(features=[*range(7)])
    yield "features that are lists", both, lambda state: state.update(features=[[i] for i in range(7)])
    yield "classes of two types", classes, lambda state: state.update(labels=["c", "a", 1])
    yield "classes that are numbers", classes, lambda state: state.update(labels=[0.5, 1.5, 2.5])
    yield "a class beyond 64 bits", classes, lambda state: state.update(labels=[1, 2, 2**64])
    for kind, name, index, value in (
        (classes, "memory.y", (3, 0), 3.0),
        (classes, "memory.y", (3, 0), -1.0),
        (classes, "memory.y", (3, 0), 0.5),
        (classes, "memory.y", (3, 0), math.nan),
        (both, "memory.y", (3, 1), -1.0),
        (both, "memory.x", (3, 1), math.inf),
        (both, "mixture.weights", (1, 2), math.nan),
        (both, "mixture.weights", (0, 2), -0.5),
        (both, "mixture.weights", (), 0.0),
        (both, "mixture.error_scale", (), math.inf),
        (both, "mixture.shares", (1,), -0.5),
        (both, "mixture.shares", (), 0.0),
        (both, "stack.coefficients", (0,), math.nan),
        (both, "stack.inverse", (0, 0), math.inf),
        (both, "stack.inverse", (0, 0), -1.0),
        (both, "stack.inverse", (0, 1), 1.0),
        (both, "neighbours.metric", (0,), -1.0),
        (both, "bins.weight", (0, 0, 0), math.nan),
        (both, "bins.head.bias", (0, 0), math.inf),
        (both, "bins.squares", (0,), -1.0),
        (both, "bounds.inputs.values", (0,), -1.0),
        (both, "bounds.inputs.values", (0,), 0.5),
        (both, "bounds.inputs.joined", (0,), math.nan),
        (both, "bounds.inputs.first", (0, 0), math.inf),
        (both, "bounds.inputs.largest", (0,), -1.0),
        (numbers, "bounds.target.values", (0,), -1.0),
        (classes, "memory.y", (3, 2), 3.0),
        (both, "memory.y", (3, 3), 1.0),
        (both, "memory.x", (3, 1), math.nan),
        (both, "inputs.mean", (1,), math.nan),
        (both, "inputs.var", (1,), -1.0),
        (numbers, "target.mean", (0,), math.inf),
        (numbers, "target.var", (0,), -1.0),
        (numbers, "target.range", (0,), math.nan),
        (both, "memory.count", (), 17),
        (both, "memory.count", (), -1),
    ):

        def put(tensor: Tensor, index: Any = index, value: float = value) -> Tensor:
            tensor[index] = value
            return tensor

        yield f"{name}{list(index)} = {value}", kind, functools.partial(set_tensor, name, put)
    changes: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        ("short", "memory.y", lambda tensor: tensor[:-1]),
        ("narrow", "memory.x", lambda tensor: tensor[:, :-1]),
        ("deep", "memory.x", lambda tensor: tensor[:, None]),
        ("complex", "memory.y", lambda tensor: tensor.to(torch.complex64)),
        ("coarse", "network.head.bias", lambda tensor: tensor.to(torch.bfloat16)),
        ("deep", "step", lambda tensor: tensor[None]),
    ]
    for what, name, change in changes:
        yield f"{what} {name}", both, functools.partial(set_tensor, name, change)


@pytest.mark.parametrize(("name", "lie"), [lie[1:] for lie in lies()], ids=[lie[0] for lie in lies()])
@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_a_state_that_lies_is_refused(
    name: str, lie: Callable[[dict[str, Any]], object], engine: str
) -> None:
    """Such a state comes from no learner, but a file may hold it, with a checksum that is right."""
    model = MAKERS[name]().clone({"engine": engine})
    state = copy.deepcopy(learned(name, 60).state_dict())
    before = full_state(model)
    model.load_state_dict(state)
    assert model.step == 60
    model = MAKERS[name]().clone({"engine": engine})
    lie(state)
    with pytest.raises(StateError):
        model.load_state_dict(state)
    assert full_state(model) == before


@pytest.mark.parametrize(("outputs", "step"), [(0, 5), (2, 5), (1, 0)])
def test_a_regression_has_one_output_once_it_has_learned(outputs: int, step: int) -> None:
    model = BNPRegressor((), lr=0.1)
    model.learn_one({"a": 1.0}, 1.0)
    state = model.state_dict()
    state["step"], state["tensors"]["step"] = step, torch.tensor(step)
    for name in ("network.head.weight", "network.head.bias"):
        tensor = state["tensors"][name]
        state["tensors"][name] = torch.zeros(1, outputs, *tensor.shape[2:])
    with pytest.raises(StateError, match=f"{outputs} outputs after {step} samples"):
        BNPRegressor((), lr=0.1).load_state_dict(state)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_an_array_keeps_its_number_of_inputs(shape: tuple[int, ...]) -> None:
    model = BNPClassifier((3,), lr=0.1, input_shape=shape)
    state = BNPClassifier((3,), lr=0.1, input_shape=(5,)).state_dict()
    state["parameters"]["input_shape"] = list(shape)
    with pytest.raises(StateError, match="5 inputs, but the input shape has 4"):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    "name", ["classifier", "mixed classifier", "mixed regressor", "mixed array classifier"]
)
def test_the_engine_and_the_device_need_not_be_the_same(name: str) -> None:
    donor = learned(name)
    assert donor.engine_name == "numba"
    model = donor.clone({"engine": "torch", "device": "cpu"})
    model.load_state_dict(donor.state_dict())
    assert model.engine_name == "torch"
    assert model.fingerprint() == donor.fingerprint()
    for x, y in stream(model, 5):
        model.learn_one(x, y)
    donor.load_state_dict(model.state_dict())
    assert donor.fingerprint() == model.fingerprint()
    for x, y in stream(donor, 5):
        donor.learn_one(x, y)


def test_a_module_of_ones_own_is_needed_again(tmp_path: Path) -> None:
    model = learned("module classifier", 20)
    model.save(tmp_path / "model")
    with pytest.raises(StateError, match="Blurred"):
        bnp.load(tmp_path / "model")
    with pytest.raises(StateError):
        bnp.load(tmp_path / "model", network=nn.Flatten())
    assert bnp.load(tmp_path / "model", network=Blurred()).fingerprint() == model.fingerprint()


def test_a_model_copies_the_module_that_it_is_given() -> None:
    given = module()
    before = copy.deepcopy(given.state_dict())
    model = BNPClassifier(input_shape=(1, 6, 6), network=given)
    for x, y in stream(model, 5):
        model.learn_one(x, y)
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())
    assert model.network is given


def test_a_file_that_holds_no_estimator_is_refused(tmp_path: Path) -> None:
    bnp.checkpoint.save(tmp_path / "other", {"tensors": {}})
    with pytest.raises(CheckpointError):
        bnp.load(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        bnp.load(tmp_path / "other")


# --- many rows


@pytest.mark.parametrize("name", NAMES)
def test_learn_many_is_a_loop_of_learn_one(name: str) -> None:
    model, other = learned(name, 5), learned(name, 5)
    samples = stream(model, 30, seed=4)
    X, Y = [x for x, _ in samples], [y for _, y in samples]
    model.learn_many(X[:20], Y[:20])
    model.learn_many(iter(X[20:]), iter(Y[20:]))
    model.learn_many([], [])
    for x, y in samples:
        other.learn_one(x, y)
    assert model.fingerprint() == other.fingerprint()
    assert model.predict_many(X) == [other.predict_one(x) for x in X]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", ["x", "y", "length"])
def test_learn_many_learns_all_rows_or_none(name: str, bad: str) -> None:
    model = learned(name, 5)
    before = full_state(model)
    samples = stream(model, 10, seed=4)
    X, Y = [x for x, _ in samples], [y for _, y in samples]
    if bad == "x":
        X[8] = [[1.0]]
    elif bad == "y":
        Y[8] = [1]
    else:
        Y.pop()
    with pytest.raises(SampleError):
        model.learn_many(X, Y)
    assert full_state(model) == before


def test_learn_many_takes_back_what_it_learned_before_a_step_that_diverged() -> None:
    model = BNPClassifier((4,), standardize=False)
    model.learn_many([{"a": 1.0}, {"a": 2.0}], ["c", "a"])
    before = full_state(model)
    with pytest.raises(NonFiniteStateError):
        model.learn_many([{"a": 1.0, "new": 1.0}, {"a": 1e60}, {"a": 1.0}], ["new", "a", "c"])
    assert full_state(model) == before
    model.learn_one({"a": 1.0, "other": 1.0}, "other")


def test_a_data_frame_holds_rows() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1, 2, 3, 4], "c": ["x", "y", "x", "y"]})
    frame["d"] = [True, False, True, True]
    target = pd.Series([0, 1, 0, 1])
    model, other = BNPClassifier((4,)), BNPClassifier((4,))
    model.learn_many(frame, target)
    for x, y in zip(frame.to_dict(orient="records"), target.tolist(), strict=True):
        other.learn_one(x, y)
    assert model.fingerprint() == other.fingerprint()
    assert model.feature_names == ("a", "b", "c=x", "d", "c=y")
    assert [*model.predict_many(frame)] == [other.predict_one(x) for x in frame.to_dict(orient="records")]


def test_arrays_of_any_kind_hold_rows() -> None:
    X = np.random.default_rng(0).normal(size=(12, 1, 6, 6)).astype(np.float32)
    Y = np.arange(12) % 3
    prints = set()
    for rows in (X, list(X), X.tolist(), torch.from_numpy(X), np.asfortranarray(X)):
        model = BNPClassifier((4,), input_shape=(1, 6, 6))
        model.learn_many(rows, Y)
        prints.add(model.fingerprint())
    assert len(prints) == 1


# --- bad input

BAD: list[tuple[Any, Any, Any, str, str]] = [
    ({"width": math.inf}, "c", 1.0, "non_finite_feature", "x.width"),
    ({"new": math.inf}, "new", 1.0, "non_finite_feature", "x.new"),
    ({"new": 1.0, "width": 1e200}, "c", 1.0, "invalid_feature", "x.width"),
    ({"new": [1.0]}, "c", 1.0, "invalid_feature", "x.new"),
    ({"new": 1.0, "x": {"y": 1}}, "new", 1.0, "invalid_feature", "x.x"),
    ([1.0], "c", 1.0, "invalid_feature", "x"),
    (None, "c", 1.0, "invalid_feature", "x"),
    ({"new": 1.0}, 1.5, 1.0, "invalid_label", "y"),
    ({"new": 1.0}, None, 1.0, "invalid_label", "y"),
    ({"new": 1.0}, 3, 1.0, "label_type", "y"),
    ({"new": 1.0}, True, 1.0, "label_type", "y"),
    ({"new": 1.0}, "new", -1.0, "invalid_weight", "w"),
    ({"new": 1.0}, "new", math.nan, "invalid_weight", "w"),
    ({"new": 1.0}, "new", None, "invalid_weight", "w"),
]


@pytest.mark.parametrize(("x", "y", "w", "code", "field"), BAD)
def test_a_bad_sample_is_refused_and_changes_nothing(x: Any, y: Any, w: Any, code: str, field: str) -> None:
    model = learned("classifier", 20)
    assert isinstance(model, BNPClassifier)
    before = full_state(model)
    for attempt in (model.learn_one, model.preview().check):
        with pytest.raises(SampleError) as caught:
            attempt(x, y, w)
        assert (caught.value.code, caught.value.field) == (code, field)
    if field.startswith("x"):
        for predict in (model.predict_one, model.predict_proba_one, model.check_features):
            with pytest.raises(SampleError):
                predict(x)
    assert full_state(model) == before


@pytest.mark.parametrize(
    ("y", "code"),
    [
        ("c", "invalid_label"),
        (None, "invalid_label"),
        (math.nan, "non_finite_label"),
        (1e200, "invalid_label"),
    ],
)
def test_a_bad_target_is_refused_and_changes_nothing(y: Any, code: str) -> None:
    model = learned("regressor", 20)
    before = full_state(model)
    with pytest.raises(SampleError) as caught:
        model.learn_one({"new": 1.0}, y)
    assert (caught.value.code, caught.value.field) == (code, "y")
    assert full_state(model) == before


@pytest.mark.parametrize(
    ("x", "code"),
    [
        ({"a": 1.0}, "wrong_shape"),
        ([1.0] * 36, "wrong_shape"),
        (np.zeros((6, 6)), "wrong_shape"),
        (np.full((1, 6, 6), math.inf), "non_finite_feature"),
        ([[["a"] * 6] * 6], "invalid_feature"),
        (np.full((1, 6, 6), 1e200), "invalid_feature"),
    ],
)
@pytest.mark.parametrize("name", ["array classifier", "cnn regressor"])
def test_a_bad_array_is_refused_and_changes_nothing(name: str, x: Any, code: str) -> None:
    model = learned(name, 5)
    before = full_state(model)
    with pytest.raises(SampleError) as caught:
        model.learn_one(x, stream(model, 1)[0][1])
    assert caught.value.code == code
    with pytest.raises(SampleError):
        model.predict_one(x)
    assert full_state(model) == before


def test_a_preview_knows_the_samples_before_but_changes_nothing() -> None:
    model = BNPClassifier((3,), max_classes=2)
    before = full_state(model)
    preview = model.preview()
    samples = [preview.check({"a": i, f"f{i}": 1}, i % 2) for i in range(4)]
    with pytest.raises(SampleError, match="label"):
        preview.check({"a": 1}, "text")
    with pytest.raises(SampleError, match="classes"):
        preview.check({"a": 1}, 2)
    assert full_state(model) == before
    for sample in samples:
        model.learn_sample(sample)
    other = BNPClassifier((3,), max_classes=2)
    for i in range(4):
        other.learn_one({"a": i, f"f{i}": 1}, i % 2)
    assert model.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_would_not_be_finite_changes_nothing(name: str) -> None:
    model = learned(name, 20)
    before = full_state(model)
    x, y = stream(model, 1, seed=8)[0]
    if isinstance(x, dict):
        x["new"] = 1.0
    with pytest.raises(NonFiniteStateError):
        model.learn_one(x, y, w=1e300)
    assert full_state(model) == before
    model.learn_one(x, y)


@pytest.mark.parametrize("x", [{"a": 1e60}, {"a": 1e60, "new": 1.0}])
def test_a_sample_with_a_new_class_on_which_nothing_is_finite_is_refused_alone(x: dict[str, float]) -> None:
    model, other = BNPClassifier((4,), standardize=False), BNPClassifier((4,), standardize=False)
    for each in (model, other):
        each.learn_many([{"a": 1.0}, {"a": 2.0}], ["c", "a"])
    preview = model.preview()
    samples = [preview.check(x, "new"), preview.check({"a": 1.0}, "c")]
    refused, learned = model.learn_samples(samples)
    assert isinstance(refused, NonFiniteStateError)
    assert isinstance(learned, tuple)
    other.learn_one({"a": 1.0}, "c")
    assert full_state(model) == full_state(other)


def test_a_number_on_which_nothing_is_finite_is_refused_by_what_learns_intervals() -> None:
    model = BNPRegressor((4,), standardize=False, intervals=4)
    model.learn_many([{"a": 1.0}, {"a": 2.0}], [1.0, 2.0])
    before = full_state(model)
    with pytest.raises(NonFiniteStateError):
        model.learn_many([{"a": 3.0}, {"a": 1e60, "new": 1.0}], [1.0, 1.0])
    assert full_state(model) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", (3, 0)),
        ("activation", "softmax"),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("rho", 1.5),
        ("step_scale", "large"),
        ("input_shape", ()),
        ("input_shape", (3, 0)),
        ("network", "transformer"),
        ("max_features", 0),
        ("engine", "steam"),
        ("device", "abacus"),
    ],
)
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_a_bad_parameter_is_refused_by_name(kind: type[Model], field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**{field: value})
    assert caught.value.field == field


def test_other_bad_parameters_are_refused() -> None:
    for parameters in (
        {"max_classes": 0},
        {"eps_rel": -1.0},
        {"eps_rel": 0.0, "eps_abs": 0.0},
        {"network": "cnn"},
        {"network": "cnn", "input_shape": (2, 2)},
        {"network": nn.Flatten()},
    ):
        with pytest.raises(ConfigurationError):
            BNPClassifier(**parameters)


def test_what_a_model_says_of_itself() -> None:
    model = learned("mixed classifier", 30)
    assert (model.task, model.step) == ("classification", 30)
    assert (model.engine_name, model.device_name) == ("numba", "cpu")
    n = len(model.feature_names)
    network, linear = (6 * n + 6) + (5 * 6 + 5) + (3 * 5 + 3), 3 * n + 3
    spec = LearnerSpec(task="classification")
    bins = (42 * n + 1) * 3  # ten intervals and 32 integers of each feature, and the bias
    assert model.num_parameters == len(spec.members) * network + len(spec.linear) * linear + bins
    assert [each["expert"] for each in model.mixture] == [each.name for each in spec.experts] + ["stack"]
    assert sum(each["weight"] for each in model.mixture) == pytest.approx(1.0)
    named = {each["expert"]: each for each in model.mixture}
    slow = named["network, rate 0.3, replay, mean of weights"]
    assert (slow["kind"], slow["lr"], slow["replay"], slow["averages"]) == ("network", 0.3, 3, True)
    assert (named["linear, rate 0.1"]["kind"], named["linear, rate 0.1"]["lr"]) == ("linear", 0.1)
    nearest = named["10 nearest of 5000, network's metric"]
    assert (nearest["kind"], nearest["lr"], nearest["replay"]) == ("neighbours", None, 0)


def test_the_mixture_of_one_network_and_of_the_first_generation() -> None:
    [alone] = BNPClassifier(lr=0.2).mixture
    assert (alone["expert"], alone["weight"]) == ("network, rate 0.2", 1.0)
    first = BNPClassifier(learner=1).mixture
    assert [(each["lr"], each["replay"], each["averages"]) for each in first] == [
        *((rate, 0, False) for rate in (0.1, 0.3, 0.6)),
        (0.3, 0, True),
        *((rate, 3, True) for rate in (0.1, 0.3, 0.6)),
    ]


def without_learner(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as versions before the second generation of the learner stored it."""
    parameters = {name: value for name, value in state["parameters"].items() if name != "learner"}
    return {**state, "parameters": parameters}


def test_a_model_stored_without_a_generation_is_of_the_first(tmp_path: Path) -> None:
    model = BNPClassifier(hidden=(4,), learner=1)
    for i in range(30):
        model.learn_one({"a": i % 5, "b": (i * 7) % 3}, i % 2)
    stored = without_learner(model.state_dict())

    bnp.checkpoint.save(tmp_path / "model", stored)
    opened = bnp.load(tmp_path / "model")
    pickled = BNPClassifier(hidden=(4,))
    pickled.__setstate__({**without_learner(model.__getstate__()), "state": bnp.checkpoint.dumps(stored)})
    loaded = BNPClassifier(hidden=(4,))
    loaded.load_state_dict(stored)
    for each in (opened, pickled, loaded, model.clone()):
        assert each.learner == 1
    for each in (opened, pickled, loaded, model):
        each.learn_one({"a": 1, "b": 2}, 1)
    assert len({each.fingerprint() for each in (opened, pickled, loaded, model)}) == 1
    with pytest.raises(StateError, match="learner: must be int"):
        loaded.load_state_dict({**stored, "parameters": {**stored["parameters"], "learner": 7}})
    assert (loaded.learner, loaded.fingerprint()) == (1, model.fingerprint())


def test_the_generation_does_not_matter_without_a_perceptron() -> None:
    options: dict[str, Any] = {"network": "cnn", "input_shape": (1, 8, 8), "hidden": (4,)}
    first, second = BNPClassifier(**options, learner=1), BNPClassifier(**options)
    for i in range(3):
        for model in (first, second):
            model.learn_one(np.full((1, 8, 8), i / 3), i % 2)
    assert first.fingerprint() == second.fingerprint()
    second.load_state_dict(without_learner(first.state_dict()))


# --- bounded memory


def held() -> int:
    gc.collect()
    return sys.getallocatedblocks()  # strings and numbers too, which gc does not follow


def resident() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_memory_does_not_grow_with_a_fixed_schema(kind: type[Model]) -> None:
    """Over 3,000 samples: no tensor, no Python object and no page of autograd's graphs is kept."""
    model = kind((100,), max_features=12, memory=500)
    rng = random.Random(0)  # noqa: S311
    sizes = []
    for i in range(3001):
        # The names beyond max_features are new each time.
        x = {f"f{j}": rng.random() for j in range(12)} | {f"new{i}": 1.0, f"word{i}": "text"}
        if i % 5 == 0:
            model.predict_one(x)
        model.learn_one(x, i % 3)
        if i % 1000 == 0 and i > 0:
            tensors = model.state_dict()["tensors"]
            storage = sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
            sizes.append((storage, len(pickle.dumps(model)), held(), resident()))
            del tensors
    storage, pickled, blocks, pages = zip(*sizes, strict=True)
    assert len(set(storage)) == 1
    assert max(pickled) - min(pickled) < 100  # digits of the counts
    assert blocks[-1] - blocks[0] < 1000  # of 2,000 samples
    assert pages[-1] - pages[0] < 30e6  # one graph a sample would be 100e6
    assert model.ignored_features == 2 * 3001


# --- what is learned


def test_a_regressor_learns_a_line() -> None:
    model = BNPRegressor((10,))
    rng = random.Random(1)  # noqa: S311
    errors = []
    for i in range(600):
        x = {"a": rng.uniform(-3.0, 3.0), "b": rng.uniform(0.0, 100.0)}
        y = 5.0 * x["a"] - 0.2 * x["b"] + 30.0
        if i >= 500:
            predicted = model.predict_one(x)
            assert predicted is not None
            errors.append(abs(predicted - y))
        model.learn_one(x, y)
    assert sum(errors) / len(errors) < 0.5  # where the mean misses by 9


@pytest.mark.parametrize(("scale", "offset"), [(1024.0, 0.0), (1e-6, 5.0), (3e7, -1e6)])
def test_a_regressor_does_not_mind_the_scale_of_its_target(scale: float, offset: float) -> None:
    model, scaled = BNPRegressor((10,), lr=0.1), BNPRegressor((10,), lr=0.1)
    for x, y in stream(model, 80):
        y += x["width"]
        predicted, other = model.predict_one(x), scaled.predict_one(x)
        if model.step:
            assert other == pytest.approx(scale * predicted + offset, abs=2e-3 * scale)
        model.learn_one(x, y)
        scaled.learn_one(x, scale * y + offset)


def test_predictions_stay_near_the_targets_that_were_seen() -> None:
    model = BNPRegressor((), lr=1.0)
    for i in range(50):
        model.learn_one({"a": float(i)}, float(i))
    for a in (-1e6, 1e6):
        predicted = model.predict_one({"a": a})
        assert predicted is not None
        assert -0.25 * 49.0 <= predicted <= 1.25 * 49.0


def test_a_missing_value_counts_as_the_mean() -> None:
    model = BNPRegressor((8,), lr=0.3)
    for i in range(50):
        model.learn_one({"a": float(i % 5), "b": 1.0 * (i % 3)}, float(i % 5))
    mean = sum(i % 5 for i in range(50)) / 50
    assert model.predict_one({"a": None, "b": 1.0}) == model.predict_one({"a": mean, "b": 1.0})
    assert model.predict_one({"b": 1.0}) == model.predict_one({"a": 0.0, "b": 1.0})


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_and_samples_give_equal_bits(name: str) -> None:
    assert learned(name, 20).fingerprint() == learned(name, 20).fingerprint()


@pytest.mark.parametrize("name", SINGLE)
def test_a_weight_of_0_moves_no_parameter(name: str) -> None:
    model = learned(name, 30)
    before = model.state_dict()["tensors"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # of the module's BatchNorm
    parameters = [key for key in before if key.startswith("network.") and not key.endswith(statistics)]
    for weight in (0.0, 1.0):
        x, y = stream(model, 1, seed=6)[0]
        model.learn_one(x, y, w=weight)
        after = model.state_dict()["tensors"]
        same = [torch.equal(after[key], before[key]) for key in parameters]
        assert all(same) if weight == 0.0 else not all(same)


@pytest.mark.parametrize("weight", [5e-324, 1e-310, 1e-300, 1e-40])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_finite_after_samples_of_tiny_weights(name: str, weight: float) -> None:
    model = learned(name, 0)
    for x, y in stream(model, 12, seed=6):
        for w in (weight, 1.0):
            model.learn_one(x, y, w=w)
            if isinstance(model, BNPClassifier):
                found = [*model.predict_proba_one(x).values()]
            else:
                found = [model.predict_one(x)]
            assert all(map(math.isfinite, found))


def test_digits_are_learned() -> None:
    """The floor of the default: 91.5% of 1,797 digits, each predicted before it is learned."""
    X, Y = load_digits(return_X_y=True)
    samples = [({f"p{i}": v for i, v in enumerate(x)}, int(y)) for x, y in zip(X, Y, strict=True)]
    result = prequential(samples, BNPClassifier(), "classification")
    assert result.n == 1797
    assert result.metrics["Accuracy"] >= 0.915


def test_a_cnn_learns_from_images() -> None:
    model = BNPClassifier((16,), input_shape=(1, 8, 8), network="cnn")
    X, Y = load_digits(return_X_y=True)
    right = 0
    for i, (x, y) in enumerate(itertools.islice(zip(X.reshape(-1, 1, 8, 8), Y, strict=True), 300)):
        right += i >= 200 and model.predict_one(x) == y
        model.learn_one(x, y)
    assert right >= 75
