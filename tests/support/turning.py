"""Samples whose relation turns now and then, with strings and gaps."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from tests.support.running import Json, Server

#: Drifts are found and answered often.
DRIFTING: dict[str, Any] = {
    "drift": {"detector": "page_hinkley", "threshold": 3.0, "action": "reset_slowest"}
}


def sample(i: int) -> tuple[Json, str]:
    """Return the features and the class of a sample, by its number."""
    rng = random.Random(i)  # noqa: S311
    a, b = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
    turned = (a * b > 0.0) == (i // 60 % 2 == 0)
    return {"a": a, "b": b, "c": rng.choice(["red", "green", None])}, "cat" if turned else "dog"


def learn(server: Server, numbers: Iterable[int], model: str = "m") -> None:
    """Let a model learn samples, each with an id."""
    for i in numbers:
        x, y = sample(i)
        server.learn(x, y, model=model, id=f"s{i}")


def fresh(server: Server, numbers: Iterable[int], **spec: Any) -> Json:
    """Return the fingerprint of a new model that learned samples."""
    server.create(name="new", **spec)
    learn(server, numbers, "new")
    found = server.fingerprint("new")
    server.client.delete("/models/new").raise_for_status()
    return found
