"""Mistakes of people: each gives one line on standard error, which says what to do."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import bnp_online as bnp
from tests.support.commands import FAST, Done, command, write
from tests.support.programs import ROOT
from tests.support.running import Server

COLOURS = "a,b,colour\n" + "".join(f"{i % 7},{i % 3},{('red', 'blue')[i % 2]}\n" for i in range(40))
PRICES = "a,b,price\n" + "".join(f"{i % 7},{i % 3},{1.25 * (i % 7)}\n" for i in range(40))
FILES: dict[str, str | bytes] = {
    "c.csv": COLOURS,
    "prices.csv": PRICES,
    "semicolon.csv": COLOURS.replace(",", ";"),
    "comma.csv": "a;y\n" + "".join(f"{i % 7},5;{i % 2}\n" for i in range(40)),
    "empty.csv": "",
    "header.csv": "a,b,y\n",
    "binary.csv": bytes(range(256)) * 20,
    "photo.dat": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)),
    "twice.csv": "a,a,y\n1,2,3\n",
    "key.ndjson": '{"a": 1, "a": 2, "y": 1}\n{"a": 1, "y": 1}\n',
    "array.json": json.dumps([{"a": 1, "y": 1}, {"a": 2, "y": 0}]),
    "infinite.ndjson": '{"a": 1, "y": "x"}\n{"a": 1e999, "y": "z"}\n',
    "unlabelled.csv": "a,y\n1,\n2,\n",
    "ragged.csv": "a,b,y\n1,2,x\n1,2,3,x\n3,2,x\n",
    "book.csv": b"PK\x03\x04" + bytes(100),
    "latin.csv": "a,stra\xdfe,y\n1,2,x\n2,3,z\n".encode("latin-1"),
    "fake.parquet": COLOURS,
    "none.safetensors": "no model",
    "bad.keys": "broken\n",
}
TARGET = ("--target", "colour")
LEARN = ("learn", "c.csv", *TARGET, *FAST)
#: Arguments, a part of the message that says what to do, and the exit code.
MISTAKES: dict[str, tuple[tuple[str, ...], str, int]] = {
    "no command": (("lern", "c.csv"), "Did you mean 'learn'?", 2),
    "no option": ((*LEARN, "--targte", "b"), "--target", 2),
    "no argument": (("learn",), "bnp-online learn --help", 2),
    "option without value": (("learn", "c.csv", "--target"), "'--target' requires an argument", 2),
    "negative delay": ((*LEARN, "--delay", "-1"), "--delay must be at least 0", 2),
    "delay of letters": ((*LEARN, "--delay", "soon"), "--delay must be an integer", 2),
    "lines": ((*LEARN, "--lines", "5000"), "--lines must be at most 1000", 2),
    "port": (("serve", "--port", "abc"), "--port must be an integer", 2),
    "task": ((*LEARN, "--task", "classify"), "'classification', 'regression'", 2),
    "labels": ((*LEARN, "--labels", "float"), "'str', 'int'", 2),
    "two places": ((*LEARN, "--save", "m", "--url", "http://127.0.0.1:9"), "leave out --save", 2),
    "load at a server": ((*LEARN, "--load", "m", "--url", "http://127.0.0.1:9"), "`bnp-online import`", 2),
    "model without a server": ((*LEARN, "--model", "m"), "--url", 2),
    "predict with nothing": (("predict", "c.csv"), "--load FILE, or --url", 2),
    "rollback to nothing": (("rollback",), "--step or --checkpoint", 2),
    "no data set": (("replay", "irises"), "ImageSegments", 2),
    "spec is no JSON": ((*LEARN[:4], "--spec", "{hidden: 5}"), '{"hidden": [64]}', 2),
    "spec is a list": ((*LEARN[:4], "--spec", "[64]"), "must be a JSON object", 2),
    "parameter misspelt": ((*LEARN[:4], "--spec", '{"hiden": [5]}'), "did you mean hidden?", 2),
    "parameter out of range": ((*LEARN[:4], "--spec", '{"lr": -1}'), "lr must be greater than 0", 2),
    "parameter of another type": ((*LEARN[:4], "--spec", '{"hidden": 5}'), "hidden must be an array", 2),
    "intervals of classes": ((*LEARN[:4], "--spec", '{"intervals": 8}'), "omit intervals", 2),
    "classes of numbers": (
        ("learn", "c.csv", "--target", "a", "--spec", '{"task": "regression", "max_classes": 3}'),
        "omit max_classes",
        2,
    ),
    "two tasks": (
        (*LEARN[:4], "--task", "regression", "--spec", '{"task": "classification"}'),
        "leave out one",
        2,
    ),
    "no target": (("learn", "c.csv"), "--target", 1),
    "target misspelt": (("learn", "c.csv", "--target", "color"), "is 'colour' meant?", 1),
    "another target": (("learn", "c.csv", "--target", "weight"), "'a', 'b', 'colour'", 1),
    "separator": (("learn", "c.csv", *TARGET, "--sep", ";"), "--sep", 1),
    "decimal commas": (("learn", "comma.csv", "--target", "y", "--sep", ";"), "--decimal ,", 1),
    "column to drop misspelt": ((*LEARN, "--drop", "bb"), "'b'", 1),
    "encoding": ((*LEARN, "--encoding", "utf-99"), "utf-8", 1),
    "latin-1 as UTF-8": (("learn", "latin.csv", "--target", "y"), "--encoding latin-1", 1),
    "empty file": (("learn", "empty.csv", "--target", "y"), "empty.csv is empty", 1),
    "header alone": (("learn", "header.csv", "--target", "y"), "no rows", 1),
    "binary file": (
        ("learn", "binary.csv", "--target", "y"),
        "binary.csv is no text: give a file of the format CSV",
        1,
    ),
    "workbook": (("learn", "book.csv", "--target", "y"), "save the sheet as CSV", 1),
    "unknown format": (("learn", "photo.dat", "--target", "y"), "photo.dat is no text", 1),
    "format that it has not": ((*LEARN, "--format", "parquet"), "leave out --format", 1),
    "column twice": (("learn", "twice.csv", "--target", "y"), "rename", 1),
    "key twice": (("learn", "key.ndjson", "--target", "y", *FAST, "--save", "m"), "rename or remove", 1),
    "array of JSON": (("learn", "array.json", "--target", "y"), "one object per line", 1),
    "infinite value": (
        ("learn", "infinite.ndjson", "--target", "y", *FAST, "--save", "m"),
        "send a number",
        1,
    ),
    "ragged row": (("learn", "ragged.csv", "--target", "y", *FAST, "--save", "m"), "quotation marks", 1),
    "targets missing": (("learn", "unlabelled.csv", "--target", "y"), "No sample was learned", 1),
    "fractions as classes": (("learn", "prices.csv", "--target", "price"), "--task regression", 1),
    "words as numbers": ((*LEARN, "--task", "regression"), "--task classification", 1),
    "no file": (("learn", "cc.csv", *TARGET), "cc.csv: No such file or directory", 1),
    "folder": (("learn", ".", *TARGET), "give the name of a file", 1),
    "save into no folder": ((*LEARN, "--save", "no/m"), "no/m: There is no folder no: create it", 1),
    "save as a folder": ((*LEARN, "--save", "."), "give the name of a file", 1),
    "load no file": ((*LEARN, "--load", "m"), "m: No such file or directory", 1),
    "load no model": ((*LEARN, "--load", "none.safetensors"), "--save or `export` wrote", 1),
    "load another task": (
        ("learn", "c.csv", *TARGET, "--load", "prices.model", "--task", "classification"),
        "leave out --task",
        2,
    ),
    "load with a spec": (("learn", "c.csv", *TARGET, "--load", "c.model", *FAST), "leave out --load", 2),
    "words for a loaded regression": (
        ("learn", "c.csv", *TARGET, "--load", "prices.model"),
        "has no numbers in the target 'colour'",
        1,
    ),
    "predict with no model": (("predict", "c.csv", "--load", "none.safetensors"), "`export` wrote", 1),
    "other features": (("predict", "other.csv", "--load", "c.model"), "the model learned", 1),
    "no id": (("predict", "c.csv", "--load", "c.model", "--id", "colr"), "did you mean 'colour'?", 2),
    "output in no folder": (("predict", "c.csv", "--load", "c.model", "-o", "no/p.csv"), "create it", 1),
    "import no file": (("import", "nothing"), "nothing: No such file or directory", 1),
    "import a folder": (("import", "."), "give the name of a file", 1),
    "key file": (
        ("keys", "new", "--name", "a", "--scopes", "read", "--file", "bad.keys"),
        "bad.keys, line 1",
        2,
    ),
    "scope": (("keys", "new", "--name", "a", "--scopes", "reed", "--file", "k"), "--scopes", 2),
    "day": (
        ("keys", "new", "--name", "a", "--scopes", "read", "--expires", "soon"),
        "%Y-%m-%d",
        2,
    ),
    "two words": (("keys", "new", "--name", "a b", "--scopes", "read", "--file", "k"), "--name", 2),
    "no name": (("learn", "", *TARGET), "'': No such file or directory", 1),
    "no host": (("models", "--url", "http://"), "it has no host", 2),
    "no scheme": (("models", "--url", "localhost:8000"), "http:// or https://", 2),
    "wrong scheme": (("models", "--url", "ftp://localhost"), "http:// or https://", 2),
    "port of a URL": (("models", "--url", "http://localhost:abc"), "Invalid port", 2),
    "server down": (("models", "--url", "http://127.0.0.1:9"), "start a server with `bnp-online serve`", 1),
    "key with an umlaut": (("models", "--url", "http://127.0.0.1:9", "--key", "schlüssel"), "--key", 2),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder without a file."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("BNP_API_KEY", raising=False)
    return here


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of models, by name."""
    folder = tmp_path_factory.mktemp("models")
    classifier = bnp.BNPClassifier(hidden=(), replay=0, lr=0.3, device="cpu")
    regressor = bnp.BNPRegressor(hidden=(), replay=0, lr=0.3, device="cpu")
    for i in range(4):
        classifier.learn_one({"a": i, "b": i % 2}, ["red", "blue"][i % 2])
        regressor.learn_one({"a": i, "b": i % 2}, 1.5 * i)
    classifier.save(folder / "c.model")
    regressor.save(folder / "prices.model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def is_one_line(done: Done, code: int, says: str) -> None:
    assert says in done.err
    assert done.code == code
    line = done.err.removesuffix("\n")
    assert "\n" not in line, line
    assert len(line) < 400
    assert not any(word in line for word in ("Traceback", "Input should", "validation error", "Value error"))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line(folder: Path, models: dict[str, bytes], name: str) -> None:
    arguments, says, code = MISTAKES[name]
    for file, content in {**FILES, **models, "other.csv": COLOURS.replace("a,b,", "c,d,")}.items():
        if file in arguments:
            write(folder, file, content)
    is_one_line(command(*arguments), code, says)


def test_a_setting_gives_one_line() -> None:
    is_one_line(command("doctor", BNP_PORT="abc"), 2, "BNP_PORT must be an integer")


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "no suffix"])
def test_a_compressed_file_is_no_mistake(folder: Path, name: str) -> None:
    """Whatever its name is."""
    write(folder, name, gzip.compress(COLOURS.encode()))
    done = command("learn", name, *TARGET, *FAST, "--save", "m", "--json")
    assert (done.code, json.loads(done.out)["learned"]) == (0, 40)
    assert done.err == ""


def test_parquet_with_another_suffix_is_no_mistake(folder: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types

    pq.write_table(pa.table({"a": [1, 2, 3], "y": ["r", "b", "r"]}), folder / "p.csv")
    assert json.loads(command("learn", "p.csv", "--target", "y", *FAST, "--json").out)["learned"] == 3


def test_mistakes_at_a_server_give_one_line(folder: Path, server: Server) -> None:
    write(folder, "c.csv", COLOURS)
    server.create(name="clicks", task="regression", hidden=[])
    at = ("--url", server.url)
    is_one_line(command("models", "clics", *at), 1, "did you mean 'clicks'?")
    is_one_line(command("models", "zzz", *at), 1, "'default'")
    is_one_line(command("models", "--url", server.url.replace("http", "https")), 1, f"try {server.url}")
    learn = ("learn", "c.csv", *TARGET, *at)
    is_one_line(command(*learn, "--model", "new"), 2, "--task classification or --task regression")
    is_one_line(command(*learn, "--model", "clics"), 2, "did you mean 'clicks'?")
    is_one_line(
        command(*learn, "--model", "clicks", "--task", "classification"),
        2,
        "choose another --model, or leave",
    )
    is_one_line(command(*learn, "--model", "a b", "--task", "classification"), 1, "letters, digits")
    is_one_line(command(*learn, "--model", "clicks"), 1, "has no numbers in the target 'colour'")
    is_one_line(command("predict", "c.csv", "-m", "clics", *at), 1, "did you mean 'clicks'?")
    write(folder, "m", "no model")
    is_one_line(command("import", "m", "-m", "new", *at), 1, "m is not a model file")
    assert [model["name"] for model in server.get("/models")["models"]] == ["default", "clicks"]


def test_keys_that_do_not_fit_give_one_line(folder: Path, serve: Callable[..., Server]) -> None:
    secret, reader = "s" * 40, "r" * 40
    keys = f"all learn,predict,read,admin {secret}; reader read {reader}"
    at = ("--url", serve(api_keys=SecretStr(keys)).url)
    is_one_line(command("models", *at), 1, "BNP_API_KEY")
    is_one_line(command("models", *at, "--key", "wrong"), 1, "--key")
    is_one_line(command("checkpoint", *at, "--key", reader), 1, "admin")
    assert command("models", *at, "--key", f"{secret}\n").code == 0  # as read from a file


@contextmanager
def other_server(answer: bytes, status: int = 200) -> Iterator[str]:
    """Run a server that is not of this project."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_GET  # noqa: N815 (names of http.server)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "status"), [(b"<html>hello</html>", 200), (b"{}", 200), (b"not found", 404), (b"", 302)]
)
def test_another_server_gives_one_line(folder: Path, answer: bytes, status: int) -> None:
    write(folder, "c.csv", COLOURS)
    with other_server(answer, status) as url:
        is_one_line(command("models", "--url", url), 1, "check the host and the port")
        is_one_line(command("learn", "c.csv", *TARGET, "--url", url), 1, "check the host and the port")


def test_a_program_gives_one_line(tmp_path: Path) -> None:
    """The command in a process: nothing else writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "learn", "c.csv", "--target", "y"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    is_one_line(Done(done.returncode, done.stdout, done.stderr), 1, "c.csv: No such file or directory")
    assert not list(tmp_path.iterdir())
