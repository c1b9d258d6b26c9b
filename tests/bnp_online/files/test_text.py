"""CSV and NDJSON as text: encoding, separators, header, cells, and what is refused."""

from __future__ import annotations

import codecs
import io

import pytest

from bnp_online.files import FileError, read_samples
from tests.bnp_online.files.reading import Read

TEXT = "größe;y\n" + "1.5;rot\n2.5;blau\n" * 20
ROWS = [({"größe": 1.5}, "rot"), ({"größe": 2.5}, "blau")] * 20

ENCODED = {
    "utf-8": TEXT.encode(),
    "utf-8 with BOM": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16, big endian": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16 without BOM": TEXT.encode("utf-16-le"),
    "utf-16 without BOM, big endian": TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "utf-32 without BOM": TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("encoded", ENCODED)
def test_the_encoding_is_found_by_the_first_bytes(encoded: str) -> None:
    assert [(row.x, row.y) for row in Read(ENCODED[encoded]).rows] == ROWS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "cp500"])
def test_another_encoding_is_given(encoding: str) -> None:
    assert [(row.x, row.y) for row in Read(TEXT.encode(encoding), encoding=encoding).rows] == ROWS


def test_a_byte_that_is_not_utf_8_is_reported_with_its_row_and_the_remedy() -> None:
    data = b"a,y\n" + b"x,1\n" * 300 + b"gr\xfc\xdfe,1\n"
    rows = read_samples(io.BytesIO(data), "y")
    with pytest.raises(FileError, match=r"row 301 has the byte 0xfc, .*--encoding latin-1"):
        list(rows)


def test_bytes_that_end_within_a_sign_are_reported() -> None:
    with pytest.raises(FileError, match="row 2 has the byte 0xc3"):
        Read(b"a,y\n1,1\n2,\xc3")


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(FileError, match="--encoding klingon: there is no such encoding"):
        Read(TEXT, encoding="klingon")


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_the_separator_is_found(sep: str) -> None:
    read = Read(f"a{sep}b{sep}y\n" + f"1.5{sep}red{sep}0\n" * 5)
    assert read.x[0] == {"a": 1.5, "b": "red"}
    assert bool(read.notices) == (sep != ",")


def test_a_separator_within_cells_is_not_one_of_columns() -> None:
    read = Read('name,y\n"Smith; John; Jr",1\n"Doe; Jane",0\n')
    assert read.x == [{"name": "Smith; John; Jr"}, {"name": "Doe; Jane"}]
    assert not read.notices


def test_the_separator_of_excels_first_line() -> None:
    assert Read("sep=;\r\na;y\r\n1;0\r\n").x == [{"a": 1}]


@pytest.mark.parametrize("sep", [":", " ", "\\t"])
def test_another_separator_is_given(sep: str) -> None:
    sign = "\t" if sep == "\\t" else sep
    assert Read(f"a{sign}y\n1{sign}0\n", sep=sep).x == [{"a": 1}]


def test_a_separator_of_two_characters_is_refused() -> None:
    with pytest.raises(FileError, match="--sep '::': a separator is one character"):
        Read("a::y\n1::0\n", sep="::")


def test_spaces_around_names_and_cells_are_stripped() -> None:
    assert Read('a , "b" , y\n 1.5 , red , 0 \n').rows[0][1:3] == ({"a": 1.5, "b": "red"}, 0)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(end: str) -> None:
    text = f'a,y{end}1,0{end}{end}"two\nlines",1'
    assert Read(text.replace("\n", end) if end != "\n" else text).y == [0, 1]


def test_absent_last_cells_are_missing() -> None:
    read = Read("y,a,c\n1,1,x\n2,2\n3\n")
    assert read.x == [{"a": 1, "c": "x"}, {"a": 2, "c": None}, {"a": None, "c": None}]
    assert not read.errors


def test_too_many_cells_are_an_error_of_their_row_unless_they_are_empty() -> None:
    read = Read("a,y\n1,0\n2,0,extra\n3,1,,\n")
    assert [*read.errors] == [2]
    assert "has 3 cells, the header has 2" in read.errors[2]
    assert read.y == [0, None, 1]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,y\n", {}, "has no rows"),
        ("a,a,y\n1,2,0\n", {}, r"has the column 'a' twice \(columns 1 and 2\): rename one"),
        ("a, a,y\n1,2,0\n", {}, r"has the column 'a' twice"),
        ("a,Target\n1,0\n", {"target": "target"}, "no column 'target': is 'Target' meant"),
        ("a,y\n1,0\n", {"target": None}, "needs --target NAME.*The columns are 'a', 'y'"),
        ("a,y\n1,0\n", {"drop": ["y"]}, "--target and --drop both name 'y'"),
        ("amount,y\n1,0\n", {"drop": ["amont"]}, "'amont', which --drop names: is 'amount' meant"),
        ("amount,y\n1,0\n", {"keep": ["q"]}, "'q', which --keep names"),
        ("a;y\n1;0\n", {"sep": ","}, "another --sep may separate"),
        ('"a" "y"\n1 0\n', {}, "another --sep may separate its columns: --sep ' '"),
        (
            '"a","y"\n"1",2,0\n"2",2,0\n"3",2,1\n',
            {},
            "3 cells in each row, and 2 in the header: if the first",
        ),
        ("5.1,3.5\n4.9,3.0\n", {}, "its first row must have the names"),
        ('a,y\n1,0\n"2,1\n3,1\n', {}, "row 2 has a quotation mark that is not closed"),
        ("a,y\n1,0\n" + '"' + "2,1\n" * 100_000, {}, "row 2 has a cell of more than .*close its quotation"),
        ("a,y\n1,0\n", {"decimal": ";"}, "--decimal ;: choose"),
        ("a,y\n1,0\n", {"dates": "no"}, "--dates no: choose raw, calendar, drop"),
    ],
)
def test_a_mistake_is_refused_with_the_remedy(text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(FileError, match=message):
        Read(text, **{"target": "y", **options})  # type: ignore[arg-type]  # options of each kind


def test_a_column_without_a_name_is_left_out() -> None:
    read = Read(",a,y\n0,1.5,0\n1,2.5,1\n")
    assert read.x == [{"a": 1.5}, {"a": 2.5}]
    assert "--keep 'column 1'" in read.notices[0]
    assert Read(",a,y\n0,1.5,0\n", keep=["column 1"]).x == [{"column 1": 0, "a": 1.5}]
    assert not Read("a,y,\n1.5,0,\n").notices


def test_columns_are_left_out() -> None:
    assert Read("a,b,c,y\n1,2,3,0\n", drop=["a", "c"]).x == [{"b": 2}]


def test_the_source_of_a_row_is_the_text() -> None:
    row = Read("id, a,y\nr1,NA,1.0\n", drop=["id"]).rows[0]
    assert row.source == {"id": "r1", "a": "NA", "y": "1.0"}
    assert (row.x, row.y) == ({"a": None}, 1)


def test_rows_need_no_target_for_predictions() -> None:
    assert Read("a\n1\n", None, labelled=False).x == [{"a": 1}]
    assert Read("a,x\n1,2\n", None, labelled=False).x == [{"a": 1, "x": 2}]
    assert Read("a,y\n1,0\n2,\n3,what\n", labelled=False).y == ["0", None, "what"]
    assert not Read("a\n1\n", labelled=False).errors


def test_lines_with_x_need_no_target() -> None:
    read = Read('{"x": {"a": 1, "b": "NA"}, "y": "1", "id": "r", "w": 2}\n\n{"x": [1, 2], "y": true}\n', None)
    assert [row[:5] for row in read.rows] == [
        (1, {"a": 1, "b": "NA"}, "1", "r", 2),
        (2, [1, 2], True, None, 1.0),
    ]


def test_a_nested_feature_in_a_line_with_x_is_left_to_the_learner() -> None:
    first, nested = '{"x": {"a": 1, "s": "w"}, "y": 1}\n', '{"x": {"a": {"b": 1}, "s": [1]}, "y": 1}\n'
    for text in (first + nested, nested + first):
        assert {"a": {"b": 1}, "s": [1]} in Read(text, None).x


def test_joined_files_may_have_byte_order_marks() -> None:
    line = b'\xef\xbb\xbf{"a": 1, "y": 0}\n'
    read = Read(line + line)
    assert (read.x, read.errors) == ([{"a": 1}] * 2, {})


def test_a_bad_line_is_reported_and_reading_goes_on() -> None:
    read = Read('{"a": 1, "y": 0}\n{"a": \n[1]\n{"a": 2}\n{"a": NaN, "y": 1}\n' + "[" * 100_000 + "\n")
    assert {n: error.partition(":")[0] for n, error in read.errors.items()} == {
        2: "is not JSON",
        3: "is not a JSON object",
        4: "has no target",
        6: "is not a sample",
    }
    assert read.x[4] == {"a": None}


@pytest.mark.parametrize(
    "line",
    [
        '{"a": 1, "a": 2, "y": 0}',
        '{"x": {"a": 1, "a": 1}, "y": 0}',
        '{"b": {"c": [{"a": 1, "a": 2}]}, "y": 0}',
        '{"a": "1:2", "a": 2, "y": 0}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(line: str) -> None:
    read = Read('{"a": 1, "y": 0}\n' + line + "\n")
    assert read.errors == {2: "has the key 'a' twice: rename or remove one of them"}


@pytest.mark.parametrize(
    ("line", "target", "message"),
    [
        ('{"a": 1, "y": 0}', None, "has no \"x\" in its rows: give --target NAME.*'a', 'y'"),
        ('{"a": 1, "Y": 0}', "y", "no column 'y': is 'Y' meant"),
        ('{"a": [1], "y": 0}', "y", r"a list in the column 'a' \(row 1\).*--drop a"),
        ('{"x": {"a": 1}, "y": 0}', "y", 'an object in "x".*give no --target'),
    ],
)
def test_lines_of_another_form_are_refused(line: str, target: str | None, message: str) -> None:
    with pytest.raises(FileError, match=message):
        Read(line, target)


def test_json_has_its_types() -> None:
    line = '{"i": 1, "f": 1.5, "s": "1", "t": true, "n": null, "na": "NA", "y": "1"}'
    row = Read(line).rows[0]
    assert row.x == {"i": 1, "f": 1.5, "s": "1", "t": True, "n": None, "na": "NA"}
    assert row.y == "1"


def test_columns_that_are_no_features_are_named_at_once() -> None:
    with pytest.raises(
        FileError, match=r"an object in the column 'a' \(row 1\), and more in 'b': .*--drop a --drop b"
    ):
        Read('{"a": {}, "b": [], "y": 1}\n')


def test_a_file_with_the_target_alone_is_reported() -> None:
    assert Read("y\n1\n0\n").notices == ["there are no features: no column except the target 'y'"]
    assert not Read("a,y\n1,1\n", drop=["a"]).notices
