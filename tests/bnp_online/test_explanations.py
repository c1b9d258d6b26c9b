"""Explanations: contributions against Shapley values by enumeration, and the novelty of samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from river import anomaly, preprocessing

from bnp_online import BNPClassifier, BNPRegressor, SampleError
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_engine import TorchEngine
from tests.support.shapley import of_prediction, output

COLOURS = {"red": 1.0, "green": 0.0, "blue": -1.0}
Made = Callable[[], Any]


def samples(kind: str, count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield samples of four numbers and a string, with an interaction; the target is a number or a class."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        v = rng.normal(size=4).tolist()
        x: dict[str, Any] = {f"f{j}": each for j, each in enumerate(v)}
        x["colour"] = [*COLOURS][rng.integers(3)]
        y = v[0] + 0.7 * v[1] * v[2] - 1.2 * (v[3] > 0.0) + COLOURS[x["colour"]]
        yield x, y if kind == "number" else int(y > 0.0) if kind == "two" else int(np.clip(y + 1.5, 0.0, 3.0))


def trained(model: Any, kind: str, count: int = 700) -> Any:
    for x, y in samples(kind, count):
        model.learn_one(x, y)
    return model


def checked(model: Any, x: dict[str, Any], label: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Check that an explanation is additive; return its contributions and the Shapley values."""
    found = model.explain_one(x, label)
    names = [*found.contributions]
    contributions = np.array([*found.contributions.values()])
    missing: dict[str, Any] = dict.fromkeys(names)
    assert found.output == pytest.approx(output(model, x, found.label), abs=1e-9)
    assert found.baseline == pytest.approx(output(model, missing, found.label), abs=1e-9)
    assert found.baseline + contributions.sum() == pytest.approx(found.output, abs=1e-9)
    return contributions, of_prediction(model, x, names, found.label)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(BNPRegressor, "number"), (BNPClassifier, "two")],
    ids=["regression", "two classes"],
)
def test_a_linear_model_has_its_shapley_values(make: Any, kind: str) -> None:
    model = trained(make(hidden=(), lr=0.1), kind)
    # In float64, so that rounding hides nothing.
    model._engine, state = NumbaEngine(model._engine.spec, torch.float64), model._engine.state_dict()
    model._engine.load_state_dict(
        {name: each.double() if each.dtype == torch.float32 else each for name, each in state.items()}
    )
    for x, _ in samples(kind, 10, seed=1):
        contributions, expected = checked(model, x)
        assert contributions == pytest.approx(expected, abs=1e-12)


#: Models, kinds of targets, and the least mean correlation with the Shapley values.
MODELS: list[tuple[str, Made, str, float]] = [
    ("linear, 4 classes", lambda: BNPClassifier(hidden=(), lr=0.1), "four", 0.999),
    ("network", lambda: BNPClassifier(hidden=(32,), lr=0.3), "two", 0.9),
    (
        "network, tanh, 4 classes",
        lambda: BNPClassifier(hidden=(32,), lr=0.3, activation="tanh"),
        "four",
        0.97,
    ),
    (
        "network, gelu, regression",
        lambda: BNPRegressor(hidden=(16, 16), lr=0.3, activation="gelu"),
        "number",
        0.95,
    ),
    ("all members", lambda: BNPClassifier(hidden=(32,)), "two", 0.9),
    ("all members, 4 classes", lambda: BNPClassifier(hidden=(32,)), "four", 0.9),
    ("all members, regression", lambda: BNPRegressor(hidden=(32,)), "number", 0.97),
    ("first generation", lambda: BNPClassifier(hidden=(32,), learner=1), "two", 0.97),
    ("raw inputs", lambda: BNPRegressor(hidden=(16,), lr=0.1, standardize=False), "number", 0.95),
]


@pytest.mark.parametrize(
    ("make", "kind", "least"), [each[1:] for each in MODELS], ids=[each[0] for each in MODELS]
)
def test_contributions_agree_with_shapley_values(make: Made, kind: str, least: float) -> None:
    model = trained(make(), kind, 1500)
    pairs = [checked(model, x) for x, _ in samples(kind, 12, seed=1)]
    contributions, expected = map(np.concatenate, zip(*pairs, strict=True))
    assert np.corrcoef(contributions, expected)[0, 1] > least


def test_another_class_is_explained_on_request() -> None:
    model = trained(BNPClassifier(hidden=(16,)), "four")
    x, _ = next(samples("four", 1, seed=2))
    for label in model.labels:
        checked(model, x, label)
    with pytest.raises(SampleError, match="classes are") as error:
        model.explain_one(x, "four")
    assert (error.value.code, error.value.field) == ("unknown_class", "label")
    with pytest.raises(SampleError) as error:
        model.explain_one(x, True)  # not the class 1
    assert error.value.code == "unknown_class"


@pytest.mark.parametrize("samples", [0, 3])
def test_a_regression_has_no_class(samples: int) -> None:
    model = BNPRegressor(hidden=(4,))
    for i in range(samples):
        model.learn_one({"a": i}, i)
    with pytest.raises(SampleError) as error:
        model.explain_one({"a": 1}, 1)
    assert (error.value.code, error.value.field) == ("unknown_class", "label")
    assert str(error.value) == (
        "label: is 1, but the model is a regression, without classes: leave label out"
    )


def test_a_class_before_the_first_sample() -> None:
    with pytest.raises(SampleError, match="'a' is not a class of the model: it has none before"):
        BNPClassifier().explain_one({"a": 1}, "a")


def strings(count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], float]]:
    rng, effects = np.random.default_rng(seed), np.random.default_rng(9).normal(size=80)
    for _ in range(count):
        site, app, n = int(rng.integers(80)), int(rng.integers(40)), float(rng.normal())
        x = {"site": f"s{site}", "app": f"a{app}", "n": n, "words": ["x", "yz"[app % 2]]}
        yield x, effects[site] + 0.5 * n + 0.3 * (app % 2)


@pytest.mark.parametrize("make", [BNPClassifier, BNPRegressor])
def test_a_sparse_stage_is_explained(make: Any) -> None:
    model = make(hidden=(8,))
    for x, y in strings(1500):
        model.learn_one(x, y if make is BNPRegressor else int(y > 0.0))
    assert model.fields.keys() == {"site", "app", "words"}
    pairs = []
    for x, _ in strings(10, seed=1):
        found = model.explain_one(x)
        assert found.contributions.keys() == x.keys()
        total = sum(found.contributions.values())
        assert found.baseline + total == pytest.approx(found.output, abs=1e-9)
        assert found.output == pytest.approx(output(model, x, found.label), abs=1e-9)
        expected = of_prediction(model, x, [*found.contributions], found.label)
        pairs.append((np.array([*found.contributions.values()]), expected))
    contributions, expected = map(np.concatenate, zip(*pairs, strict=True))
    assert np.corrcoef(contributions, expected)[0, 1] > 0.85


def test_one_feature_has_one_contribution() -> None:
    model = trained(BNPRegressor(hidden=(8,)), "number", 300)
    assert {"colour=red", "colour=blue"} < {*model.feature_names}
    x, _ = next(samples("number", 1))
    assert model.explain_one(x).contributions.keys() == x.keys()


def test_missing_unknown_and_absent_features() -> None:
    model = trained(BNPRegressor(hidden=(8,)), "number", 300)
    x, _ = next(samples("number", 1, seed=5))
    found = model.explain_one(x)
    missing = model.explain_one({**x, "f0": None})
    assert missing.contributions["f0"] == 0.0
    assert missing.baseline == found.baseline
    assert model.explain_one({**x, "new": 5.0, "other": "string"}) == found
    assert {*model.explain_one(dict.fromkeys(x)).contributions.values()} == {0.0}
    del x["f1"]
    assert model.explain_one(x) == model.explain_one({**x, "f1": 0.0})
    with pytest.raises(SampleError, match=r"f0"):
        model.explain_one({"f0": float("inf")})


def test_an_untrained_model_and_one_class() -> None:
    model = BNPClassifier(hidden=(4,))
    assert model.explain_one({"a": 1.0}) == (None, None, 0.0, 0.0, {})
    assert BNPRegressor(hidden=(4,)).explain_one({"a": 1.0}) == (0.0, None, 0.0, 0.0, {})
    assert BNPClassifier(hidden=(4,)).novelty_one({"a": 1.0}) == 1.0
    with pytest.raises(SampleError, match="it has none"):
        model.explain_one({"a": 1.0}, "yes")
    model.learn_one({"a": 1.0, "b": "x"}, "yes")
    found = model.explain_one({"a": 2.0})
    assert (found.prediction, found.label) == ("yes", "yes")
    assert found.output == found.baseline == pytest.approx(27.63, abs=0.01)
    assert found.contributions == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize("make", [BNPClassifier, BNPRegressor])
def test_an_explanation_changes_nothing(make: Any) -> None:
    kind = "two" if make is BNPClassifier else "number"
    model, other = (trained(make(hidden=(16,), memory=200), kind, 150) for _ in range(2))
    for (x, y), (given, _) in zip(samples(kind, 100, seed=3), samples(kind, 100, seed=4), strict=True):
        model.predict_one(x)
        model.explain_one(given)
        model.novelty_one(given)
        model.learn_one(x, y)
        other.predict_one(x)
        other.learn_one(x, y)
    assert model.fingerprint() == other.fingerprint()
    assert model.explain_one(given) == copy.deepcopy(other).explain_one(given)


def test_rows_of_a_table() -> None:
    model = trained(BNPRegressor(hidden=(8,)), "number", 100)
    rows = [x for x, _ in samples("number", 3)]
    assert model.explain_many(rows) == [model.explain_one(x) for x in rows]
    with pytest.raises(SampleError, match="row 1"):
        model.explain_many([rows[0], {"f0": [1.0]}])


@pytest.mark.parametrize("make", [BNPClassifier, BNPRegressor])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_model_with_an_input_shape(make: Any, network: str) -> None:
    rng = np.random.default_rng(0)
    model = make(input_shape=(1, 6, 6), network=network, hidden=(8,))
    for _ in range(200):
        x = rng.normal(size=(1, 6, 6))
        y = float(x[0, 2, 2] + x[0, 2, 3])
        model.learn_one(x, y if make is BNPRegressor else "yes" if y > 0.0 else "no")
    x = rng.normal(size=(1, 6, 6))
    x[0, 2, 2:4] = 2.0
    found = model.explain_one(x)
    assert found.contributions.shape == (1, 6, 6)
    assert found.baseline + found.contributions.sum() == pytest.approx(found.output, abs=1e-6)
    expected = model.predict_one(x) if make is BNPRegressor else output(model, x, found.label)
    assert found.output == pytest.approx(expected, abs=1e-5)
    strongest = np.unravel_index(np.abs(found.contributions).argmax(), found.contributions.shape)
    assert strongest in {(0, 2, 2), (0, 2, 3)}


def test_the_torch_engine_explains_as_the_numba_engine() -> None:
    model = trained(BNPRegressor(hidden=(8,)), "number", 200)
    other = BNPRegressor(hidden=(8,), engine="torch")
    other.load_state_dict({**model.state_dict(), "parameters": other.state_dict()["parameters"]})
    assert isinstance(other._engine, TorchEngine)
    for x, y in samples("number", 3, seed=1):
        found, expected = other.explain_one(x), model.explain_one(x)
        assert found.output == pytest.approx(expected.output, abs=1e-5)
        assert found.contributions == pytest.approx(expected.contributions, abs=1e-5)
        other.learn_one(x, y)  # the copy is renewed
        model.learn_one(x, y)
    assert other.novelty_one(x) == pytest.approx(model.novelty_one(x), abs=0.01)


def outliers(seed: int, count: int, features: int) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield correlated samples; of the second half 3% are outliers: one or all features are displaced."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features))
    for i in range(count):
        v = mixing @ rng.normal(size=features)
        strange = i > count // 2 and rng.random() < 0.03
        if strange:
            deviations = np.sqrt((mixing**2).sum(axis=1))
            if rng.random() < 0.5:
                v[rng.integers(features)] += rng.choice([-1.0, 1.0]) * 6.0 * deviations.max()
            else:
                v += 2.5 * rng.choice([-1.0, 1.0], size=features) * deviations
        yield {f"f{j}": float(each) for j, each in enumerate(v)}, bool(strange)


def auc(scores: list[float], truth: list[bool]) -> float:
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
    values = np.array(scores)
    ranks = np.array([ranks[values == each].mean() for each in scores])
    positive = np.array(truth)
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


@pytest.mark.parametrize("seed", [1, 2])
def test_novelty_finds_planted_outliers_as_rivers_detectors_do(seed: int) -> None:
    model = BNPRegressor(hidden=(4,), replay=1, memory=2000)
    trees = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=seed)
    machine = preprocessing.StandardScaler() | anomaly.OneClassSVM(nu=0.1)
    scores: dict[str, list[float]] = {"novelty": [], "trees": [], "machine": []}
    truth = []
    for i, (x, strange) in enumerate(outliers(seed, 2000, 8)):
        if i > 1000:
            truth.append(strange)
            scores["novelty"].append(-model.novelty_one(x))
            scores["trees"].append(trees.score_one(x))
            scores["machine"].append(machine.score_one(x))
        model.learn_one(x, x["f0"])
        trees.learn_one(x)
        machine.learn_one(x)
    found = {name: auc(each, truth) for name, each in scores.items()}
    assert sum(truth) > 15
    assert found["novelty"] > 0.97
    assert found["novelty"] >= max(found["trees"], found["machine"]) - 0.02


@pytest.mark.parametrize("law", ["normal", "lognormal", "uniform", "strings"])
def test_novelty_is_calibrated(law: str) -> None:
    rng = np.random.default_rng(3)

    def draw() -> dict[str, Any]:
        if law == "strings":
            names = "abcdefgh"
            return {"s": names[int(rng.geometric(0.5)) % 8], "n": float(rng.normal())}
        v = getattr(rng, law)(size=5)
        v[1] = 0.7 * v[0] + 0.3 * v[1]
        return {f"f{j}": float(each) for j, each in enumerate(v)}

    model = BNPRegressor(hidden=(4,), replay=1, memory=2000)
    for _ in range(2000):
        x = draw()
        model.learn_one(x, 1.0)
    found = np.array([model.novelty_one(draw()) for _ in range(2000)])
    for p in (0.02, 0.1, 0.5):
        assert (found <= p).mean() == pytest.approx(p, abs=0.02 + 0.1 * p)


def test_novelty_without_a_memory() -> None:
    model = BNPRegressor(hidden=(4,), lr=0.1)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        model.learn_one({f"f{j}": each for j, each in enumerate(rng.normal(size=6).tolist())}, 0.0)
    found = [
        model.novelty_one({f"f{j}": each for j, each in enumerate(rng.normal(size=6).tolist())})
        for _ in range(1000)
    ]
    assert (np.array(found) < 0.1).mean() == pytest.approx(0.1, abs=0.04)
    assert model.novelty_one({"f0": 50.0}) < 1e-10
    assert model.novelty_one(dict.fromkeys([f"f{j}" for j in range(6)])) == 1.0
