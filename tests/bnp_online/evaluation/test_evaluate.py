from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from river import datasets, evaluate, linear_model, metrics, naive_bayes, preprocessing, utils

from bnp_online import BNPClassifier, BNPRegressor, StateError
from bnp_online.evaluation.prequential import PrequentialMetrics, log_loss, prequential

Scored = tuple[Any, Any, dict[Any, float] | None]


def classified(labels: list[Any], n: int, seed: int = 0) -> Iterator[Scored]:
    """Random labels, with probabilities of all classes that are right more often than not."""
    rng = random.Random(seed)  # noqa: S311
    for _ in range(n):
        y = rng.choice(labels)
        scores = {label: rng.random() + (0.4 if label == y else 0.001) for label in labels}
        total = sum(scores.values())
        probabilities = {label: score / total for label, score in scores.items()}
        yield y, max(probabilities, key=probabilities.__getitem__), probabilities


def regressed(n: int, seed: int = 0) -> Iterator[Scored]:
    rng = random.Random(seed)  # noqa: S311
    for _ in range(n):
        y = rng.gauss(1000.0, 3.0)
        yield y, y + rng.gauss(0.5, 1.0), None


def test_labels_are_scored_as_river_scores_them() -> None:
    for labels in ([True, False], [0, 1], ["a", "b", "c"], list(range(9))):
        scores = PrequentialMetrics("classification", window=70)
        river: dict[str, Any] = {"Accuracy": metrics.Accuracy(), "MacroF1": metrics.MacroF1()}
        rolling: dict[str, Any] = {
            "Accuracy": utils.Rolling(metrics.Accuracy, 70),
            "MacroF1": utils.Rolling(metrics.MacroF1, 70),
        }
        for i, (y, prediction, probabilities) in enumerate(classified(labels, 300)):
            scores.update(y, prediction, probabilities)
            for metric in (*river.values(), *rolling.values()):
                metric.update(y, prediction)
            if i in (0, 1, 30, 69, 70, 71, 299):
                report = scores.report()
                assert report["n"] == i + 1
                assert report["window"]["size"] == 70
                assert report["window"]["n"] == min(i + 1, 70)
                for name in river:
                    assert report["cumulative"][name] == pytest.approx(river[name].get(), rel=1e-12)
                    assert report["window"][name] == pytest.approx(rolling[name].get(), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([True, False], metrics.LogLoss), ([0, 1], metrics.LogLoss), (["a", "b", "c"], metrics.CrossEntropy)],
)
def test_probabilities_are_scored_as_river_scores_them(labels: list[Any], kind: Any) -> None:
    scores = PrequentialMetrics("classification", window=70)
    river: Any = kind()
    rolling: Any = utils.Rolling(kind, 70)
    for y, prediction, probabilities in classified(labels, 300):
        before = river.get() * river._mean.n if river._mean.n else 0.0
        loss = scores.update(y, prediction, probabilities)
        river.update(y, probabilities)
        rolling.update(y, probabilities)
        assert loss == pytest.approx(river.get() * river._mean.n - before, abs=1e-9)
    assert scores.report()["cumulative"]["LogLoss"] == pytest.approx(river.get(), rel=1e-9)
    assert scores.report()["window"]["LogLoss"] == pytest.approx(rolling.get(), rel=1e-9)


@pytest.mark.parametrize("labels", [[True, False], [0, 1], [7, 3], ["b", "a"]])
def test_the_area_under_the_curve_is_rivers(labels: list[Any]) -> None:
    positive = labels[0] if labels != [0, 1] else 1  # the greater label
    scores = PrequentialMetrics("classification", window=70)
    river = metrics.ROCAUC()
    rolling: Any = utils.Rolling(metrics.ROCAUC, 70)
    scores.update(positive, positive, {positive: 1.0})  # a time when one class was known
    river.update(True, 1.0)
    rolling.update(True, 1.0)
    negative = next(label for label in labels if label != positive)
    scored = list(classified(labels, 300))
    scored[10:60:10] = [(negative, negative, {positive: 1 / 3, negative: 2 / 3})] * 5  # on a threshold
    for i, (y, prediction, probabilities) in enumerate(scored):
        assert probabilities is not None
        scores.update(y, prediction, probabilities)
        river.update(y == positive, probabilities[positive])
        rolling.update(y == positive, probabilities[positive])
        if i in (20, 299):
            report = scores.report()
            assert 0.5 < report["cumulative"]["ROCAUC"] < 1.0
            assert report["cumulative"]["ROCAUC"] == pytest.approx(river.get(), abs=1e-12)
            assert report["window"]["ROCAUC"] == pytest.approx(rolling.get(), abs=1e-12)


def test_the_area_counts_what_came_before_the_second_class() -> None:
    scores = PrequentialMetrics("classification")
    river = metrics.ROCAUC()
    for _ in range(5):
        scores.update(False, False, {False: 1.0})
        river.update(False, {False: 1.0})
    assert "ROCAUC" not in scores.report()["cumulative"]
    for y, prediction, probabilities in classified([False, True], 40, seed=2):
        scores.update(y, prediction, probabilities)
        river.update(y, probabilities)
    assert scores.report()["cumulative"]["ROCAUC"] == pytest.approx(river.get(), abs=1e-12)


def test_a_third_class_ends_the_area_until_it_has_left_the_window() -> None:
    scores = PrequentialMetrics("classification", window=20)
    for scored in classified(["a", "b"], 30):
        scores.update(*scored)
    assert "ROCAUC" in scores.report()["cumulative"]
    scores.update("c", "a", {"a": 0.5, "b": 0.5})
    assert "ROCAUC" not in scores.report()["cumulative"]
    assert "ROCAUC" not in scores.report()["window"]
    for scored in classified(["a", "b"], 20):
        scores.update(*scored)
    assert "ROCAUC" not in scores.report()["cumulative"]
    assert "ROCAUC" in scores.report()["window"]


def test_numbers_are_scored_as_river_scores_them() -> None:
    kinds: dict[str, Any] = {"MAE": metrics.MAE, "RMSE": metrics.RMSE, "R2": metrics.R2}
    scores = PrequentialMetrics("regression", window=70)
    river = {name: kind() for name, kind in kinds.items()}
    rolling: dict[str, Any] = {name: utils.Rolling(kind, 70) for name, kind in kinds.items()}
    for i, (y, prediction, _) in enumerate(regressed(300)):
        assert scores.update(y, prediction) == (y - prediction) ** 2
        for metric in (*river.values(), *rolling.values()):
            metric.update(y, prediction)
        if i in (0, 1, 30, 69, 70, 71, 299):
            report = scores.report()
            assert report["n"] == i + 1
            for name in kinds:
                assert report["cumulative"][name] == pytest.approx(river[name].get(), rel=1e-9)
                assert report["window"][name] == pytest.approx(rolling[name].get(), rel=1e-6)


def test_r2_of_a_constant_is_0() -> None:
    scores, river = PrequentialMetrics("regression"), metrics.R2()
    for _ in range(3):
        scores.update(2.0, 1.0)
        river.update(2.0, 1.0)
    assert scores.report()["cumulative"]["R2"] == river.get() == 0.0


def test_a_class_that_was_not_predicted_had_the_probability_0() -> None:
    scores = PrequentialMetrics("classification")
    assert scores.update("b", "a", {"a": 1.0}) == pytest.approx(-math.log(1e-4))
    assert log_loss("a", {"a": 1.0}) == pytest.approx(0.0, abs=1e-14)
    assert log_loss("a", {"a": 0.25}) == math.log(4.0)
    assert log_loss("a", {"a": 1e-9}) == log_loss("a", {}) == pytest.approx(9.2, abs=0.02)


def test_without_probabilities_the_prediction_counts_as_certain() -> None:
    scores = PrequentialMetrics("classification")
    assert scores.update("a", "a") == pytest.approx(0.0, abs=1e-14)
    assert scores.update("b", "a", {}) == pytest.approx(-math.log(1e-4))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_what_was_not_predicted_is_not_scored(task: Any) -> None:
    scores = PrequentialMetrics(task)
    empty = scores.report()
    assert scores.update(1, None, {}) is None
    assert scores.report() == empty
    assert empty["n"] == empty["window"]["n"] == scores.n == 0
    assert all(value is None for value in empty["cumulative"].values())
    scores.update(1, 0)
    assert scores.n == 1


@pytest.mark.parametrize("labels", [[True, False], [7, 3], ["a", "b", "c"], None])
@pytest.mark.parametrize("at", [0, 1, 5, 100])
def test_the_state_survives_json_in_the_middle_of_a_stream(labels: list[Any] | None, at: int) -> None:
    task: Any = "regression" if labels is None else "classification"
    scored = list(regressed(150) if labels is None else classified(labels, 150))
    if labels is not None:
        scored[:3] = [(labels[0], labels[0], {labels[0]: 1.0})] * 3
    scores, other = PrequentialMetrics(task, window=60), PrequentialMetrics(task, window=60)
    other.update(*scored[-1])
    for each in scored[:at]:
        scores.update(*each)
    state = json.loads(json.dumps(scores.state_dict(), allow_nan=False))
    other.load_state_dict(state)
    assert json.dumps(other.state_dict()) == json.dumps(scores.state_dict())
    for each in scored[at:]:
        assert other.update(*each) == scores.update(*each)
    assert other.report() == scores.report()
    assert json.dumps(other.state_dict()) == json.dumps(scores.state_dict())


def test_labels_of_another_type_stay_apart_in_the_window() -> None:
    scores = PrequentialMetrics("classification")
    scores.update(1, 1, {0: 0.25, 1: 0.75})
    scores.update(True, True, {False: 0.25, True: 0.75})
    assert json.dumps([entry[2] for entry in scores.state_dict()["latest"]]) == "[[0, 1], [false, true]]"


def test_the_window_of_many_classes_is_small() -> None:
    labels = [f"class {i}" for i in range(200)]
    scores = PrequentialMetrics("classification")
    tracemalloc.start()
    for i in range(2000):
        scores.update(labels[i % 200], labels[0], dict.fromkeys(labels, 0.005))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1000 * (200 * 8 + 500)  # eight bytes for each probability: dicts would take 10 MB


def test_a_state_of_an_earlier_version_is_read() -> None:
    """It kept pairs of a label and its probability."""
    scores, other = PrequentialMetrics("classification", 60), PrequentialMetrics("classification", 60)
    for y, prediction, probabilities in classified([True, False], 50):
        scores.update(y, prediction, probabilities)
    state = json.loads(json.dumps(scores.state_dict()))
    state["latest"] = [
        [y, p, [list(pair) for pair in zip(labels, values, strict=True)]]
        for y, p, labels, values in state["latest"]
    ]
    other.load_state_dict(state)
    assert other.report() == scores.report()
    assert other.state_dict() == scores.state_dict()


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"], None])
def test_a_copy_stays_as_it_is(labels: list[Any] | None) -> None:
    scores = PrequentialMetrics("classification" if labels else "regression", window=5)
    for i in range(8):
        scores.update(labels[i % 2] if labels else float(i), labels[0] if labels else 1.0)
    kept, report = scores.copy(), scores.report()
    assert kept.report() == report
    scores.update(labels[-1] if labels else 9.0, labels[-1] if labels else 2.0)
    assert kept.report() == report != scores.report()


@pytest.mark.parametrize(
    "other", [PrequentialMetrics("regression", 60), PrequentialMetrics("classification", 61)]
)
def test_the_state_of_another_score_is_refused(other: PrequentialMetrics) -> None:
    scores = PrequentialMetrics("classification", 60)
    scores.update("a", "b")
    before = scores.report()
    with pytest.raises(StateError):
        scores.load_state_dict(other.state_dict())
    assert scores.report() == before


# --- prequential


def phishing() -> list[Any]:
    return list(datasets.Phishing().take(150))


def segments() -> list[Any]:
    return list(datasets.ImageSegments().take(150))


def trump() -> list[Any]:
    return list(datasets.TrumpApproval().take(150))


CASES: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "river, two classes": (
        phishing,
        preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "classification",
        {
            "Accuracy": metrics.Accuracy,
            "MacroF1": metrics.MacroF1,
            "LogLoss": metrics.LogLoss,
            "ROCAUC": metrics.ROCAUC,
        },
    ),
    "river, many classes": (
        segments,
        naive_bayes.GaussianNB(),
        "classification",
        {"Accuracy": metrics.Accuracy, "MacroF1": metrics.MacroF1},
    ),
    "ours, two classes": (
        phishing,
        BNPClassifier(hidden=(5,), lr=0.3),  # River judges no expert by what it predicted earlier
        "classification",
        {"Accuracy": metrics.Accuracy},
    ),
    "river, numbers": (
        trump,
        preprocessing.StandardScaler() | linear_model.LinearRegression(),
        "regression",
        {"MAE": metrics.MAE, "RMSE": metrics.RMSE, "R2": metrics.R2},
    ),
    "ours, numbers": (
        trump,
        BNPRegressor(hidden=(5,), lr=0.3),
        "regression",
        {"MAE": metrics.MAE},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("delay", [None, 1, 30])
def test_prequential_is_rivers_progressive_validation(name: str, delay: int | None) -> None:
    samples, model, task, kinds = CASES[name]
    ours = prequential(samples(), model.clone(), task, delay=delay)  # type: ignore[arg-type]
    assert ours.n == 150
    for metric, kind in kinds.items():
        theirs = evaluate.progressive_val_score(samples(), model.clone(), kind(), delay=delay)
        assert ours.metrics[metric] == pytest.approx(theirs.get(), rel=1e-9)


class Diary:
    """A model that writes down what is asked of it."""

    def __init__(self) -> None:
        self.days: list[tuple[str, Any, Any]] = []

    def predict_one(self, x: Any) -> Any:
        self.days.append(("predict", x["i"], None))
        return None if len(self.days) < 3 else 1.0

    def learn_one(self, x: Any, y: Any) -> None:
        self.days.append(("learn", x["i"], y))


def test_each_sample_is_predicted_before_it_is_learned() -> None:
    diary = Diary()
    result = prequential([({"i": i}, float(i)) for i in range(3)], diary, "regression")
    assert diary.days == [
        ("predict", 0, None),
        ("learn", 0, 0.0),
        ("predict", 1, None),
        ("learn", 1, 1.0),
        ("predict", 2, None),
        ("learn", 2, 2.0),
    ]
    assert result.n == 3
    assert result.metrics["MAE"] == 0.5  # the first was not predicted; then |1 − 1| and |2 − 1|


def test_a_label_comes_late() -> None:
    diary = Diary()
    prequential([({"i": i}, float(i)) for i in range(4)], diary, "regression", delay=2)
    assert [(what, i) for what, i, _ in diary.days] == [
        ("predict", 0),
        ("predict", 1),
        ("learn", 0),
        ("predict", 2),
        ("learn", 1),
        ("predict", 3),
        ("learn", 2),
        ("learn", 3),
    ]


def test_the_curve_and_the_progress() -> None:
    seen: list[int] = []
    samples = [({"i": i}, i % 2) for i in range(25)]
    result = prequential(
        samples, BNPClassifier((3,)), "classification", window=5, every=10, progress=seen.append
    )
    assert seen == list(range(1, 26))
    assert [n for n, _ in result.curve] == [10, 20]
    assert result.curve[0][1]["n"] == 5
    assert result.seconds > 0.0
    assert prequential(samples, BNPClassifier((3,)), "classification").curve == []
