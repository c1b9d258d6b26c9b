"""Lines of a stream have the meaning of the exact path, or are left to it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnp_online.blocks import Templates, padded
from tests.support.exact_path import Reading, Stream, exact_readings

COLUMNS = {"a": 2, "b": 0, "c d": 1}
#: A line with a value of each kind.
LINE = (
    b'{"model":"m1","x":{"a":-12.5e-3,"b":0.12345678901234567,"s":"red","c d":true,"t":"\xc3\xa9"},'
    b'"id":"k-1","y":"no","w":1.5}'
)
#: The same lines, but for their values.
KNOWN = [
    LINE,
    LINE.replace(b"true", b"null").replace(b'"no"', b'"yes"').replace(b'"red"', b'"green"'),
    LINE.replace(b"true", b"7").replace(b'"m1"', b'"m2"'),
]


def agree(data: bytes, *, regression: bool = False, learned: Sequence[bytes] = (), most: int = 256) -> int:
    """Compare a stream with the exact path; return how many lines the templates parsed."""
    stream = Stream(Templates(COLUMNS, regression=regression), COLUMNS, regression)
    known = b"".join(line + b"\n" for line in learned)
    assert [*stream.read(known)] == exact_readings(known, COLUMNS, regression=regression)
    stream.learns, before = not learned, stream.parsed
    assert [*stream.read(data, most)] == exact_readings(data, COLUMNS, regression=regression)
    return stream.parsed - before


def test_every_byte_replaced_by_every_byte() -> None:
    lines = [LINE[:i] + bytes([byte]) + LINE[i + 1 :] for i in range(len(LINE)) for byte in range(256)]
    parsed = agree(b"\n".join(lines) + b"\n", learned=KNOWN)
    assert len(LINE) < parsed < len(lines) / 20  # more than the line itself, in place of each byte


def test_every_byte_left_out_or_doubled() -> None:
    lines = [LINE[:i] + LINE[i + skip :] for i in range(len(LINE)) for skip in range(1, 9)]
    lines += [LINE[:i] + LINE[i : i + 1] * 2 + LINE[i + 1 :] for i in range(len(LINE))]
    lines += [LINE[:i] + extra + LINE[i:] for i in range(len(LINE) + 1) for extra in EXTRAS]
    assert agree(b"\n".join(lines) + b"\n", learned=KNOWN) > 0


EXTRAS = [
    b" ",
    b"\t",
    b"\r",
    b"\x00",
    b"0",
    b"9" * 20,
    b"-",
    b".",
    b"e",
    b"e5",
    b'"',
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
]
EXTRAS += [b",", b":", b"{", b"}", b"[", b"]", b'"a":1,', b"null", b"NaN", b'\\"', b"\\u0041", b"/**/"]

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e9, 1e9).map(lambda value: f"{value:.4f}"),
    st.floats(-1e30, 1e30).map(lambda value: f"{value:.16e}"),
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-9, 9).map(str),
    st.from_regex(r"-?[0-9]{0,3}\.?[0-9]{0,22}([eE][-+]?[0-9]{0,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "1e100", "1.0000000000000002e100", "1e400", "-1e400", "1e-330", "5e-324"]),
    st.sampled_from(["01", "+1", ".5", "1.", "-", "1e5", "1E+2", "0e999", "0x1", "9007199254740993"]),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "nan", "null", "true"]),
)
OTHERS = st.sampled_from(
    [
        "null",
        "true",
        "false",
        '"1"',
        '"red"',
        '"a\\"b"',
        '"\\u0041"',
        '""',
        '"é"',
        "[1]",
        "{}",
        '{"a":1}',
        "tru",
    ]
)
STRINGS = st.one_of(
    st.sampled_from(['"red"', '"green"', '""', '"é"', '"\\n"', '"a b"', "null", "1", '"red', '"\ud800"']),
    st.text(max_size=12).map(json.dumps),
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
LABELS = st.one_of(
    st.sampled_from(
        ['"a"', '"b"', "1", "2", "1.0", "-1", "true", "false", "null", "1.5", "[1]", '"1"', "9" * 30]
    )
)
WEIGHTS = st.one_of(
    st.sampled_from(["1", "1.0", "0", "-0.0", "-0", "-1", "2.5", "1e200", "null", '"1"', "true"])
)
IDS = st.one_of(
    st.integers(0, 10**6).map(lambda number: f'"k{number}"'),
    st.text(max_size=140).map(json.dumps),
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["null", "5", '" a"', '"a "', '"' + "k" * 128 + '"', '"' + "k" * 129 + '"']),
)
MODELS = st.sampled_from(['"m1"', '"m2"', "null", '"m\\u0031"', "1"])

#: Shapes of lines: `%N` is a number, and so on. Some are invalid, or have a name twice.
SHAPES = [
    '{"x":{"a":%N,"b":%N,"c d":%N},"y":%L}',
    '{"x": {"b": %N, "a": %N}, "y": %L, "id": %I, "w": %W}',
    ' {"y" : %L ,\t"x":{"s":%S,"a":%N ,"t":%S} , "model":%M}\r',
    '{"id":%I,"x":{"c d":%O,"a":%N},"y":%L}',
    '{"x":{},"y":%L}',
    '{"x":{"a":%N,"a":%N},"y":%L}',
    '{"x":{"a":%N},"y":%L,"z":%N}',
    '{"x":{"a":%N},"y":%L}}',
    '{"x":[%N],"y":%L}',
    '{"x":{"a":%N},"y":%L,"y":%L}',
    '{"x":{"\\u0061":%N,"b":%N},"y":%L}',
    '\ufeff{"x":{"a":%N},"y":%L}',
    "%O",
    "",
]
VALUES = {"N": NUMBERS, "L": LABELS, "S": STRINGS, "O": OTHERS, "I": IDS, "W": WEIGHTS, "M": MODELS}


@st.composite
def streams(draw: st.DrawFn, targets: st.SearchStrategy[str]) -> bytes:
    """Return lines of few shapes, most with usual values, so that templates read most of them."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    usual = {kind: draw(st.lists(values, min_size=1, max_size=3)) for kind, values in VALUES.items()}
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        first, *parts = draw(st.sampled_from(shapes)).split("%")
        line = first
        for part in parts:
            kind = part[0]
            values = targets if kind == "L" else VALUES[kind]
            value = draw(
                values if kind in "NL" or draw(st.integers(0, 4)) == 0 else st.sampled_from(usual[kind])
            )
            line += value + part[1:]
        lines.append(line.encode("utf-8", "surrogatepass"))
    if draw(st.booleans()):
        i = draw(st.integers(0, len(lines) - 1))
        at = draw(st.integers(0, len(lines[i])))
        lines[i] = lines[i][:at] + draw(st.binary(max_size=3)) + lines[i][at + draw(st.integers(0, 3)) :]
    return b"\n".join(lines) + b"\n"


@given(streams(LABELS), st.integers(1, 9))
@example(b'{"x":{"a":1},"y":1}\n{"x":{"a":1e400},"y":1}\n{"x":{"a":-0},"y":true}\n', 1)
@settings(max_examples=400)
def test_streams_of_a_classification(data: bytes, most: int) -> None:
    agree(data, most=most)


@given(streams(NUMBERS))
@settings(max_examples=200)
def test_streams_of_a_regression(data: bytes) -> None:
    agree(data, regression=True)


@given(st.lists(st.sampled_from(KNOWN), min_size=1, max_size=5), st.lists(st.integers(0, 1000), max_size=8))
def test_a_stream_split_anywhere(lines: list[bytes], cuts: list[int]) -> None:
    """The parser stops before an incomplete line, and goes on when the rest has arrived."""
    whole = b"".join(line + b"\n" for line in lines)
    stream = Stream(Templates(COLUMNS), COLUMNS)
    tail, start, found = b"", 0, list[Reading | None]()
    for cut in sorted(min(each, len(whole)) for each in (*cuts, len(whole))):
        tail, start = tail + whole[start:cut], cut
        end = tail.rfind(b"\n") + 1
        parsed = stream.templates.parse(padded(tail))
        assert parsed.end <= end
        found += stream.read(tail[:end])
        tail = tail[end:]
    assert found == exact_readings(whole, COLUMNS)
