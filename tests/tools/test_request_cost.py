"""Cost of a sample, as `tools.request_cost` measures it: a checkout against itself."""

from __future__ import annotations

import re
import sys

import pytest

from tests.support.programs import ROOT
from tools import request_cost


def test_it_measures_both_checkouts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request_cost, "_WARM_REQUESTS", 20)
    options = ["--here", str(ROOT), "--runs", "1", "--requests", "300", "--batches", "2"]
    monkeypatch.setattr(sys, "argv", ["request_cost", str(ROOT), *options])
    request_cost.main()
    printed = capsys.readouterr().out
    here, there = re.findall(r"JSON: ([\d.]+) µs a sample here, ([\d.]+) there", printed)[0]
    assert float(here) > 0.0
    assert float(there) > 0.0
    assert "lines: " in printed
