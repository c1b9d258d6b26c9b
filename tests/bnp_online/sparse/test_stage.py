"""Promises of estimators with a sparse stage."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError, SampleError, load
from bnp_online.sparse import columns
from bnp_online.sparse.state import MEMBERS, OUT_LINEAR, OUT_MEMBERS

_Estimator = BNPClassifier | BNPRegressor


def _stream(count: int, task: str, seed: int = 1) -> Iterator[tuple[dict[str, Any], Any, float]]:
    """Yield samples with strings, text, numbers, missing values, a third class and a late feature."""
    rng = random.Random(seed)  # noqa: S311
    for i in range(count):
        a, b = rng.randrange(80), rng.randrange(10)
        x: dict[str, Any] = {"a": f"a{a}", "b": f"b{b}", "n": rng.gauss(0.0, 1.0)}
        x["t"] = " ".join(f"w{min(int(rng.expovariate(0.1)), 200)}" for _ in range(rng.randrange(6)))
        if rng.random() < 0.1:
            x[rng.choice("bn")] = None
        if rng.random() < 0.1:
            del x["a"]
        if i > 100:
            x["late"] = f"l{rng.randrange(100)}"
        y: Any = (a + b) % 3 if i >= 80 else (a + b) % 2
        yield x, 100.0 * y if task == "regression" else y, rng.choice([1.0, 1.0, 1.0, 0.0, 0.5, 3.0])


def _make(task: str) -> _Estimator:
    kind = BNPRegressor if task == "regression" else BNPClassifier
    return kind(hidden=(8,), text=("t",), max_values=150, memory=200)


def _shuffled(x: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return {name: x[name] for name in rng.sample(list(x), len(x))}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_order_of_keys_and_predictions_have_no_effect(task: str) -> None:
    model, other, rng = _make(task), _make(task), random.Random(0)  # noqa: S311
    for i, (x, y, w) in enumerate(_stream(220, task)):
        assert model.predict(x) == other.predict(_shuffled(x, rng))
        model.predict(x | {"a": "never seen", "t": "nor these words"})
        model.learn_one(x, y, w)
        other.learn_one(_shuffled(x, rng), y, w)
        if i % 40 == 39:
            assert model.fingerprint() == other.fingerprint()
    assert model.fields == other.fields
    assert sum(model.fields.values()) == 150  # some were recycled


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_saved_model_learns_on_with_equal_bits(task: str, tmp_path: Path) -> None:
    model = _make(task)
    samples = list(_stream(260, task))
    for x, y, w in samples[:200]:
        model.learn_one(x, y, w)
    model.save(tmp_path / "model")
    copies = [load(tmp_path / "model"), _make(task)]
    copies[1].load_state_dict(model.state_dict())
    for x, y, w in samples[200:]:
        for each in (model, *copies):
            each.learn_one(x, y, w)
    assert {each.fingerprint() for each in copies} == {model.fingerprint()}


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(("words", "weight"), [(["a"], 1.0), (["a", "b"], 1.0), (["a"], 0.0)])
def test_a_model_with_few_values_and_no_pairs_is_loaded(task: str, words: list[str], weight: float) -> None:
    model, copy = _make(task), _make(task)
    model.learn_one({"t": words}, 0, w=weight)
    assert model.fields == {"t": len(words) if weight else 0}
    copy.load_state_dict(model.state_dict())
    for each in (model, copy):
        each.learn_one({"t": ["b", "c"]}, 1)
    assert model.fingerprint() == copy.fingerprint()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_many_samples_in_one_call_are_learned_as_one_by_one(task: str) -> None:
    model, other = _make(task), _make(task)
    samples = [(x, y) for x, y, _ in _stream(220, task)]
    for x, y in samples:
        model.learn_one(x, y)
    other.learn_many([x for x, _ in samples], [y for _, y in samples])
    assert model.fingerprint() == other.fingerprint()


def test_a_field_keeps_its_columns_and_evidence_joins_without_a_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [BNPClassifier(hidden=(8,), lr=0.3) for _ in range(2)]
    for i in range(32):
        for model in models:
            model.learn_one({"city": f"c{i}", "n": i % 3}, i % 2)
    assert models[0].fields == {}
    models[0].learn_one({"city": "c32", "n": 1}, 1, 0.0)  # opens the stage; the weight 0 keeps its hedge
    monkeypatch.setattr(columns, "MOST_ONE_HOT", 33)
    models[1].learn_one({"city": "c32", "n": 1}, 1, 0.0)
    one_hot = [name for name in models[0].feature_names if name.startswith("city=")]
    assert one_hot == [f"city=c{i}" for i in range(32)]
    assert models[0].feature_names[-4:] == (
        "city (count)",
        "city (evidence 1)",
        "pairs (count)",
        "pairs (evidence 1)",
    )
    x = {"city": "c7", "n": 2}
    assert models[0].predict_proba_one(x) == pytest.approx(models[1].predict_proba_one(x), rel=1e-5)


def test_a_new_value_or_feature_changes_no_prediction() -> None:
    model = _make("classification")
    for x, y, _ in _stream(150, "classification"):
        model.learn_one(x, y)
    x = {"a": "a1", "b": "b1", "n": 0.3}
    assert model.predict(x) == model.predict(x | {"t": "unseen", "late": "unseen", "new": "value"})


def test_text_is_split_counted_and_given_as_a_list() -> None:
    models = [BNPClassifier(hidden=(8,), text=("t",)), BNPClassifier(hidden=(8,), sparse=("t:*",))]
    models += [BNPClassifier(hidden=(8,))]
    for i in range(40):
        word = f"w{i % 7}"
        models[0].learn_one({"t": f"The {word}, the END"}, i % 2)
        models[1].learn_one({"t:the": 2, f"t:{word}": 1, "t:end": 1}, i % 2)
        models[2].learn_one({"t": ["the", word, "the", "end"]}, i % 2)
    assert [each.fields for each in models] == [{"t": 9}, {"t:*": 9}, {"t": 9}]
    assert models[0].predict({"t": "w3"}) == models[2].predict({"t": ["w3"]})


@pytest.mark.parametrize("value", ["", "?!", []])
def test_a_text_without_words_is_as_an_absent_feature(value: object) -> None:
    models = [BNPClassifier(hidden=(8,), text=("t",)) for _ in range(2)]
    for i in range(40):
        models[0].learn_one({"a": i % 5, "t": value}, i % 2)
        models[1].learn_one({"a": i % 5}, i % 2)
    assert models[0].fingerprint() == models[1].fingerprint()


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ([1, 2], "x.t: must be a list of strings, but entry 0 .* send each number as a feature of its own"),
        ([None], "x.t: must be a list of strings"),
        ({"free": 2}, r"x.t: must be .*, not dict: send each entry as a feature.*sparse=\['w:\*'\]"),
    ],
)
def test_other_values_are_refused_with_what_to_do(value: object, remedy: str) -> None:
    for model in (BNPClassifier(), BNPClassifier(text=("t",))):
        with pytest.raises(SampleError, match=remedy):
            model.learn_one({"t": value}, 0)


def test_rare_numbers_have_no_columns_of_their_own() -> None:
    model = BNPClassifier(hidden=(8,), replay=0)
    for i in range(300):
        model.learn_one({"n": 1.0, f"x{i}": 2.0}, i % 2)
    assert len([name for name in model.feature_names if name.startswith("x")]) == 255
    assert model.fields == {"*": 45}


def test_a_number_with_a_heavy_tail_gets_a_column_of_its_logarithm() -> None:
    model, rng = BNPClassifier(hidden=(8,), replay=0), random.Random(1)  # noqa: S311
    for _ in range(300):
        z = rng.gauss(0.0, 1.0)
        model.learn_one({"amount": 10.0 ** (3.0 * z), "other": z}, int(z > 0.0))
    assert model.feature_names == ("amount", "other", "amount (log)")


def test_many_classes() -> None:
    model, rng = BNPClassifier(hidden=(8,), replay=0), random.Random(1)  # noqa: S311
    right = 0
    for i in range(1500):
        y = rng.randrange(40)
        right += (
            model.predict_one({"city": f"c{y}", "noise": f"n{rng.randrange(60)}"}) == f"k{y}" and i >= 750
        )
        model.learn_one({"city": f"c{y}", "noise": f"n{rng.randrange(60)}"}, f"k{y}")
    assert right > 675


def test_the_earlier_generation_has_no_stage() -> None:
    model = BNPClassifier(hidden=(8,), learner=1)
    for i in range(40):
        model.learn_one({"city": f"c{i}"}, i % 2)
    assert model.fields == {}
    assert len(model.feature_names) == 40


def test_late_labels_judge_the_groups_by_their_earlier_predictions() -> None:
    late, again = _make("classification"), _make("classification")
    samples = list(_stream(200, "classification"))
    for x, y, _ in samples[:150]:
        late.learn_one(x, y)
        again.learn_one(x, y)
    given = [late.predict_experts_one(x) for x, _, _ in samples[150:]]
    for (x, y, _), each in zip(samples[150:], given, strict=True):
        assert each is not None
        late.learn_one(x, y, given=each)
        again.learn_one(x, y)
    assert late.fingerprint() != again.fingerprint()
    assert late.fields == again.fields


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_predictions_change_no_byte_of_the_state(task: str) -> None:
    model = _make(task)
    for i, (x, y, w) in enumerate(_stream(130, task)):
        if i % 10 == 0 and i:
            before = model.fingerprint()
            model.predict(x)
            model.predict(x | {"a": "never seen", "t": "nor these words", "x": 1.0, "y": "z"})
            model.predict_experts_one(x)
            model.unknown_features(x)
            model.predict_many([x, {}])
            assert model.fingerprint() == before
        model.learn_one(x, y, w)


def test_a_new_class_changes_no_existing_logit() -> None:
    """With the weight 0 a class comes, and nothing is learned.

    The logits of the pairs are those on top of the linear group, whose members give it different shares.
    """
    model = _make("classification")
    samples = list(_stream(150, "classification"))
    for x, y, _ in samples:
        x.pop("n", None)  # a weight of 0 changes the moments of numbers
        model.learn_one(x, y)
    stage = model._stage
    assert stage is not None

    def logits(x: dict[str, Any]) -> Any:
        """Return the logits of the members of both groups for the first three classes, less the first."""
        model.predict(x)
        outputs = stage.state.outputs[:, :3]
        members = np.log(outputs[OUT_MEMBERS : OUT_MEMBERS + 2 * MEMBERS])
        members[MEMBERS:] -= np.log(outputs[OUT_LINEAR])
        return members - members[:, :1]

    x = samples[-1][0]
    before = logits(x)
    model.learn_one({}, 7, 0.0)
    assert len(model.labels) == 4  # type: ignore[union-attr]  # a classifier
    np.testing.assert_allclose(logits(x), before, rtol=1e-12, atol=1e-12)


def test_dense_streams_have_equal_bits_with_and_without_support_of_the_stage() -> None:
    rng, models = random.Random(2), [BNPClassifier(hidden=(8,), memory=50) for _ in range(2)]  # noqa: S311
    models[1]._staged = False
    for _ in range(120):
        n = rng.gauss(0.0, 1.0)
        x = {"n": n, "flag": n > 1.0, "city": f"c{rng.randrange(8)}"}
        for model in models:
            model.learn_one(x, int(n > 0.0))
        assert models[0].predict(x) == models[1].predict(x)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_unknown_features_are_those_that_no_prediction_uses() -> None:
    model = BNPClassifier(hidden=(4,), text=("t",), sparse=("w:*",), memory=50)
    assert model.unknown_features({"t": "one two", "w:a": 1, "n": 1.0, "s": "x"}) == ["t", "n", "s", "w:a"]
    for i in range(40):
        x = {"t": f"hello w{i % 5}", "l": ["a", f"l{i}"], "city": f"c{i}", "w:a": 2, "n": 1.0, "day": "mon"}
        model.learn_one(x, i % 2)
    assert model.unknown_features(x) == []
    assert (
        model.unknown_features({"t": "hello stranger", "l": ["other", "a"], "city": "c39", "day": None}) == []
    )
    new = {
        "t": "strange words",
        "l": ["b", "b"],
        "city": "c40",
        "w:a": 1,
        "w:b": 1,
        "day": "tue",
        "m": 1,
        "k": None,
    }
    assert model.unknown_features(new) == ["t", "l", "city", "day", "m", "w:b", "k"]
    assert model.unknown_features({"t": None, "n": None, "l": []}) == []


@pytest.mark.parametrize("name", ["text", "sparse"])
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"input_shape": (3,)}, "omit NAME or input_shape"),
        ({"network": "cnn", "input_shape": (1, 8, 8)}, "omit NAME or input_shape"),
        ({"learner": 1}, "omit NAME or learner"),
    ],
)
def test_words_need_features_with_names_and_the_latest_learner(
    name: str, options: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: .*{remedy.replace('NAME', name)}"):
        BNPClassifier(**(options | {name: ("w*",)}))


@pytest.mark.parametrize("words", [["t"], []])
def test_a_feature_with_identifiers_is_warned_of_once(words: list[str]) -> None:
    """Also if the stage opens after the first identifiers."""
    model = BNPClassifier(hidden=(), replay=0, memory=50)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for i in range(2100):
            x = {"id": f"id{i}", "city": f"c{i % 500}"} | {name: [f"w{i}"] for name in words}
            model.learn_one(x, i % 2)
    assert [str(each.message)[:70] for each in found] == [
        "the feature 'id' has 1000 values in 1000 samples, as an identifier has"
    ]
