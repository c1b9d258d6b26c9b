"""Saved models and data folders that version 0.1.0 wrote open, and learn on.

``make.py.txt`` beside the fixtures wrote them. What must be equal to the last bit, and what need not:

==================  =========================================================================
stored bits         Always equal: fingerprints of opened models, scores, branches, answers to
                    known ids, predictions that wait for their label.
"exact"             Models of the engine "compiled". Predictions, and what is learned on, are
                    the same to 1e-5: later versions sum in another order
                    (``docs/decisions/0022-the-order-of-sums.md``).
"close"             Models of the engines "autograd" and "graphed", which another engine may
                    run now. The same to 1e-4.
==================  =========================================================================

Two copies of what was opened have equal bits, whatever they learn.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor, nn

# Everything of the project that this module needs; these paths may move.
from bnp_online import BNPClassifier, BNPRegressor, load
from tests.support.running import serving

FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
FOLDERS: dict[str, Any] = EXPECTED["folders"]


#: Tolerance of numbers, absolute below 1 and relative above.
TOLERANCE = {"exact": 1e-5, "close": 1e-4}
#: Parts of an answer that name the versions, and the engine.
ABOUT_THE_PROGRAM = {"versions", "engine"}
#: Parts of an answer that are digests of bits.
DIGESTS = {"sha256", "model_sha256"}

Model = BNPClassifier | BNPRegressor


class Small(nn.Module):
    """Module of the models that were made with a module; ``make.py.txt`` has the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(self.first(x).tanh()).relu()
        return h


def differences(found: Any, expected: Any, tolerance: float, path: str = "") -> Iterator[str]:
    """Yield where two JSON values differ; later versions may add keys to an object.

    A tolerance of 0 demands equal bits; with another, digests of bits are left out.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() - ABOUT_THE_PROGRAM - (DIGESTS if tolerance else set()):
            if key in found:
                yield from differences(found[key], expected[key], tolerance, f"{path}.{key}")
            else:
                yield f"{path}.{key} is missing"
    elif isinstance(expected, list) and isinstance(found, list | tuple) and len(found) == len(expected):
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            yield from differences(ours, theirs, tolerance, f"{path}[{i}]")
    elif type(found) is float and type(expected) is float:
        if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{path}: {found!r}, not {expected!r}"
    elif type(found) is not type(expected) or found != expected:
        yield f"{path}: {found!r}, not {expected!r}"


def assert_same(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    assert list(differences(found, expected, tolerance)) == []


@contextmanager
def old_names() -> Iterator[None]:
    """Let a saved model name an engine that is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*engine.*", DeprecationWarning)
        yield


def opened(name: str) -> Model:
    """Return a saved model; one that names a GPU is opened on the CPU where there is none."""
    path = FIXTURES / "models" / f"{name}.bnp"
    network = Small() if name.endswith("-module") else None
    with old_names():
        if name != "graphed-cuda" or torch.cuda.is_available():
            return load(path, network=network)
        with pytest.warns(UserWarning, match="saved on cuda, which this machine does not have"):
            model = load(path)
        assert model.device_name == "cpu"
        return model


def predicted(model: Model, x: Any) -> Any:
    """Return the probabilities as pairs; of a regression the number, and the interval."""
    if isinstance(model, BNPClassifier):
        return [list(pair) for pair in model.predict_proba_one(x).items()]
    interval = model.predict_interval_one(x) if model.intervals else None
    return [model.predict_one(x), None if interval is None else list(interval)]


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_saved_model_opens_and_learns_on(name: str, tmp_path: Path) -> None:
    expected = EXPECTED["models"][name]
    allowed = TOLERANCE[expected["after_tail"]]
    model, twin = opened(name), opened(name)
    assert (model.step, model.fingerprint()) == (expected["step"], expected["fingerprint"])
    assert_same([predicted(model, x) for x in expected["probes"]], expected["predictions"], allowed)

    model.save(tmp_path / "again")
    network = Small() if name.endswith("-module") else None
    with old_names():
        assert load(tmp_path / "again", network=network).fingerprint() == expected["fingerprint"]

    for x, y in expected["tail"]:
        model.learn_one(x, y)
        twin.learn_one(x, y)
    assert_same(
        [predicted(model, x) for x in expected["probes"]], expected["predictions_after_tail"], allowed
    )
    assert model.fingerprint() == twin.fingerprint()


def ask(client: httpx.Client, request: dict[str, Any]) -> Any:
    """Return the answer to a request whose status is the one that was recorded."""
    answer = client.request(request["method"], request["path"], json=request["body"])
    assert answer.status_code == request["status"], answer.text
    return answer.json()


def rule_of(request: dict[str, Any], expected: dict[str, Any], model: str) -> float:
    """Return the tolerance of an answer.

    "stored" answers are read from the folder, "state" answers follow from the bits of the state, and
    "learned" answers are computed. Where the log goes on after the last checkpoint, so is the state.
    """
    if request["bits"] == "stored" or (request["bits"] == "state" and expected["stored"]):
        return 0.0
    return TOLERANCE[expected["models"][model]["learned"]]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_data_folder_opens_and_goes_on(folder: str, tmp_path: Path) -> None:
    expected, data = FOLDERS[folder], tmp_path / "data"
    shutil.copytree(FIXTURES / folder, data)
    with serving(data, label_ttl=1e10, checkpoint_every=25) as server:
        assert_same(server.client.get("/models").json(), expected["listed"])
        for model, of_model in expected["models"].items():
            events = server.client.get(f"/models/{model}/events?limit=1000").json()["events"]
            assert Counter(event["kind"] for event in events) == of_model["kinds"]
            for request in of_model["requests"]:
                found = ask(server.client, request)
                wrong = list(differences(found, request["answer"], rule_of(request, expected, model)))
                if wrong and wrong[0].startswith(".window.LogLoss"):  # version 0.1 did not bound a loss
                    assert found["window"]["LogLoss"] < request["answer"]["window"]["LogLoss"]
                    del wrong[0]
                assert not wrong, (request["method"], request["path"], request["body"], wrong)
