"""Data frames sent by the client: models and predictions are those of dicts."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from collections.abc import Callable
from typing import Any

import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest

from bnp_online import SampleError
from bnp_online.client import AsyncClient, Client, Sample, ServerError
from bnp_online.client.bulk import Outcome
from bnp_online.client.errors import InvalidRequestError
from tests.support.running import Json, Server

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIZE = 300


def columns() -> dict[str, list[Any]]:
    return {
        "size": [None if i % 17 == 3 else i % 7 / 4 for i in range(SIZE)],
        "count": [*range(SIZE)],
        "colour": ["red" if i % 3 else "blue" for i in range(SIZE)],
        "when": [START + datetime.timedelta(hours=i) for i in range(SIZE)],
        "label": ["yes" if i % 5 > 2 else "no" for i in range(SIZE)],
    }


def dicts() -> list[tuple[Json, str]]:
    rows = [dict(zip(columns(), values, strict=True)) for values in zip(*columns().values(), strict=True)]
    return [({k: v for k, v in row.items() if k != "label"}, row["label"]) for row in rows]


def categories(frame: Any) -> Any:
    return frame.astype({"colour": "category"})


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(columns()),
    "pandas, index and categories": lambda: categories(pd.DataFrame(columns())).set_index([[*range(SIZE)]]),
    "polars": lambda: pl.DataFrame(columns()),
    "polars, categories": lambda: pl.DataFrame(columns()).with_columns(pl.col("colour").cast(pl.Categorical)),
    "Arrow": lambda: pa.table(columns()),
    "reader": lambda: pa.RecordBatchReader.from_batches(
        pa.table(columns()).schema, pa.table(columns()).to_batches(max_chunksize=70)
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_dicts(serve: Callable[..., Server], kind: str) -> None:
    server = serve()
    for name in ("frame", "dicts"):
        server.create(name=name, hidden=[6])
    outcomes: list[Outcome] = []
    with Client(f"http://{server.host}:{server.port}") as client:
        summary = client.learn_many(
            FRAMES[kind](), model="frame", target="label", size=100, progress=outcomes.extend
        )
        client.learn_many(dicts(), model="dicts")
        assert (summary.learned, summary.refused, summary.step) == (SIZE, 0, SIZE)
        assert len(outcomes) == SIZE
        fingerprints = [client.fingerprint(name).model_sha256 for name in ("frame", "dicts")]
        assert fingerprints[0] == fingerprints[1]
        predicted = [*client.predict_many(FRAMES[kind](), model="frame", target="label", size=100)]
        assert predicted == [
            each.model_copy(update={"model": "frame"})
            for each in client.predict_many([x for x, _ in dicts()], model="dicts")
            if not isinstance(each, ServerError)
        ]


def test_ids_and_weights(serve: Callable[..., Server]) -> None:
    """Ids make rows safe to repeat; without a column they are random."""
    server = serve()
    server.create(name="m", hidden=[4])
    frame = pd.DataFrame(
        {"a": [1.0, 2.0, 3.0], "y": [True, False, True], "w": [1.0, 0.5, -1.0], "key": [7, 8, 9]}
    )
    with Client(f"http://{server.host}:{server.port}") as client:
        first = client.learn_many(frame, model="m", id="key")
        assert (first.learned, first.refused, first.duplicates) == (2, 1, 0)
        ((row, error),) = first.refusals
        assert (row, error.code, error.row) == (2, "invalid_weight", 2)
        again = client.learn_many(frame, model="m", id="key")
        assert (again.learned, again.duplicates) == (2, 2)
        events = server.get("/models/m/events")["events"]
        assert [each["id"] for each in events if each["kind"] == "learn"] == ["7", "8"]
        other = client.learn_many(frame.drop(columns=["w"]), model="m", id="other")
        assert (other.learned, other.duplicates) == (3, 0)


def test_asynchronous(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[4])

    async def run() -> list[Any]:
        client = AsyncClient(f"http://{server.host}:{server.port}")
        try:
            await client.learn_many(pl.DataFrame(columns()), model="m", target="label")
            return [
                each async for each in client.predict_many(pl.DataFrame(columns()), model="m", target="label")
            ]
        finally:
            await client.aclose()

    with Client(f"http://{server.host}:{server.port}") as client:
        found = asyncio.run(run())
        assert found == [*client.predict_many([x for x, _ in dicts()], model="m")]


def test_intervals(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", task="regression", hidden=[4], intervals=200)
    frame = pa.table({"a": [decimal.Decimal(i) for i in range(60)], "y": [float(i % 9) for i in range(60)]})
    with Client(f"http://{server.host}:{server.port}") as client:
        client.learn_many(frame, model="m")
        found = [*client.predict_many(frame, model="m", interval=0.9)]
        assert found == [*client.predict_many([{"a": i} for i in range(60)], model="m", interval=0.9)]


def test_what_cannot_be_sent(serve: Callable[..., Server]) -> None:
    server = serve()
    server.create(name="m", hidden=[4])
    with Client(f"http://{server.host}:{server.port}") as client:
        with pytest.raises(SampleError, match="there is no column 'y'"):
            client.learn_many(pd.DataFrame({"a": [1.0]}), model="m")
        with pytest.raises(InvalidRequestError, match="send one column per feature"):
            client.learn_many(pl.DataFrame({"a": [[1.0]], "y": [1]}), model="m")
        with pytest.raises(SampleError, match="cannot be sent"):
            client.learn_many(pd.DataFrame({"a": [1, "x"], "y": [0, 1]}), model="m")
        assert client.learn_many([Sample({"a": 1.0}, 0)], model="m").step == 1
