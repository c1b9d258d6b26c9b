"""Summary of runs: settings chosen in hindsight, ranks, gains and kept runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.report import Cell
from benchmarks.quality.contestant import Contestant
from benchmarks.quality.results import Results, same_versions
from benchmarks.quality.rivals import CONTESTANTS
from benchmarks.quality.summary import Entry, gains, summarize
from benchmarks.quality.tables import format_gain, gain_table, quality_table, verdict

_FACTS = {"digits": {"task": "classification", "features": 64}}


def _records(model: str, by_rate: dict[float | None, list[float | None]]) -> list[dict[str, Any]]:
    return [
        {
            "stream": "digits",
            "model": model,
            "setting": {} if rate is None else {"rate": rate},
            "seed": seed,
            "metrics": None if value is None else {"Accuracy": value},
            "samples_per_second": 10.0,
        }
        for rate, values in by_rate.items()
        for seed, value in enumerate(values)
    ]


def _contestant(name: str, *rates: float) -> Contestant:
    return Contestant(name, "", CONTESTANTS[0].run, ("numpy",), {"rate": rates} if rates else {})


def test_tuned_rival_gets_its_best_rate_by_mean_and_a_divergence_is_out() -> None:
    runs = _records("plain", {None: [0.6, 0.8]}) + _records(
        "tuned", {0.1: [0.5, 0.6], 0.2: [0.7, 0.9], 0.3: [1.0, None]}
    )
    plain, tuned = summarize(runs, _FACTS, [_contestant("plain"), _contestant("tuned", 0.1, 0.2, 0.3)])
    assert tuned.value == pytest.approx(0.8)
    assert (tuned.setting, tuned.at_edge, tuned.by_seed) == ({"rate": 0.2}, False, (0.7, 0.9))
    assert (tuned.rank, plain.rank) == (1.0, 2.0)
    table = quality_table([plain, tuned])
    assert table.header == ["stream", "tuned", "plain"]
    assert table.rows[0][1] == Cell("80.0\n(0.2)", True)


def test_equal_models_share_a_rank_and_a_model_that_always_diverges_is_last() -> None:
    runs = [
        run
        for name, value in zip("abc", (0.5, None, 0.5), strict=True)
        for run in _records(name, {None: [value]})
    ]
    entries = summarize(runs, _FACTS, [_contestant(name) for name in "abc"])
    assert [entry.rank for entry in entries] == [1.5, 3.0, 1.5]
    assert quality_table(entries).rows[0][3].text == "diverged"


def test_stream_is_left_out_until_every_model_has_run_all_settings_on_it() -> None:
    runs = _records("a", {None: [0.5]}) + _records("b", {0.1: [0.5, 0.6], 0.2: [0.7]})
    contestants = [_contestant("a"), _contestant("b", 0.1, 0.2), _contestant("absent")]
    facts = {**_FACTS, "Phishing": _FACTS["digits"]}
    elsewhere = [{**run, "stream": "Phishing"} for run in _records("b", {0.1: [0.5], 0.2: [0.7]})]
    assert summarize(runs + elsewhere, facts, contestants) == []
    runs += [{**run, "seed": 1} for run in _records("b", {0.2: [0.8]})]
    one, two = summarize(runs + elsewhere, facts, contestants)
    assert (one.stream, one.model, one.fewer_seeds) == ("digits", "a", True)
    assert (two.stream, two.model, two.fewer_seeds) == ("digits", "b", False)
    assert two.value == pytest.approx(0.75)
    assert "50.0†" in quality_table([one, two]).rows[0][2].text


def test_one_slow_rival_does_not_keep_a_stream_out() -> None:
    names = ("a", "b", "c", "slow")
    facts = {**_FACTS, "Phishing": _FACTS["digits"]}
    runs = [run for name in names for run in _records(name, {None: [0.5]})]
    runs += [{**run, "stream": "Phishing"} for run in runs if run["model"] != "slow"]
    entries = summarize(runs, facts, [_contestant(name) for name in names])
    assert [entry.model for entry in entries] == [*names, "a", "b", "c"]
    assert [cell.text for cell in quality_table(entries).rows[1]][1:].count("–") == 1


def _entry(stream: str, model: str, metric: str, value: float, rank: float) -> Entry:
    return Entry(stream, model, metric, value, (value,), False, {}, False, rank, 1.0)


_STANDING = [
    _entry("digits", "ours", "Accuracy", 0.900, 2.0),
    _entry("digits", "a", "Accuracy", 0.905, 1.0),  # half a point: level
    _entry("Phishing", "ours", "Accuracy", 0.900, 2.0),
    _entry("Phishing", "a", "Accuracy", 0.906, 1.0),
    _entry("ChickWeights", "ours", "MAE", 10.0, 1.0),
    _entry("ChickWeights", "a", "MAE", 12.5, 2.0),
]


def test_gain_is_in_points_or_in_per_cent_of_the_best_error() -> None:
    found = gains(_STANDING, "ours")
    assert [gain.gain for gain in found] == pytest.approx([-0.5, -0.6, 20.0])
    assert [gain.level for gain in found] == [True, False, True]
    assert [format_gain(gain) for gain in found] == ["−0.50 points", "−0.60 points", "+20.0%"]
    assert gain_table(_STANDING, "ours").rows[0][4].best


def test_verdict_counts_streams_and_names_those_behind() -> None:
    assert verdict(_STANDING, "ours") == (
        "ours is the best or within 0.5 points of the best (regression: within 1% of the best MAE) "
        "on 2 of 3 streams; mean rank 1.7 (best: a, 1.3). Further behind on: Phishing (−0.60 points, a)."
    )
    alone = [entry for entry in _STANDING if entry.model == "ours"]
    assert verdict(alone, "ours") == ""


def test_versions_that_count_are_those_of_the_packages_used_and_our_source() -> None:
    before = {"versions": {"numpy": "1", "river": "1"}, "library": "a"}
    rival, ours = _contestant("rival"), replace(_contestant("ours"), ours=True)
    assert same_versions(rival, before, {"versions": {"numpy": "1", "river": "2"}, "library": "b"})
    assert not same_versions(rival, before, {"versions": {"numpy": "2", "river": "1"}, "library": "a"})
    assert not same_versions(ours, before, {"versions": {"numpy": "1", "river": "1"}, "library": "b"})


def test_runs_are_saved_as_they_come_and_kept_unless_the_samples_changed(tmp_path: Path) -> None:
    path, contestant = tmp_path / "quality.json", _contestant("a", 0.1, 0.2)
    first = Results("quality", path, _FACTS, [contestant], save_every=0.0)
    half, rest = _records("a", {0.2: [0.7]}), _records("a", {0.1: [0.6]})
    first.add(half[0])  # and here the program is interrupted

    second = Results("quality", path, _FACTS, [contestant])
    second.keep()
    assert second.has("digits", contestant, {"rate": 0.2}, 0)
    assert not second.has("digits", contestant, {"rate": 0.1}, 0)
    assert second.unfinished == ["digits"]
    second.add(rest[0])
    second.save()
    content = json.loads(path.read_text())
    assert [run["setting"]["rate"] for run in content["runs"]] == [0.1, 0.2]
    assert content["summary"][0]["value"] == 0.7

    for environment in content["environments"]:
        environment["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(content))
    upgraded = Results("quality", path, _FACTS, [contestant])
    upgraded.keep()
    assert not upgraded.has("digits", contestant, {"rate": 0.2}, 0)

    narrower = Results("quality", path, _FACTS, [_contestant("a", 0.1)])
    narrower.keep()
    assert narrower.entries()[0].value == 0.6
    other = Results(
        "quality", path, {"digits": {"task": "classification", "features": 64, "samples": 7}}, [contestant]
    )
    other.keep()
    assert not other.has("digits", contestant, {"rate": 0.2}, 0)
