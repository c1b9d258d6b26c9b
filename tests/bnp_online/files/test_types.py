"""Types by column, missing values, and columns that look like ids."""

from __future__ import annotations

import os
import random

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from bnp_online import BNPClassifier
from bnp_online.files import FileError
from tests.bnp_online.files.reading import Read, column


def test_numbers() -> None:
    cells = ["1", "-2.5", "+3", ".5", "1.", "1e3", "1E-3", "007"]
    assert column(cells) == [1, -2.5, 3, 0.5, 1, 1000, 0.001, 7]


@pytest.mark.parametrize("word", ["1_000", "٣", "0x1F", "1e", "1,2.3", "½"])
def test_words_that_python_or_others_take_for_numbers_are_strings(word: str) -> None:
    assert column(["1", word]) == ["1", word]


def test_infinity_is_an_error_of_its_row() -> None:
    read = Read("a,y\n1.5,0\ninf,1\n-Infinity,1\n")
    assert read.x == [{"a": 1.5}, None, None]
    assert [*read.errors] == [2, 3]
    assert read.errors[2].startswith("has 'inf' in the column 'a', which is not a number")
    assert column(["inf", "inf"]) == ["inf", "inf"]


def test_a_column_of_codes_is_given() -> None:
    assert column(["02139", "NA", "94305"], strings=["a"]) == ["02139", None, "94305"]


def test_a_column_of_numbers_is_given() -> None:
    read = Read("a,y\n1.5,0\nERR,1\n2,1\n", numbers=["a"])
    assert read.x == [{"a": 1.5}, None, {"a": 2}]
    assert "'ERR' in the column 'a', which is not a number" in read.errors[2]
    assert column(["red", "blue"], numbers=["a"]) == ["red", "blue"]
    with pytest.raises(FileError, match="give --decimal ,"):
        column(["1,5", "2"], numbers=["a"])


def test_booleans() -> None:
    assert column(["true", "FALSE", "True", ""]) == [True, False, True, None]
    assert column(["true", "maybe"]) == ["true", "maybe"]


@pytest.mark.parametrize(
    "word",
    [
        "",
        "NA",
        "N/A",
        "#N/A",
        "#N/A N/A",
        "NaN",
        "nan",
        "-nan",
        "null",
        "NULL",
        "\\N",
        "<NA>",
        "NaT",
        "n/a",
        " NA ",
    ],
)
@pytest.mark.parametrize(
    "cells", [["1", "2"], ["red", "blue"], ["true", "false"], ["2026-01-01", "2026-01-02"]]
)
def test_markers_of_spreadsheets_and_databases_are_missing_values(word: str, cells: list[str]) -> None:
    read = Read("a;y\n" + "".join(f"{cell};1\n" for cell in [cells[0], word, cells[1]]), sep=";")
    assert [x["a"] is None for x in read.x] == [False, True, False]
    assert not read.notices


@pytest.mark.parametrize("word", ["?", "None", ".", "-", "#DIV/0!", "#VALUE!"])
def test_markers_that_may_be_values_are_missing_among_numbers(word: str) -> None:
    assert column(["1", word]) == [1, None]
    assert column(["red", word]) == ["red", word]


def test_none_alone_is_a_value() -> None:
    assert column(["none", "gold", "none"]) == ["none", "gold", "none"]


def test_further_words_are_missing_values() -> None:
    assert column(["1", "unknown", "-999"], na=["unknown", "-999"]) == [1, None, None]
    assert column(["1", "-999.0"], na=["-999"]) == [1, None]
    assert column(["true", "false"], na=["0"]) == [True, False]
    assert column(["red", "unknown"], na=["unknown"]) == ["red", None]
    assert Read('{"a": -999, "b": "unknown", "y": 0}', na=["-999", "unknown"]).x == [{"a": None, "b": None}]


def test_a_column_keeps_its_type() -> None:
    read = Read("a,b,y\n" + "1,true,0\n" * 256 + "word,7,0\n?,8,0\n2,false,0\n")
    assert read.x[256:] == [None, None, {"a": 2, "b": False}]
    assert not read.notices
    assert read.errors == {
        257: "has 'word' in the column 'a', which is not a number, as other rows have: "
        "give --na word if it is a missing value",
        258: "has '8' in the column 'b', which is not a boolean, as other rows have: "
        "give --na 8 if it is a missing value",
    }
    again = Read("a,y\n" + "1,0\n" * 256 + "word,0\nother,0\n?,0\n", na=["word"])
    assert again.x[256:] == [{"a": None}, None, {"a": None}]


def test_a_number_in_a_column_of_strings_is_a_string() -> None:
    read = Read("a,y\n" + "red,0\nblue,0\n" * 128 + "1,0\n")
    assert read.x[256] == {"a": "1"}
    assert not read.notices


def test_the_first_value_decides_where_the_first_rows_have_none() -> None:
    read = Read("a,y\n" + ",0\n?,0\n" * 150 + "1.5,0\n?,0\nred,0\n")
    assert read.x[300:] == [{"a": 1.5}, {"a": None}, None]
    assert [*read.errors] == [303]


def test_a_word_among_most_numbers_is_named() -> None:
    read = Read("a,y\n" + "".join(f"{i},0\n" for i in range(100)) + "unknown,0\n")
    assert read.x[0] == {"a": "0"}
    assert "'unknown' (row 101) is a missing value, give --na unknown" in read.notices[0]


def test_decimal_commas() -> None:
    text = "a;b;y\n0,5;1;0\n-1,5e3;2;1\n"
    assert Read(text, decimal=",").x == [{"a": 0.5, "b": 1}, {"a": -1500, "b": 2}]
    with pytest.raises(FileError, match="column 'a', such as '0,5': give --decimal ,"):
        Read(text)
    with pytest.raises(FileError, match="give --decimal ,"):
        Read('a,y\n"0,5",1\n')
    assert Read(text, keep=["a"]).x[0] == {"a": "0,5", "b": 1}
    assert Read(text, drop=["a"]).x[0] == {"b": 1}


def test_a_decimal_point_is_no_number_with_decimal_commas() -> None:
    assert column(["1.5", "0,5"], decimal=",") == ["1.5", "0,5"]


@pytest.mark.parametrize(
    ("cells", "decimal", "numbers"),
    [
        (["1.234,56", "-950", "1.000.000", "0,5"], ",", [1234.56, -950, 1e6, 0.5]),
        (["1,234.56", "950.1", "1,000,000", "1,234"], ".", [1234.56, 950.1, 1e6, 1234]),
        (["1'234.5", "950"], ".", [1234.5, 950]),
        (["1 234,5", "1\u202f234", "2\xa0000"], ",", [1234.5, 1234, 2000]),
        (["12%", "3.5%", "NA"], ".", [12, 3.5, None]),
        (["-12,5 %", "3 %"], ",", [-12.5, 3]),
        (["$1,234.50", "-$990", "$ -3"], ".", [1234.5, -990, -3]),
        (["1.234,50 €", "990 €", "?"], ",", [1234.5, 990, None]),
        (["EUR 1", "EUR 2"], ".", [1, 2]),
    ],
)
def test_amounts_are_numbers(cells: list[str], decimal: str, numbers: list[float | None]) -> None:
    assert column(cells, decimal=decimal) == numbers


@pytest.mark.parametrize(
    "cells",
    [
        ["1 kg", "2 g"],
        ["1 €", "1 $"],
        ["12 %", "12"],
        ["A1", "A2"],
        ["$1$", "$2$"],
        ["0 123", "0 456"],
        ["%", "$"],
    ],
)
def test_numbers_with_other_words_are_strings(cells: list[str]) -> None:
    assert column(cells) == cells


def test_thousands_that_begin_after_the_first_rows_are_numbers() -> None:
    cells = ["950"] * 300
    assert column([*cells, "1,234.5"])[-1] == 1234.5
    assert column([*cells, "1.234"], decimal=",")[-1] == 1234


@pytest.mark.parametrize("cells", [["1.234,56", "950"], ["12,50 €", "3 €"], ["$1,234", "$990"]])
def test_amounts_with_commas_that_may_be_decimal_signs_are_refused(cells: list[str]) -> None:
    with pytest.raises(FileError, match=r"column 'a', such as .* give --decimal ,"):
        column(cells)


def uuids(n: int, seed: int = 0) -> list[str]:
    numbers = random.Random(seed)  # noqa: S311 (no secrets)
    return [f"{numbers.getrandbits(64):x}z" for _ in range(n)]


def test_a_column_of_ids_is_left_out_from_the_first_row() -> None:
    text = "id,a,y\n" + "".join(f"{word},1,0\n" for word in uuids(300))
    read = Read(text)
    assert read.x == [{"a": 1}] * 300
    assert len(read.notices) == 1
    assert "--keep id keeps it, --drop id" in read.notices[0]
    assert not Read(text, drop=["id"]).notices
    kept = Read(text, keep=["id"])
    assert (len(kept.x[0]), kept.notices) == (2, [])


def test_199_rows_show_no_id() -> None:
    assert len(Read("id,y\n" + "".join(f"{word},0\n" for word in uuids(199))).x[0]) == 1


def test_a_column_of_different_integers_is_reported_and_kept() -> None:
    read = Read("id,y\n" + "".join(f"{i},0\n" for i in range(300)))
    assert read.x[0] == {"id": 0}
    assert "--drop id" in read.notices[0]
    assert not Read("id,y\n" + "".join(f"{i},0\n" for i in range(300)), keep=["id"]).notices


def test_ids_that_begin_later_are_left_out_from_there_on() -> None:
    words = ["same"] * 300 + uuids(300)
    read = Read("id,y\n" + "".join(f"{word},0\n" for word in words))
    assert [len(x) for x in read.x] == [1] * 498 + [0] * 102
    assert read.notices[0].startswith("row 498: column 'id' is left out from here on")
    assert read.rows[-1].source["id"] == words[-1]


def test_lines_of_the_server_leave_out_ids_too() -> None:
    lines = "".join(f'{{"x": {{"id": "{word}", "a": 1}}, "y": 0}}\n' for word in uuids(300))
    assert Read(lines, None).x == [{"a": 1}] * 300


def test_a_pipe_with_lines_of_the_server_leaves_out_ids_after_200_rows() -> None:
    lines = "".join(f'{{"x": {{"id": "{word}", "a": 1}}, "y": 0}}\n' for word in uuids(300))
    reading, writing = os.pipe()
    with open(writing, "w") as pipe:
        pipe.write(lines)
    with open(reading, "rb") as file:
        read = Read(file, None)
    assert [len(x) for x in read.x] == [2] * 201 + [1] * 99


def test_a_column_with_many_categories_is_kept() -> None:
    numbers = random.Random(0)  # noqa: S311 (no secrets)
    words = [f"w{numbers.randrange(1000)}" for _ in range(5000)]
    read = Read("a,y\n" + "".join(f"{word},0\n" for word in words))
    assert [x["a"] for x in read.x] == words
    assert not read.notices


@pytest.mark.parametrize("target", ["y", None])
def test_users_that_return_are_kept(target: str | None) -> None:
    """Of 3,000 users, 96 % of the first 256 samples have a new one."""
    numbers = random.Random(0)  # noqa: S311 (no secrets)
    words = [f"u{numbers.randrange(3000)}" for _ in range(2000)]
    if target is None:
        text = "".join(f'{{"x": {{"user": "{word}"}}, "y": 0}}\n' for word in words)
    else:
        text = "user,y\n" + "".join(f"{word},0\n" for word in words)
    read = Read(text, target)
    assert [x["user"] for x in read.x] == words
    assert not read.notices


def test_a_prediction_takes_all_columns() -> None:
    assert len(Read("id\n" + "\n".join(uuids(300)), None, labelled=False).x[0]) == 1


@pytest.mark.parametrize("repeated", [0, 300])
def test_a_column_of_ids_adds_few_columns_to_the_model(repeated: int) -> None:
    """Columns determine the cost of learning."""
    words = ["same"] * repeated + uuids(400)
    model = BNPClassifier(hidden=())
    for row in Read("id,a,y\n" + "".join(f"{word},1,{i % 2}\n" for i, word in enumerate(words))).rows:
        model.learn_one(row.x, row.y)
    assert len(model.feature_names) <= 100


def test_the_index_of_a_data_frame_is_left_out_of_parquet() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1.5], "y": [0], "__index_level_0__": [7]}), sink)
    read = Read(bytes(sink.getvalue()))
    assert read.x == [{"a": 1.5}]
    assert "the index of a data frame" in read.notices[0]


def test_two_columns_of_one_name_are_refused_in_parquet() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([[1.5], [2.5], [0]], names=["a", "a", "y"]), sink)
    with pytest.raises(FileError, match="'a' twice"):
        Read(bytes(sink.getvalue()))


def test_columns_that_are_no_features_are_refused_in_parquet() -> None:
    for values in ([[1, 2]], [{"b": 1}], [b"bytes"]):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": values, "y": [0]}), sink)
        with pytest.raises(FileError, match=r"in the column 'a'.*--drop a"):
            Read(bytes(sink.getvalue()))
        assert Read(bytes(sink.getvalue()), drop=["a"]).x == [{}]
