"""Random lines of a stream, and what a server tells of the model that learned them."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson

from tests.support.running import Json, Server


def written(value: object) -> bytes:
    """Return a value as JSON."""
    return orjson.dumps(value)


class Lines:
    """Random lines of a stream: most are alike, some have something new, some are refused."""

    def __init__(self, seed: int) -> None:
        self._rng = rng = random.Random(seed)  # noqa: S311
        self.task = "regression" if seed % 3 == 2 else "classification"
        self._features = [f"f{i}" for i in range(rng.randint(1, 8))]
        self._colours = ["red", "blue"]
        self._labels: list[Any] = rng.choice([["a", "b", "c"], [0, 1], [True, False], list(range(6))])

    def body(self, count: int) -> bytes:
        """Return lines."""
        return b"".join(self.line() + b"\n" for _ in range(count))

    def _number(self) -> float | int:
        rng = self._rng
        return rng.choice([rng.gauss(0, 1), rng.randint(-5, 5), round(rng.random(), 2), rng.gauss(0, 1) ** 5])

    def _x(self) -> dict[str, Any]:
        rng = self._rng
        x: dict[str, Any] = {name: self._number() for name in self._features}
        if rng.random() < 0.02:
            x[rng.choice(self._features)] = None
        if rng.random() < 0.02:
            del x[rng.choice(self._features)]
        if rng.random() < 0.01:
            x[f"late{rng.randint(0, 3)}"] = 1.5
        if rng.random() < 0.01:
            self._colours.append(f"colour {len(self._colours)}")
        if rng.random() < 0.05:
            x["flag"] = rng.random() < 0.5
        return {**x, "colour": rng.choice(self._colours)}

    def line(self, *, alike: bool = False) -> bytes:
        """Return a line; it may be refused, unless all shall be alike."""
        rng, x = self._rng, self._x()
        kind = rng.random()
        if kind < 0.04 and not alike:
            return rng.choice(
                [b"{bad", b"", written({"x": x}), b'{"x":{"f0":1e999},"y":1}', b'{"x":1,"y":1}']
            )
        line: Json = {"x": x, "y": rng.gauss(0, 3) if self.task == "regression" else rng.choice(self._labels)}
        if rng.random() < 0.1:
            line["w"] = rng.random()
        if rng.random() < 0.3:  # some are repeated, with the same or with another body
            line["id"] = f"i{rng.randint(0, 300)}"
        return written(line)


def observed(server: Server) -> Json:
    """Return what a server tells of a model; when a drift action is logged depends on the machine."""
    events = [e for e in server.get("/models/m/events?limit=1000")["events"] if e["kind"] != "action"]
    return {
        "fingerprint": server.fingerprint("m"),
        "metrics": server.get("/models/m/metrics"),
        "drift": server.get("/models/m")["drift"],
        "events": [{k: v for k, v in event.items() if k not in ("time", "seq")} for event in events],
    }


def in_blocks(server: Server) -> int:
    """Return how many samples were learned in blocks."""
    found = re.search(
        r'^bnp_model_block_samples_total\{model="m"\} (\S+)$', server.client.get("/metrics").text, re.M
    )
    assert found is not None
    return int(float(found[1]))


def observed_with_events(server: Server) -> Json:
    """Return fingerprint, metrics and events of the model `m`, without the times of the events."""
    events = server.get("/models/m/events?limit=1000")["events"]
    return {
        "fingerprint": server.fingerprint("m"),
        "metrics": server.get("/models/m/metrics"),
        "events": [{k: v for k, v in event.items() if k != "time"} for event in events],
    }
