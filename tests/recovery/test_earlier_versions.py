"""Saved models and data folders that version 0.1.0 wrote open as they were (`tests/fixtures/0.1.0`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bnp_online as bnp
from service.models.snapshot import processor, versions
from tests.support.server_process import restartable

FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
#: Models of the engine that the torch engine replaces: what they learn now is equal to 1e-4.
OTHER_ENGINE = ("images", "autograd-")

pytestmark = pytest.mark.filterwarnings("ignore:.*engine.*:DeprecationWarning")


def same_machine() -> bool:
    """Whether learning gives the bits of the fixtures: see docs/durability.md."""
    ours, theirs = versions(), dict(EXPECTED["versions"])
    del theirs["bnp-online"]
    return processor() == EXPECTED["processor"] and all(ours[name] == theirs[name] for name in theirs)


def close(found: Any, expected: Any, tolerance: float) -> bool:
    """Compare predictions: numbers, or probabilities as pairs."""
    if isinstance(expected, list):
        return [label for label, _ in found] == [label for label, _ in expected] and all(
            abs(p - q) <= tolerance for (_, p), (_, q) in zip(found, expected, strict=True)
        )
    return bool(abs(found - expected) <= tolerance * max(1.0, abs(expected)))


def predict(model: Any, x: Any) -> Any:
    if isinstance(model, bnp.BNPClassifier):
        return [list(pair) for pair in model.predict_proba_one(x).items()]
    return model.predict_one(x)


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_saved_model_opens_with_its_bits_and_learns_on(name: str) -> None:
    expected = EXPECTED["models"][name]
    model = bnp.load(FIXTURES / "models" / f"{name}.bnp")
    assert (model.step, model.fingerprint()) == (expected["step"], expected["fingerprint"])
    tolerance = 1e-4 if name.startswith(OTHER_ENGINE) else 1e-6
    for (x, _), prediction in zip(expected["tail"], expected["predictions"], strict=False):
        assert close(predict(model, x), prediction, tolerance)
    for x, y in expected["tail"]:
        model.learn_one(x, y)
    if same_machine() and not name.startswith(OTHER_ENGINE):
        assert model.fingerprint() == expected["fingerprint_after_tail"]
    for (x, _), prediction in zip(expected["tail"], expected["predictions_after_tail"], strict=False):
        assert close(predict(model, x), prediction, tolerance)


@pytest.fixture(scope="module", params=["stopped", "killed"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server on a copy of a data folder, and what it must answer."""
    folder = tmp_path_factory.mktemp("earlier") / "data"
    shutil.copytree(FIXTURES / request.param, folder)
    with restartable(folder, BNP_LABEL_TTL="1e10") as server:
        server.start()
        yield server, EXPECTED[request.param], request.param


@pytest.mark.parametrize("name", EXPECTED["stopped"])
def test_a_data_folder_opens_with_its_bits_scores_and_pending_predictions(opened: Any, name: str) -> None:
    server, expected, how = opened[0], opened[1][name], opened[2]
    client = server.client
    exact = how == "stopped" or (same_machine() and not name.startswith(OTHER_ENGINE))
    found = client.get(f"/models/{name}/fingerprint").json()
    assert found["step"] == expected["step"] == expected["fingerprint"]["step"]
    if exact:
        assert found == expected["fingerprint"]
        assert client.get(f"/models/{name}/metrics").json() == expected["scores"]
    scores = client.get(f"/models/{name}/metrics").json()["cumulative"]
    for metric, value in expected["scores"]["cumulative"].items():
        assert scores[metric] == pytest.approx(value, rel=1e-4)
    for x, before in zip(expected["probe"], expected["predictions"], strict=True):
        now = client.post("/predict", json={"model": name, "x": x}).json()
        assert now["step"] == before["step"]
        if "probabilities" in before:
            assert now["probabilities"] == pytest.approx(before["probabilities"], abs=1e-4)
        else:
            assert now["prediction"] == pytest.approx(before["prediction"], rel=1e-4)


@pytest.mark.parametrize("name", EXPECTED["stopped"])
def test_ids_and_pending_predictions_of_a_data_folder_are_known(opened: Any, name: str) -> None:
    server, expected, _ = opened[0], opened[1][name], opened[2]
    client, step = server.client, expected["step"]
    if name == "classes":
        again = client.post("/learn", json={"model": name, "x": {}, "y": "cat", "id": expected["known"]})
        assert again.json()["error"]["code"] == "id_conflict"
    for i, identifier in enumerate(expected["open"], start=1):
        answer = client.post("/label", json={"model": name, "id": identifier, "y": expected["label"]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["step"] == step + i
    twice = client.post("/label", json={"model": name, "id": expected["open"][0], "y": expected["label"]})
    assert twice.json()["error"]["code"] == "already_labelled"
