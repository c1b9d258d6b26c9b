"""What a start must not wait for: packages that take as long to import as the rest together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import service.__main__, service.app
from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluation.prequential import PrequentialMetrics

service.app.create_app()
learners = (BNPClassifier((3,)), "classification", "abab"), (BNPRegressor((3,)), "regression", [1.0, 2.0])
for model, task, targets in learners:
    score = PrequentialMetrics(task)
    for i, y in enumerate(targets):
        (outcome,) = model.learn_samples([model.preview().check({"a": float(i), "b": 2}, y)])
        score.update(y, *outcome)
    score.report()
needless = {"matplotlib", "pandas", "river.metrics", "river.stream", "sklearn", "sympy"}
print(*sorted(needless & sys.modules.keys()))
"""


def test_a_server_imports_no_package_that_it_does_not_need() -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
