"""Rows of CSV: as the reader of files reads them, or declined."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnp_online.blocks import Fields, Templates, padded
from bnp_online.files import Row, read_samples
from tests.support.exact_path import bits

FIELDS = Fields(None, "y", None, None, None)
COLUMNS = {"a": 1, "b": 0}
#: As many rows as determine the types of the columns: two numbers, a string, a label.
HEAD = [f"{i / 7},{i - 20},{('red', 'green', 'a b')[i % 3]},{('no', 'yes')[i % 2]}" for i in range(256)]


def rows_of(lines: list[bytes], separator: str) -> list[Row]:
    text = separator.join("abcy").replace("c", "s").encode()
    data = b"\n".join([text, *lines]) + b"\n"
    with read_samples(
        io.BytesIO(data), "y", format="csv", sep=separator, keep=["s"], notice=lambda _: None
    ) as samples:
        return list(samples)


def is_row(line: str) -> bool:
    """Return whether a line is one row, neither blank nor continued."""
    return len([cells for cells in csv.reader([line, "end"], skipinitialspace=True) if cells]) == 2


def templates_of(separator: str = ",") -> Templates:
    return Templates(COLUMNS, fields=FIELDS, header=["a", "b", "s", "y"], separator=separator)


def compare(lines: list[bytes], separator: str = ",") -> int:
    """Compare the lines behind `HEAD` with the reader of files; return how many were parsed."""
    head = [line.replace(",", separator).encode() for line in HEAD]
    rows, templates, count = rows_of([*head, *lines], separator), templates_of(separator), 0
    assert len(rows) == len(head) + len(lines)
    for line, row in zip(lines, rows[len(head) :], strict=True):
        parsed = templates.parse(padded(line + b"\n"))
        if parsed.count:
            count += 1
            assert row.error is None
            numbers = {name: float("nan") if row.x[name] is None else row.x[name] for name in COLUMNS}
            assert {name: bits(value) for name, value in numbers.items()} == {
                name: bits(parsed.rows[0, column]) for name, column in COLUMNS.items()
            }
            assert templates.strings["s"][parsed.strings[0, 0]] == row.x["s"]
            assert templates.labels[parsed.labels[0]] == row.y
        elif row.error is None:
            templates.learn(line, {"x": row.x, "y": row.y})
    return count


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["", "\r"])
def test_rows_are_parsed_after_the_first(separator: str, end: str) -> None:
    lines = [(line.replace(",", separator) + end).encode() for line in HEAD]
    assert compare(lines, separator) >= len(lines) - 6


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        [
            "",
            " ",
            "NA",
            "nan",
            "?",
            "-",
            "-0",
            "+1",
            ".5",
            "1.",
            "01",
            "1e400",
            "inf",
            " 2 ",
            "1 000",
            "1,5",
            "x",
        ]
    ),
    st.sampled_from(
        ['"1.5"', '" 1.5"', '"1,5"', '"1.5" ', '"', '""', '"1""5"', "1_0", "١", "1e5", "true", "\\N"]
    ),
)
WORDS = st.sampled_from(
    [
        "red",
        "green",
        "a b",
        " red ",
        '"red"',
        '"re,d"',
        '"r""ed"',
        '"red" ',
        "",
        "NA",
        "é",
        "7",
        "'red'",
        're"d',
        "\\",
    ]
)
LABELS = st.sampled_from(["no", "yes", "no", " no", '"no"', "", "NA", "maybe", "1", "n,o", '"no'])


@given(
    st.lists(
        st.tuples(NUMBERS, st.floats(-9, 9).map(str) | NUMBERS, WORDS, LABELS).map(",".join),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=150)
def test_random_rows(lines: list[str]) -> None:
    usual = HEAD[:6]
    data = [*usual, *filter(is_row, lines), *usual]
    assert compare([line.encode() for line in data]) >= len(usual)


def test_every_byte_of_a_row_replaced() -> None:
    line = b'"1.25",-3,"a b",no'
    changed = [line[:i] + bytes([byte]) + line[i + 1 :] for i in range(len(line)) for byte in range(32, 127)]
    same_rows = [each for each in changed if is_row(each.decode())]
    usual = [*map(str.encode, HEAD[:6]), line]
    assert compare([*usual, *same_rows, line]) > len(line)


def test_cells_that_are_no_part_of_a_sample() -> None:
    templates = Templates({"a": 0}, fields=FIELDS, header=[None, "a", None, "y"])
    decoded: dict[str, Any] = {"x": {"a": 1}, "y": "no"}
    assert templates.learn(b'k1,1,"u, v",no', decoded)
    for first, third, fits in [
        ("", '""', 1),
        ("k 2", '"x"', 1),
        ('"k"', '"x"', 0),
        ("k", "x", 0),
        ("é", '"x"', 0),
    ]:
        parsed = templates.parse(padded(f"{first},2.5,{third},no\n".encode()))
        assert parsed.count == fits
        assert parsed.rows.tolist() == [[2.5]] * fits


def test_weights_and_ids() -> None:
    fields = Fields(None, "y", "weight", "key", None)
    templates = Templates({"a": 0}, regression=True, fields=fields, header=["key", "a", "weight", "y"])
    assert templates.learn(b"k1,1,2,3", {"x": {"a": 1}, "y": 3, "w": 2, "id": "k1"})
    buffer = padded(b"k-2,5,0.5,7\nk3,5,-1,7\n")
    parsed = templates.parse(buffer)
    assert (parsed.rows.tolist(), parsed.targets.tolist(), parsed.weights.tolist()) == ([[5.0]], [7.0], [0.5])
    assert buffer[slice(*parsed.ids[0])].tobytes() == b"k-2"


@pytest.mark.parametrize("line", [b"1,2", b"1,2,red,no,", b'1,2,"red,no', b'1,2,re"d,no', b"", b"1;2;red;no"])
def test_rows_of_which_no_template_can_be_made(line: bytes) -> None:
    assert not templates_of().learn(line, {"x": {"a": 1, "b": 2, "s": "red"}, "y": "no"})


def test_a_missing_cell_is_learned_as_such() -> None:
    templates = templates_of()
    for first, value in (("1", 1), ("", None), ("NA", None)):
        decoded = {"x": {"a": value, "b": 2, "s": "red"}, "y": "no"}
        assert templates.learn(f"{first},2,red,no".encode(), decoded)
    parsed = templates.parse(padded(b"NA,2,red,no\n,3,red,no\n5,4,red,no\n?,4,red,no\n"))
    assert parsed.rows[:, 0].tolist() == [2.0, 3.0, 4.0]
    assert [str(value) for value in parsed.rows[:, 1]] == ["nan", "nan", "5.0"]
