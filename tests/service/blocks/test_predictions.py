"""Streams of predictions that are read as blocks: the answers equal those of single requests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from service.blocks import lines as block_lines
from service.models.hosted import HostedModel
from tests.support.lines import Lines, written
from tests.support.running import Json, Server
from tests.support.streaming import NDJSON, arrow_stream

JSON = "application/json"
#: Samples that no block has.
MANY = 10**9


def post(server: Server, path: str, body: bytes) -> bytes:
    return server.client.post(path, content=body, headers={"content-type": NDJSON}).raise_for_status().content


def asked(lines: Lines, count: int) -> bytes:
    """Return lines to predict: most are alike, some are refused, kept for a label, or ask for more."""
    rng, found = random.Random(count), list[bytes]()  # noqa: S311
    while len(found) < count:
        line = lines.line()
        try:
            body = {name: value for name, value in orjson.loads(line).items() if name in ("x", "id")}
        except orjson.JSONDecodeError:
            found.append(line)
            continue
        if rng.random() < 0.9:
            body.pop("id", None)
        if rng.random() < 0.02:
            body |= rng.choice(
                [{"y": 1}, {"interval": 0.9}, {"interval": 2}, {"model": "m"}, {"model": "no"}]
            )
        found.append(written(body))
    return b"\n".join(found)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the predictions of each block."""
    counts, predict = [0], HostedModel.predict_block

    def predict_block(self: HostedModel, block: Any) -> Any:
        answers = predict(self, block)
        counts.append(0 if answers is None else len(answers))
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(HostedModel, "predict_block", predict_block)
        yield counts


@pytest.mark.parametrize("seed", range(4))
def test_blocks_answer_as_single_requests(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    lines, server = Lines(seed), serve()
    more = {"intervals": 100} if lines.task == "regression" else {}
    server.create(name="m", hidden=[8], task=lines.task, **more)
    body, blocks = asked(lines, 300), list[int]()
    for _ in range(3):
        with counted(monkeypatch) as counts:
            found = post(server, "/models/m/predict", body)
        blocks.append(sum(counts))
        with monkeypatch.context() as patch:
            patch.setattr(block_lines, "FEWEST", MANY)
            assert post(server, "/models/m/predict", body) == found
        with monkeypatch.context() as patch:  # as if a prediction of each block were not finite
            patch.setattr(HostedModel, "predict_block", lambda self, block: None)
            assert post(server, "/models/m/predict", body) == found
        sent = [line for line in body.splitlines() if line]
        for line, answer in list(zip(sent, found.splitlines(), strict=True))[:40]:
            single = server.client.post("/models/m/predict", content=line, headers={"content-type": JSON})
            if single.status_code == 200:
                assert single.content == answer
        post(server, "/models/m/learn", lines.body(250))
    assert blocks[0] == 0 < 50 < blocks[-1]  # an untrained model knows no line


def test_a_stream_for_several_models(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server, rng = serve(), random.Random(1)  # noqa: S311
    for name in ("a", "b"):
        server.create(name=name, hidden=[4])
        for i in range(20):
            server.learn(model=name, x={"size": rng.random(), "model": "golf"}, y="uv"[i % 2])
    stream: list[Json] = []
    for _ in range(200):
        x = {"size": rng.random(), "model": "golf"}
        stream.append({"model": rng.choice("ab"), "x": x} if rng.random() < 0.9 else {"x": x})
    with counted(monkeypatch) as counts:
        answers = post(server, "/predict", b"\n".join(map(written, stream))).splitlines()
    assert sum(counts) > 100
    for line, answer in zip(stream, map(orjson.loads, answers), strict=True):
        assert answer["model"] == line.get("model", "default")
        assert answer == server.client.post("/predict", json=line).json()


def test_explanations_of_lines_that_were_predicted_in_blocks(serve: Callable[..., Server]) -> None:
    server = serve()
    for i in range(20):
        server.learn(x={"a": i / 7}, y=i % 2)
    samples = [{"x": {"a": i / 7}} for i in range(50)]
    body = b"\n".join(map(written, samples))
    for _ in range(2):
        post(server, "/predict", body)
        found = post(server, "/explain", body).splitlines()
        assert [*map(orjson.loads, found)] == [
            server.client.post("/explain", json=each).json() for each in samples
        ]


TABLE = "application/vnd.apache.arrow.stream"


def as_csv(columns: dict[str, list[Any]], rows: int) -> bytes:
    table = [",".join(columns), *(",".join(str(columns[c][i]) for c in columns) for i in range(rows))]
    return "\n".join(table).encode()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_rows_of_tables_are_predicted_in_blocks(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    rng, server, count = random.Random(3), serve(), 150  # noqa: S311
    server.create(name="m", hidden=[4], task=task)
    for i in range(40):
        y = rng.gauss(0, 1) if task == "regression" else "uv"[i % 2]
        server.learn(model="m", x={"size": rng.random(), "colour": rng.choice(["red", "blue"])}, y=y)
    columns: dict[str, list[Any]] = {
        "size": [round(rng.gauss(0, 1), rng.randrange(1, 9)) for _ in range(count)],
        "colour": [rng.choice(["red", "blue", *(["new"] if i % 40 == 39 else [])]) for i in range(count)],
        "y": [rng.choice(["u", "w", 1.5]) for _ in range(count)],  # it is ignored, and may be anything
    }
    lines = [{"x": {"size": columns["size"][i], "colour": columns["colour"][i]}} for i in range(count)]
    expected = [
        orjson.loads(each)
        for each in post(server, "/models/m/predict", b"\n".join(map(written, lines))).splitlines()
    ]
    text = {**columns, "y": [*map(str, columns["y"])]}
    tables = {
        "text/csv": (as_csv(columns, count), "?target=y"),
        TABLE: (arrow_stream(pa.table(text), 100), "?target=y"),
    }
    for kind, (body, query) in tables.items():
        for _ in range(2):
            with counted(monkeypatch) as counts:
                found = server.client.post(
                    f"/models/m/predict{query}", content=body, headers={"content-type": kind}
                ).raise_for_status()
            assert [*map(orjson.loads, found.content.splitlines())] == expected
        assert sum(counts) > 130, kind
        with monkeypatch.context() as patch:  # as if a prediction of each block were not finite
            patch.setattr(HostedModel, "predict_block", lambda self, block: None)
            again = server.client.post(
                f"/models/m/predict{query}", content=body, headers={"content-type": kind}
            )
        assert again.content == found.content
    # With ids the predictions are kept for their labels.
    names = {**text, "id": [str(i) if i % 2 else "" for i in range(count)]}
    kept = {
        "text/csv": as_csv(names, count),
        TABLE: arrow_stream(pa.table({**names, "id": [each or None for each in names["id"]]}), 100),
    }
    for kind, body in kept.items():
        found = server.client.post(
            "/models/m/predict?target=y&id=id", content=body, headers={"content-type": kind}
        ).raise_for_status()
        answers = [*map(orjson.loads, found.content.splitlines())]
        assert [each["id"] for each in answers] == [str(i) if i % 2 else None for i in range(count)]
        assert [{**each, "id": None} for each in answers] == expected


def test_a_prediction_counts_once(serve: Callable[..., Server]) -> None:
    server = serve()
    body = b"\n".join(written({"x": {"a": i / 7}}) for i in range(100))
    server.learn(x={"a": 1.0}, y=1)
    for _ in range(2):
        post(server, "/predict", body)
    assert 'bnp_model_predicted_total{model="default"} 200.0' in server.client.get("/metrics").text
