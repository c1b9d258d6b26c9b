"""Window of the latest predictions: content, copies, size."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from collections import deque
from typing import Any

import pytest

from bnp_online.evaluation.window import Window


def predictions(count: int, classes: int) -> list[tuple[Any, Any, dict[Any, float]]]:
    """Return predictions with a growing number of labels, some without any."""
    rng = random.Random(count + classes)  # noqa: S311
    made = []
    for i in range(count):
        labels = [f"c{k}" for k in range(min(classes, i))]
        made.append((rng.random(), rng.choice("ab"), {label: rng.random() for label in labels}))
    return made


@pytest.mark.parametrize("size", [0, 1, 7, 50])
@pytest.mark.parametrize("classes", [0, 2, 30])
def test_it_has_the_latest_predictions(size: int, classes: int) -> None:
    window, expected = Window(size), deque[Any](maxlen=size)
    for y, prediction, probabilities in predictions(300, classes):
        window.add(y, prediction, probabilities)
        expected.append((y, prediction, tuple(probabilities), [*probabilities.values()]))
        assert list(window) == list(expected)
        assert len(window) == len(expected)
        assert window.latest == ((y, prediction) if size else None)


def test_a_copy_is_independent() -> None:
    window = Window(20)
    for scored in predictions(33, 3):
        window.add(*scored)
    before, twin = list(window), window.copy()
    window.add("y", "p", {"c": 1.0})
    assert list(twin) == before
    twin.add("z", "p", {"c": 0.5})
    assert list(twin) == [*before[1:], ("z", "p", ("c",), [0.5])]
    assert list(window)[-1] == ("y", "p", ("c",), [1.0])


@pytest.mark.parametrize("names", [["a", "b"], [0, 1], [False, True]])
def test_a_loaded_window_is_the_same(names: list[Any]) -> None:
    window, other = Window(20), Window(20)
    other.add(1.0, 2.0, {3: 4.0})
    for y, prediction, probabilities in predictions(33, 2):
        window.add(y, prediction, dict(zip(names, probabilities.values(), strict=False)))
    window.add("y", "p", {0: 0.5, True: 0.25})
    other.load(json.loads(json.dumps(list(window))))
    assert [repr(scored) for scored in other] == [repr(scored) for scored in window]
    for each in (window, other):
        each.add("z", "p", {"c": 0.5})
    assert list(other) == list(window)


@pytest.mark.parametrize("rows", [[("y", "p", ["a"], [1.0])] * 3, [("y", "p", ["a"], [])]])
def test_another_size_is_refused(rows: list[Any]) -> None:
    with pytest.raises(ValueError, match="another size"):
        Window(2).load(rows)


def test_a_value_that_is_no_number_changes_nothing() -> None:
    window = Window(20)
    window.add("a", "a", {"a": 1.0})
    with pytest.raises(TypeError):
        window.add("a", "a", dict[Any, Any](a=0.5, b="much"))
    assert list(window) == [("a", "a", ("a",), [1.0])]


def test_a_prediction_takes_fifty_bytes_and_no_object() -> None:
    window, rows = Window(1000), [({"a": i / 7, "b": 1 - i / 7}, "ab"[i % 2]) for i in range(7)]
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(5000):
            window.add(rows[i % 7][1], "a", rows[i % 7][0])
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 50 * 1000
