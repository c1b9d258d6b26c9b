"""``python -m tools.request_cost OTHER``: processor time of the server for a sample, in two checkouts.

Each run starts one server for each checkout (``python -m service`` on loopback, with an empty data folder),
warms it up, and sends a fixed number of samples: as JSON, one a request, and as NDJSON, 1,000 a request. Both
servers get blocks of requests in alternation, and take turns in going first, so that a change in the speed of
the machine affects both. The measured quantity is the processor time of the server's process, user and
system, for each sample. The result is the median of the ratios of all runs. A checkout against itself shows
the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from service.cli.launch import ServerProcess

JSON = "application/json"
NDJSON = "application/x-ndjson"
LINES = 1_000
#: Blocks in which each server gets its requests.
_BLOCKS = 15
_WARM_REQUESTS = 500
_TICKS = os.sysconf("SC_CLK_TCK")
#: The first request may wait until numba has compiled the step.
_SECONDS = 180.0


class Connection:
    """HTTP connection to a server on this machine; each request is one write.

    Parameters
    ----------
    port : int
        Port of the server.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._host = f"127.0.0.1:{port}"

    def post(self, path: str, body: bytes, kind: str = JSON) -> bytes:
        """Send a request and return the body of the response, whose status must be 200."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        status = self._file.readline()
        length, chunked = 0, False
        while (line := self._file.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = value.strip() == b"chunked"
        answer = b"".join(self._chunks()) if chunked else self._file.read(length)
        if b" 200 " not in status:
            raise RuntimeError(f"{path} answered {status!r}: {answer[:500]!r}")
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()


class Cost(NamedTuple):
    """Microseconds of processor time for a sample."""

    json: float
    lines: float


def sample(number: int) -> bytes:
    """Return a sample as JSON: seven numbers, a string and a class."""
    x: dict[str, float | str] = {f"f{i}": (number * (i + 3) % 101) / 101 for i in range(7)}
    x["place"] = ("north", "south", "east")[number % 3]
    return json.dumps({"x": x, "y": number * 7 % 11 < 5}).encode()


@contextmanager
def served(checkout: Path) -> Iterator[tuple[int, int]]:
    """Run the server of a checkout on an empty data folder; yield its process identifier and its port."""
    with tempfile.TemporaryDirectory(prefix="bnp-cost-") as folder:
        settings = {"BNP_PORT": "0", "BNP_DATA_DIR": folder, "BNP_DEVICE": "cpu"}
        with ServerProcess("-m", "service", cwd=checkout, environment=settings) as server:
            yield server.process.pid, urlsplit(server.ready()).port or 0


def processor_time(process: int) -> float:
    """Return the seconds of processor time of a process, over all its threads."""
    # The name of the program, in parentheses, may contain spaces; user and system time are the 12th and
    # 13th field after it.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Side:
    """A measured server.

    Parameters
    ----------
    process, port : int
        Process identifier and port of the server.
    """

    def __init__(self, process: int, port: int) -> None:
        self._process = process
        self._port = port
        self._sent = 0
        self._batch = b"\n".join(sample(i) for i in range(LINES))
        self.send_json(_WARM_REQUESTS)
        self.send_lines(1)

    def send_json(self, requests: int) -> None:
        """Send samples, one a request, over a new connection (an idle one may have been closed)."""
        with closing(Connection(self._port)) as connection:
            for _ in range(requests):
                connection.post("/learn", sample(self._sent))
                self._sent += 1

    def send_lines(self, requests: int) -> None:
        """Send samples, 1,000 a request, over a new connection."""
        with closing(Connection(self._port)) as connection:
            for _ in range(requests):
                answers = connection.post("/learn", self._batch, NDJSON).splitlines()
                if len(answers) != LINES or b'"error"' in answers[-1]:
                    raise RuntimeError(
                        f"{len(answers)} answers to {LINES} lines; last: {answers[-1][:500]!r}"
                    )

    def processor_time(self) -> float:
        """Return the seconds of processor time of the server so far."""
        return processor_time(self._process)


def measure(checkouts: Sequence[Path], requests: int, batches: int) -> list[Cost]:
    """Return the cost of a sample for the server of each checkout."""
    with ExitStack() as stack:
        sides = [Side(*stack.enter_context(served(checkout))) for checkout in checkouts]
        json_seconds = _alternate(sides, Side.send_json, requests)
        line_seconds = _alternate(sides, Side.send_lines, batches)
    return [
        Cost(1e6 * json / requests, 1e6 * lines / (batches * LINES))
        for json, lines in zip(json_seconds, line_seconds, strict=True)
    ]


def _alternate(sides: Sequence[Side], send: Callable[[Side, int], None], requests: int) -> list[float]:
    """Send requests to each side in alternating blocks; return the processor time of each."""
    before = [side.processor_time() for side in sides]
    for block in range(_BLOCKS):
        size = requests * (block + 1) // _BLOCKS - requests * block // _BLOCKS
        for side in sides if block % 2 == 0 else sides[::-1]:
            send(side, size)
    return [side.processor_time() - start for side, start in zip(sides, before, strict=True)]


def main() -> None:
    """Compare the processor time of the server for a sample, here and in another checkout."""
    parser = argparse.ArgumentParser(prog="python -m tools.request_cost", description=main.__doc__)
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT", help="what to compare with")
    parser.add_argument("--here", type=Path, default=Path(), help="this checkout (default: this folder)")
    parser.add_argument("--runs", type=int, default=9, help="how often both are measured (default: 9)")
    parser.add_argument("--requests", type=int, default=3_000, help="JSON requests a run (default: 3,000)")
    parser.add_argument("--batches", type=int, default=30, help="requests of 1,000 lines a run (default: 30)")
    options = parser.parse_args()
    checkouts = (options.here.resolve(), options.other.resolve())
    costs: list[tuple[Cost, Cost]] = []
    for run in range(options.runs):
        order = 1 if run % 2 == 0 else -1
        here, other = measure(checkouts[::order], options.requests, options.batches)[::order]
        costs.append((here, other))
        print(
            f"run {run + 1}: JSON {here.json:.1f} and {other.json:.1f} µs, "
            f"lines {here.lines:.1f} and {other.lines:.1f} µs",
            flush=True,
        )
    _report("JSON", [here.json for here, _ in costs], [other.json for _, other in costs])
    _report("lines", [here.lines for here, _ in costs], [other.lines for _, other in costs])


def _report(name: str, here: list[float], other: list[float]) -> None:
    ratios = [mine / theirs for mine, theirs in zip(here, other, strict=True)]
    print(
        f"{name}: {statistics.median(here):.1f} µs a sample here, {statistics.median(other):.1f} there; "
        f"median of ratios {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
