"""The entry point of the benchmarks: ``python -m benchmarks NAME``."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import PROGRAMS, main
from tests.support.programs import benchmark


def test_without_a_name_it_lists_the_programs() -> None:
    listed = benchmark().stdout
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ")] == list(PROGRAMS)
    assert benchmark("--help").stdout == listed


def test_an_unknown_name_is_a_usage_error_that_lists_the_programs() -> None:
    error = benchmark("nonsense", code=2).stderr
    assert "unknown program 'nonsense'" in error
    assert all(name in error for name in PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_describes_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m benchmarks {name} " in capsys.readouterr().out


def test_record_sets_the_files_of_the_results_of_record(capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in ("mlp", "conv", "cost"):
        with pytest.raises(SystemExit):
            main(["paper", experiment, "--help"])
        assert f"paper_{experiment}.json" in " ".join(capsys.readouterr().out.split())
