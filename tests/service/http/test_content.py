"""Content-Type and Content-Encoding of a body: names of NDJSON, encodings of text, byte order marks, gzip."""

from __future__ import annotations

import gzip
import json
import resource
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.support.running import Json, Server, error, serving
from tests.support.streaming import NDJSON, answers

BOM = b"\xef\xbb\xbf"
JSON = "application/json"
SAMPLE: Json = {"x": {"a": 1.0, "town": "Oslo"}, "y": "cat"}
RAW = json.dumps(SAMPLE).encode()
LIMIT = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("content"), max_body_bytes=LIMIT) as running:
        yield running


def post(
    server: Server, content: bytes | Iterator[bytes], kind: str = JSON, path: str = "/learn", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post(path, content=content, headers={"content-type": kind, **named})


def step_after(server: Server, content: bytes | Iterator[bytes], kind: str = JSON, **headers: str) -> int:
    """Learn a sample, and return by how many steps the model has advanced."""
    before: int = server.get("/models/default")["step"]
    answer = post(server, content, kind, **headers)
    assert answer.status_code == 200, answer.text
    after: int = server.get("/models/default")["step"]
    return after - before


@pytest.mark.parametrize(
    "kind",
    [
        *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl"),
        *("application/jsonlines", "application/x-jsonlines", "application/json-lines"),
        *("application/x-json-lines", "application/x-ldjson", "text/x-ndjson", "text/jsonl"),
        *("Application/X-NDJSON", 'application/jsonl; charset="UTF-8"', "application/ndjson;charset=utf8"),
    ],
)
def test_every_name_of_ndjson_is_a_stream(server: Server, kind: str) -> None:
    lines = b"\r\n" + RAW + b"\r\n\n \n" + RAW
    answered = answers(post(server, lines, kind))
    assert len([line["step"] for line in answered]) == 2


@pytest.mark.parametrize("kind", [JSON, NDJSON])
@pytest.mark.parametrize("charset", ["iso-8859-1", "UTF-16", '"latin1"'])
def test_another_encoding_of_text_is_refused(server: Server, kind: str, charset: str) -> None:
    answer = post(server, RAW, f"{kind}; charset={charset}")
    assert error(answer)[:2] == (415, "unsupported_media_type")
    assert "send it in UTF-8" in answer.text


@pytest.mark.parametrize("kind", ["application/json-seq", "text/plain", "text/tab-separated-values", ""])
def test_another_media_type_is_refused(server: Server, kind: str) -> None:
    answer = post(server, RAW, kind)
    assert error(answer)[:2] == (415, "unsupported_media_type")
    assert f"{JSON} or {NDJSON}" in answer.text


def test_a_byte_order_mark_is_ignored(server: Server) -> None:
    assert step_after(server, BOM + RAW) == 1
    assert step_after(server, BOM + RAW + b"\n" + RAW + b"\n", NDJSON) == 2
    assert step_after(server, BOM + b"\r\n" + RAW, NDJSON) == 1
    assert post(server, BOM + b'{"name": "marked"}', path="/models").status_code == 201
    assert post(server, BOM + b'{"model": "default"}', path="/api/metrics/").status_code == 405
    asked = server.client.request(
        "GET", "/api/metrics/", content=BOM + b'{"model": "default"}', headers={"content-type": JSON}
    )
    assert asked.status_code == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_with_the_remedy(server: Server, encoding: str) -> None:
    answer = post(server, RAW.decode().encode(encoding))
    assert error(answer)[:2] == (400, "invalid_json")
    assert "send it in UTF-8" in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (RAW + b"\n" + RAW, JSON, "one JSON value per line with Content-Type: application/x-ndjson"),
        (b"", JSON, "the body is not valid JSON: it is empty"),
        (json.dumps(SAMPLE, indent=2).encode(), NDJSON, "send others with Content-Type: application/json"),
        (b"[" + RAW + b"]", NDJSON, "send an array with Content-Type: application/json"),
    ],
)
def test_a_body_of_the_other_kind_names_its_content_type(
    server: Server, content: bytes, kind: str, remedy: str
) -> None:
    assert remedy in post(server, content, kind).text


def test_a_compressed_body_is_learned(server: Server) -> None:
    for encoding in ("gzip", "GZIP", "x-gzip", "identity, gzip"):
        assert step_after(server, gzip.compress(RAW), content_encoding=encoding) == 1
    assert step_after(server, RAW, content_encoding="identity") == 1
    assert step_after(server, gzip.compress(BOM + RAW), content_encoding="gzip") == 1
    parts = gzip.compress(RAW[:20]) + gzip.compress(RAW[20:])  # two members are one body
    assert (
        step_after(server, (parts[i : i + 7] for i in range(0, len(parts), 7)), content_encoding="gzip") == 1
    )
    assert post(server, gzip.compress(b'{"name": "small"}'), path="/models", content_encoding="gzip").json()
    exported = server.client.get("/models/default/export").content
    imported = server.client.put(
        "/models/small/import",
        content=gzip.compress(exported),
        headers={"content-type": "application/octet-stream", "content-encoding": "gzip"},
    )
    assert imported.json()["step"] == server.get("/models/default")["step"]


def test_a_compressed_stream_is_answered_while_it_comes(server: Server) -> None:
    packer = zlib.compressobj(wbits=31)

    def body() -> Iterator[bytes]:
        for i in range(300):
            line = json.dumps({"x": {"a": i}, "y": "cat"}).encode() + b"\n"
            yield packer.compress(line) + packer.flush(zlib.Z_SYNC_FLUSH if i % 50 == 0 else zlib.Z_NO_FLUSH)
        yield packer.flush()

    assert len(answers(post(server, body(), NDJSON, content_encoding="gzip"))) == 300


@pytest.mark.parametrize("kind", [JSON, NDJSON])
@pytest.mark.parametrize(
    "content",
    [RAW, gzip.compress(RAW)[:-1], gzip.compress(RAW) + b"more"],
    ids=["not gzip", "too short", "too long"],
)
def test_damaged_gzip_is_refused_with_the_remedy(server: Server, kind: str, content: bytes) -> None:
    before = server.fingerprint()
    answer = post(server, content, kind, content_encoding="gzip")
    assert error(answer)[:2] == (400, "invalid_encoding")
    assert "compress it" in answer.text
    assert server.fingerprint() == before


def test_an_incomplete_stream_is_answered_up_to_its_end(server: Server) -> None:
    content = gzip.compress(b"".join(b'{"x": {"a": %d}, "y": "cat"}\n' % i for i in range(5000)))
    *learned, last = answers(post(server, content[:-100], NDJSON, content_encoding="gzip"))
    assert len(learned) > 1000
    assert (last["error"]["code"], last["line"]) == ("invalid_encoding", len(learned) + 1)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br"])
def test_another_compression_is_refused_with_what_is_accepted(server: Server, encoding: str) -> None:
    answer = post(server, RAW, content_encoding=encoding)
    assert error(answer)[:2] == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip"
    assert "compress the body with gzip" in answer.text


def test_a_small_body_of_a_gigabyte_takes_no_memory(server: Server) -> None:
    member = gzip.compress(bytes(10**7))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = post(server, member * 100, content_encoding="gzip")
    assert error(answer)[:2] == (413, "body_too_large")
    [line] = answers(post(server, member * 20, NDJSON, content_encoding="gzip"))
    assert line["error"]["code"] == "body_too_large"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 30e6
    exact = RAW + b" " * (LIMIT - len(RAW))
    assert step_after(server, gzip.compress(exact), content_encoding="gzip") == 1
    assert post(server, gzip.compress(exact + b" "), content_encoding="gzip").status_code == 413
