"""Programs of the page for users of torch, each in a process of its own; that of several processes in two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, ROOT, blocks

_PROGRAM = re.compile(r"^## (.+?)$.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = dict(_PROGRAM.findall((DOCS / "how-to" / "torch.md").read_text(encoding="utf-8")))


def test_each_program_of_the_page_is_run() -> None:
    found = [block.text for block in blocks(DOCS / "how-to" / "torch.md") if block.language == "python"]
    assert found == [*PROGRAMS.values()]
    assert len(found) == 5


@pytest.mark.parametrize("heading", PROGRAMS)
def test_it_learns(heading: str, tmp_path: Path) -> None:
    program = PROGRAMS[heading]
    # The loss of a network that has learned nothing is that of y = 0, or more: 1 ± 0.1.
    (tmp_path / "train.py").write_text("import torch\ntorch.manual_seed(3)\n" + program)
    command = [sys.executable, "train.py"]
    if "init_process_group" in program:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (loss,) = re.findall(r"^loss (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert float(loss) < 1.0
