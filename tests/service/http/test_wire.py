"""The checks by hand and the documented models take the same bodies."""

from __future__ import annotations

import json
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from service.api.river.schemas import RiverLabelBody, RiverLearnBody, RiverPredictBody
from service.errors import DuplicateKeyError, InvalidJsonError, RequestError
from service.http.requests import Shape, check, decode
from service.http.responses import json_response
from service.schemas import LabelBody, LearnBody, PredictBody
from service.settings import Settings

MODELS: list[type[BaseModel]] = [
    LearnBody,
    PredictBody,
    LabelBody,
    RiverLearnBody,
    RiverPredictBody,
    RiverLabelBody,
]
SETTINGS = Settings()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(0, 1)
    | st.text(max_size=2)
    | st.just("i" * 129)
)
bodies = st.dictionaries(
    st.sampled_from(
        ["x", "y", "w", "id", "model", "interval", "z", "features", "ground_truth", "identifier", "label"]
    ),
    scalars | st.dictionaries(st.text(max_size=2), scalars, max_size=2) | st.lists(scalars, max_size=2),
)


def taken_by_hand(body: Any, shape: Shape) -> bool:
    try:
        check(body, shape, SETTINGS)
    except RequestError:
        return False
    return True


def taken_by_pydantic(body: Any, model: type[BaseModel]) -> bool:
    try:
        model.model_validate_json(json.dumps(body))
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("model", MODELS)
@given(body=bodies)
def test_by_hand_as_documented(model: type[BaseModel], body: dict[str, Any]) -> None:
    # What is inside w and interval is judged later, and has its own code.
    if isinstance(body.get("w"), int | float):
        body["w"] = abs(body["w"])
    if type(body.get("interval")) in (int, float):
        body["interval"] = 0.5
    assert taken_by_hand(body, Shape.of(model)) == taken_by_pydantic(body, model)


def test_a_shape_knows_the_fields_of_a_sample() -> None:
    learn, label = Shape.of(RiverLearnBody), Shape.of(LabelBody)
    assert (learn.x, learn.y, learn.id) == ("features", "ground_truth", "identifier")
    assert (label.x, label.y, label.id) == ("", "y", "id")
    assert learn.required == ("model", "features", "ground_truth")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_and_go_to_the_last_bit(number: float) -> None:
    assert decode(json.dumps(number).encode()) == number
    assert json.loads(bytes(json_response(number).body)) == number


def test_labels_as_keys_are_written_as_json_writes_them() -> None:
    assert json_response({True: 1.0}).body == b'{"true":1.0}'
    assert json_response({-1: 1.0, 2: 0.0}).body == b'{"-1":1.0,"2":0.0}'


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.just(":"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["x", "y", ":"]), st.dictionaries(st.text(max_size=3), json_values)))
def test_the_fast_decoder_and_the_strict_one_agree(body: Any) -> None:
    raw = json.dumps(body).encode()
    assert repr(decode(raw)) == repr(jiter.from_json(raw))


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), min_size=1, max_size=4),
    st.data(),
)
def test_a_key_that_stands_twice_is_found(x: dict[str, Any], data: st.DataObject) -> None:
    """However it is written, and whatever colons stand in the other strings."""
    again = data.draw(st.sampled_from(sorted(x)))
    written = data.draw(st.sampled_from([json.dumps(again), json.dumps(again, ensure_ascii=False)]))
    inside = json.dumps(x)[:-1] + f", {written}: 1}}"
    for body in (f'{{"x": {inside}}}', f'{{"x": {{}}, "y": {inside}}}', f'{{"x": {{"a": {inside}}}}}'):
        with pytest.raises(DuplicateKeyError):
            decode(body.encode())


@pytest.mark.parametrize(
    "body", ['{"x": {"a:": 1}, "x": {}}', '{"x": {}, "y": 1, "y": ":"}', '{"x": {"a": 1}, "\\u0078": {}}']
)
def test_a_field_that_stands_twice_is_found(body: str) -> None:
    with pytest.raises(DuplicateKeyError):
        decode(body.encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_is_refused_with_a_remedy(number: str) -> None:
    with pytest.raises(InvalidJsonError, match="send null for a missing value"):
        decode(f'{{"x": {{"a": {number}}}}}'.encode())
    with pytest.raises(InvalidJsonError, match=r"JSON: EOF[^;]*$"):
        decode(b'{"x": {"a": 1')
