"""The flavour of MLflow: what is logged is loaded with the same bits, and predicts as a pyfunc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import pytest
from torch import nn

import bnp_online as bnp
import bnp_online.mlflow

ROWS = pd.DataFrame(
    {"a": [0.5 * i for i in range(12)], "b": [1.0, None, -2.0] * 4, "city": ["Lund", "Oslo"] * 6}
)


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store of runs in a folder of the test; nothing is sent anywhere."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more of MLflow
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    yield
    mlflow.set_tracking_uri(before)


def trained(kind: type[bnp.BNPClassifier] | type[bnp.BNPRegressor]) -> bnp.BNPClassifier | bnp.BNPRegressor:
    model = kind(hidden=(6,), replay=1, memory=50, device="cpu")
    labels = ["x", "y", "z"] * 4 if kind is bnp.BNPClassifier else [i / 7 for i in range(12)]
    model.learn_many(ROWS, pd.Series(labels))
    return model


@pytest.mark.parametrize("kind", [bnp.BNPClassifier, bnp.BNPRegressor])
def test_what_is_logged_is_loaded_and_predicts(
    tracking: None, kind: type[bnp.BNPClassifier] | type[bnp.BNPRegressor]
) -> None:
    model = trained(kind)
    with mlflow.start_run():
        logged = bnp_online.mlflow.log_model(model, "learner")
    again = bnp_online.mlflow.load_model(logged.model_uri)
    assert again.fingerprint() == model.fingerprint()
    for each in (model, again):
        each.learn_many(
            ROWS[:3], pd.Series(["x", "y", "z"] if kind is bnp.BNPClassifier else [1.0, 2.0, 3.0])
        )
    assert again.fingerprint() == model.fingerprint()
    predicted = mlflow.pyfunc.load_model(logged.model_uri).predict(ROWS)
    assert list(predicted) == list(trained(kind).predict_many(ROWS))


def test_a_folder_names_its_flavours(tracking: None, tmp_path: Path) -> None:
    model = trained(bnp.BNPClassifier)
    bnp_online.mlflow.save_model(model, tmp_path / "saved", metadata={"stream": "elec2"})
    found = mlflow.models.Model.load(str(tmp_path / "saved"))
    assert found.flavors.keys() == {"python_function", "bnp_online"}
    assert found.metadata == {"stream": "elec2"}
    required = (tmp_path / "saved" / "requirements.txt").read_text().split()
    assert f"bnp-online=={bnp.__version__}" in required
    assert bnp_online.mlflow.load_model(str(tmp_path / "saved")).fingerprint() == model.fingerprint()


def test_a_head_is_loaded_with_its_backbone(tracking: None, tmp_path: Path) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    backbone = bnp.save_backbone(tmp_path / "body.safetensors", body, (2, 2))
    model = bnp.BNPClassifier(backbone=backbone, hidden=(4,), device="cpu")
    model.learn_one([[1.0, 2.0], [3.0, 4.0]], "x")
    bnp_online.mlflow.save_model(model, tmp_path / "saved")
    again = bnp_online.mlflow.load_model(str(tmp_path / "saved"), backbone=backbone)
    assert again.fingerprint() == model.fingerprint()
    with pytest.raises(bnp.errors.BackboneError, match="pass backbone="):
        bnp_online.mlflow.load_model(str(tmp_path / "saved"))
