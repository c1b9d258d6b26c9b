"""``python -m tools.gpu_day --out DIR``: all that only a GPU can show, in ten minutes.

Each stage is a process with a time limit. A stage that fails or takes too long is noted, and the next one
runs. After each stage ``summary.json`` is written anew; ``gpu_day.log`` has what the stages print, as they
print it. Without a GPU only the inventory runs, and the summary says so.

| stage | content |
|---|---|
| inventory | packages, card, driver |
| smoke | each kind of learner: against the CPU in float64, equal bits twice, memory |
| workspaces | a model learns beside others that come and go: its bits are those of the model alone |
| latency | time of captures, of one prediction, of one sample, and of 64 |
| tests | the tests with the mark `cuda` |
| together | `python -m benchmarks together`: many small models in one launch |
| small, large | `python -m benchmarks gpu`, on networks S to XL, and on XXL |
| server | a server with a model on the GPU: samples a second, then a kill and a restart |

Afterwards: add the figures to docs/benchmarks.md with the name of the card, and set `GPU_WORK` in
bnp_online/engines/choice.py to what the benchmark prints.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: Seconds that a stage needs at least to be worth its start.
_LEAST = 10.0
#: Factor of sizes and numbers of rows; less than 1 on a simulated GPU.
_scale = 1.0


def _scaled(count: int) -> int:
    return max(2, round(count * _scale))


class Stage(NamedTuple):
    """A stage: name, time limit in seconds, arguments of Python, whether it needs a real GPU."""

    name: str
    limit: float
    command: list[str]
    real: bool = False


def stages(out: Path) -> list[Stage]:
    """Return the stages in their order: what matters most comes first."""

    def own(name: str, limit: float) -> Stage:
        return Stage(name, limit, ["-m", "tools.gpu_day", "--stage", name, "--out", str(out)])

    def benchmark(name: str, limit: float, *networks: str) -> Stage:
        where = ["--out", str(out / f"{name}.json"), "--repeats", "5", "--seconds", "0.2"]
        return Stage(name, limit, ["-m", "benchmarks", "gpu", *where, "--networks", *networks], real=True)

    many = ["--device", "cuda", "--models", "200", "--rounds", "5", "--out", str(out / "together.json")]
    tests = ["-m", "pytest", "-q", "-m", "cuda", "-n", "6", "-p", "no:cacheprovider", "--timeout=120"]
    return [
        own("inventory", 40),
        own("smoke", 80),
        own("server", 60),
        own("workspaces", 60),
        own("latency", 45),
        benchmark("small", 90, "S", "M", "L", "XL"),
        Stage("tests", 150, [*tests, "tests/bnp_online"], real=True),
        Stage("together", 60, ["-m", "benchmarks", "together", *many], real=True),
        benchmark("large", 90, "XXL"),
    ]


def run(out: Path, seconds: float, names: Sequence[str], *, simulated: bool) -> list[dict[str, Any]]:
    """Run stages one after another; return the summary.

    Parameters
    ----------
    out : path
        Folder for the log, the summary and the results.
    seconds : float
        Time for all stages.
    names : sequence of str
        The stages to run; all if there are none.
    simulated : bool
        Whether to simulate a GPU, to test this program. The stages that need a real one are left out.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    end, summary = time.monotonic() + seconds, list[dict[str, Any]]()
    device = torch.cuda.is_available()
    extra = ["--simulated"] if simulated else []

    def note(**result: Any) -> None:
        summary.append(result)
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result), flush=True)

    with (out / "gpu_day.log").open("w", encoding="utf-8") as log:
        for stage in stages(out):
            left = end - time.monotonic()
            if names and stage.name not in names:
                continue
            if stage.name != "inventory" and not (device or (simulated and not stage.real)):
                note(stage=stage.name, skipped="no CUDA device" if not simulated else "needs a real one")
            elif left < _LEAST:
                note(stage=stage.name, skipped="no time left")
            else:
                own = [*stage.command, *(extra if "tools.gpu_day" in stage.command else [])]
                limit = stage.limit * (4 if simulated else 1)
                note(stage=stage.name, **_timed(own, min(limit, left), log, stage.name))
    return summary


def _timed(command: list[str], limit: float, log: Any, name: str) -> dict[str, Any]:
    """Run a command of Python; return its exit code, or that it took too long, and its duration."""
    log.write(f"\n===== {name}\n")
    log.flush()
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        code: int | str = child.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # its own processes too: they would hold the GPU
        child.wait()
        code = "took too long"
    return {"exit": code, "seconds": round(time.monotonic() - start, 1)}


def inventory(out: Path) -> None:
    """Print versions, the card and the driver."""
    import torch

    names = "torch triton numpy numba river safetensors pytest pytest-timeout pytest-xdist rich httpx uvicorn"
    for name in names.split():
        try:
            print(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            print(name, "is missing")
    print("python", sys.version)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: the other stages do not run")
        return
    from bnp_online.engines import devices

    print(devices.environment("cuda:0"), devices.memory("cuda:0"), "devices:", torch.cuda.device_count())
    try:
        print(subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout)  # noqa: S607 (in PATH)
    except (OSError, subprocess.CalledProcessError) as error:
        print("nvidia-smi:", error)


def _specs() -> dict[str, Any]:
    """Return a specification of each kind of learner, with rates that do not amplify rounding."""
    from bnp_online.engines.base import LearnerSpec

    one = LearnerSpec(task="classification", hidden=(32, 16), lr=0.03, replay=0, memory=200, seed=3)
    image = replace(one, network="cnn", input_shape=(2, 8, 8), hidden=(16,))
    auto = replace(one, lr="auto", replay=2)
    specs = {"one network": one, "linear": replace(one, hidden=()), "cnn": image, "default": auto}
    specs["first generation"] = replace(auto, learner=1)
    specs |= {
        f"{name}, regression": replace(spec, task="regression", hidden=spec.hidden)
        for name, spec in list(specs.items())
    }
    return specs


def _made(spec: Any, **options: Any) -> Any:
    from bnp_online.engines.torch_engine import TorchEngine

    engine = TorchEngine(spec, **options)
    names = [] if spec.input_shape else [f"f{i}" for i in range(6)]
    engine.grow(names, 3 if spec.task == "classification" else 1)
    return engine


def _rows(spec: Any, count: int, seed: int = 0) -> Any:
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, size=(count, *(spec.input_shape or (6,))))
    score = x.reshape(count, -1)[:, 0] + 0.3 * rng.normal(size=count)
    y = np.digitize(score, [1.0, 3.0]).astype(np.float64) if spec.task == "classification" else score
    return x, y, np.ones(count)


def smoke(out: Path) -> None:
    """Compare each kind of learner with the CPU in float64, and with itself in float32."""
    import torch

    for name, spec in list(_specs().items())[: _scaled(40)]:
        start = time.perf_counter()
        exact, reference = (_made(spec, device=d, dtype=torch.float64) for d in ("cuda", "cpu"))
        one, two = (_made(spec, device="cuda") for _ in range(2))
        for engine in (exact, reference, one, two):
            rows = _rows(spec, _scaled(200))
            if engine.learn(*rows)[0] != len(rows[0]):
                raise SystemExit(f"{name}: a sample was refused")
        expected = reference.state_dict()
        worst = max(_difference(value, expected[key]) for key, value in exact.state_dict().items())
        equal = _equal(one, two)
        activity, seconds = one.activity, time.perf_counter() - start
        print(
            f"{name:30} off the CPU by {worst:.1e}; equal bits twice: {equal}; {seconds:.1f} s; "
            f"{activity.captures} captures of {activity.capture_seconds / activity.captures * 1e3:.0f} ms",
            flush=True,
        )
        # From rate 1 of the default learner on, rounding grows with each sample.
        if not equal or (spec.lr != "auto" and worst > 1e-9):
            raise SystemExit(f"{name}: the results differ")


def _difference(value: Any, expected: Any) -> float:
    exact, other = value.double().nan_to_num(), expected.double().nan_to_num()
    exact[exact.isinf()] = other[other.isinf()] = 0.0
    return float((exact - other).norm() / other.norm().clamp(min=1e-3))


def _equal(one: Any, other: Any) -> bool:
    """Return whether the states of two engines have equal bits."""
    from bnp_online.checkpoint import digest

    return digest({}, one.state_dict()) == digest({}, other.state_dict())


def workspaces(out: Path) -> None:
    """Learn beside models that come and go: their graphs must not take memory of this one's."""
    import torch

    spec = replace(
        _specs()["default"], hidden=(_scaled(512), _scaled(512))
    )  # so large that cuBLAS uses its workspace
    small = replace(spec, hidden=(64,))
    stable, alone = (_made(spec, device="cuda") for _ in range(2))
    for engine in (stable, alone):
        engine.learn(*_rows(spec, 5))
    for i in range(_scaled(40)):
        _made(small, device="cuda").learn(*_rows(small, 2))
        stable.learn(*_rows(spec, 2, seed=i))
    for i in range(_scaled(40)):
        alone.learn(*_rows(spec, 2, seed=i))
    equal = _equal(stable, alone)
    print(f"equal bits: {equal}; memory {torch.cuda.memory_allocated() >> 20} MiB of tensors")
    if not equal:
        raise SystemExit("another model has changed this one")


def latency(out: Path) -> None:
    """Print the time of captures, and of calls with one row and with 64."""
    import numpy as np

    found = {}
    rows = _scaled(64)
    for name, width in {"M": 100, "XL": 500}.items():
        spec = replace(_specs()["default"], hidden=(_scaled(width),) * 2, input_shape=(rows,), replay=3)
        engine = _made(spec, device="cuda")
        x, y, w = np.ones((rows, rows)), np.zeros(rows), np.ones(rows)
        engine.learn(x, y, w)
        calls: dict[str, Callable[[], Any]] = {
            "predict": lambda: engine.predict(x[0]),  # noqa: B023 (called in this pass)
            "learn one": lambda: engine.learn(x[:1], y[:1], w[:1], predict=True),  # noqa: B023 (as above)
            "learn many": lambda: engine.learn(x, y, w, predict=True),  # noqa: B023 (as above)
            "state": engine.state_dict,
        }
        found[name] = {what: _median(call) for what, call in calls.items()}
        found[name]["capture"] = engine.activity.capture_seconds / engine.activity.captures * 1e6
        print(name, {what: f"{value:.0f} µs" for what, value in found[name].items()}, flush=True)
    (out / "latency.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _median(call: Callable[[], Any]) -> float:
    """Return the median time of a call in microseconds."""
    call()
    times = []
    for _ in range(_scaled(20)):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def server(out: Path, prefix: str = "") -> None:
    """Serve a model on the GPU, kill the server and start it again: nothing is lost."""
    import httpx

    from service.cli.launch import ServerProcess

    spec = {"hidden": [100, 100], "device": "cuda"}
    folder = out / f"data-{os.getpid()}"
    settings = {"BNP_PORT": "0", "BNP_DATA_DIR": str(folder), "BNP_DEFAULT_MODEL": json.dumps(spec)}
    code = f"{prefix}\nimport runpy; runpy.run_module('service', run_name='__main__')"
    states, count = [], _scaled(300)
    for attempt in range(2):
        running = ServerProcess("-c", code, cwd=ROOT, environment=settings)
        with httpx.Client(base_url=running.ready(), timeout=60.0) as client:
            if attempt == 0:
                lines = "".join(
                    json.dumps({"x": {"a": i % 7, "b": i % 5}, "y": i % 7 > i % 5, "id": f"s{i}"}) + "\n"
                    for i in range(count)
                )
                start = time.perf_counter()
                kind = {"content-type": "application/x-ndjson"}
                answers = client.post("/learn", content=lines, headers=kind).text.splitlines()
                rate = len(answers) / (time.perf_counter() - start)
                refused = sum("error" in json.loads(line) for line in answers)
                print(f"{len(answers)} samples, {refused} refused, {rate:.0f} a second", flush=True)
            states.append(client.get("/models/default/fingerprint").json())
            print(client.get("/models/default").json()["device"], states[-1], flush=True)
        running.kill()
    if states[0]["step"] != count or states[0]["step"] != states[1]["step"]:
        raise SystemExit("the server lost samples")
    # A restart replays the log on the same card: the bits are the same.
    if states[0]["sha256"] != states[1]["sha256"]:
        raise SystemExit("the state after the restart differs")


STAGES: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (inventory, smoke, workspaces, latency, server)
}
_SIMULATION = "from tests.support.simulated_cuda import install; install()"


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages, or one of them in this process; return the exit code."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_day", description=about)
    parser.add_argument("--out", type=Path, required=True, help="folder for log, summary and results")
    parser.add_argument("--minutes", type=float, default=9.5, help="time for all stages")
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="run these stages")
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process")
    parser.add_argument("--simulated", action="store_true", help="simulate a GPU, to test this program")
    given = parser.parse_args(argv)
    out = given.out.resolve()
    if given.stage is None:
        summary = run(out, 60.0 * given.minutes, given.only, simulated=given.simulated)
        return int(any(each.get("exit") for each in summary))
    global _scale
    with ExitStack() as stack:
        if given.simulated:
            _scale = 0.05
            from tests.support.simulated_cuda import simulated_cuda

            stack.enter_context(simulated_cuda())
        if given.stage == "server":
            server(out, _SIMULATION if given.simulated else "")
        else:
            STAGES[given.stage](out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
