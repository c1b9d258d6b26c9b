"""The examples run, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from examples import fraud, images, sensor

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"


def test_frauds_are_found_though_labels_are_late() -> None:
    found = fraud.main(4000)
    assert found.keys() == {"at once", "500 late"}
    assert min(found.values()) > 0.75  # 0.5 is chance


def test_the_error_rises_with_the_drift_and_comes_down_again() -> None:
    errors = sensor.main(4000)
    assert errors[5] > 1.5 * errors[4]
    assert errors[9] < 0.6 * errors[5]


def test_images_are_learned_one_at_a_time() -> None:
    assert images.main(500) > 0.8


def test_an_example_is_run_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "examples.sensor"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heat pump" in done.stdout


def test_every_example_is_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    files = {file.name for file in (ROOT / "examples").iterdir() if file.suffix in (".py", ".ipynb")}
    assert files == {name for name in files if f"]({name})" in listed}


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def test_the_notebook_runs_and_plots(notebook: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not [output for output in outputs if output.output_type in ("stream", "error")]


def test_the_notebook_is_kept_without_outputs() -> None:
    kept = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in kept.cells)
