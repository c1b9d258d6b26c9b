"""Bodies of CSV: the same answers, states and logs as the same samples in NDJSON."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from bnp_online.files import read_samples
from service.blocks import lines as block_lines
from tests.support.lines import observed_with_events
from tests.support.running import Json, Server, serving
from tests.support.server_process import wait_until
from tests.support.streaming import NDJSON, answers, refusals

CSV = "text/csv"
MANY = 10**9  # samples that no block has


def post(server: Server, path: str, body: bytes) -> list[Json]:
    return answers(server.client.post(path, content=body, headers={"content-type": CSV}))


def table(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class Samples:
    """Random samples, as rows of CSV and as lines of NDJSON."""

    def __init__(self, seed: int, count: int) -> None:
        rng = random.Random(seed)  # noqa: S311
        self.task = "regression" if seed % 3 == 2 else "classification"
        classes: list[list[Any]] = [["a", "b", "c"], [0, 1], [True, False]]
        labels = rng.choice(classes)
        names = [f"f{i}" for i in range(rng.randint(1, 6))]
        self.rows: list[list[Any]] = [[*names, "colour", "y", "weight", "key"]]
        self.lines: list[Json] = []
        for i in range(count):
            x: Json = {name: rng.choice([rng.gauss(0, 1), float(rng.randint(-5, 5))]) for name in names}
            if rng.random() < 0.03:
                x[rng.choice(names)] = None
            x["colour"] = rng.choice(["red", "blue", "dark, green"] + [f"colour {i}"] * (rng.random() < 0.01))
            y = rng.gauss(0, 3) if self.task == "regression" else rng.choice(labels)
            line: Json = {"x": x, "y": y, "w": rng.choice([1.0, rng.random()])}
            if rng.random() < 0.3:
                line["id"] = f"i{rng.randint(0, count)}"
            self.lines.append(line)
            word = orjson.dumps(y).decode() if isinstance(y, bool) else y
            cells = ["" if each is None else each for each in x.values()]
            self.rows.append([*cells, word, line["w"], line.get("id", "")])


def sent(folder: Path, samples: Samples, media_type: str) -> tuple[list[Json], Json, Json]:
    """Return the answers, and what the server tells before and after a restart that reads the log."""
    with serving(folder) as server:
        server.create(name="m", hidden=[8], task=samples.task, seed=3)
        found: list[Json] = []
        for start in range(0, len(samples.lines), 200):
            if media_type == CSV:
                body = table([samples.rows[0], *samples.rows[start + 1 : start + 201]])
            else:
                body = b"".join(orjson.dumps(line) + b"\n" for line in samples.lines[start : start + 200])
            path = "/models/m/learn" + ("?target=y&weight=weight&id=key" if media_type == CSV else "")
            found += answers(server.client.post(path, content=body, headers={"content-type": media_type}))
        before = observed_with_events(server)
        learned = server.client.get("/metrics").text
        blocks = 'bnp_model_block_samples_total{model="m"} 0.0' not in learned
        assert blocks == (block_lines.FEWEST < MANY), learned
    (folder / "checkpoints").rename(folder / "gone")
    with serving(folder) as server:
        return found, before, observed_with_events(server)


@pytest.mark.parametrize("seed", range(4))
def test_csv_is_ndjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """In blocks, row by row, and as NDJSON: equal answers but for the numbers of lines, and equal states."""
    samples = Samples(seed, 600)
    ndjson = sent(tmp_path / "ndjson", samples, NDJSON)
    blocks = sent(tmp_path / "csv", samples, CSV)
    monkeypatch.setattr(block_lines, "FEWEST", MANY)
    assert blocks == sent(tmp_path / "rows", samples, CSV)
    found, before, after = blocks
    assert [{**a, "line": a["line"] - 1} if "line" in a else a for a in found] == ndjson[0]
    assert (before["fingerprint"], before["metrics"]) == (ndjson[1]["fingerprint"], ndjson[1]["metrics"])
    assert after["fingerprint"] == before["fingerprint"]
    assert len(before["events"]) == len(ndjson[1]["events"])


def test_cells(serve: Callable[..., Server]) -> None:
    """Cells mean what they mean in a file: words for missing values, quoted cells, booleans, dates."""
    server = serve()
    server.create(name="m", hidden=[4])
    server.create(name="same", hidden=[4])
    body = (
        '\ufeff size , "a ""colour""",flag,day,,y\r\n1.5,red,true,2026-01-02,7,no\r\n'
        'NA,"dark, red",FALSE,,,yes\r\n'
        '"2", blue ,true,2026-01-04,x,no\r\n'
        "?,,false,2026-01-09,x,yes\r\n"
        "word,,false,2026-01-09,x,yes\r\n"
        "n/a?,,false,2026-01-09,x,yes\r\n"
        "1,,false,tomorrow,x,yes\r\n"
    )
    found = post(server, "/models/m/learn?target=y", body.encode())
    assert [each.get("step") for each in found] == [1, 2, 3, 4, None, None, None]
    messages = {each["line"]: each["error"]["message"] for each in found[4:]}
    assert messages == {
        6: "the line has 'word' in the column 'size', which is not a number, as other rows have: "
        "leave the cell empty if the value is missing",
        7: "the line has 'n/a?' in the column 'size', which is not a number, as other rows have: "
        "leave the cell empty if the value is missing",
        8: "the line has 'tomorrow' in the column 'day', which is not a date, as other rows have: "
        "leave the cell empty if the value is missing",
    }
    first, day = 1767312000.0, 86400.0
    for x, y in (
        ({"size": 1.5, 'a "colour"': "red", "flag": True, "day": first}, "no"),
        ({"size": None, 'a "colour"': "dark, red", "flag": False, "day": None}, "yes"),
    ):
        server.learn(x=x, y=y, model="same")
    assert [name for name in server.get("/models/m")["features"] if name.startswith("day")] == [
        "day",
        *(f"day.{part}_{axis}" for part in ("hour", "month", "weekday") for axis in ("cos", "sin")),
    ]
    post(server, "/models/same/learn?target=y", f"size,day,y\n,{'2026-01-04'},no\n".encode())
    assert first + 2 * day == 1767484800.0


def test_types_of_the_model(serve: Callable[..., Server]) -> None:
    """A feature with strings stays one, a number stays one, and labels keep their type."""
    server = serve()
    server.create(name="m", hidden=[4])
    for zip_code, y in (("02139", "1"), ("94305", "2")):
        server.learn(x={"zip": zip_code, "size": 1}, y=y, model="m")
    found = post(server, "/models/m/learn?target=y", b"zip,size,y\n02139,small,1\n94305,2,2\n02139,NA,1\n")
    assert [each.get("step") for each in found] == [None, 3, 4]
    assert "'small' in the column 'size', which is not a number" in found[0]["error"]["message"]
    assert server.get("/models/m")["features"] == ["size", "zip=02139", "zip=94305"]
    assert server.get("/models/m")["classes"] == ["1", "2"]


def test_refused_rows(serve: Callable[..., Server]) -> None:
    """Errors have the number of the line; the other rows are learned."""
    server = serve()
    server.create(name="m", hidden=[4])
    body = (
        b"a,y,w,id\n1,0,1,\n2,,1,\n3,red,1,\n4,1,-1,\n\n5,1,much,\n6,1,1," + b"x" * 200 + b"\n\xff,1,1,\n"
        b"1,2,3,4,5\n1e999,1,1,\n7,1\n"
    )
    found = post(server, "/models/m/learn?target=y&weight=w&id=id", body)
    assert refusals(found) == {
        3: "invalid_row",
        4: "invalid_row",
        5: "invalid_weight",
        7: "invalid_row",
        8: "invalid_id",
        9: "invalid_row",
        10: "invalid_row",
        11: "non_finite_feature",
    }
    messages = [each["error"]["message"] for each in found if "error" in each]
    assert messages[0] == "the line has no target in the column 'y'"
    assert "'red' in the column 'y', which is not an integer" in messages[1] or "first one" in messages[1]
    assert server.get("/models/m")["step"] == 2


def test_cells_with_line_breaks(serve: Callable[..., Server]) -> None:
    """Nothing behind a quotation mark that is not closed is learned: it may be a part of the cell."""
    server = serve()
    server.create(name="m", hidden=[4])
    found = post(server, "/models/m/learn?target=y", b'a,b,y\n1,red,0\n2,"red\n3,blue",1\n4,blue,1\n')
    assert refusals(found) == {3: "invalid_row", 4: "invalid_row", 5: "invalid_row"}
    assert server.get("/models/m")["step"] == 1


@pytest.mark.parametrize(
    ("query", "body", "words"),
    [
        ("", b"a,y\n1,0\n", "?target=y"),
        ("?target=z", b"a,y\n1,0\n", "has no column 'z' for the target. The columns are 'a', 'y'"),
        ("?target=y&id=a&weight=a", b"a,y\n1,0\n", "two of target, id and weight"),
        ("?target=y&target=a", b"a,y\n1,0\n", "twice"),
        ("?target=", b"a,y\n1,0\n", "name of a column"),
        ("?target=y&ids=a", b"a,y\n1,0\n", "'ids'"),
        ("?target=y", b"a,y,a\n1,0,2\n", "has the column 'a' twice (columns 1 and 3)"),
        ("?target=y", b"", "is empty"),
        ("?target=y", b"\xff,y\n1,0\n", "UTF-8"),
        ("?target=y", b"a;y\n1;0\n", "'a;y'"),
        ("?target=y", b"y" + b",a" * 5000 + b"\n", "the limit is"),
    ],
)
def test_refused_requests(serve: Callable[..., Server], query: str, body: bytes, words: str) -> None:
    """A header without the columns refuses the whole request."""
    server = serve()
    server.create(name="m", hidden=[4])
    answer = server.client.post(f"/models/m/learn{query}", content=body, headers={"content-type": CSV})
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"], answer.text
    assert server.get("/models/m")["step"] == 0


def test_other_models_and_types(serve: Callable[..., Server]) -> None:
    server = serve()
    send = server.client.post
    body = b"a,y\n1,0\n"
    assert send("/models/no/learn?target=y", content=body, headers={"content-type": CSV}).status_code == 404
    assert send("/label", content=body, headers={"content-type": CSV}).status_code == 415
    latin = {"content-type": "text/csv; charset=latin-1"}
    assert send("/learn?target=y", content=body, headers=latin).status_code == 415


def test_predictions(serve: Callable[..., Server]) -> None:
    """Predictions of rows equal those of single requests; a target is no feature."""
    server = serve()
    server.create(name="m", hidden=[4])
    post(server, "/models/m/learn?target=y", b"a,b,y\n1,red,0\n2,blue,1\n3,red,0\n")
    found = post(server, "/models/m/predict?target=y&id=key", b"a,b,y,key\n1.5,red,0,p1\n,blue,,\n")
    assert [each.get("id") for each in found] == ["p1", None]
    for x, one in zip(({"a": 1.5, "b": "red"}, {"a": None, "b": "blue"}), found, strict=True):
        assert server.predict(x=x, model="m")["probabilities"] == one["probabilities"]
    server.client.post("/label", json={"id": "p1", "y": 1, "model": "m"}).raise_for_status()


def test_unlearning(serve: Callable[..., Server]) -> None:
    """A row is unlearned out of its block, as if it had never come."""
    server = serve()
    rows = [b"%d,%d,%d,k%d" % (i % 7, i % 3, i % 2, i) for i in range(120)]
    for name, kept in (("m", rows), ("without", rows[:80] + rows[81:])):
        server.create(name=name, hidden=[4])
        for start in range(0, len(kept), 60):
            body = b"\n".join([b"a,b,y,key", *kept[start : start + 60]])
            post(server, f"/models/{name}/learn?target=y&id=key", body)
    assert server.post("/models/m/forget", ids=["k80"]).status_code == 202
    wait_until(lambda: server.get("/models/m")["state"] == "ready" and server.get("/models/m")["step"] == 119)
    assert server.fingerprint("m")["model_sha256"] == server.fingerprint("without")["model_sha256"]


def test_a_file_and_a_request_refuse_the_same_rows(serve: Callable[..., Server]) -> None:
    """In a block, too: words for missing values are learned, other words in a column of numbers are not."""
    server = serve()
    rows = [f"{i},{i % 3}" for i in range(400)]
    for at, word in (
        (300, "NA"),
        (310, "?"),
        (320, "n/a?"),
        (330, "abc"),
        (340, ""),
        (350, "inf"),
        (360, "None"),
    ):
        rows[at] = f"{word},{at % 3}"
    body = "\n".join(["size,y", *rows]).encode()
    read = [row.error for row in read_samples(io.BytesIO(body), "y", keep=["size"])]
    assert [at for at, error in enumerate(read) if error] == [320, 330, 350]
    server.create(name="m", hidden=[4])
    found = post(server, "/models/m/learn?target=y", body)
    assert [at for at, each in enumerate(found) if "error" in each] == [320, 330, 350]
    assert [each["line"] for each in found if "error" in each] == [322, 332, 352]
    assert server.get("/models/m")["step"] == 397
