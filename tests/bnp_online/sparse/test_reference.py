"""The compiled stage against a float64 reference written from the definition."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from bnp_online.sparse import Items, SparseStage
from bnp_online.sparse.columns import evidence_columns
from bnp_online.sparse.state import OPEN, OUT_LINEAR, OUT_PAIRS, TEXT
from bnp_online.values import Derived
from tests.support.reference_sparse import ReferenceStage, Value

KINDS = {"a": OPEN, "b": OPEN, "t": TEXT}


def _samples(count: int, seed: int) -> Iterator[tuple[list[Value], int]]:
    """Yield values and a number that depends on them."""
    rng = random.Random(seed)  # noqa: S311
    for _ in range(count):
        a, b = rng.randrange(12), rng.randrange(5)
        words = {rng.randrange(30): float(rng.randrange(1, 4)) for _ in range(rng.randrange(4))}
        sample: list[Value] = [("t", f"w{word}", amount) for word, amount in words.items()]
        sample += [("a", f"a{a}", 1.0)] * (rng.random() < 0.9) + [("b", f"b{b}", 1.0)]
        rng.shuffle(sample)
        yield sample, a + 2 * b + rng.randrange(2)


def _both(classes: int, *, regression: bool = False) -> tuple[SparseStage, ReferenceStage, list[Derived]]:
    stage = SparseStage(regression, 0, 2**20, real=np.float64)
    for _ in range(0 if regression else classes):
        stage.add_class()
    columns = evidence_columns(KINDS.items(), 1 if regression else classes)
    stage.adopt(stage.laid_out(columns, KINDS), KINDS)
    for _ in range(6):  # a large table: no two pairs of the test share a row
        stage._double_pairs()
    reference = ReferenceStage({"a": "field", "b": "field", "t": "text"}, classes, regression=regression)
    return stage, reference, columns


def _items(stage: SparseStage, sample: list[Value]) -> Items:
    return stage.items([f for f, _, _ in sample], [v for _, v, _ in sample], [x for _, _, x in sample])


def _compare(
    stage: SparseStage, reference: ReferenceStage, sample: list[Value], columns: list[Derived]
) -> None:
    """Compare the evidence and the predictions of both groups for a sample."""
    items = _items(stage, sample)
    stage.front(items, np.zeros(len(columns)))
    expected = reference.predict(sample)
    raw = stage.state.evidence[3]
    for column, value in zip(columns, raw, strict=True):
        name = column.name if column.scope == "field" else column.scope
        found = expected.get((name, column.output, column.part), 0.0)
        assert value == pytest.approx(found, rel=1e-9, abs=1e-9), column
    outputs = 1 if reference.regression else len(reference.totals)
    for row, group in ((OUT_LINEAR, reference.linear), (OUT_PAIRS, reference.pairs)):
        assert stage.state.outputs[row, :outputs] == pytest.approx(group.mixed, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes(classes: int) -> None:
    stage, reference, columns = _both(classes)
    rng = random.Random(5)  # noqa: S311
    for sample, number in _samples(300, 1):
        _compare(stage, reference, sample, columns)
        weight = rng.choice([1.0, 1.0, 1.0, 0.0, 0.3, 4.0])
        items = _items(stage, sample)
        stage.combine(np.full(classes, 1.0 / classes))
        stage.learn(items, number % classes, weight, judged=True)
        reference.learn(sample, number % classes, weight, judged=weight > 0.0)


def test_regression() -> None:
    stage, reference, columns = _both(1, regression=True)
    for i, (sample, number) in enumerate(_samples(300, 2)):
        _compare(stage, reference, sample, columns)
        items = _items(stage, sample)
        stage.combine(np.zeros(1))
        stage.learn(items, 100.0 + number, 1.0, judged=i > 0)
        reference.learn(sample, 100.0 + number, judged=i > 0)


def test_new_classes_on_the_fly() -> None:
    stage, reference, _ = _both(1)
    for i, (sample, number) in enumerate(_samples(300, 3)):
        label = min(number % 5, i // 40)
        new = label >= len(reference.totals)
        if new:
            stage.add_class()
            reference.add_class()
        columns = evidence_columns(KINDS.items(), len(reference.totals))
        if new:
            stage.state = stage.state._replace(evidence=np.zeros((4, 0)))
            stage.adopt(stage.laid_out(columns, KINDS), KINDS)
        _compare(stage, reference, sample, columns)
        items = _items(stage, sample)
        stage.combine(np.full(len(reference.totals), 1.0 / len(reference.totals)))
        stage.learn(items, label, 1.0, judged=not new)
        reference.learn(sample, label, judged=not new)


def test_counts_are_bounded() -> None:
    stage, reference, columns = _both(2)
    sample: list[Value] = [("a", "x", 1.0), ("b", "y", 1.0)]
    for i in range(1100):
        stage.front(items := _items(stage, sample), np.zeros(len(columns)))
        stage.combine(np.full(2, 0.5))
        stage.learn(items, i % 3 == 0, 1.0, judged=True)
        reference.predict(sample)
        reference.learn(sample, i % 3 == 0)
    _compare(stage, reference, sample, columns)
    assert stage.state.counts[0].sum() == pytest.approx(1000.0)
