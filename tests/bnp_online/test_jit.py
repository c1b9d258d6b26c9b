"""The compiled code is cached where that is possible, and works where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor, encoding, jit
from bnp_online.engines import numba_step
from bnp_online.jit import announced, compile_elsewhere
from bnp_online.sparse import names, step

ROOT = Path(__file__).parents[2]
#: A small function of the kind that the library compiles: the library itself takes a minute.
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from bnp_online.jit import jit

@jit
def double(x: float) -> float:
    return 2.0 * x

assert double(2.0) == 4.0
print(sum(double.stats.cache_hits.values()))
"""


def run(folder: Path, cache: Path) -> str:
    program = folder / "program.py"
    if not program.exists():
        program.write_text(PROGRAM.format(root=str(ROOT)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NUMBA_CACHE_DIR": str(cache),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-W", "error", str(program)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_the_next_process_finds_compiled_code(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert [run(tmp_path, cache), run(tmp_path, cache)] == ["0", "1"]


INTERVALS = """
import numpy as np
from bnp_online.checkpoint import digest
from bnp_online.intervals import Intervals, _learn

intervals, rng = Intervals(4, 0, 3), np.random.default_rng(0)
x, y = rng.normal(size=(200, 3)), rng.normal(size=200)
intervals.learn(x, y, y + rng.normal(size=200), np.ones(200))
spread = intervals.radius(x[0], 1.0, 0.9)
print(sum(_learn.stats.cache_hits.values()), spread, digest({}, intervals.state_dict()))
"""


def test_the_process_that_compiles_learns_the_bits_of_the_next(tmp_path: Path) -> None:
    """Otherwise a server that is killed after its first start would not find its state again."""
    program = tmp_path / "program.py"
    program.write_text(INTERVALS)
    (hits, *first), (more, *second) = (run(tmp_path, tmp_path / "cache").split() for _ in range(2))
    assert (hits, more) == ("0", "1")
    assert first == second


MODELS = """
import numpy as np
import bnp_online as bnp
from bnp_online.engines import numba_step
from bnp_online.learner import model as learner

learner.compile_kernels = lambda: None  # those of strings, which no model has here: they take as long again
rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5))
X[::7, 1] = np.nan
prints = []
for model in (bnp.BNPClassifier((9, 8)), bnp.BNPRegressor((9, 8)), bnp.BNPClassifier(learner=1)):
    for x in X:
        value = float(np.nansum(x))
        y = value if isinstance(model, bnp.BNPRegressor) else value > 0.0
        model.learn_one({f"f{j}": each for j, each in enumerate(x)}, y)
    prints.append(model.fingerprint())
print(sum(numba_step.learn.stats.cache_hits.values()), *prints)
"""


def test_the_first_process_learns_the_bits_of_the_next(tmp_path: Path) -> None:
    """It has another process compile, and loads the code as all later ones do."""
    program = tmp_path / "program.py"
    program.write_text(MODELS)
    first, second = (run(tmp_path, tmp_path / "cache").split() for _ in range(2))
    assert first == second
    assert first[0] == "1"


def test_a_failed_compilation_elsewhere_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jit.config, "CACHE_DIR", str(tmp_path))  # an earlier run has not filled it

    @jit.jit
    def half(x: float) -> float:
        return x / 2.0

    compile_elsewhere(half, (1.0,), "raise SystemExit('no memory')")
    [message] = [each for each in caplog.messages if "This process compiles" in each]
    assert "no memory" in message
    assert half(2.0) == 1.0


def test_a_cache_that_cannot_be_written_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image's read-only root needs; tests/docker sees it there."""
    cache = tmp_path / "cache"
    run(tmp_path, cache)
    monkeypatch.setattr(jit.config, "CACHE_DIR", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    jit._use_read_only_cache()
    copy = Path(jit.config.CACHE_DIR)
    assert copy != cache
    assert run(tmp_path, copy) == "1"


def test_no_folder_for_a_cache_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert run(tmp_path, file / "cache") == "0"


def test_a_learner_compiles_nothing_but_when_it_is_made() -> None:
    """What an image's cache has to hold: a server that compiles at its first request stands still."""
    samples, labels = [{"a": 1.0, "b": 2.0}] * 3, [0, 1, 0]
    array = np.ones((3, 2), np.float32)
    made = BNPClassifier((3,)), BNPRegressor((3,)), BNPClassifier((3,), input_shape=(2,))
    strings = BNPClassifier((3,)), BNPRegressor((3,), text=("t",))
    kernels: list[Any] = [numba_step.learn, numba_step.predict, encoding._within, encoding._place]
    kernels += [step.front, step.combine, step.learn, step.enter, names.link_all, names.gather, names.find]
    before = [list(kernel.signatures) for kernel in kernels]
    for model in made:
        x: Any = array if model.input_shape else samples
        preview = model.preview()
        model.learn_samples([preview.check(*sample) for sample in zip(x, labels, strict=True)])
        model.learn_one(x[0], labels[0])
        model.learn_many(x, labels)
        model.learn_many(np.asfortranarray(array) if model.input_shape else samples, np.array(labels))
        model.learn_many(array[:, ::-1] if model.input_shape else samples, np.array(labels))
        model.predict_many(x)
    for model in strings:
        texts = [{"a": 1.0, "s": f"v{i}", "t": f"a {i}", "o": "b" * (i % 2)} for i in range(60)]
        model.learn_many(texts, [i % 3 for i in range(60)])
        model.predict_many(texts)
        model.predict_experts_one(texts[0])
        model.learn_one(texts[0], 1, given=model.predict_experts_one(texts[0]))
        assert model.fields["s"]
    assert [list(kernel.signatures) for kernel in kernels] == before


def test_says_once_that_it_compiles_if_that_takes_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_logged", threading.Event())
    with announced(seconds=30.0):
        pass
    assert not caplog.messages
    with announced(seconds=0.01):
        deadline = time.monotonic() + 10.0
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    with announced(seconds=0.0):  # another kernel of the same start
        time.sleep(0.1)
    [message] = caplog.messages
    assert "Compiling" in message
