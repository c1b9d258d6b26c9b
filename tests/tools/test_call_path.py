"""Calls of one request, as `tools.call_path` counts them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.programs import ROOT
from tools.call_path import figures


def test_a_return_is_a_visit_to_a_module_after_its_first() -> None:
    assert figures("aabacb") == (6, 3, 2)
    assert figures("") == (0, 0, 0)


def test_it_counts_the_calls_of_a_request() -> None:
    """Upper bounds: what commit 1288187 needed."""
    command = [sys.executable, "-m", "tools.call_path", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
    found = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in found["passed"]} == {"service", "bnp_online"}
    counted = found["all threads"]
    assert 10 < counted["modules"] <= 40
    assert counted["modules"] < counted["calls"] <= 240
    assert found["event loop"]["calls"] <= counted["calls"]
