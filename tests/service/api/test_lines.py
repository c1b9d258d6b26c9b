"""Lines come out as they went in, however the bytes are cut."""

from __future__ import annotations

import itertools
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.line_splitter import Line, LineSplitter

LIMIT = 5


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:stop] for start, stop in itertools.pairwise(edges)]


def expected(whole: bytes) -> list[Line]:
    numbered = enumerate(whole.split(b"\n"), 1)
    return [Line(n, part if len(part) <= LIMIT else None) for n, part in numbered if part.strip()]


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([b"1", b"{}", b"\n", b"\r\n", b" ", b"12345", b"123456", b"\xff"])).map(
        b"".join
    ),
    st.lists(st.integers(0, 60)),
)
def test_cut_anywhere(whole: bytes, places: list[int]) -> None:
    splitter = LineSplitter(LIMIT)
    *chunks, last = cut(whole, places)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    found += splitter.feed(last, last=True)
    # A blank line is skipped even if it is too long to know that: see below.
    long_blank = {n for n, part in enumerate(whole.split(b"\n"), 1) if len(part) > LIMIT and not part.strip()}
    assert [line for line in found if line.number not in long_blank] == expected(whole)
    assert all(line.raw is None for line in found if line.number in long_blank)


def test_a_last_line_without_end_after_a_long_one() -> None:
    splitter = LineSplitter(LIMIT)
    assert list(splitter.feed(b"123456")) == []
    assert list(splitter.feed(b"7\n12", last=True)) == [Line(1, None), Line(2, b"12")]


def test_of_a_long_line_nothing_is_kept() -> None:
    splitter, chunk = LineSplitter(limit=1000), b"x" * 100_000
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(splitter.feed(chunk)) == []
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(chunk)
    assert list(splitter.feed(b"x\n1\n")) == [Line(1, None), Line(2, b"1")]
