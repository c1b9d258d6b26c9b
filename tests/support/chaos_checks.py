"""Comparison of a running server, and of each byte of its data folder, with a record of acknowledgements."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np

from tests.support.chaos_clients import TOKEN, Json, Record, are_in
from tests.support.replay import SAMPLES, Log, Replayer, Row, UnreachableError, current, read_log

_NUMBER = re.compile(rb"0\.\d{14,18}")


def fingerprints(client: httpx.Client) -> dict[str, Json]:
    """Return the fingerprint of each model."""
    names = [each["name"] for each in client.get("/models").raise_for_status().json()["models"]]
    return {name: client.get(f"/models/{name}/fingerprint").raise_for_status().json() for name in names}


def wait_for_models(client: httpx.Client, seconds: float = 60.0) -> list[str]:
    """Wait until all models are ready; describe those that are not."""
    deadline = time.monotonic() + seconds
    while True:
        models = client.get("/models").raise_for_status().json()["models"]
        waiting = [f"{each['name']} is {each['state']}" for each in models if each["state"] != "ready"]
        if not waiting or time.monotonic() > deadline:
            return waiting
        time.sleep(0.02)


def broken_promises(client: httpx.Client, folder: Path, record: Record, replayer: Replayer) -> Iterator[str]:
    """Yield a description of each difference between a server without requests, its log and the record."""
    yield from wait_for_models(client)
    found = fingerprints(client)
    log, live = read_log(folder), set(found)
    yield from _wrong_models(live, log, record)
    for name in sorted(live & log.rows.keys()):
        yield from _wrong_state(client, name, found[name], log, replayer)
        yield from _wrong_samples(name, log, record)
    yield from _erased_soon(folder, log, record)
    record.created &= live
    record.deleting &= live
    record.forget_models(live)


def _wrong_models(live: set[str], log: Log, record: Record) -> Iterator[str]:
    if live != log.rows.keys():
        yield f"the server has the models {sorted(live)}, its log {sorted(log.rows)}"
    yield from (f"deleted model {name} exists" for name in sorted(live & record.deleted))
    yield from (f"refused model {name} exists" for name in sorted(live & record.absent))
    missing = record.created - record.deleting - live
    yield from (f"model {name} was created, and does not exist" for name in sorted(missing))


def _wrong_state(client: httpx.Client, name: str, found: Json, log: Log, replayer: Replayer) -> Iterator[str]:
    try:
        replica, differences = replayer.run(log, name)
    except UnreachableError as error:
        yield f"model {name}: {error}"
        return
    yield from (f"model {name}: checkpoint {difference}" for difference in differences)
    expected = replica.fingerprint()
    if found != expected:
        yield f"model {name} is {found}, the replay of its log {expected}"
    pending = client.get(f"/models/{name}").json()["pending"]
    if pending != len(replica.pending):
        yield f"model {name} has {pending} pending predictions, the replay of its log {len(replica.pending)}"
    logged = {row.seq: row.step for row in log.rows[name] if row.seq in replica.steps}
    wrong = {seq: (step, replica.steps[seq]) for seq, step in logged.items() if step != replica.steps[seq]}
    if wrong:
        seq, (step, right) = next(iter(wrong.items()))
        yield f"model {name}: event {seq} is logged at step {step}, not {right} ({len(wrong)} such events)"


def _wrong_samples(name: str, log: Log, record: Record) -> Iterator[str]:
    rows = [row for row in log.rows[name] if row.kind in SAMPLES and row.refused is None]
    learned = {row.id for row in rows if row.kind != "predict"}
    present = {row.id for row in rows}

    def of(samples: set[tuple[str, str]]) -> set[str]:
        return {identifier for model, identifier in samples if model == name}

    kept = set() if log.pruned.get(log.rows[name][0].seq) else of(record.learned.keys() - record.forgetting)
    yield from _some(f"model {name}: acknowledged samples are not in the log", kept - learned)
    yield from _some(f"model {name}: refused samples are in the log", of(record.refused) & learned)
    yield from _some(f"model {name}: forgotten samples are in the log", of(record.forgotten) & present)


def _some(what: str, ids: set[str]) -> Iterator[str]:
    if ids:
        yield f"{what}: {len(ids)}, among them {sorted(ids)[:3]}"


def _erased_soon(folder: Path, log: Log, record: Record) -> list[str]:
    """Return `remnants`; after a full disk, the server has some seconds to try again."""
    deadline = time.monotonic() + (30.0 if record.full else 0.0)
    while (found := list(remnants(folder, log, record))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def remnants(folder: Path, log: Log, record: Record) -> Iterator[str]:
    """Describe the files with content of forgotten samples, of deleted models and of pruned samples."""
    removed = _removed(log, record)
    rows = [*itertools.chain.from_iterable(log.rows.values())]
    allowed = set().union(*map(_tokens, rows))
    allowed |= record.imported
    removed = {token: why for token, why in removed.items() if token not in allowed}
    numbers = np.array([float(text) for text, token in record.numbers.items() if token in removed])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            tokens = {found.decode() for found in TOKEN.findall(data)}
            tokens |= {record.numbers.get(found.decode(), "") for found in _NUMBER.findall(data)}
            for why in ("forgotten sample", "deleted model"):
                left = sorted(token for token in tokens if removed.get(token) == why)
                if left:
                    yield f"{path.relative_to(folder)} has content of a {why}: {len(left)}, as {left[0]}"
            found = numbers[are_in(data, numbers)]
            if len(found):
                token = record.numbers[repr(float(found[0]))]
                why = f"{removed[token]}, {token} of model {record.sent[token]}"
                yield f"{path.relative_to(folder)} has a number, as binary, of a {why}"


def _removed(log: Log, record: Record) -> dict[str, str]:
    """Return the tokens that no file may contain, with the reason."""
    logged = {row.id for rows in log.rows.values() for row in rows}
    forgotten = {identifier for _, identifier in record.forgotten}
    # An unlearning without an answer was either done or not; a pruned sample is in the model nevertheless.
    whole = {model for model, rows in log.rows.items() if not log.pruned.get(rows[0].seq)}
    forgotten |= {name for model, name in record.forgetting if model in whole and name not in logged}
    removed = {identifier[:18]: "forgotten sample" for identifier in forgotten}
    return removed | {token: "deleted model" for token, model in record.sent.items() if model not in log.rows}


def _tokens(row: Row) -> set[str]:
    return {found.decode() for found in TOKEN.findall(row.body)} | {(row.id or "")[:18]}


def repeated(client: httpx.Client, folder: Path, record: Record) -> Iterator[str]:
    """Repeat some acknowledged requests, and learn one further sample with each model."""
    before, log = fingerprints(client), read_log(folder)
    found = [*_repeat(client, log, record)]
    if (after := fingerprints(client)) != before:
        found.append(f"repeated samples changed a model: {before} → {after}")
    if read_log(folder).pruned == log.pruned:  # otherwise ids were removed by a checkpoint after the start
        yield from found
    for name in log.rows:
        y = 1.0 if name.startswith("r") else "cat"
        answer = client.post("/learn", json={"x": {"a": 1.0}, "y": y, "model": name})
        if answer.status_code != 200 or answer.json()["step"] != after[name]["step"] + 1:
            yield f"model {name} does not learn after the start: {answer.status_code} {answer.text[:200]}"


def _repeat(client: httpx.Client, log: Log, record: Record) -> Iterator[str]:
    for name, rows in log.rows.items():
        on_way = {row.id: row for row in current(rows) if row.kind == "learn" and row.refused is None}
        known = [
            body for (model, i), body in record.learned.items() if model == name and i in on_way and body
        ]
        for body in known[-3:]:
            answer = client.post("/learn", json=body)
            expected = (200, on_way[body["id"]].step, True)
            found = answer.status_code, answer.json().get("step"), answer.json().get("duplicate")
            if found != expected:
                yield f"repeated sample {body['id']} of {name}: {found}, expected {expected}"
