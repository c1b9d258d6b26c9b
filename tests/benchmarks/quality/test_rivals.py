from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from river import neighbors, preprocessing
from river.neighbors.base import DistanceFunc
from river.utils.vectordict import euclidean_distance_tuple

from benchmarks.common.streams import Stream, load
from benchmarks.quality.nearest_neighbours import RingSearch
from benchmarks.quality.plain_torch import cumulative_moments
from benchmarks.quality.rivals import CONTESTANTS
from benchmarks.quality.vowpal import Pairs, VowpalClassifier, VowpalRegressor

_BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


def test_cumulative_moments_are_those_of_the_rows_so_far() -> None:
    values = np.random.default_rng(0).normal(1e6, 1.0, size=(20, 3))
    mean, scale = cumulative_moments(values)
    for i in range(20):
        np.testing.assert_allclose(mean[i], values[: i + 1].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(scale[i], values[: i + 1].std(axis=0), atol=1e-7)


def test_numeric_stream_has_a_column_for_each_value_of_a_string() -> None:
    stream = Stream("s", "regression", "", [({"a": 1, "b": "x"}, 1.0), ({"a": 2, "b": "y"}, 2.0)])
    assert stream.numeric().samples == [
        ({"a": 1.0, "b=x": 1.0, "b=y": 0.0}, 1.0),
        ({"a": 2.0, "b=x": 0.0, "b=y": 1.0}, 2.0),
    ]
    assert stream.matrix().tolist() == [[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]]


def _images(folder: Path) -> Stream:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, size=60, dtype=np.uint8)
    images = rng.integers(0, 20, size=(60, 28, 28), dtype=np.uint8)
    images[:, :, :10] += 60 * labels[:, None, None]
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels)
    return load("MNIST", limit=50, data_dir=folder)


def test_image_stream_gives_dicts_and_arrays_of_the_same_pixels(tmp_path: Path) -> None:
    stream = _images(tmp_path)
    assert stream.pixels is not None
    assert stream.pixels.shape == (50, 784)
    assert len(list(stream.samples)) == len(stream.samples) == 50
    for (x, y), row, label in zip(stream.samples, stream.pixels, stream.targets, strict=True):
        assert list(x.values()) == row.tolist()
        assert y == label
    assert stream.samples[1:3][0] == stream.samples[1]
    assert stream.describe()["features"] == 784
    with pytest.raises(ValueError, match=r"needs a folder with mnist\.npz"):
        load("MNIST")


@pytest.mark.parametrize(
    "name", [contestant.name for contestant in CONTESTANTS if contestant.name not in ("Floor", "Last")]
)
def test_every_rival_learns_an_image_stream(name: str, tmp_path: Path) -> None:
    stream, contestant = _images(tmp_path), _BY_NAME[name]
    accuracies = []
    for setting in contestant.settings(stream.describe()):
        run = contestant.run(stream, 0, setting, lambda n: None)
        accuracies.append(run.metrics["Accuracy"] if run.metrics else 0.0)
    assert max(accuracies) > 0.5  # by chance a third


def _neighbours(engine: Any, x: dict[str, float]) -> tuple[list[int], list[float]]:
    items, distances = engine.search((x, None), n_neighbors=3)
    return [number for _, number in items], distances


@pytest.mark.parametrize("ties", [True, False])
def test_ring_search_finds_what_lazy_search_finds(ties: bool) -> None:
    distance = cast(DistanceFunc, euclidean_distance_tuple)  # as River's KNN sets it
    lazy = neighbors.LazySearch(window_size=7, dist_func=distance)
    ring = RingSearch(window_size=7)
    rng = np.random.default_rng(0)
    for i in range(200):
        names = [f"f{j}" for j in range(4) if rng.random() < 0.8]  # what is absent is 0
        x = {name: float(rng.integers(2)) if ties else rng.normal(1e3, 1.0) for name in names}
        (expected, far), (found, distances) = _neighbours(lazy, x), _neighbours(ring, x)
        assert found == expected
        assert distances == pytest.approx(far, rel=1e-12)
        lazy.append((x, i))
        ring.append((x, i))
    assert ring.refresh_targets() == set(range(193, 200))


def test_knn_predicts_the_same_with_either_search() -> None:
    classifiers = [
        preprocessing.StandardScaler() | neighbors.KNNClassifier(engine=engine)
        for engine in (neighbors.LazySearch(window_size=50), RingSearch(window_size=50))
    ]
    for x, y in load("digits", 200).samples:
        probabilities, same = (classifier.predict_proba_one(x) for classifier in classifiers)
        assert probabilities == pytest.approx(same)
        for classifier in classifiers:
            classifier.learn_one(x, y)
    regressors = [
        neighbors.KNNRegressor(engine=engine)
        for engine in (neighbors.LazySearch(window_size=50), RingSearch(window_size=50))
    ]
    for x, y in load("TrumpApproval", 200).samples:
        assert regressors[0].predict_one(x) == pytest.approx(regressors[1].predict_one(x))
        for regressor in regressors:
            regressor.learn_one(x, y)


def _pairs(rng: np.random.Generator) -> Pairs:
    return [(j, rng.normal()) for j in range(4)]


@pytest.mark.parametrize("options", ["", "--nn 5"])
def test_vowpal_wabbit_knows_nothing_of_a_label_before_it_learns_it(options: str) -> None:
    rng = np.random.default_rng(0)
    samples = [(_pairs(rng), "ab"[rng.integers(2)]) for _ in range(300)]
    model = VowpalClassifier(["a", "b", "c"], options, rate=1.0, seed=0)
    assert model.predict_proba_one(samples[0][0]) == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.01)
    right = 0
    for x, y in samples:
        before = model.predict_proba_one(x)
        assert sum(before.values()) == pytest.approx(1.0, abs=1e-5)
        assert model.predict_proba_one(x) == before  # to predict changes nothing
        right += model.predict_one(x) == y
        model.learn_one(x, y)
        assert model.predict_proba_one(x)[y] > before[y]
    assert right < 200  # random labels cannot be guessed


@pytest.mark.parametrize("name", ["VW*", "VW-nn*"])
def test_vowpal_wabbit_learns_a_stream_of_each_kind(name: str) -> None:
    contestant = _BY_NAME[name]
    rng = np.random.default_rng(0)
    inputs = [{"a": rng.normal(5.0, 2.0), "b": rng.normal()} for _ in range(400)]
    lines = Stream("s", "regression", "", [(x, 100.0 + 10.0 * x["a"] - 5.0 * x["b"]) for x in inputs])
    signs = Stream("s", "classification", "", [(x, x["a"] > 5.0) for x in inputs])
    setting = {"rate": 0.3, "inputs": "standardized"}
    regression = contestant.run(lines, 0, setting, lambda n: None).metrics
    classification = contestant.run(signs, 0, setting, lambda n: None).metrics
    assert regression is not None
    assert regression["R2"] > 0.5
    assert classification is not None
    assert classification["Accuracy"] > 0.9


def test_vowpal_wabbit_predicts_in_the_unit_of_the_targets() -> None:
    model = VowpalRegressor("", rate=0.5, seed=0)
    assert model.predict_one([(0, 1.0)]) == 0.0
    model.learn_one([(0, 1.0)], 1000.0)
    assert model.predict_one([(0, 1.0)]) == 1000.0
