"""The program that takes the picture of the dashboard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.programs import DOCS, ROOT

pytestmark = pytest.mark.browser


def test_it_takes_the_picture_in_the_size_of_record(tmp_path: Path) -> None:
    out = tmp_path / "dashboard.png"
    command = [sys.executable, "-m", "tools.screenshot", "--samples", "60", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    with Image.open(out) as found, Image.open(DOCS / "images" / "dashboard.png") as of_record:
        assert found.size == of_record.size
        assert len(found.getcolors(256) or ()) > 8  # it is not blank
