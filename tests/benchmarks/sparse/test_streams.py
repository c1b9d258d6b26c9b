"""Streams of strings: files and generated ones, and the forms in which rivals take them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.streams import Stream
from benchmarks.sparse import forms, generated
from benchmarks.sparse.streams import load

_STREAM = Stream(
    "s",
    "classification",
    "",
    [({"text": "To be, or not to be", "id": "a b|c", "n": 3.0}, True), ({"text": "", "n": 0.0}, False)],
    texts=("text",),
)


def _write(folder: Path, name: str, text: str) -> None:
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        file.write(text)


def test_files_contain_a_sample_in_each_line(tmp_path: Path) -> None:
    _write(tmp_path, "sms.tsv.gz", "ham\tHi\u2028there\nspam\tWin, win\n")
    _write(tmp_path, "reviews.tsv.gz", "1\tgood\n0\tbad\n")
    _write(tmp_path, "avazu.csv.gz", 'id,click,site\n1,0,"a,b"\n2,1,c\n')
    numbers, strings = ["5", *[""] * 12], ["x", "", *["y"] * 24]
    _write(tmp_path, "criteo.tsv.gz", "\t".join(["1", *numbers, *strings]) + "\n")
    sms = load("sms", data_dir=tmp_path)
    assert list(sms.samples) == [({"text": "Hi\u2028there"}, False), ({"text": "Win, win"}, True)]
    assert sms.texts == ("text",)
    assert sms.describe()["values"] == 3
    assert load("reviews", 1, tmp_path).samples[0] == ({"text": "good"}, True)
    assert len(load("reviews", 1, tmp_path).samples) == 1
    assert load("avazu", data_dir=tmp_path).samples[:2] == [
        ({"id": "1", "site": "a,b"}, False),
        ({"id": "2", "site": "c"}, True),
    ]
    criteo = load("criteo", data_dir=tmp_path)
    x, y = criteo.samples[0]
    assert y is True
    assert x["I1"] == 5.0
    assert list(x)[:3] == ["I1", "C1", "C3"]
    assert {key: criteo.describe()[key] for key in ("values", "numbers")} == {"values": 25, "numbers": 1}


def test_a_stream_of_a_file_needs_the_file(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(ValueError, match=r"sms needs a folder with sms\.tsv\.gz"):
            load("sms", data_dir=folder)


@pytest.mark.parametrize("name", ["pairs", "rotating", "topics", "ratings"])
def test_a_generated_stream_repeats_and_no_prediction_by_shares_is_as_good_as_the_possible_one(
    name: str,
) -> None:
    stream, again = load(name, 3000), load(name, 3000)
    assert stream.samples[:50] == again.samples[:50]
    assert all(isinstance(value, str | float) for x, _ in stream.samples[:50] for value in x.values())
    if stream.task == "regression":
        floor = float(np.std(stream.targets))
    else:
        shares = np.unique(np.array(stream.targets), return_counts=True)[1] / len(stream.samples)
        floor = float(-(shares * np.log(shares)).sum())
    assert 0.3 < stream.facts["best"] < 0.9 * floor


def test_strings_of_a_sample_are_new_objects() -> None:
    stream = load("pairs", 10)
    assert stream.samples[3][0]["u"] is not stream.samples[3][0]["u"] or len(stream.samples[3][0]["u"]) == 1


def test_pairs_have_a_million_possible_values_and_known_losses() -> None:
    draw = generated.pairs(60_000)
    assert sum(len(np.unique(values)) for values in draw.fields.values()) == 36_278
    assert draw.losses.mean() == pytest.approx(0.4658, abs=1e-4)


def test_an_advertisement_of_the_rotating_stream_lasts_as_long_as_stated() -> None:
    draw = generated.rotating(5000, places=20, life=500)
    for value in np.unique(draw.fields["ad"]):
        shown = np.flatnonzero(draw.fields["ad"] == value)
        assert shown[-1] - shown[0] < 500


def test_columns_are_values_and_words_with_standardized_logarithms() -> None:
    (first, label), (second, _) = forms.columns(_STREAM)
    assert label is True
    assert first == {"text=to": 2, "text=be": 2, "text=or": 1, "text=not": 1, "id=a b|c": 1.0, "n": 0.0}
    assert second == {"n": -1.0}


def test_counts_have_a_value_for_each_power_of_two() -> None:
    (first, _), (second, _) = forms.counts(_STREAM)
    assert first["n=2"] == 1.0
    assert second == {"n=0": 1.0}


def test_lines_have_a_namespace_for_each_field_and_no_reserved_characters() -> None:
    (first, _), (second, _) = forms.lines(_STREAM)
    assert first == f"|a to be or not to be |b a_b_c |n n:{math.log(4):.6g}"
    assert second == "|a  |n n:0"
