"""Bodies that go wrong: valid ones of each route that takes any, and what may become of them on the way."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from bnp_online import BNPClassifier, checkpoint

JSON, LINES, BYTES = "application/json", "application/x-ndjson", "application/octet-stream"


class Request(NamedTuple):
    """A request with a body."""

    method: str
    path: str
    kind: str
    body: bytes


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null')
_MEMBER = re.compile(rb'("(?:[^"\\]|\\.)*" ?: ?)("(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|\{\}|\[\])')
_TOKENS = [
    b"null", b"true", b"false", b"0", b"-0", b"-0.0", b"1", b"-1", b"2.5", b"1.0", b"1e3", b"5e-324", b"1e39",
    b"1e308", b"-1e308", b"1e999", b"-1e999", b"NaN", b"-Infinity", b"nan", b"01", b"1.", b".5", b"0x10",
    b"1" + b"0" * 400, b"9" * 5000, b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
    b"18446744073709551616", b'""', b'"a"', b'"p"', b'"e-1"', b'"1"', b'"\\u0000"', b'"\\ud800"', b'"a=b"',
    b'"' + b"x" * 2000 + b'"', b"'a'", b"[]", b"{}", b"[1]", b'{"a": 1}', b"[[[]]]", b'{"a": {"a": {}}}',
    b"[" * 150 + b"]" * 150, b"[" * 300 + b"]" * 300, b"[" * 9000, b'{"a":' * 3000, b" " * 20_000,
    b"", b",", b"// no\n1",
]  # fmt: skip
_BYTES = [
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x00", b"\x80", b"\n",
]  # fmt: skip
_ELSE = [
    b"", b" ", b"null", b"[]", b"{}", b'""', b"{}{}", b"\x1f\x8b\x08\x00", pickle.dumps({"x": 1}), b"a=1&b=2",
]  # fmt: skip


def bodies(rng: random.Random, state: dict[str, Any]) -> Request:
    """Return a request whose body is valid, or was until it was mutated."""
    valid = rng.choice(_ROUTES)(rng)
    if valid.kind == BYTES:
        return valid._replace(body=_file(rng, state))
    if valid.kind == LINES:
        lines = [
            _mutated(rng, _line(rng, valid.path), rng.choice((0, 0, 1, 2))) for _ in range(rng.randrange(6))
        ]
        valid = valid._replace(body=b"\n".join(lines) + rng.choice((b"", b"\n", b"\r\n", b"\n\n")))
        return valid._replace(body=_mutated(rng, valid.body, rng.choice((0, 0, 1))))
    if rng.random() < 0.03:
        return valid._replace(body=rng.choice([*_ELSE, rng.randbytes(rng.randrange(200))]))
    if rng.random() < 0.03:
        valid = valid._replace(
            kind=rng.choice((BYTES, LINES, "", "text/plain", "application/json; charset=latin-1"))
        )
    return valid._replace(body=_mutated(rng, valid.body, rng.choice((0, 1, 1, 1, 2, 3))))


def _mutated(rng: random.Random, body: bytes, times: int) -> bytes:
    for _ in range(times):
        body = rng.choice(_MUTATIONS)(rng, body)
    return body


def _flip(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body or b"{")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _take_out(rng: random.Random, body: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    return body[:start] + body[start + rng.randrange(1, 20) :]


def _repeat(rng: random.Random, body: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    stop = start + rng.randrange(1, 20)
    return body[:stop] + body[start:]


def _insert(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(_BYTES) + body[at:]


def _swap_token(rng: random.Random, body: bytes) -> bytes:
    return _replace(rng, body, _TOKEN, lambda found: rng.choice([*_TOKENS, *_TOKEN.findall(body)]))


def _repeat_key(rng: random.Random, body: bytes) -> bytes:
    return _replace(
        rng, body, _MEMBER, lambda found: found[0] + b", " + found[1] + rng.choice((found[2], b"3"))
    )


def _replace(
    rng: random.Random, body: bytes, what: re.Pattern[bytes], by: Callable[[re.Match[bytes]], bytes]
) -> bytes:
    if not (there := list(what.finditer(body))):
        return body
    found = rng.choice(there)
    return body[: found.start()] + by(found) + body[found.end() :]


_MUTATIONS = [_flip, _cut, _take_out, _repeat, _insert, _swap_token, _swap_token, _swap_token, _repeat_key]


def small_state() -> dict[str, Any]:
    """Return the state of a model that has learned a little."""
    model = BNPClassifier(hidden=(3,), replay=1, memory=10, max_features=20, max_classes=4)
    for i in range(6):
        model.learn_one({"a": i, "b": -i}, "pqr"[i % 3])
    return model.state_dict()


def _file(rng: random.Random, state: dict[str, Any]) -> bytes:
    """Return the file of a model with harm done to it, before or after it was given its checksum."""
    tensors, rest = (
        dict(state["tensors"]),
        {name: value for name, value in state.items() if name != "tensors"},
    )
    harm = rng.randrange(5)
    if harm == 0:
        try:
            rest = json.loads(_mutated(rng, json.dumps(rest).encode(), 1))
            return checkpoint.dumps({**rest, "tensors": tensors})
        except (ValueError, TypeError, RecursionError):  # no state that could be written
            return b""
    if harm in (1, 2):
        name = rng.choice(sorted(tensors))
        tensors[name] = rng.choice(_HARMS)(tensors[name])
        return checkpoint.dumps({**state, "tensors": tensors})
    if harm == 3:
        del tensors[rng.choice(sorted(tensors))]
        return checkpoint.dumps({**state, "tensors": tensors})
    return _mutated(rng, checkpoint.dumps(state), rng.randrange(3))


_HARMS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: tensor.reshape(-1)[:-1].clone(),
    lambda tensor: tensor[None].clone(),
    lambda tensor: tensor.to(torch.float16),
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: torch.full_like(tensor, -1) if tensor.dtype != torch.bool else ~tensor,
    lambda tensor: torch.full_like(tensor, torch.inf) if tensor.is_floating_point() else tensor + 1,
    lambda tensor: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor * 0,
    lambda tensor: torch.zeros(0),
]


def _pack(method: str, path: str, **body: Any) -> Request:
    return Request(method, path, JSON, json.dumps({k: v for k, v in body.items() if v is not ...}).encode())


def _x(rng: random.Random) -> dict[str, Any]:
    values = (1, -2.5, 0.25, None, True, "red", rng.random())
    return {name: rng.choice(values) for name in rng.sample("abcd", rng.randrange(1, 4))}


def _id(rng: random.Random, some: str) -> Any:
    return f"{some}-{rng.randrange(30)}" if rng.random() < 0.3 else ...


def _model(rng: random.Random) -> Any:
    return rng.choice((..., "default", "numbers", "numbers"))


def _learn(rng: random.Random) -> Request:
    model = _model(rng)
    y = rng.choice((0.5, 2, -1.5)) if model == "numbers" else rng.choice("pqr")
    w = rng.choice((..., ..., 0.5, 1))
    return _pack("POST", "/learn", x=_x(rng), y=y, model=model, id=_id(rng, "e"), w=w)


def _predict(rng: random.Random) -> Request:
    return _pack("POST", "/predict", x=_x(rng), model=_model(rng), id=_id(rng, "t"))


def _label(rng: random.Random) -> Request:
    return _pack("POST", "/label", id=f"t-{rng.randrange(30)}", y=rng.choice("pqr"), model=_model(rng))


def _create(rng: random.Random) -> Request:
    return _pack(
        "POST", "/models", name="made", task="classification", hidden=[4, 3], lr=rng.choice(("auto", 0.1)),
        replay=1, memory=10, rho=0.9, eps_abs=1e-4, seed=3, input_shape=rng.choice((..., [2, 2])),
        activation="tanh", standardize=True, max_features=20, max_classes=4, network="mlp",
    )  # fmt: skip


def _patch(rng: random.Random) -> Request:
    return _pack("PATCH", "/models/spare", max_features=rng.randrange(2, 30), max_classes=rng.randrange(3, 6))


def _roll_back(rng: random.Random) -> Request:
    model = rng.choice(("default", "numbers"))
    to = {"step": rng.randrange(100)} if rng.random() < 0.8 else {"checkpoint": "step3-branch0-event7-head9"}
    return _pack("POST", f"/models/{model}/rollback", **to)


def _forget(rng: random.Random) -> Request:
    ids = [f"{rng.choice('et')}-{rng.randrange(30)}" for _ in range(rng.randrange(1, 3))]
    return _pack("POST", f"/models/{rng.choice(('default', 'numbers'))}/forget", ids=ids)


def _import(rng: random.Random) -> Request:
    return Request("PUT", "/models/spare/import", BYTES, b"")


def _line(rng: random.Random, path: str) -> bytes:
    return (_learn if path == "/learn" else _predict)(rng).body


def _lines(rng: random.Random, path: str) -> Request:
    return Request("POST", path, LINES, b"")


#: By how often they come.
_ROUTES: list[Callable[[random.Random], Request]] = [
    *[_learn] * 6, *[_predict] * 4, *[_label] * 3, _create, _patch, _roll_back, _forget, _import,
    partial(_lines, path="/learn"), partial(_lines, path="/predict"),
]  # fmt: skip
