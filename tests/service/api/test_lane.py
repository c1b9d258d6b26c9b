"""Requests in the lane: what a client receives, and what the server keeps, is as on the ordinary path."""

from __future__ import annotations

import gzip
import logging
import random
import re
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from service.auth import keys
from tests.support.lines import Lines, in_blocks, observed
from tests.support.running import Json, Server, head, serving
from tests.support.wire import connected, everything, responses

#: Requests of a run, and connections that send them.
REQUESTS, CONNECTIONS = 1200, 6
#: Greatest length of a body.
LARGEST = 2000
SECRETS = {name: f"{name}-key-of-a-server-that-this-test-starts" for name in ("all", "m", "reads", "late")}
KEYS = ";".join(
    (
        f"all learn,predict,read,admin {SECRETS['all']}",
        f"m learn,predict {SECRETS['m']} models=m",
        f"reads read,predict {SECRETS['reads']}",
        f"late learn,read {SECRETS['late']} expires=2020-01-01",
    )
)
_JSON = {"content-type": "application/json"}
#: What differs between two servers: the time, and the ids of requests.
_OWN = re.compile(rb"(?<=\r\ndate: )[^\r]*|(?<=\r\nx-request-id: )[0-9a-f]{8}-[0-9a-f]+")


class Sent(NamedTuple):
    """Bytes to send at once, and more bytes to send later; `answers` is the number of responses."""

    data: bytes
    rest: bytes = b""
    answers: int = 1
    headless: bool = False
    waits: float = 0.02  # seconds for an answer before `rest`

    def unlike(self, number: int) -> Sent:
        """Return it with heads that no other request has."""
        field = b"x-number: %d\r\n" % number
        data, rest = (re.sub(rb"(?<=HTTP/1\.\d\r\n)", field, each) for each in (self.data, self.rest))
        return self._replace(data=data, rest=rest)


def head_of(line: str, fields: Sequence[str]) -> bytes:
    return "\r\n".join((line, *fields, "", "")).encode()


class Traffic:
    """Random requests: most are like earlier ones, the others are unusual in one respect."""

    def __init__(self, seed: int, keys: bool) -> None:
        self._rng = random.Random(seed)  # noqa: S311
        self.lines = Lines(seed)
        self._keys = keys
        self._bodies: list[bytes] = []
        self._lengths: set[int] = set()

    def _usual(self, body: bytes, *fields: str, line: str = "POST /models/m/learn HTTP/1.1") -> bytes:
        key = [f"Authorization: Bearer {SECRETS['all']}"] if self._keys else []
        length = f"Content-Length: {len(body)}"
        return (
            head_of(line, ("Host: localhost", *key, "Content-Type: application/json", length, *fields)) + body
        )

    def next(self) -> list[Sent]:
        """Return a few usual requests, which are sent together, or an unusual one."""
        if self._rng.random() < 0.6:
            bodies = [self._alike() for _ in range(self._rng.randint(1, CONNECTIONS))]
            known = [body for body in bodies if len(body) in self._lengths] or bodies[:1]
            self._bodies += known
            return [Sent(self._usual(body)) for body in known]
        kinds = [name for name in dir(self) if name.startswith("_as_")]
        sent: Sent = getattr(self, self._rng.choice(kinds))(self.lines.line())
        return [sent]

    def note(self, sent: Sent, answer: bytes) -> None:
        """Note that a request was answered: whether later ones with its head may take the lane."""
        body = sent.data.partition(b"\r\n\r\n")[2]
        if body in self._bodies and answer.startswith(b"HTTP/1.1 200 "):
            self._lengths.add(len(body))

    def _alike(self) -> bytes:
        """Return a line that is like the others; some come again."""
        if self._bodies and self._rng.random() < 0.1:
            body = self._rng.choice(self._bodies)
            return body if self._rng.random() < 0.7 else body.replace(b"1", b"2")
        return self.lines.line(alike=True)

    def _as_odd_head(self, body: bytes) -> Sent:
        fields = [
            "accept: */*",
            "USER-AGENT:curl",
            "x-empty:",
            "x-spaces:   a  b  ",
            "x-twice: 1\r\nx-twice: 2",
        ]
        return Sent(self._usual(body, *self._rng.sample(fields, self._rng.randint(1, 3))))

    def _as_id(self, body: bytes) -> Sent:
        return Sent(self._usual(body, f"X-Request-ID: {self._rng.choice(['mine', 'not valid!'])}"))

    def _as_other_path(self, body: bytes) -> Sent:
        paths = [
            "/learn",
            "/models/n/learn",
            "/models/nobody/learn",
            "/models/m/learn?a=1",
            "/models/m/learn?id=1",
            "/models/m/learn?",
            "/models/%6d/learn",
        ]
        paths += [
            "/predict",
            "/models/m/predict",
            "/models/m/label",
            "/nowhere",
            "/models/m/learn/",
            "//learn",
        ]
        return Sent(self._usual(body, line=f"POST {self._rng.choice(paths)} HTTP/1.1"))

    def _as_named_model(self, body: bytes) -> Sent:
        name = self._rng.choice([b"m", b"n", b"nobody", b""])
        inside = b'{"model":"%b",' % name + body[1:]
        line = self._rng.choice(["/learn", "/models/m/learn"])
        return Sent(self._usual(inside, line=f"POST {line} HTTP/1.1"))

    def _as_model_header(self, body: bytes) -> Sent:
        name, path = self._rng.choice(["m", "n", "nobody"]), self._rng.choice(["/learn", "/models/m/learn"])
        return Sent(self._usual(body, f"BNP-Model: {name}", line=f"POST {path} HTTP/1.1"))

    def _as_other_method(self, body: bytes) -> Sent:
        method = self._rng.choice(["GET", "HEAD", "PUT", "OPTIONS"])
        return Sent(self._usual(body, line=f"{method} /learn HTTP/1.1"), headless=method == "HEAD")

    def _as_other_version(self, body: bytes) -> Sent:
        return Sent(self._usual(body, line="POST /models/m/learn HTTP/1.0"))

    def _as_closing(self, body: bytes) -> Sent:
        return Sent(self._usual(body, f"Connection: {self._rng.choice(['close', 'keep-alive'])}"))

    def _as_expecting(self, body: bytes) -> Sent:
        data = self._usual(body, "Expect: 100-continue")
        end = data.index(b"\r\n\r\n") + 4
        return Sent(data) if self._rng.random() < 0.5 else Sent(data[:end], data[end:], waits=60.0)

    def _as_split(self, body: bytes) -> Sent:
        data = self._usual(body)
        cut = self._rng.choice([1, len(data) // 2, len(data) - len(body), len(data) - 1])
        return Sent(data[:cut], data[cut:])

    def _as_usual(self, body: bytes) -> Sent:
        return Sent(self._usual(body))

    def _as_pipelined(self, body: bytes) -> Sent:
        count = self._rng.randint(2, 4)
        bodies = [body, *(self.lines.line() for _ in range(count - 1))]
        return Sent(b"".join(self._usual(each) for each in bodies), answers=count)

    def _as_pipelined_late(self, body: bytes) -> Sent:
        return Sent(self._usual(body), self._usual(self.lines.line()), answers=2)

    def _as_pipelined_broken(self, body: bytes) -> Sent:
        return Sent(self._usual(body), b"no HTTP\r\n\r\n", answers=2)

    def _as_chunked(self, body: bytes) -> Sent:
        data = self._usual(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        return Sent(data + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else data + b"0\r\n\r\n")

    def _as_gzip(self, body: bytes) -> Sent:
        return Sent(self._usual(gzip.compress(body, mtime=0), "Content-Encoding: gzip"))

    def _as_other_type(self, body: bytes) -> Sent:
        kinds = ["text/plain", "application/json; charset=utf-8", "application/x-ndjson", ""]
        data = self._usual(body)
        return Sent(data.replace(b"application/json", self._rng.choice(kinds).encode(), 1))

    def _as_other_body(self, body: bytes) -> Sent:
        return Sent(
            self._usual(
                self._rng.choice(
                    [
                        b"\xef\xbb\xbf" + body,
                        body + b"\n",
                        body + b"\n" + body,
                        b"\n" + body,
                        body + b" ",
                        b"[" + body + b"]",
                        body + body,
                        body[:-1],
                        body.replace(b",", b",\n"),
                        b'{"x":{"f0":"\xff"},"y":1}',
                        b'{"x":{"f0":1,"f0":2},"y":1}',
                        b"null",
                    ]
                )
            )
        )

    def _as_huge(self, body: bytes) -> Sent:
        return Sent(self._usual(b'{"x":{"long":"%b"},"y":1}' % (b"a" * self._rng.choice([100, LARGEST]))))

    def _as_other_key(self, body: bytes) -> Sent:
        secret = self._rng.choice([*SECRETS.values(), "unknown"])
        data = self._usual(body, "Accept: */*")
        field = f"Authorization: Bearer {secret}"
        if self._keys:
            return Sent(data.replace(f"Authorization: Bearer {SECRETS['all']}".encode(), field.encode()))
        return Sent(self._usual(body, field))

    def _as_other_host(self, body: bytes) -> Sent:
        host, path = self._rng.choice([b"evil.example", b"127.0.0.1:80", b"LOCALHOST"]), b"Host: localhost"
        return Sent(self._usual(body).replace(path, b"Host: " + host))

    def _as_foreign_page(self, body: bytes) -> Sent:
        return Sent(
            self._usual(body, f"Origin: {self._rng.choice(['http://evil.example', 'http://localhost'])}")
        )

    def _as_wrong_length(self, body: bytes) -> Sent:
        wrong = self._rng.choice([b"Content-Length: x", b"Content-Length: 1\r\nContent-Length: 2"])
        return Sent(re.sub(rb"Content-Length: \d+", wrong, self._usual(body)))


class Client:
    """A connection that is opened again after the server has closed it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection((self._server.host, self._server.port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, sent: Sent) -> None:
        if self.readable(0) and not self.socket.recv(1, socket.MSG_PEEK):  # closed: it was idle for long
            self.socket.close()
            self._connect()
        self.socket.sendall(sent.data)
        if sent.rest:
            self.readable(sent.waits)
            with suppress(OSError):  # the server has closed the connection
                self.socket.sendall(sent.rest)

    def readable(self, seconds: float) -> bool:
        return bool(select.select([self.socket], [], [], seconds)[0])

    def _more(self) -> bool:
        part = self.socket.recv(65536)
        self._received += part
        return bool(part)

    def _response(self, *, headless: bool) -> tuple[bytes, bool]:
        """Return the bytes of a response, and whether the connection ended."""
        while (end := self._received.find(b"\r\n\r\n") + 4) < 4:
            if not self._more():
                return self._received, True
        head = self._received[:end]
        if head.startswith(b"HTTP/1.1 100 "):
            self._received = self._received[end:]
            following, ended = self._response(headless=headless)
            return head + following, ended
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = end + (0 if headless or length is None else int(length[1]))
        while len(self._received) < size or (
            b"transfer-encoding: chunked" in head and b"\r\n0\r\n\r\n" not in self._received[end - 2 :]
        ):
            if not self._more():
                return self._received, True
        if b"transfer-encoding: chunked" in head:
            size = self._received.index(b"0\r\n\r\n", end) + 5
        response, self._received = self._received[:size], self._received[size:]
        return response, b"connection: close" in head

    def answers(self, sent: Sent) -> list[bytes]:
        found = []
        for _ in range(sent.answers):
            response, ended = self._response(headless=sent.headless)
            found.append(_OWN.sub(b"", response))
            if ended:
                self.socket.close()
                self._connect()
                break
        return found

    def close(self) -> None:
        self.socket.close()


@contextmanager
def clients_of(server: Server) -> Iterator[list[Client]]:
    clients = [Client(server) for _ in range(CONNECTIONS)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def answered(server: Server, traffic: Traffic, *, lane: bool) -> list[Any]:
    """Send the requests, and return the answers. Requests that wait for the model have a known order."""
    found: list[Any] = []
    with clients_of(server) as clients:
        while len(found) < REQUESTS:
            some = traffic.next()
            if not lane:
                some = [each.unlike(len(found)) for each in some]
            if len(some) == 1:
                clients[0].send(some[0])
            else:
                send_together(server, clients, some)
            found += [client.answers(sent) for client, sent in zip(clients, some, strict=False)]
            if len(some) == 1:
                traffic.note(some[0], found[-1][0])
    return found


def send_together(server: Server, clients: Sequence[Client], some: Sequence[Sent]) -> None:
    worker = server.registry.get("m")
    with server.held("m"):
        for client, sent in zip(clients, some, strict=False):
            before = worker.queue_depth
            client.send(sent)
            while worker.queue_depth == before and not client.readable(0.001):
                pass


def requests_counted(server: Server) -> list[str]:
    text = server.client.get("/metrics", headers=_ADMIN).text
    return sorted(re.findall(r"^bnp_http_requests_total.*|^bnp_model_refused.*", text, re.M))


_ADMIN = {"authorization": f"Bearer {SECRETS['all']}"}


class Seen(NamedTuple):
    """What a server answered, what it tells of the models, its metrics and its log."""

    answers: list[Any]
    models: Json
    requests: list[str]
    log: Counter[str]


def seen(folder: Path, seed: int, caplog: pytest.LogCaptureFixture, *, keys: bool, lane: bool) -> Seen:
    settings: Json = {"max_body_bytes": LARGEST, "host": "127.0.0.1"}
    if keys:
        settings["api_keys"] = SecretStr(KEYS)
    caplog.clear()
    with serving(folder, **settings) as server:
        server.client.headers.update(_ADMIN)
        traffic = Traffic(seed, keys)
        spec: Json = {"hidden": [6], "task": traffic.lines.task, "seed": seed}
        server.create(name="m", **spec)
        server.create(name="n", **spec)
        answers = answered(server, traffic, lane=lane)
        assert (in_blocks(server) > 50) == lane
        models = {"m": observed(server), "n": server.fingerprint("n")}
        counted = requests_counted(server)
    log = Counter(
        f"{each.name} {each.levelname} {each.getMessage()} "
        f"{ ({k: v for k, v in getattr(each, 'fields', {}).items() if k != 'ms'}) }"
        for each in caplog.records
        if each.name.startswith("service")
    )
    return Seen(answers, models, counted, log)


@pytest.mark.parametrize("seed", range(3))
def test_the_lane_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    with_keys = seed == 1
    caplog.set_level(logging.DEBUG, "service")
    lane = seen(tmp_path / "lane", seed, caplog, keys=with_keys, lane=True)
    ordinary = seen(tmp_path / "ordinary", seed, caplog, keys=with_keys, lane=False)
    for one, other in zip(lane.answers, ordinary.answers, strict=True):
        assert one == other
    assert lane == ordinary


def test_a_key_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that was served is refused once its key has expired, or was removed."""
    file = tmp_path / "keys"
    kept = f"admin learn,read,admin sha256:{sha256(SECRETS['all'].encode()).hexdigest()}\n"
    secret = SECRETS["late"]
    late = f"late learn sha256:{sha256(secret.encode()).hexdigest()} expires=2999-01-01\n"
    file.write_text(kept + late)
    file.chmod(0o600)
    with serving(tmp_path / "data", keys_file=file) as server:

        def status() -> int:
            answer = server.client.post(
                "/learn", json={"x": {"a": 1}, "y": 1}, headers={"authorization": f"Bearer {secret}"}
            )
            return answer.status_code

        assert [status() for _ in range(3)] == [200, 200, 200]
        with monkeypatch.context() as patch:
            patch.setattr(keys, "datetime", Mock(now=lambda _: datetime(3000, 1, 1, tzinfo=UTC)))
            assert status() == 401
        assert status() == 200
        file.write_text(kept)
        server.app.state.keyring.reload()
        assert status() == 401


def test_what_waits_in_the_lane_counts_and_is_answered_at_the_end(tmp_path: Path) -> None:
    """Requests that wait in the lane take places of the queue, and a shutdown answers them."""
    data = head("/learn", 21) + b'{"x": {"a": 1},"y":1}'
    with serving(tmp_path, queue_size=4) as server, ExitStack() as stack:
        clients = [stack.enter_context(connected(server)) for _ in range(6)]
        clients[0].sendall(data)
        assert responses(clients[0].recv(65536))[0].status == 200
        with server.held():
            for i, client in enumerate(clients[:4], 2):
                client.sendall(data)
                server.wait_for_queue(i)
            clients[4].sendall(data)
            assert responses(clients[4].recv(65536))[0].status == 429
            server.ask_to_stop()
            while server.listens():
                pass
        steps = [responses(everything(client))[0].json["step"] for client in clients[:4]]
        assert steps == [2, 3, 4, 5]


def test_a_prediction_never_takes_the_lane(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests to predict that arrive at once with a target are refused, also after one that was answered."""
    learned = b'{"x": {"a": 0.5}, "y": "up"}'
    asked = b'{"x": {"a": 0.5}}           '
    assert len(learned) == len(asked)
    fields = {"authorization": f"Bearer {SECRETS['reads']}"}
    with serving(tmp_path, api_keys=SecretStr(KEYS)) as server, ExitStack() as stack:
        for i in range(40):
            key = {"authorization": f"Bearer {SECRETS['all']}"}
            body = b'{"x": {"a": 0.%d}, "y": "up"}' % (i % 9)
            assert server.client.post("/learn", content=body, headers=key | _JSON).status_code == 200
        for path in ("/predict", "/models/default/predict", "/explain"):
            clients = [stack.enter_context(connected(server)) for _ in range(8)]
            for _ in range(3):
                for client in clients:
                    client.sendall(head(path, len(asked), **fields) + asked)
                    assert responses(client.recv(65536))[0].status == 200
            release = threading.Event()
            server.on_loop_soon(release.wait)  # all of them arrive in one pass of the event loop
            for client in clients:
                client.sendall(head(path, len(learned), **fields) + learned)
            release.set()
            assert [responses(client.recv(65536))[0].status for client in clients] == [422] * 8
        assert server.registry.get("default").model.step == 40
    assert "Exception in callback" not in caplog.text
