"""The fast reader of an open stage and the validation of features lead to equal bits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier
from bnp_online.errors import SampleError
from bnp_online.sparse import Reader
from bnp_online.sparse.reader import PlainFeatures


def _samples(count: int) -> Iterator[tuple[dict[Any, Any], int]]:
    """Yield samples with all that a stage reads: strings, text, counts, numbers, missing values."""
    rng = random.Random(0)  # noqa: S311
    for i in range(count):
        x: dict[Any, Any] = {
            "id": f"é{rng.randrange(60)}" if i % 7 else "\udcff",
            "few": rng.choice(["a", "b", "", None]),
            "title": " ".join(f"W{rng.randrange(30)}" for _ in range(rng.randrange(5))),
            "number": rng.choice([rng.random(), 3, True, np.float32(0.5), np.int64(4), None, float("nan")]),
            "tail": rng.random() ** -3.0,
            f"w:{rng.randrange(20)}": rng.randrange(1, 4),
        }
        if i % 11 == 0:
            x |= {("a", 1): 2.0, 7: "s"}
        if i % 13 == 0:
            x["list"] = ["b", "c"]
        keys = [*x]
        rng.shuffle(keys)
        yield {key: x[key] for key in keys}, int(i % 3 == 0)


def _model() -> BNPClassifier:
    return BNPClassifier((4,), seed=0, replay=1, text=("title",), sparse=("w:*",))


def test_both_ways_lead_to_equal_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = _model(), _model()
    read = Reader.read
    for x, y in _samples(400):
        assert fast.predict_proba_one(x) == fast.predict_proba_one({**x})
        fast.learn_one(x, y)
        fast_unknown = fast.unknown_features({**x, "id": "new", "few": "new"})
        monkeypatch.setattr(Reader, "read", lambda self, x: None)
        slow.learn_one(x, y)
        assert slow.unknown_features({**x, "id": "new", "few": "new"}) == fast_unknown
        monkeypatch.setattr(Reader, "read", read)
    assert any(name.endswith("(log)") for name in fast.feature_names)
    assert fast.fingerprint() == slow.fingerprint()


def test_a_plain_sample_has_the_values_of_the_validation() -> None:
    model = _model()
    for x, y in _samples(100):
        model.learn_one(x, y)
    x, _ = next(_samples(2))
    x = {key: value for key, value in x.items() if isinstance(key, str) and key != "list"}
    features, checked = model.check_features(x), model._features.check(x)
    assert isinstance(features, PlainFeatures)
    assert not isinstance(checked, PlainFeatures)
    assert features.values == checked.values
    assert features.missing == checked.missing
    assert features.texts == checked.texts


def test_a_sample_that_one_model_has_read_is_valid_in_another() -> None:
    first, second, third = _model(), _model(), _model()
    stream = [*_samples(120)]
    for x, y in stream[:60]:
        first.learn_one(x, y)
    for x, y in stream[60:]:
        second.learn_one(x, y)
        third.learn_one(x, y)
    for x, y in stream[:20]:
        second.learn_one(first.check_features(x), y)
        third.learn_one(x, y)
    assert second.fingerprint() == third.fingerprint()


@pytest.mark.parametrize("value", [1e200, float("inf"), 10**400, object(), {"a": 1}])
def test_an_invalid_value_is_refused_with_its_name(value: object) -> None:
    model = _model()
    for x, y in _samples(60):
        model.learn_one(x, y)
    with pytest.raises(SampleError, match="number"):
        model.learn_one({"number": value}, 0)
