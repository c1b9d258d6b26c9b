"""Repeats in another format: a sample with an id is the same, however its numbers are written."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import orjson
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.support.running import Json, Server
from tests.support.streaming import answers

#: Samples of which every number is whole, with ids that are digits; more than a block needs.
COUNT = 40
XS = [{"a": i, "b": i % 3, "flag": i % 2 == 0} for i in range(COUNT)]
YS = [i % 2 for i in range(COUNT)]


def in_json(server: Server) -> list[Json]:
    items = [{"x": x, "y": y, "id": str(i), "w": 1} for i, (x, y) in enumerate(zip(XS, YS, strict=True))]
    return list(server.client.post("/models/m/learn", json=items).json())


def in_lines_of_floats(server: Server) -> list[Json]:
    lines = [
        orjson.dumps({"x": {name: float(v) for name, v in x.items()}, "y": float(y), "id": str(i), "w": 1.0})
        for i, (x, y) in enumerate(zip(XS, YS, strict=True))
    ]
    return post(server, "", b"\n".join(lines), "application/x-ndjson")


def in_csv(server: Server) -> list[Json]:
    rows = [
        f"{x['a']},{x['b']}.0,{int(x['flag'])},{y},{i}" for i, (x, y) in enumerate(zip(XS, YS, strict=True))
    ]
    body = "\n".join(["a,b,flag,y,id", *rows]).encode()
    return post(server, "?target=y&id=id", body, "text/csv")


def in_arrow(server: Server) -> list[Json]:
    table = pa.table({name: [x[name] for x in XS] for name in XS[0]} | {"y": YS, "id": range(COUNT)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return post(server, "", sink.getvalue(), "application/vnd.apache.arrow.stream")


def post(server: Server, query: str, body: bytes, kind: str) -> list[Json]:
    return answers(
        server.client.post(f"/models/m/learn{query}", content=body, headers={"content-type": kind})
    )


WAYS = [in_json, in_lines_of_floats, in_csv, in_arrow]


@pytest.mark.parametrize("first", range(len(WAYS)))
def test_a_repeat_in_another_format_is_a_duplicate(serve: Callable[..., Server], first: int) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    for x, y in ({"a": 0, "b": 0, "flag": True}, 0), ({"a": 1, "b": 1, "flag": False}, 1):
        server.learn(x, y, model="m")  # so that the rows are read in blocks
    ways = itertools.islice(itertools.cycle(WAYS), first, first + len(WAYS))
    expected = [False, True, True, True]
    for way, duplicate in zip(ways, expected, strict=True):
        found = way(server)
        assert [each.get("duplicate") for each in found] == [duplicate] * COUNT, (way, found)
        assert [each["step"] for each in found] == [*range(3, COUNT + 3)]
    assert server.get("/models/m")["step"] == COUNT + 2
    changed = server.post("/models/m/learn", x={**XS[5], "a": 6}, y=YS[5], id="5")
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "id_conflict")
    changed = server.post("/models/m/learn", x=XS[5], y=True, id="5")
    assert (changed.status_code, changed.json()["error"]["code"]) == (409, "id_conflict")


def test_a_prediction_repeats_in_another_format(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    server.learn({"a": 1}, 0, model="m")
    first = server.predict({"a": 2}, model="m", id="p")
    server.learn({"a": 1}, 0, model="m")
    [again] = answers(
        server.client.post(
            "/models/m/predict?id=key", content=b"a,key\n2.0,p\n", headers={"content-type": "text/csv"}
        )
    )
    assert again == first
    other = server.post("/models/m/predict", x={"a": 3}, id="p")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "id_conflict")
