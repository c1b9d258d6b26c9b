"""The benchmark of the Hessian's condition: it runs, and what it draws is what it found."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.paper import conditioning
from tests.support.programs import DOCS, RESULTS


def test_it_writes_table_json_and_figure(tmp_path: Path) -> None:
    out, page = tmp_path / "conditioning.json", tmp_path / "page.md"
    page.write_text("<!-- conditioning:begin -->\nold\n<!-- conditioning:end -->\n")
    sizes = ["--samples", "40", "--steps", "4", "--points", "3", "--seeds", "0", "--width", "4"]
    conditioning.main([*sizes, "--out", str(out), "--markdown", str(page)])
    content = json.loads(out.read_text())
    assert list(content["methods"]) == ["plain SGD", "BN", "BNP"]
    for result in content["methods"].values():
        assert result["lr"] in conditioning.RATES
        (curve,) = result["curves"]
        assert [point["step"] for point in curve] == [0, 1, 4]
        assert all(point[key] >= 1.0 for point in curve for key in ("whole", "layer", "unevenness"))
    assert (
        content["methods"]["plain SGD"]["curves"][0][0]["loss"]
        == content["methods"]["BNP"]["curves"][0][0]["loss"]
    )
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "old" not in page.read_text()
    assert conditioning.table(content["methods"]).markdown() in page.read_text()


def test_the_page_shows_the_results_of_record() -> None:
    content = json.loads((RESULTS / "conditioning.json").read_text())
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    assert conditioning.table(content["methods"]).markdown() in page
