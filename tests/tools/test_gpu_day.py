"""The program for the day on which there is a GPU: it runs without one, and its stages on a simulated one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.server_process import wait_until
from tools import gpu_day
from tools.gpu_day import Stage


def summary(out: Path) -> dict[str, Any]:
    return {each.pop("stage"): each for each in json.loads((out / "summary.json").read_text())}


def runs(number: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        return ") Z " not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_day.main(["--out", str(tmp_path)]) == 0
    found = summary(tmp_path)
    assert [*found] == [stage.name for stage in gpu_day.stages(tmp_path)]
    assert found.pop("inventory")["exit"] == 0
    assert {json.dumps(each) for each in found.values()} == {'{"skipped": "no CUDA device"}'}
    log = (tmp_path / "gpu_day.log").read_text()
    assert f"torch {torch.__version__}" in log
    assert "torch sees no CUDA device: the other stages do not run" in log
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(found)


def test_a_stage_that_fails_or_hangs_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary is there after each stage; a process that a stage has started ends with it."""
    number = tmp_path / "number"
    write = f"pathlib.Path({str(number)!r}).write_text(str(os.getpid()))"
    child = f"import os, pathlib, time; {write}; time.sleep(99)"
    hang = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    made = [
        Stage("inventory", 60, ["-c", "raise SystemExit(7)"]),
        Stage("hangs", 1, ["-c", f"print('begun'); {hang}"]),
        Stage("reads", 60, ["-c", f"print(open({str(tmp_path / 'summary.json')!r}).read())"]),
        Stage("real", 60, ["-c", "raise SystemExit(1)"], real=True),
    ]
    monkeypatch.setattr(gpu_day, "stages", lambda out: made)
    found = gpu_day.run(tmp_path, 600, [], simulated=True)
    assert [each.get("exit", each.get("skipped")) for each in found] == [
        7,
        "took too long",
        0,
        "needs a real one",
    ]
    assert '"exit": "took too long"' in (tmp_path / "gpu_day.log").read_text()
    wait_until(lambda: not runs(int(number.read_text())))
    assert [each.get("skipped") for each in gpu_day.run(tmp_path, 1, ["inventory"], simulated=True)] == [
        "no time left"
    ]


@pytest.mark.parametrize("stage", ["smoke", "server"])
def test_a_stage_runs_on_a_simulated_gpu(stage: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.gpu_day", "--simulated", "--only", stage, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    log = (tmp_path / "gpu_day.log").read_text()
    assert done.returncode == 0, log
    expected = {
        "smoke": "equal bits twice: True",
        "server": "15 samples, 0 refused",
    }
    assert expected[stage] in log
