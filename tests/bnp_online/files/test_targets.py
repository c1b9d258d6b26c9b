"""Targets: the type of the labels by column, numbers, and what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from bnp_online.files import FileError
from tests.bnp_online.files.reading import Read


def labels(cells: list[str], **options: Any) -> list[Any]:
    return Read("a;y\n" + "".join(f"1;{cell}\n" for cell in cells), sep=";", **options).y


def parquet(values: list[Any], **options: Any) -> list[Any]:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1.5] * len(values), "y": values}), sink)
    return Read(bytes(sink.getvalue()), **options).y


def same(labels: list[Any], expected: list[Any]) -> bool:
    return labels == expected and [*map(type, labels)] == [*map(type, expected)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0", "1", " 2 ", "-1"], [0, 1, 2, -1]),
        (["1.0", "0.0", "3"], [1, 0, 3]),
        (["true", "False"], [True, False]),
        (["0", "9", "A"], ["0", "9", "A"]),
        (["NA", "SE", "None", "?"], ["NA", "SE", "None", "?"]),
        (["007", "7"], ["007", "7"]),
        (["1", "99999999999999999999"], ["1", "99999999999999999999"]),
        (["1_0", "1"], ["1_0", "1"]),
        (["2026-01-01", "2026-01-02"], ["2026-01-01", "2026-01-02"]),
    ],
)
def test_the_column_determines_the_type_of_the_labels(cells: list[str], expected: list[Any]) -> None:
    assert same(labels(cells), expected)


def test_only_an_empty_cell_has_no_label() -> None:
    read = Read("a;y\n1;NA\n2;\n3;SE\n4;  \n", sep=";")
    assert read.y == ["NA", None, "SE", None]
    assert read.errors == {2: "has no target", 4: "has no target"}
    assert labels(["NA", "SE"], na=["NA"]) == [None, "SE"]
    assert labels(["-1.0", "1"], na=["-1"]) == [None, 1]


def test_the_type_of_the_labels_is_given() -> None:
    assert same(labels(["1", "2.0", "true"], labels="str"), ["1", "2.0", "true"])
    assert same(labels(["1", "2.0"], labels="int"), [1, 2])
    read = Read("a,y\n1,1\n1,x\n", labels="int")
    assert [*read.errors] == [2]
    assert "has 'x' in the column 'y', which is not an integer: leave out --labels int" in read.errors[2]


def test_a_label_of_another_type_is_an_error_of_its_row() -> None:
    read = Read("a,y\n" + "1,1\n" * 300 + "1,A\n1,1.5\n1,2\n")
    assert [*read.errors] == [301, 302]
    assert "has 'A' in the column 'y', which is not an integer" in read.errors[301]
    assert "--labels str" in read.errors[301]
    assert read.y[-1] == 2


def test_the_first_label_decides_where_the_first_rows_have_none() -> None:
    read = Read("a,y\n" + "1,\n" * 300 + "1,5\n1,x\n")
    assert read.y[300:] == [5, None]
    assert "not an integer" in read.errors[302]


def test_fractions_are_no_labels() -> None:
    with pytest.raises(FileError, match=r"fractions in the target 'y', such as 0.5: give --task regression"):
        labels(["1", "0.5"])
    assert same(labels(["1", "0.5"], labels="str"), ["1", "0.5"])
    with pytest.raises(FileError, match="--task regression"):
        parquet([1.0, 0.5])


def test_a_label_in_each_row_is_reported() -> None:
    read = Read("a,y\n" + "".join(f"1,{i}\n" for i in range(300)))
    assert "another label in each row: if they are quantities, give --task regression" in read.notices[0]


def test_regression_has_numbers() -> None:
    options: dict[str, Any] = {"task": "regression"}
    assert same(labels(["1", "0.5", "", "-1e3"], **options), [1.0, 0.5, None, -1000.0])
    assert labels(["1,5", "2"], decimal=",", **options) == [1.5, 2.0]
    assert parquet([1, 2], **options) == [1.0, 2.0]
    assert parquet([Decimal("1.5"), None], **options) == [1.5, None]
    assert labels(["true", "1.5"], **options) == [1.0, 1.5]


def test_a_word_in_a_regression_is_an_error_of_its_row() -> None:
    read = Read("a,y\n1,1.5\n1,NA\n1,inf\n", task="regression")
    assert "has 'NA' in the column 'y', which is not a number" in read.errors[2]
    assert "--na NA" in read.errors[2]
    assert 3 in read.errors
    with pytest.raises(FileError, match="no numbers in the target 'y', as 'red' shows: give --task classif"):
        labels(["red", "blue"], task="regression")
    with pytest.raises(FileError, match="give --decimal ,"):
        labels(["1,5", "2,5"], task="regression")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        ([1.0, 0.0, float("nan")], [1, 0, None]),
        ([True, False, None], [True, False, None]),
        (["1", "true"], ["1", "true"]),
        (["NA", None, ""], ["NA", None, None]),
        ([Decimal("1.00"), Decimal(2)], [1, 2]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([3, None], pa.int8()), [3, None]),
    ],
)
def test_types_of_parquet_are_kept(values: list[Any], expected: list[Any]) -> None:
    assert same(parquet(values), expected)


def test_types_of_parquet_become_strings() -> None:
    assert same(parquet([1, 2], labels="str"), ["1", "2"])
    assert same(parquet([True], labels="str"), ["true"])
    assert same(parquet(["1", "2"], labels="int"), [1, 2])


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_lists_and_objects_are_no_labels(value: object) -> None:
    line = json.dumps({"a": 1, "y": value})
    with pytest.raises(FileError, match="lists or objects in the target 'y'"):
        Read(line)
    first = json.dumps({"a": 1, "y": 1}) + "\n"
    assert [*Read(first * 300 + line).errors] == [301]
    assert [*Read(first * 300 + line, task="regression").errors] == [301]


def test_amounts_are_targets_of_a_regression() -> None:
    assert Read("a;y\n1;$1,234.5\n2;$990\n", task="regression").y == [1234.5, 990]
    with pytest.raises(FileError, match="give --decimal ,"):
        Read("a;y\n1;1.234,5\n2;0,5\n", task="regression")
    with pytest.raises(FileError, match="give --task regression"):
        Read("a;y\n1;12.5 %\n2;1 %\n")


def test_a_word_among_most_fractions_is_named() -> None:
    read = Read("a,y\n1,2.5\n2,3.5\n3,ERR\n")
    assert read.y == ["2.5", "3.5", "ERR"]
    assert "give --task regression for numbers, and --na ERR if 'ERR'" in read.notices[0]
