"""Digests of bodies: the same for what a model takes for the same."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from service.storage.event_codec import digest, is_digest


@pytest.mark.parametrize(
    ("body", "other"),
    [
        (({"a": 5}, 1, 1.0), ({"a": 5.0}, 1, 1)),
        (({"a": True, "b": [1, "x"]}, "y"), ({"b": [1.0, "x"], "a": 1.0}, "y")),
        (([[1, 2], [3, None]], 2.0), ([[1.0, 2.0], [3.0, None]], 2)),
        (({"a": 2**70}, 1), ({"a": float(2**70)}, 1)),
    ],
)
def test_equal_bodies(body: Any, other: Any) -> None:
    assert digest(*body) == digest(*other)
    assert is_digest(digest(*body), *other)


@pytest.mark.parametrize(
    ("body", "other"),
    [
        (({"a": 5}, 1), ({"a": 5}, True)),
        (({"a": 5}, 1), ({"a": 5}, "1")),
        (({"a": "5"}, 1), ({"a": 5}, 1)),
        (({"a": 5}, 2**62), ({"a": 5}, 2**62 + 1)),
        (({"a": 10**400}, 1), ({"a": 10**401}, 1)),
        (({"a": 5}, 1, 1.0), ({"a": 5}, 1, 2)),
    ],
)
def test_other_bodies(body: Any, other: Any) -> None:
    assert digest(*body) != digest(*other)
    assert not is_digest(digest(*body), *other)
    assert not is_digest(None, *body)


def test_a_digest_of_an_earlier_version() -> None:
    body = [{"a": 5, "b": 1.0}, 1.0]
    earlier = hashlib.blake2b(orjson.dumps(body), digest_size=16).digest()
    assert earlier != digest(*body)
    assert is_digest(earlier, *body)
