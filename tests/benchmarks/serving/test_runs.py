"""`python -m benchmarks runs` measures samples that are stored alone and in runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving import runs
from tests.support.postgres import PostgresServer


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_each_log_and_form_is_measured(request: pytest.FixtureRequest, tmp_path: Path, store: str) -> None:
    options = ["--repeats", "2", "--out", str(tmp_path / "runs.json")]
    if store == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        options += ["--url", server.url(server.schema())]
    runs.main(options)
    times = json.loads((tmp_path / "runs.json").read_text())["times"]
    assert list(times) == ["sqlite", "postgres"][: 1 + (store == "postgres")]
    for forms in times.values():
        assert len(forms) == 4
        assert all(each["commit"] > 0.0 < each["read"] for each in forms.values())
