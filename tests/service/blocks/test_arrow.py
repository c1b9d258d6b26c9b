"""Streams of Arrow: the same states as the same samples in NDJSON, and clear errors for other tables."""

from __future__ import annotations

import datetime
import decimal
import io
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from service.blocks import arrow as block_rows
from tests.support.lines import observed_with_events
from tests.support.running import Json, Server, serving
from tests.support.streaming import NDJSON, answers
from tests.support.streaming import arrow_stream as stream

ARROW = "application/vnd.apache.arrow.stream"
MANY = 10**9  # samples that no block has


def post(server: Server, path: str, body: bytes | Any, accept: str = "*/*") -> httpx.Response:
    # The server closes the connection behind a damaged body.
    headers = {"content-type": ARROW, "accept": accept, "connection": "close"}
    return server.client.post(path, content=body, headers=headers)


def learn(server: Server, table: Any, query: str = "") -> list[Json]:
    return answers(post(server, f"/models/m/learn{query}", stream(table)))


def in_blocks(server: Server) -> bool:
    return 'bnp_model_block_samples_total{model="m"} 0.0' not in server.client.get("/metrics").text


class Samples:
    """Random samples, as a table of Arrow and as lines of NDJSON."""

    def __init__(self, seed: int, count: int) -> None:
        rng = random.Random(seed)  # noqa: S311
        self.task = "regression" if seed % 3 == 2 else "classification"
        classes: list[list[Any]] = [["a", "b", "c"], [0, 1], [True, False]]
        labels = rng.choice(classes)
        columns: dict[str, list[Any]] = {
            name: [] for name in ("f", "g", "i", "flag", "colour", "y", "w", "id")
        }
        self.lines: list[Json] = []
        for n in range(count):
            colour = rng.choice(["red", "blue", "größer", *([f"new {n % 3}"] if rng.random() < 0.02 else [])])
            x: Json = {
                "f": rng.choice([rng.gauss(0, 1), -0.0, 1e-300]),
                "g": float(np.float32(rng.gauss(0, 1))),
                "i": float(rng.choice([rng.randint(-9, 9), 2**53 + 1])),
                "flag": float(rng.random() < 0.5),
                "colour": colour,
            }
            for name in ("f", "g", "i", "colour"):
                if rng.random() < 0.01:
                    x[name] = None
            if rng.random() < 0.01:
                x["f"] = rng.choice([1e200, 1e101])
            y: Any = rng.gauss(0, 3) if self.task == "regression" else rng.choice(labels)
            if n > 250 and rng.random() < 0.01 and isinstance(y, str):
                y = "late"
            line: Json = {
                "x": x,
                "y": y,
                "w": rng.choice([1.0, rng.random(), *([-1.0] if n % 50 == 3 else [])]),
            }
            if rng.random() < 0.3:
                line["id"] = f"i{rng.randint(0, count)}"
            self.lines.append(line)
            for name, value in {**x, "y": y, "w": line["w"], "id": line.get("id")}.items():
                columns[name].append(value)
        whole = [None if each is None else int(each) for each in columns["i"]]
        self.table = pa.table(
            {
                **columns,
                "g": pa.array(columns["g"], pa.float32()),
                "i": pa.array(whole, pa.int64()),
                "flag": pa.array([bool(each) for each in columns["flag"]]),
                "colour": pa.array(columns["colour"]).dictionary_encode() if seed % 2 else columns["colour"],
            }
        )


def sent(folder: Path, samples: Samples, media_type: str) -> tuple[list[Json], Json, Json]:
    """Return the answers, and what the server tells before and after a restart that reads the log."""
    with serving(folder) as server:
        server.create(name="m", hidden=[8], task=samples.task, seed=3)
        found: list[Json] = []
        for start in range(0, len(samples.lines), 200):
            if media_type == ARROW:
                body = stream(samples.table.slice(start, 200), 77)
            else:
                body = b"".join(orjson.dumps(line) + b"\n" for line in samples.lines[start : start + 200])
            answer = server.client.post("/models/m/learn", content=body, headers={"content-type": media_type})
            found += answers(answer)
        before = observed_with_events(server)
        assert in_blocks(server) == (vars(block_rows)["FEWEST"] < MANY or media_type == NDJSON)
    (folder / "checkpoints").rename(folder / "gone")
    with serving(folder) as server:
        return found, before, observed_with_events(server)


def as_lines(found: Sequence[Json]) -> list[Json]:
    return [{k if k != "row" else "line": v for k, v in each.items()} for each in found]


@pytest.mark.parametrize("seed", range(4))
def test_arrow_is_ndjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """In blocks, row by row, and as NDJSON: equal answers, states, scores and events."""
    samples = Samples(seed, 600)
    ndjson = sent(tmp_path / "ndjson", samples, NDJSON)
    blocks = sent(tmp_path / "arrow", samples, ARROW)
    monkeypatch.setattr(block_rows, "FEWEST", MANY)
    assert blocks == sent(tmp_path / "rows", samples, ARROW)
    found, before, after = blocks
    assert as_lines(found) == ndjson[0]
    assert before == ndjson[1]
    assert after["fingerprint"] == before["fingerprint"]


def test_features_with_numbers_and_strings(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing value of such a feature has all of its columns, also in a column of numbers."""
    server = serve()
    fingerprints = []
    for fewest, name in ((2, "blocks"), (MANY, "rows")):
        monkeypatch.setattr(block_rows, "FEWEST", fewest)
        server.create(name=name, hidden=[4])
        for i in range(20):
            server.learn(x={"a": "red" if i % 2 else i, "b": i}, y=i % 3, model=name)
        for cells in ([None, 1.0] * 50, [None, "red"] * 50, [None] * 100, [2.5, None] * 50):
            table = pa.table({"a": cells, "b": [*range(100)], "y": [i % 3 for i in range(100)]})
            answers(post(server, f"/models/{name}/learn", stream(table)))
        fingerprints.append(server.fingerprint(name)["model_sha256"])
    assert fingerprints[0] == fingerprints[1]


def test_answers_as_arrow(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    table = pa.table(
        {"a": [1.0, 2.0, float("inf"), 4.0], "kind": ["u", "v", "v", "u"], "id": ["1", "2", "3", "1"]}
    )
    body = stream(table)
    answer = post(server, "/models/m/learn?target=kind", body, ARROW)
    assert answer.headers["content-type"] == ARROW
    found = pa.ipc.open_stream(answer.content).read_all().to_pylist()
    assert [each["row"] for each in found] == [1, 2, 3, 4]
    assert [each["step"] for each in found] == [1, 2, None, None]
    assert [each["duplicate"] for each in found] == [False, False, None, None]
    assert [each["code"] for each in found] == [None, None, "non_finite_feature", "id_conflict"]
    assert found[2]["field"] == "x.a"
    assert [each["prediction"] for each in found] == [None, "u", None, None]
    assert found[1]["loss"] == pytest.approx(9.2, abs=0.1)
    answer = post(server, "/models/m/predict?target=kind", stream(table.drop_columns(["id"])), ARROW)
    predicted = pa.ipc.open_stream(answer.content).read_all().to_pylist()
    one = server.predict(x={"a": 2.0}, model="m")
    assert dict(predicted[1]["probabilities"]) == one["probabilities"]
    assert predicted[1]["prediction"] == one["prediction"]
    assert predicted[2]["code"] == "non_finite_feature"


def test_arrays(serve: Callable[..., Server]) -> None:
    """A model with an input shape takes one column of fixed-size lists."""
    server = serve()
    for name in ("m", "same"):
        server.create(name=name, hidden=[4], input_shape=[2, 2])
    rows: list[list[float | None]] = [[1.0, 2.0, 3.0, 4.0], [0.5, None, -1.0, 2.0]]
    table = pa.table({"x": pa.array(rows, pa.list_(pa.float32(), 4)), "y": [0, 1]})
    assert [each["step"] for each in learn(server, table)] == [1, 2]
    for row, y in zip(rows, (0, 1), strict=True):
        server.learn([row[:2], row[2:]], y, model="same")
    assert server.fingerprint("m")["model_sha256"] == server.fingerprint("same")["model_sha256"]
    wrong = pa.table({"x": pa.array([[1.0] * 3], pa.list_(pa.float64(), 3)), "y": [0]})
    answer = post(server, "/models/m/learn", stream(wrong))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_table")
    assert "fixed-size lists of 4 numbers" in answer.json()["error"]["message"]


WIDE = {f"f{i}": [1.0] for i in range(5000)}
TABLES: list[tuple[Any, str, str]] = [
    (pa.table({"a": [1.0]}), "", "no column 'y' for the target. The columns are 'a'"),
    (pa.table({"a": [1.0], "y": [0]}), "?weight=much", "no column 'much' for the weight"),
    (pa.table({"y": [0]}), "", "no column with a feature"),
    (pa.table([[1.0], [2.0], [0]], names=["a", "a", "y"]), "", "two columns 'a'"),
    (
        pa.table({"a": [[1.0]], "y": [0]}),
        "",
        "the column 'a' is list<item: double>: send one column per feature",
    ),
    (pa.table({"a": [{"b": 1.0}], "y": [0]}), "", "send one column per feature"),
    (pa.table({"a": [decimal.Decimal("1.5")], "y": [0]}), "", "cast it to float64"),
    (pa.table({"a": [datetime.datetime(2026, 1, 2)], "y": [0]}), "", "'a' is timestamp[us]: send times as"),
    (pa.table({"a": [b"x"], "y": [0]}), "", "'a' is binary: send numbers or strings"),
    (pa.table({"a": [1.0], "y": [0], "id": [7.0]}), "", "'id' with the ids is double: cast it to string"),
    (pa.table({"a": [1.0], "y": [0], "w": ["1"]}), "", "'w' with the weights is string: cast it to float64"),
    (pa.table({"x": pa.array([[1.0]], pa.list_(pa.float64(), 1)), "y": [0]}), "", "takes features by name"),
    (pa.table({**WIDE, "y": [0]}), "", "5001 columns"),
]


@pytest.mark.parametrize(("table", "query", "words"), TABLES)
def test_refused_tables(serve: Callable[..., Server], table: Any, query: str, words: str) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    answer = post(server, f"/models/m/learn{query}", stream(table))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_table"), answer.text
    assert words in answer.json()["error"]["message"]
    assert server.get("/models/m")["step"] == 0


SMALL = pa.table({"a": [1.0, 2.0], "c": pa.array(["u", "v"]).dictionary_encode(), "y": [0, 1]})


def test_refused_bodies(serve: Callable[..., Server]) -> None:
    """Damaged, truncated and compressed streams; what came before the damage is learned and answered."""
    server = serve()
    server.create(name="m", hidden=[4])
    body = stream(SMALL)
    for bad, words in (
        (b"", "no schema"),
        (b"a,y\n1,0\n", "does not begin as one"),
        (body[:-20], "ends within a message"),
        (body[:100], "ends within a message"),
        (stream(SMALL, compression="lz4"), "compressed"),
        (stream(SMALL, compression="zstd"), "compressed"),
        (struct.pack("<Ii", 0xFFFFFFFF, -5), "larger"),
        (struct.pack("<Ii", 0xFFFFFFFF, 16) + b"\xff" * 16, "damaged"),
        (body[:40] + b"\0" * 60 + body[100:], ""),
    ):
        answer = post(server, "/models/m/learn", bad)
        assert answer.status_code in (413, 422), answer.text
        if answer.status_code == 422:
            assert words in answer.json()["error"]["message"], answer.text
        assert server.get("/models/m")["step"] == 0
    twice = stream(SMALL)[:-8] + stream(SMALL)
    found = answers(post(server, "/models/m/learn", twice))
    assert [each.get("step") for each in found] == [1, 2, None]
    assert found[2]["row"] == 3
    assert "exactly one schema" in found[2]["error"]["message"]
    assert server.get("/models/m")["step"] == 2


def test_damage_anywhere(serve: Callable[..., Server]) -> None:
    """A changed byte is refused or is another value; the server goes on."""
    server = serve()
    server.create(name="m", hidden=[4])
    rng = random.Random(5)  # noqa: S311
    body = stream(SMALL)
    for _ in range(400):
        changed = bytearray(body)
        for _ in range(rng.choice([1, 1, 1, 4])):
            changed[rng.randrange(len(changed))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        answer = post(server, "/models/m/learn", bytes(changed))
        assert answer.status_code in (200, 413, 422), answer.text
    assert server.get("/health/ready")["status"] == "ready"
    learn(server, SMALL)


def test_dictionary_deltas(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    sink = io.BytesIO()
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("c", kind), ("y", pa.int64())])
    with pa.ipc.new_stream(
        sink, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    ) as writer:
        for words in (["u"], ["u", "v"]):
            column = pa.DictionaryArray.from_arrays(pa.array([len(words) - 1], pa.int8()), pa.array(words))
            writer.write_batch(pa.record_batch([column, pa.array([0])], schema=schema))
    found = answers(post(server, "/models/m/learn", sink.getvalue()))
    assert [each.get("step") for each in found] == [1, None]
    assert "emit_dictionary_deltas=False" in found[1]["error"]["message"]


def test_limits(serve: Callable[..., Server]) -> None:
    """A record batch and the dictionaries are limited as a line is, and so are strings."""
    server = serve(max_body_bytes=20_000)
    server.create(name="m", hidden=[4])
    large = pa.table({"a": np.arange(5000.0), "y": np.arange(5000) % 2})
    answer = post(server, "/models/m/learn", stream(large))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert len(answers(post(server, "/models/m/learn", stream(large, 500)))) == 5000
    words = pa.table({name: pa.array(["x" * 9000]).dictionary_encode() for name in "abc"} | {"y": [0]})
    answer = post(server, "/models/m/learn", stream(words))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    found = learn(server, pa.table({"a": ["x" * 9000, "x"], "y": [0, 1]}))
    assert found[0]["error"]["code"] == "string_too_long"
    assert found[0]["row"] == 1
    bits = pa.table({"a": pa.nulls(10**7), "y": pa.nulls(10**7)})
    answer = post(server, "/models/m/learn", stream(bits))
    assert answer.status_code == 422
    assert "too few bytes" in answer.json()["error"]["message"]


def test_without_pyarrow(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    body = stream(SMALL)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    answer = post(server, "/learn", body)
    assert answer.status_code == 415
    assert "pip install 'bnp-online[arrow]'" in answer.json()["error"]["message"]


def test_rows_while_they_are_sent(serve: Callable[..., Server]) -> None:
    """A batch is answered before the next one is sent."""
    server = serve()
    server.create(name="m", hidden=[4])
    body = stream(SMALL, 1)
    half = len(body) // 2
    parts = [body[:half], body[half:-30], body[-30:]]
    answer = post(server, "/models/m/learn", iter(parts))
    assert [each["step"] for each in answers(answer)] == [1, 2]
