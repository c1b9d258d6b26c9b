"""``bnp-online`` as a person runs it: a process, real files, a real server, Ctrl-C."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from river import datasets

import bnp_online as bnp
from bnp_online.evaluation.prequential import prequential
from service.auth.keys import new_secret
from service.auth.scopes import SCOPES
from service.cli.launch import ServerProcess
from tests.support.commands import command
from tests.support.programs import ROOT
from tests.support.running import Server, serving
from tests.support.server_process import wait_until

SPEC = '{"hidden": [6], "replay": 0}'
Rows = list[tuple[dict[str, Any], Any]]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "BNP_DEVICE": "cpu", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, code: int = 0, given: str = "", **environment: Any) -> tuple[str, str]:
    done = command(*arguments, given=given.encode(), **environment)
    assert done.code == code, done.err
    return done.out, done.err


def result(*arguments: object, **options: Any) -> Any:
    return json.loads(run(*arguments, "--json", **options)[0])


@pytest.fixture(scope="module")
def rows() -> Rows:
    return [
        ({**x, "colour": ["red", "blue"][n % 2]}, y) for n, (x, y) in enumerate(datasets.Phishing().take(120))
    ]


def write_csv(path: Path, rows: Iterable[tuple[dict[str, Any], Any]]) -> Path:
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0][0], "label"])
        writer.writeheader()
        writer.writerows({**x, "label": y} for x, y in rows)
    return path


def lines(rows: Rows) -> str:
    return "".join(json.dumps({"x": x, "y": y}) + "\n" for x, y in rows)


def taught(rows: Rows, delay: int | None = None) -> tuple[bnp.BNPClassifier, dict[str, float]]:
    clf = bnp.BNPClassifier(hidden=(6,), replay=0, device="cpu")
    return clf, prequential(rows, clf, "classification", delay=delay).metrics


def write(kind: str, path: Path, rows: Rows) -> Path:
    file = path / f"samples.{kind}"
    if kind == "csv":
        return write_csv(file, rows)
    if kind == "parquet":
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types

        pq.write_table(pa.Table.from_pylist([{**x, "label": y} for x, y in rows]), file)
    else:
        file.write_text("".join(json.dumps({**x, "label": y}) + "\n" for x, y in rows))
    return file


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson"])
@pytest.mark.parametrize("delay", [None, 10])
def test_it_learns_a_file_here(tmp_path: Path, rows: Rows, kind: str, delay: int | None) -> None:
    clf, metrics = taught(rows, delay)
    file, model = write(kind, tmp_path, rows), tmp_path / "model"
    later = () if delay is None else ("--delay", delay)
    said = result("learn", file, "--target", "label", "--save", model, "--spec", SPEC, *later)
    assert (said["learned"], said["refused"]) == (120, 0)
    assert said["metrics"] == pytest.approx(metrics)
    assert bnp.load(model).fingerprint() == clf.fingerprint()


@pytest.mark.parametrize("delay", [None, 10])
def test_it_learns_a_file_at_a_server(tmp_path: Path, rows: Rows, server: Server, delay: int | None) -> None:
    name = f"delayed-{delay}"
    server.create(name=name, hidden=[6], replay=0)
    clf, metrics = taught(rows, delay)
    later = () if delay is None else ("--delay", delay)
    said = result("learn", "-", "--url", server.url, "--model", name, *later, given=lines(rows))
    assert said["learned"] == 120
    assert said["metrics"] == pytest.approx(metrics)
    assert server.fingerprint(name)["model_sha256"] == clf.fingerprint()


def test_it_goes_on_from_a_file_and_predicts(tmp_path: Path, rows: Rows, server: Server) -> None:
    clf, _ = taught(rows)
    first, second = write("csv", tmp_path, rows[:50]), tmp_path / "rest.ndjson"
    second.write_text(lines(rows[50:]))
    model, predictions = tmp_path / "model", tmp_path / "predictions.ndjson"
    run("learn", first, "--target", "label", "--save", model, "--spec", SPEC)
    run("learn", second, "--load", model, "--save", model)
    assert bnp.load(model).fingerprint() == clf.fingerprint()
    expected = [clf.predict_one(x) for x, _ in rows[:50]]
    run("predict", first, "--load", model, "--target", "label", "--output", predictions)
    said = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [each["prediction"] for each in said] == expected
    server.create(name="imported")
    assert result("import", model, "-m", "imported", "--url", server.url)["step"] == 120
    out, _ = run("predict", first, "--url", server.url, "-m", "imported", "--target", "label")
    assert [json.loads(line)["prediction"] for line in out.splitlines()] == expected
    assert json.loads(out.splitlines()[0])["probabilities"].keys() == {"true", "false"}


def test_a_slow_stream_is_learned_as_it_comes(server: Server) -> None:
    server.create(name="slow", hidden=[6], replay=0)
    with start("learn", "-", "--url", server.url, "--model", "slow", "--lines", 2) as process:
        assert process.stdin is not None
        process.stdin.write(4 * '{"x": {"a": 1}, "y": 1}\n')
        process.stdin.flush()  # and not closed yet
        deadline = time.monotonic() + 60
        while server.get("/models/slow")["step"] < 4:
            assert time.monotonic() < deadline
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_numbers_are_learned(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "numbers.csv", [({"a": i % 5, "b": None}, 2.5 * (i % 5)) for i in range(200)])
    learn = ("learn", file, "--target", "label", "--task", "regression", "--save", tmp_path / "model")
    assert result(*learn)["metrics"]["MAE"] < 3.0
    assert isinstance(bnp.load(tmp_path / "model"), bnp.BNPRegressor)


def test_a_score_needs_no_file_for_the_model(tmp_path: Path, rows: Rows) -> None:
    file = write("csv", tmp_path, rows)
    out, err = run("learn", file, "--target", "label", "--spec", SPEC)
    assert "Accuracy" in out
    assert err == "The model was not saved: give --save FILE, or --url of a server.\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_model_of_a_server_is_created(tmp_path: Path, server: Server) -> None:
    file = write_csv(tmp_path / "numbers.csv", [({"a": i % 5}, 2.5 * (i % 5)) for i in range(50)])
    learn = ("learn", file, "--target", "label", "--url", server.url, "--model", "created")
    out, err = run(*learn, "--task", "regression", "--spec", SPEC)
    assert err == "Created the model created (regression).\n"
    assert "MAE" in out
    assert run(*learn)[1] == ""  # an existing model needs no --task
    assert run(*learn, "--task", "regression", "--spec", SPEC)[1] == (
        "The model created exists: --spec is not used.\n"
    )
    described = server.get("/models/created")
    assert (described["spec"]["task"], described["spec"]["hidden"], described["step"]) == (
        "regression",
        [6],
        150,
    )
    _, err = run(*learn, "--task", "classification", code=2)
    assert "choose another --model, or leave out --task" in err


def test_an_invalid_file_creates_no_model(tmp_path: Path, server: Server) -> None:
    (tmp_path / "empty.csv").touch()
    at = ("--url", server.url, "--model", "never")
    run("learn", tmp_path / "empty.csv", "--target", "label", "--task", "regression", *at, code=1)
    assert "never" not in [model["name"] for model in server.get("/models")["models"]]


def test_an_import_creates_a_model(tmp_path: Path, server: Server) -> None:
    bnp.BNPRegressor(hidden=(6,), replay=0, device="cpu").save(tmp_path / "model")
    assert result("import", tmp_path / "model", "-m", "brought", "--url", server.url)["step"] == 0
    assert server.get("/models/brought")["spec"]["task"] == "regression"


@pytest.mark.parametrize(
    ("task", "piped", "score"),
    [("classification", False, "accuracy"), ("regression", True, "MAE")],
)
def test_progress_is_shown_on_a_terminal(tmp_path: Path, task: str, piped: bool, score: str) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("a,label\n" + 30_000 * "1,3\n2,4\n")
    learn = ("learn", "-" if piped else file, "--target", "label", "--task", task, "--format", "csv")
    shown = on_terminal(learn, piped=file.read_bytes() if piped else None)
    assert re.search(rf"learning .*[\d,]+, [\d,]+/s, {score} [\d.e-]+ \(last 1,000\)", shown)
    assert bool(re.search(r" \d+% .*, \d:\d\d left", shown)) == (not piped)


def on_terminal(arguments: Iterable[object], piped: bytes | None) -> str:
    """Run a command with standard error on a terminal until it shows progress for a while; return it."""
    terminal, other_end = os.openpty()
    environment = {**os.environ, "BNP_DEVICE": "cpu", "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    reader, writer = os.pipe()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=reader, stdout=subprocess.DEVNULL, stderr=other_end
    ) as process:
        os.close(other_end)
        os.close(reader)
        feeding = threading.Thread(target=feed, args=(writer, piped or b""))
        feeding.start()
        shown = b""
        while shown.count(b"(last 1,000)") < 12 and (more := read_terminal(terminal)):
            shown += more
        process.kill()
    feeding.join()
    os.close(terminal)
    return re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", shown).decode()


def feed(pipe: int, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(pipe, "wb") as file:
        file.write(content)


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the process has ended
        return b""


@pytest.mark.parametrize("url", [False, True])
def test_a_bad_sample_is_named_and_the_rest_is_learned(tmp_path: Path, server: Server, url: bool) -> None:
    file = tmp_path / "some.ndjson"
    sound = '{"x": {"a": 1}, "y": 1}\n'
    file.write_text(sound + "{oops\n" + '{"x": {"a": {"b": 1}}, "y": 1}\n' + '{"x": {"a": 1}}\n' + sound)
    where = ("--url", server.url) if url else ("--save", tmp_path / "model")
    out, err = run("learn", file, *where, "--json", code=1)
    said = json.loads(out)
    assert (said["learned"], said["refused"]) == (2, 3)
    assert sorted(line.split()[3] for line in err.splitlines()) == ["2", "3", "4"]
    if not url:
        assert bnp.load(tmp_path / "model").step == 2


def test_models_are_looked_after(tmp_path: Path, serve: Callable[..., Server]) -> None:
    secret = "s" * 40
    server = serve(api_keys=SecretStr(f"all {','.join(SCOPES)} {secret}"))
    at = ("--url", server.url)
    _, err = run("models", *at, code=1)
    assert "BNP_API_KEY" in err
    environment: dict[str, Any] = {"BNP_API_KEY": secret}
    said = result("replay", "phishing", "--limit", 30, *at, "--model", "p", "--spec", SPEC, **environment)
    assert (said["learned"], said["dataset"]) == (30, "Phishing")
    kept = result("checkpoint", "p", *at, **environment)
    assert kept["step"] == 30
    run("replay", "phishing", "--limit", 10, *at, "--model", "p", **environment)
    assert [(m["name"], m["step"]) for m in result("models", *at, **environment)] == [
        ("default", 0),
        ("p", 40),
    ]
    assert result("models", "p", *at, **environment)["spec"]["hidden"] == [6]
    assert "accuracy" in run("models", "p", *at, **environment)[0].lower()
    listed = result("checkpoint", "p", "--list", *at, **environment)
    assert kept in listed
    back = ("rollback", "p", "--checkpoint", kept["checkpoint"], *at)
    assert result(*back, **environment)["step"] == 30
    assert result("rollback", "p", "--step", 7, *at, **environment)["step"] == 7
    file = tmp_path / "p.safetensors"
    assert result("export", file, "-m", "p", *at, **environment)["bytes"] == file.stat().st_size
    assert bnp.load(file).step == 7
    _, err = run("replay", "trumpapproval", *at, "--model", "p", code=2, **environment)
    assert "classification" in err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # River leaves the file open
def test_a_data_set_with_times_is_replayed_here() -> None:
    assert result("replay", "WaterFlow", "--limit", 50, "--spec", SPEC)["learned"] == 50


@pytest.mark.parametrize("url", [False, True])
def test_ctrl_c_leaves_nothing_half_done(tmp_path: Path, server: Server, url: bool) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"the old one")
    where = ("--url", server.url) if url else ("--save", model, "--spec", SPEC)
    with start("learn", "-", *where) as process:
        assert process.stdin is not None
        for i in range(2500):
            process.stdin.write(json.dumps({"x": {"a": i}, "y": i % 2}) + "\n")
        process.stdin.flush()  # more than a pipe holds: by now it is learning
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert model.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [model]


def test_it_serves(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    command = ("-m", "service.cli", "serve", "--port", "0", "--data-dir", folder)
    with ServerProcess(*command, cwd=ROOT) as server:
        url = server.ready()
        assert result("doctor", BNP_DATA_DIR=folder)["log"].startswith("in use")
        asked = result("doctor", "--url", url, BNP_DATA_DIR="/nowhere")
        assert (asked["status"], asked["models"]) == ("ready", {"all": 1, "ready": 1})
        assert (asked["engine"], asked["samples"], asked["problems"]) == ("numba", 0, [])
        assert asked["versions"]["bnp-online"] == bnp.__version__
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert result("doctor", BNP_DATA_DIR=folder)["log"] == "can be written"


def test_the_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    healthy = result("doctor", BNP_DATA_DIR=str(tmp_path / "not yet"))
    assert (healthy["engine"], healthy["device"], healthy["log"]) == ("numba", "cpu", "can be made")
    assert not (tmp_path / "not yet").exists()
    (tmp_path / "events.sqlite3").write_bytes(b"no database" * 100)
    out, err = run("doctor", "--json", code=1, BNP_DATA_DIR=str(tmp_path))
    assert len(json.loads(out)["problems"]) == 1
    assert "BNP_DATA_DIR" in err
    out, err = run("doctor", "--url", "http://127.0.0.1:9", "--json", code=1, BNP_DATA_DIR=str(tmp_path))
    asked = json.loads(out)
    assert (asked["status"], len(asked["problems"])) == ("not ready", 1)
    assert "http://127.0.0.1:9" in err


def test_the_doctor_reports_on_a_server_with_keys(tmp_path: Path) -> None:
    secret, some = new_secret(), new_secret()
    keys = f"all read {secret}; some read {some} models=default"
    with serving(tmp_path, api_keys=keys, ready_timeout=0.2) as server:
        public = result("doctor", "--url", server.url)
        assert (public["status"], public["problems"]) == ("ready", [])
        assert "--key" in public["models"]
        assert result("doctor", "--url", server.url, "--key", secret)["models"] == {"all": 1, "ready": 1}
        assert result("doctor", "--url", server.url, "--key", some)["models"] == {"all": 1, "ready": 1}
        out, _ = run("doctor", "--url", server.url, "--key", "wrong", "--json", code=1)
        assert "the API key is unknown" in json.loads(out)["problems"][0]
        with server.held():
            wait_until(lambda: server.client.get("/health/ready").status_code == 503)
            out, _ = run("doctor", "--url", server.url, "--key", secret, "--json", code=1)
        assert json.loads(out)["status"] == "not ready"


def test_it_measures() -> None:
    assert all(row["samples_per_second"] > 0 for row in result("bench", "--seconds", 0.01))


def test_it_prints_the_version() -> None:
    assert run("version")[0].strip() == bnp.__version__
    assert result("version") == {"version": bnp.__version__}


def test_it_starts_without_torch() -> None:
    code = (
        "import sys, service.cli.application; print({'torch', 'numpy', 'pandas', 'river'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"


def test_it_completes_words() -> None:
    """As the shell asks for them, with what ``--show-completion`` puts into it."""
    asked = {"_BNP_ONLINE_COMPLETE": "complete_bash", "COMP_WORDS": "bnp-online repl", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'bnp-online'; from service.cli import main; main()"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True
    ).stdout
    assert out.split() == ["replay"]
