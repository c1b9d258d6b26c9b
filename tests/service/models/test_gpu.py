"""Models on simulated GPUs: which device a model has, and what is left after the GPU fails or is full.

A model on the simulated GPU has the bits of the same engine on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import bnp_online as bnp
from bnp_online import DeviceMemoryError
from service.models.ending import DEVICE_FAILED
from service.models.recovery import open_folder, start_failure
from service.settings import Settings
from tests.support.exposition import samples, text_of
from tests.support.running import Json, Server, error, serving
from tests.support.server_process import RestartableServer, logged, restartable
from tests.support.simulated_cuda import SimulatedGPU, simulated_cuda

SPEC: Json = {"hidden": [6], "replay": 1, "memory": 50}
LINES, BYTES = {"content-type": "application/x-ndjson"}, {"content-type": "application/octet-stream"}


def sample(i: int, columns: int = 3) -> tuple[Json, str]:
    rng = random.Random(i)  # noqa: S311
    x = {f"f{j}": rng.gauss(0.0, 1.0) for j in range(columns)}
    return x, "high" if x["f0"] > x["f1"] else "low"


def twin(**changes: Any) -> bnp.BNPClassifier:
    """The same model in this process, on the CPU."""
    spec = {**SPEC, "engine": "torch", "device": "cpu", **changes}
    return bnp.BNPClassifier(**{**spec, "hidden": tuple(spec["hidden"])})


def same(server: Server, local: bnp.BNPClassifier, model: str = "default") -> bool:
    return bool(server.fingerprint(model)["model_sha256"] == local.fingerprint())


@pytest.fixture
def server(tmp_path: Path, simulated_gpu: SimulatedGPU) -> Iterator[Server]:
    with serving(tmp_path / "data", device="cuda", default_model=json.dumps(SPEC)) as running:
        yield running


# --- which device a model has


@pytest.mark.simulated
def test_models_on_gpus_and_on_the_cpu_share_a_server(server: Server, simulated_gpu: SimulatedGPU) -> None:
    names = {"auto": "cpu", "cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    for device, used in names.items():
        made = server.create(name=device.replace(":", "-"), device=device, **SPEC)
        assert (made["device"], made["spec"]["device"]) == (used, device)
    assert server.get("/models/default")["device"] == "cuda:0"  # of the settings
    local = twin()
    for i in range(20):
        x, y = sample(i)
        local.learn_one(x, y)
        for model in ("default", *(name.replace(":", "-") for name in names)):
            server.learn(x, y, model=model)
    for model in ("default", "cuda", "cuda-1"):
        assert same(server, local, model)
    assert {0, 1} == {*simulated_gpu.entered}
    found = samples(text_of(server))
    assert found["bnp_model_gpu_captures_total", frozenset({("model", "cuda-1")})] > 2
    assert found["bnp_model_gpu_rows_total", frozenset({("model", "cuda-1")})] >= 20
    assert found["bnp_model_gpu_seconds_total", frozenset({("model", "cuda-1")})] > 0.0
    assert found["bnp_model_gpu_capture_seconds_total", frozenset({("model", "cuda-1")})] > 0.0
    assert not any(("model", "cpu") in labels for name, labels in found if "_gpu_" in name)
    for device in ("cuda:0", "cuda:1"):
        values = [
            found["bnp_gpu_memory_bytes", frozenset({("device", device), ("memory", kind)})]
            for kind in ("allocated", "reserved", "free", "total")
        ]
        assert values == [2**30, 2**31, 2**30, 2**32]


@pytest.mark.simulated
@pytest.mark.parametrize("device", ["cuda:7", "cuda:", "tpu", 1])
def test_a_device_that_the_machine_does_not_have_is_refused(server: Server, device: Any) -> None:
    status, code, field = error(server.post("/models", name="other", device=device))
    assert (status, code, field) == (422, "invalid_spec", "device")
    assert [each["name"] for each in server.get("/models")["models"]] == ["default"]


def test_a_model_of_a_gpu_goes_on_where_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a checkpoint and the log; and back to the GPU."""
    local = twin()
    folder, spec = tmp_path / "data", json.dumps({**SPEC, "device": "cuda:1"})

    def learn(server: Server, numbers: range) -> None:
        for i in numbers:
            x, y = sample(i)
            server.learn(x, y)
            local.learn_one(x, y)

    with simulated_cuda(), serving(folder, default_model=spec) as server:
        learn(server, range(10))
        assert server.get("/models/default")["device"] == "cuda:1"
        assert same(server, local)
        state = server.fingerprint()
    with serving(folder, log_level="warning") as server:
        assert server.get("/models/default")["device"] == "cpu"
        assert server.get("/models/default")["spec"]["device"] == "cuda:1"
        assert server.fingerprint() == state
        server.learn(*sample(10))
        exported = server.client.get("/models/default/export").content
    assert "this machine has no device cuda:1: auto is used" in caplog.text
    assert "gpu simulated GPU → None" in caplog.text
    with simulated_cuda(), serving(folder) as server:
        assert server.get("/models/default")["device"] == "cuda:1"
        assert server.get("/models/default")["step"] == 11
        put = server.client.put("/models/default/import", content=exported, headers=BYTES)
        assert put.status_code == 200
        assert server.get("/models/default")["device"] == "cuda:1"  # not that of the file


# --- a GPU without free memory


def wide(i: int) -> Json:
    """A sample with so many new features that the model needs more memory."""
    return {f"new {i} {j}": 1.0 for j in range(60)}


@pytest.mark.simulated
def test_a_full_gpu_refuses_what_needs_more_memory_and_loses_nothing(
    server: Server, simulated_gpu: SimulatedGPU, tmp_path: Path
) -> None:
    local = twin()
    for i in range(12):
        server.learn(*sample(i))
        local.learn_one(*sample(i))
    simulated_gpu.exhausted = True
    before = server.fingerprint()
    refused = server.post("/learn", x=wide(0), y="high", id="wide")
    assert error(refused) == (503, "device_memory_full", None)
    assert "cuda:0 has too little free memory" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    assert error(server.post("/models", name="other", **SPEC)) == (503, "device_memory_full", None)
    assert server.fingerprint() == before
    for i in range(12, 20):  # the model goes on
        assert server.learn(*sample(i))["step"] == i + 1
        local.learn_one(*sample(i))
        server.predict(sample(i)[0])
    body = b"".join(
        json.dumps({"x": x, "y": y}).encode() + b"\n"
        for x, y in [sample(20), (wide(1), "low"), sample(21), (wide(2), "low"), *map(sample, range(22, 60))]
    )
    answered = server.client.post("/learn", content=body, headers=LINES).text
    lines = [json.loads(line) for line in answered.splitlines()]
    assert [line["error"]["code"] for line in lines if "error" in line] == ["device_memory_full"] * 2
    assert [line["step"] for line in lines if "step" in line] == list(range(21, 61))
    for i in range(20, 60):
        local.learn_one(*sample(i))
    assert same(server, local)
    simulated_gpu.exhausted = False
    learned = server.learn(wide(0), "high", id="wide")
    assert (learned["step"], learned["duplicate"]) == (61, False)
    local.learn_one(wide(0), "high")
    assert same(server, local)
    assert [row[3] for row in logged(tmp_path / "data") if row[3] is not None] == ["device_memory_full"] * 3


@pytest.mark.simulated
def test_a_restart_on_a_full_gpu_loses_nothing(tmp_path: Path, simulated_gpu: SimulatedGPU) -> None:
    """The recovery refuses no sample: the server does not start, and does later."""
    local, folder = twin(), tmp_path / "data"
    with serving(folder, device="cuda", default_model=json.dumps(SPEC)) as server:
        for i in range(12):
            server.learn(*sample(i))
            local.learn_one(*sample(i))
        state = server.fingerprint()
    simulated_gpu.exhausted = True
    settings = Settings(data_dir=folder, device="cuda")
    with pytest.raises(DeviceMemoryError) as refused:
        open_folder(settings)
    assert "end other programs that use the GPU" in start_failure(refused.value, settings)
    simulated_gpu.exhausted = False
    with serving(folder, device="cuda") as server:
        assert server.fingerprint() == state
        simulated_gpu.exhausted = True  # neither is captured yet
        assert error(server.post("/predict", x=sample(0)[0])) == (503, "device_memory_full", None)
        assert error(server.post("/learn", x=sample(0)[0], y="low")) == (503, "device_memory_full", None)
        assert server.fingerprint() == state
        simulated_gpu.exhausted = False
        expected = local.predict_proba_one(sample(3)[0])
        assert server.predict(sample(3)[0])["probabilities"] == pytest.approx(expected)


# --- a GPU that failed


PREFIX = """
from pathlib import Path
from tests.support.simulated_cuda import install
install(faults=Path({faults!r}))
"""


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[RestartableServer]:
    faults = str(tmp_path / "faults")
    settings = {"BNP_DEVICE": "cuda", "BNP_DEFAULT_MODEL": json.dumps(SPEC)}
    with restartable(tmp_path / "data", PREFIX.format(faults=faults), **settings) as server:
        yield server


def test_after_a_sticky_error_the_server_ends_and_the_log_restores_everything(
    ending: RestartableServer, tmp_path: Path
) -> None:
    faults, local = tmp_path / "faults", twin()
    client = ending.start()
    assert client.post("/models", json={"name": "beside", "device": "cpu", **SPEC}).status_code == 201

    def learn(i: int, model: str = "default") -> httpx.Response:
        x, y = sample(i)
        return client.post("/learn", json={"x": x, "y": y, "id": f"s{i}", "model": model})

    for i in range(15):
        assert learn(i).json()["step"] == i + 1
        assert learn(i, "beside").json()["step"] == i + 1
        local.learn_one(*sample(i))
    assert client.get("/models/default/fingerprint").json()["model_sha256"] == local.fingerprint()
    faults.write_text("sticky")
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda i: answer_of(lambda: learn(i)), range(15, 23))]
    for answer in answers:  # or the connection ended
        assert answer is None or (answer.status_code, answer.json()["error"]["code"]) in (
            (503, "device_failed"),
            (503, "outcome_unknown"),
        )
    assert any(answer is not None for answer in answers)
    assert ending.running.wait() == DEVICE_FAILED == 75
    client.close()
    said = "".join(ending.running.lines)
    assert "the server ends with exit code 75: cuda:0 failed: CUDA error: an illegal memory access" in said
    assert "delete" not in said

    ending.launch()  # while the GPU fails, as a supervisor does
    assert ending.running.wait() == DEVICE_FAILED
    assert "The server cannot start: cuda:0 failed" in "".join(ending.running.lines)

    faults.unlink()
    client = ending.start()
    assert client.get("/models/beside").json()["step"] == 15
    inherited = [row[1] for row in logged(tmp_path / "data")[16:]]  # of requests without an answer
    for name in inherited:
        local.learn_one(*sample(int(str(name)[1:])))
    state = client.get("/models/default/fingerprint").json()
    assert (state["step"], state["model_sha256"]) == (15 + len(inherited), local.fingerprint())
    for i in range(23):
        assert learn(i).json()["duplicate"] is (i < 15 or f"s{i}" in inherited)
    assert client.get("/models/default").json()["step"] == 23
    assert ending.terminate() == 0


def answer_of(send: Any) -> httpx.Response | None:
    """Return the response, None if the connection ended before it."""
    answer: httpx.Response | None = None
    with contextlib.suppress(httpx.TransportError):
        answer = send()
    return answer


def test_a_failed_gpu_refuses_a_prediction(ending: RestartableServer, tmp_path: Path) -> None:
    client = ending.start()
    for i in range(3):
        x, y = sample(i)
        assert client.post("/learn", json={"x": x, "y": y}).status_code == 200
    (tmp_path / "faults").write_text("sticky")
    answer = client.post("/predict", json={"x": sample(0)[0]})
    assert error(answer) == (503, "device_failed", None)
    assert np.isfinite(float(answer.headers["retry-after"]))
    assert ending.running.wait() == DEVICE_FAILED


def test_a_device_of_the_settings_that_is_missing_prevents_the_start(tmp_path: Path) -> None:
    with restartable(tmp_path / "data", BNP_DEVICE="cuda") as server:
        assert "BNP_DEVICE is cuda: torch sees no CUDA device: use 'cpu' or 'auto'" in server.refusal()
