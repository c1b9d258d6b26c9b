"""Templates of lines: what they read, and what they leave to the exact path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnp_online.blocks import Fields, Parsed, Templates, padded
from bnp_online.blocks.words import Words, find

ROOT = Path(__file__).parents[3]


def learned(*lines: bytes, columns: dict[str, int] | None = None, **options: Any) -> Templates:
    templates = Templates({"a": 0, "b": 1} if columns is None else columns, **options)
    for line in lines:
        assert templates.learn(line, json.loads(line))
    return templates


def parse(templates: Templates, *lines: bytes) -> Parsed:
    return templates.parse(padded(b"".join(line + b"\n" for line in lines)))


def line(x: Any, y: Any = 1, **others: Any) -> bytes:
    return json.dumps({"x": x, "y": y, **others}).encode()


def test_columns_of_the_model_order_the_rows() -> None:
    templates = learned(line({"b": 1, "a": 2}), columns={"a": 2, "b": 0}, width=3)
    assert parse(templates, line({"b": -1.5, "a": 0.1})).rows.tolist() == [[-1.5, 0.0, 0.1]]


def test_absent_features_are_zero_also_in_reused_memory() -> None:
    templates = learned(line({"a": 1}), line({"a": 1, "b": 2}))
    for _ in range(3):
        parsed = parse(templates, line({"a": 7, "b": 8}), line({"a": 9}), line({"a": 5, "b": 6}))
        assert parsed.rows.tolist() == [[7.0, 8.0], [9.0, 0.0], [5.0, 6.0]]
        del parsed


@pytest.mark.parametrize("labels", [["no", "yes"], [3, -7], [True, False], ["é", "a b"]])
def test_labels_have_the_types_of_the_exact_path(labels: list[Any]) -> None:
    templates = learned(*(line({"a": 1}, label) for label in labels))
    parsed = parse(templates, *(line({"a": 2}, label) for label in reversed(labels)))
    found = [templates.labels[code] for code in parsed.labels]
    assert found == labels[::-1]
    assert [*map(type, found)] == [*map(type, labels[::-1])]


def test_escapes_in_names_and_known_words() -> None:
    text = json.dumps({"x": {"é": 1, 's"': 'a"b\\'}, "y": "ü"}).encode()
    assert text.count(b"\\u") == 2
    templates = learned(text, columns={"é": 0})
    parsed = parse(templates, text.replace(b"1", b"2"))
    assert (parsed.rows.tolist(), templates.strings, templates.labels) == ([[2.0]], {'s"': ['a"b\\']}, ["ü"])
    assert parse(templates, json.dumps({"x": {"é": 1, 's"': 'a"b'}, "y": "ü"}).encode()).count == 0


def test_spellings_of_a_label_are_one_label() -> None:
    templates = learned(b'{"x":{"a":1},"y":2}', b'{"x":{"a":1},"y":2.0}', b'{"x":{"a":1},"y":2e0}')
    assert templates.labels == [2]
    assert parse(templates, b'{"x":{"a":1},"y":2e0}').labels.tolist() == [0]


@pytest.mark.parametrize("other", ["maybe", "nob", "n", "", None, 0, 1, True, [1]])
def test_a_new_label_is_declined(other: Any) -> None:
    templates = learned(line({"a": 1}, "no"))
    assert parse(templates, line({"a": 1}, "no"), line({"a": 1}, other)).count == 1


def test_the_target_of_a_regression_is_a_number() -> None:
    templates = learned(line({"a": 1}, 2), regression=True)
    parsed = parse(templates, line({"a": 1}, 0.25), line({"a": 1}, -3), line({"a": 1}, 2e100))
    assert parsed.targets.tolist() == [0.25, -3.0]
    assert parsed.labels.tolist() == [-1, -1]


def test_a_line_without_a_target_has_none() -> None:
    templates = learned(b'{"x":{"a":1}}')
    parsed = parse(templates, b'{"x":{"a":2}}')
    assert np.isnan(parsed.targets).all()
    assert (parsed.labels.tolist(), parsed.weights.tolist()) == ([-1], [1.0])
    assert (parsed.models.tolist(), parsed.ids.tolist()) == ([-1], [[-1, -1]])


def test_weights() -> None:
    templates = learned(line({"a": 1}, w=2))
    weights = [0, 0.5, 1e200, -0.0]
    parsed = parse(templates, *(line({"a": 1}, w=w) for w in weights))
    assert [value.hex() for value in parsed.weights.tolist()] == [float(w).hex() for w in weights]
    for refused in (-1, True, "1", None):
        assert parse(templates, line({"a": 1}, w=refused)).count == 0


def test_ids_and_lines_are_positions_in_the_buffer() -> None:
    templates = learned(line({"a": 1}, id="k1"))
    lines = [line({"a": 1}, id="k-22 b"), line({"a": 1}, id="3")]
    buffer = padded(b"\n".join(lines) + b"\n")
    parsed = templates.parse(buffer)
    assert [buffer[start:end].tobytes() for start, end in parsed.ids] == [b"k-22 b", b"3"]
    assert [buffer[start:end].tobytes() for start, end in parsed.lines] == lines
    assert parsed.end == len(buffer) - len(padded(b""))


@pytest.mark.parametrize(
    "other", [r'"a\"b"', r'"\u0041"', '"é"', '" a"', '"a "', '""', '"12345"', "5", "null"]
)
def test_other_ids_are_declined(other: str) -> None:
    templates = learned(line({"a": 1}, id="k1"), max_id=4)
    assert parse(templates, line({"a": 1}, id="1234")).count == 1
    assert parse(templates, line({"a": 1}, id="k1").replace(b'"k1"', other.encode())).count == 0


def test_models_are_told_apart() -> None:
    lines = [line({"a": 1}, model=model) for model in ("one", "two", "one")]
    templates = learned(*lines[:2])
    assert [templates.models[code] for code in parse(templates, *lines).models] == ["one", "two", "one"]
    assert parse(templates, line({"a": 1}, model="three")).count == 0


def test_strings_are_known_by_place() -> None:
    lines = [line({"s": "red", "a": 1, "t": "blue"}), line({"s": "green", "a": 2, "t": "blue"})]
    templates = learned(*lines)
    parsed = parse(templates, *lines)
    assert templates.strings == {"s": ["red", "green"], "t": ["blue"]}
    assert parsed.strings.tolist() == [[0, 0], [1, 0]]
    assert parse(templates, line({"s": "blue", "a": 1, "t": "blue"})).count == 0
    assert parse(templates, line({"s": None, "a": 1, "t": "blue"})).count == 0


def test_a_string_is_absent_where_a_line_has_none() -> None:
    templates = learned(line({"s": "red", "a": 1}), line({"a": 1}))
    assert parse(templates, line({"a": 1}), line({"s": "red", "a": 1})).strings.tolist() == [[-1], [0]]


def test_missing_values_and_booleans_are_numbers_once_they_are_known() -> None:
    templates = learned(line({"a": 1, "b": 2}))
    assert parse(templates, line({"a": None, "b": 2})).count == 0
    for known in (None, True, False):
        assert templates.learn(line({"a": known, "b": 2}), {"x": {"a": known, "b": 2}, "y": 1})
    parsed = parse(templates, *(line({"a": value, "b": 2}) for value in (None, True, False, 5)))
    assert np.array_equal(parsed.rows[:, 0], [np.nan, 1.0, 0.0, 5.0], equal_nan=True)
    assert parse(templates, line({"a": 1, "b": None})).count == 0


def test_many_strings() -> None:
    templates = learned(line({"s": "0"}), columns={})
    lines = [line({"s": str(i)}) for i in range(5_000)]
    for each in lines:
        templates.learn(each, json.loads(each))
        assert parse(templates, each).count == 1
    parsed = templates.parse(padded(b"\n".join(lines) + b"\n"), most=5_000)
    assert [templates.strings["s"][code] for code in parsed.strings[:, 0]] == [str(i) for i in range(5_000)]


def test_words_have_a_limit() -> None:
    templates = learned(line({"s": "red"}), max_words=2, columns={})
    assert not templates.learn(line({"s": "green"}), {"x": {"s": "green"}, "y": 1})
    assert templates.strings == {"s": ["red"]}
    assert parse(templates, line({"s": "red"})).count == 1


def test_long_words_share_their_beginning() -> None:
    words = Words(10)
    texts = [b"0123456789abcdef" * 4 + end for end in (b"", b"x", b"y", b"xy")]
    for i, text in enumerate(texts[:3]):
        assert words.add(1, text, i)
        assert words.add(1, text, 9)  # known: it keeps its meaning
    find_one = [find_word(words, text, 1) for text in texts]
    assert find_one == [0, 1, 2, -1]
    assert find_word(words, texts[0], 2) == -1


def test_words_of_many_places_are_told_apart() -> None:
    words = Words(10_000)
    known = [(place, b"%d" % i) for i in range(40) for place in range(100)]
    for row, (place, text) in enumerate(known):
        assert words.add(place, text, row)
    found = [find_word(words, text, place) for place, text in known]
    assert set(found) - {-1} == {row for row, at in enumerate(found) if at == row}
    assert found.count(-1) < 40
    assert {find_word(words, b"%d" % i, 100) for i in range(40)} == {-1}


def find_word(words: Words, text: bytes, place: int) -> int:
    return find(padded(text), 0, len(text), place, words.table)


def test_templates_alternate() -> None:
    shapes = [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}, {"b": 1, "a": 1}]
    templates = learned(*map(line, shapes))
    parsed = parse(templates, *(line(dict.fromkeys(shapes[i % 4], i)) for i in range(20)))
    assert parsed.count == 20
    assert parsed.rows.max(axis=1).tolist() == [*range(20)]


def test_the_template_that_was_not_used_for_longest_is_replaced() -> None:
    shapes = [line({"a": 1}, w=1), line({"b": 1}), line({"a": 1, "b": 1})]
    templates = learned(*shapes[:2], max_templates=2)
    assert parse(templates, shapes[1], shapes[0]).count == 2
    assert parse(templates, shapes[0]).count == 1
    assert templates.learn(shapes[2], json.loads(shapes[2]))
    assert [parse(templates, each).count for each in shapes] == [1, 0, 1]


def test_lines_that_never_fit_are_seldom_learned() -> None:
    templates = Templates({})
    lines = [line({"s": str(i)}, id="é") for i in range(1_000)]  # such ids are always declined
    tried = sum(templates.learn(each.replace(b'"id"', b' "id"'), json.loads(each)) for each in lines)
    assert tried == 0
    templates = Templates({})
    tried = sum(templates.learn(line({f"s{i}": "a"}), {"x": {f"s{i}": "a"}, "y": 1}) for i in range(1_000))
    assert 8 <= tried <= 20


def test_more_columns() -> None:
    templates = learned(line({"a": 1}), columns={"a": 0})
    templates.grow({"a": 0, "b": 1}, width=3)
    assert parse(templates, line({"a": 5})).rows.tolist() == [[5.0, 0.0, 0.0]]
    assert templates.learn(line({"a": 1, "b": 2}), {"x": {"a": 1, "b": 2}, "y": 1})
    assert parse(templates, line({"a": 5, "b": 6})).rows.tolist() == [[5.0, 6.0, 0.0]]
    templates.grow({"b": 1}, width=3)  # strings appeared in a
    assert parse(templates, line({"a": 5})).count == 0


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        (b'{"x":{"a":1},"y":1}', {"x": {"a": 1, "b": 2}, "y": 1}),
        (b'{"x":{"a":1,"b":2},"y":1}', {"x": {"a": 1}, "y": 1}),
        (b'{"x":{"a":1},"y":1}', {"x": {"a": 2}, "y": 1}),
        (b'{"x":{"c":1},"y":1}', {"x": {"c": 1}, "y": 1}),
        (b'{"x":{"a":1,"a":1},"y":1}', {"x": {"a": 1}, "y": 1}),
        (b'{"x":{"a":1},"y":1,"z":1}', {"x": {"a": 1}, "y": 1}),
        (b'{"x":{"a":[1]},"y":1}', {"x": {"a": [1]}, "y": 1}),
        (b'{"x":{"a":1},"y":1}}', {"x": {"a": 1}, "y": 1}),
        (b'\xef\xbb\xbf{"x":{"a":1},"y":1}', {"x": {"a": 1}, "y": 1}),
        (b'{"x":[1],"y":1}', {"x": [1], "y": 1}),
        (b'{"x":{"\xff":1},"y":1}', {"x": {"a": 1}, "y": 1}),
        (b"", {"x": {}}),
    ],
)
def test_lines_of_which_no_template_can_be_made(text: bytes, decoded: dict[str, Any]) -> None:
    templates = Templates({"a": 0, "b": 1})
    assert not templates.learn(text, decoded)
    assert parse(templates, text).count == 0


def test_objects_without_an_object_of_features() -> None:
    text = b'{"size":1.5,"colour":"red","price":3}'
    templates = Templates({"size": 0}, regression=True, fields=Fields(None, "price", None, None, None))
    assert templates.learn(text, {"x": {"size": 1.5, "colour": "red"}, "y": 3})
    parsed = parse(templates, text.replace(b"1.5", b"2"))
    assert (parsed.rows.tolist(), parsed.targets.tolist()) == ([[2.0]], [3.0])


def test_long_lines_are_declined() -> None:
    text = line({"a": 1})
    templates = learned(text, max_line=len(text) + 1)
    assert [parse(templates, text.replace(b": 1},", b": %d}," % a)).count for a in (11, 111)] == [1, 0]


def test_the_number_of_lines_and_the_part_of_the_buffer() -> None:
    templates, text = learned(line({"a": 1})), line({"a": 1}) + b"\n"
    buffer = padded(text * 5)
    assert templates.parse(buffer, most=2).end == 2 * len(text)
    parsed = templates.parse(buffer, len(text), 3 * len(text))
    assert (parsed.count, parsed.end) == (2, 3 * len(text))
    for stop in range(2 * len(text), 3 * len(text)):
        assert templates.parse(buffer, len(text), stop).count == 1
    assert templates.parse(buffer, len(text), len(text)).count == 0


def test_without_compilation_every_line_is_declined() -> None:
    program = (
        "from bnp_online.blocks import Templates, padded\n"
        'templates, line = Templates({\'a\': 0}), b\'{"x":{"a":1},"y":"no"}\'\n'
        "assert not templates.learn(line, {'x': {'a': 1}, 'y': 'no'})\n"
        "assert templates.parse(padded(line + b'\\n')).count == 0\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True)


def test_the_kernels_are_compiled_in_another_process(tmp_path: Path) -> None:
    program = (
        "from bnp_online.blocks import compile_kernels, parser, templates\n"
        "compile_kernels()()\n"
        "print(sum(parser.parse_lines.stats.cache_hits.values()), len(parser.parse_lines.signatures))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
        assert done.stdout.split() == ["1", "1"]


def test_a_buffer_without_padding_is_refused() -> None:
    templates, text = learned(line({"a": 1})), line({"a": 1}) + b"\n"
    buffer = np.frombuffer(text * 100, np.uint8)
    with pytest.raises(ValueError, match="padded"):
        templates.parse(buffer, 0, len(buffer))
    with pytest.raises(ValueError, match="padded"):
        templates.parse(padded(text), 5, 3)
