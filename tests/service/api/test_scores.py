"""Scores over no samples are null: of a new model, and after a rollback to step 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.running import Json, Server

NAMES = {"classification": {"Accuracy", "MacroF1", "LogLoss"}, "regression": {"MAE", "RMSE", "R2"}}


def values(shown: Any) -> Iterator[Any]:
    """Yield the scores in a part of an answer."""
    for name, value in shown.items():
        if isinstance(value, dict):
            yield from values(value)
        elif name not in ("n", "size"):
            yield value


def require_null(server: Server, model: str, task: str) -> None:
    scores = server.get(f"/models/{model}/metrics")
    assert (scores["n"], scores["window"]["n"]) == (0, 0)
    assert scores["cumulative"].keys() == NAMES[task]
    assert {*values(scores)} == {None}
    shown = server.get(f"/models/{model}/dashboard")
    assert {*values(shown["scores"]), *values(shown["baselines"])} == {None}
    assert {*server.get(f"/api/metrics/?model={model}").values()} == {None}
    series = [line for line in server.client.get("/metrics").text.splitlines() if f'model="{model}"' in line]
    assert not [line for line in series if line.startswith(("bnp_model_score", "bnp_model_baseline_score"))]


@pytest.mark.parametrize("task", NAMES)
def test_scores_over_no_samples_are_null(server: Server, task: str) -> None:
    model = f"new-{task}"
    server.create(name=model, task=task)
    server.post(f"/models/{model}/checkpoints")
    require_null(server, model, task)
    for i in range(4):
        server.learn({"a": i}, i % 2, model=model)
    learned: Json = server.get(f"/models/{model}/metrics")
    assert None not in values(learned)
    assert server.post(f"/models/{model}/rollback", step=0).status_code == 200
    require_null(server, model, task)
