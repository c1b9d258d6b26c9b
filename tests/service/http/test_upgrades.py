"""Requests that ask for another protocol are served; incomplete requests are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import Server
from tests.support.streaming import NDJSON, refusals
from tests.support.wire import answers, chunked, connected, everything, request, responses

UPGRADES = {
    "h2c": {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    },
    "another": {"connection": "Upgrade", "upgrade": "foo"},
    "websocket": {
        "connection": "keep-alive, Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    },
}
LINES = [b'{"x": {"a": %d}, "y": %d}\n' % (i, i % 2) for i in range(300)]

upgrades = pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@upgrades
def test_a_body_is_served_in_spite_of_an_upgrade(
    serve: Callable[..., Server], headers: dict[str, str]
) -> None:
    server = serve()
    sent = [
        request("/learn", LINES[0], **headers),
        request("/learn", b"".join(LINES[1:101]), **headers, **{"content-type": NDJSON}),
        chunked("/learn", b"".join(LINES[101:200]), LINES[200], **headers),
        b"GET /models HTTP/1.1\r\nhost: localhost\r\n"
        + b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in headers.items())
        + b"\r\n",
        request("/learn", LINES[201]),
    ]
    one, lines, chunks, models, last = answers(server, [b"".join(sent)])
    assert [each.status for each in (one, lines, chunks, models, last)] == [200] * 5
    assert one.json["step"] == 1
    assert [line["step"] for line in lines.lines] == list(range(2, 102))
    assert [line["step"] for line in chunks.lines] == list(range(102, 202))
    assert models.json["models"][0]["name"] == "default"
    assert last.json["step"] == 202


@upgrades
def test_the_pieces_of_a_body_do_not_matter(server: Server, headers: dict[str, str]) -> None:
    """Its head may end anywhere in a packet."""
    raw = request("/learn", LINES[0], **headers) + request("/learn", LINES[1])
    end = raw.index(b"\r\n\r\n")
    for cut in (1, end - 1, end, end + 1, end + 2, end + 3, end + 4, end + 5, len(raw) - 1):
        first, second = answers(server, [raw[:cut], raw[cut:]])
        assert (first.status, second.status) == (200, 200), cut
        assert second.json["step"] == first.json["step"] + 1


def test_curl_speaks_h2c(server: Server, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if (
        curl is None
        or "HTTP2"
        not in subprocess.run([curl, "--version"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("needs curl with HTTP/2")
    file = tmp_path / "lines"
    file.write_bytes(b"".join(LINES))
    step = server.fingerprint()["step"]
    options = ["--silent", "--show-error", "--fail", "--http2", "--max-time", "60"]
    url = f"{server.url}/learn"
    one = [*options, "--json", LINES[0].decode(), url]
    lines = [*options, "--header", f"content-type: {NDJSON}", "--data-binary", f"@{file}", url]
    said = run(curl, *one, "--next", *lines).replace("}{", "}\n{")
    steps = [json.loads(line)["step"] for line in said.splitlines()]
    assert steps == list(range(step + 1, step + 302))


@pytest.mark.parametrize("headers", [{}, UPGRADES["h2c"]], ids=["plain", "h2c"])
@pytest.mark.parametrize("path", ["/learn", "/predict", "/models", "/models/default/rollback"])
def test_an_incomplete_body_is_refused(server: Server, headers: dict[str, str], path: str) -> None:
    before = server.fingerprint()
    (refused,) = answers(server, [request(path, LINES[0], **headers)[:-5]])
    assert (refused.status, refused.json["error"]["code"]) == (400, "client_disconnected")
    assert refused.headers["connection"] == "close"
    assert server.fingerprint() == before


@pytest.mark.parametrize("headers", [{}, UPGRADES["h2c"]], ids=["plain", "h2c"])
@pytest.mark.parametrize("form", ["length", "chunks"])
def test_an_incomplete_stream_ends_with_an_error(server: Server, headers: dict[str, str], form: str) -> None:
    """The complete lines are learned and answered."""
    step = server.fingerprint()["step"]
    lines = b"".join(LINES)
    if form == "length":
        sent = request("/learn", lines, **headers, **{"content-type": NDJSON})[:-5]
    else:
        sent = chunked("/learn", lines, **headers)[: -len(b"0\r\n\r\n") - 8]
    (stream,) = answers(server, [sent])
    assert stream.status == 200
    assert [line["step"] for line in stream.lines[:-1]] == list(range(step + 1, step + 300))
    assert refusals(stream.lines) == {300: "client_disconnected"}
    assert server.fingerprint()["step"] == step + 299


@pytest.mark.parametrize("headers", [{}, UPGRADES["h2c"]], ids=["plain", "h2c"])
def test_a_stream_without_a_complete_line_is_refused(server: Server, headers: dict[str, str]) -> None:
    before = server.fingerprint()
    (refused,) = answers(server, [chunked("/learn", LINES[0], **headers)[:-15]])
    assert (refused.status, refused.json["error"]["code"]) == (400, "client_disconnected")
    assert server.fingerprint() == before


@pytest.mark.parametrize(
    "rest", [b"5\r\n12345\r\nzz\r\n", b"5\r\n123456\r\n", b"-1\r\n"], ids=["length", "chunk", "negative"]
)
def test_a_malformed_stream_ends_with_an_error(server: Server, rest: bytes) -> None:
    start = chunked("/learn", LINES[0])[: -len(b"0\r\n\r\n")]
    with connected(server) as connection:
        step = server.fingerprint()["step"]
        connection.sendall(start)
        while server.fingerprint()["step"] == step:
            pass
        connection.sendall(rest)
        (stream,) = responses(everything(connection))
    assert stream.lines[0]["step"] == step + 1
    assert refusals(stream.lines) == {2: "client_disconnected"}


def test_a_fault_is_answered_after_the_requests_before_it(server: Server) -> None:
    good = request("/predict", b'{"x": {"a": 1}}')
    with connected(server) as connection:
        connection.sendall(3 * good + b"GET / HTTP/1.1\r\nno header\r\n\r\n" + good)
        found = responses(everything(connection))
    assert [each.status for each in found] == [200, 200, 200, 400]
    assert found[-1].headers["connection"] == "close"


def test_a_jvm_client_learns(server: Server) -> None:
    """Java's own client prefers HTTP/2, and asks for h2c with each request until a server accepts it."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("needs a JDK")
    server.create(name="jvm")
    said = run(java, Path(__file__).with_name("LearnTest.java"), server.url)
    assert said.splitlines()[-1] == "learned 211 samples"
    assert server.fingerprint("jvm")["step"] == 211
