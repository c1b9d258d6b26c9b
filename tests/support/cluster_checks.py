"""What holds in a cluster after a fault: the log, the acknowledgements and the states of all nodes agree."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import jiter
import psycopg

from tests.support.cluster_load import Record
from tests.support.replay import Log, Replica, Row, by_model, current, events_of, latest_upgrade
from tests.support.server_process import wait_until

Json = dict[str, Any]


def read_postgres(url: str) -> Log:
    """Return the events of the models that exist, read from PostgreSQL without code of the server."""
    with contextlib.closing(psycopg.connect(url)) as connection:
        columns = ", ".join(Row._fields)
        query = f"SELECT {columns}, count FROM event ORDER BY model, seq"  # noqa: S608
        found = [
            event
            for *row, count in connection.execute(query, binary=True)
            for event in events_of(
                Row(*row)._replace(id=None if row[4] is None else bytes(row[4]).decode(), body=bytes(row[5])),
                count,
            )
        ]
        pruned: dict[int, int] = dict(connection.execute("SELECT model, before FROM pruned"))
    return by_model(found, pruned)


@dataclass
class Result:
    """What a fault cost.

    Attributes
    ----------
    acknowledged : int
        Number of acknowledged samples.
    lost : list
        Acknowledged samples that the log lacks, or has with another step.
    twice : list
        Samples that the log has more than once.
    problems : list of str
        Everything else that is wrong.
    """

    acknowledged: int
    lost: list[Any]
    twice: list[Any]
    problems: list[str]

    def __str__(self) -> str:
        return f"{self.acknowledged} acknowledged, {len(self.lost)} lost, {len(self.twice)} twice"

    def require(self) -> None:
        """Fail if anything is wrong."""
        wrong = [*self.lost[:5], *self.twice[:5], *self.problems[:10]]
        assert not wrong, f"{self}\n" + "\n".join(map(str, wrong))


def check(url: str, record: Record, clients: Sequence[httpx.Client], rewound: Sequence[str] = ()) -> Result:
    """Compare the log, the acknowledgements, and the state of each model at each node, and return the result.

    Parameters
    ----------
    url : str
        Of the log.
    record : Record
        Acknowledgements of the clients, which have stopped.
    clients : sequence of Client
        Clients of the nodes that are to have the state of all models.
    rewound : sequence of str
        Models that were rolled back or unlearned samples.
    """
    log = read_postgres(url)
    result = Result(len(record.learned) + len(record.tokens), [], [], [*record.problems])
    for name, rows in log.rows.items():
        result.problems += _numbers(name, rows, log.pruned.get(rows[0].model, 0))
        samples = [row for row in rows if row.kind in ("learn", "label") and row.refused is None]
        ids = Counter(row.id for row in samples if row.id is not None)
        tokens = Counter(_token(row) for row in samples if row.id is None)
        result.twice += [(name, each) for each, count in [*ids.items(), *tokens.items()] if count > 1]
        if name in rewound or rows[0].model in log.pruned:
            continue
        steps = {row.id: row.step for row in samples}
        result.lost += [
            (name, sample, step)
            for (model, sample), step in record.learned.items()
            if model == name and steps.get(sample) != step
        ]
        result.lost += [
            (name, token) for model, token in record.tokens if model == name and token not in tokens
        ]
        if [row.step for row in samples] != list(range(1, len(samples) + 1)):
            result.problems.append(f"{name}: the steps of the log are not 1 to {len(samples)}")
    unknown = {model for model, _ in [*record.learned, *record.tokens]} - {*log.rows}
    result.problems += [f"{model} is not in the log" for model in unknown]
    for name, rows in log.rows.items():
        if rows[0].model not in log.pruned:
            result.problems += _states(name, replayed(rows), clients)
    return result


def replayed(rows: Sequence[Row]) -> Json:
    """Return the fingerprint of a model after an independent replay of its events."""
    events = current(rows)
    upgrade = latest_upgrade(events)
    if upgrade.seq:
        replica, last = Replica.relearned(events, upgrade), upgrade.seq
    else:
        replica, last = Replica(jiter.from_json(events[0].body)), events[0].seq
    for row in events:
        if row.seq > last:
            replica.apply(row)
    return replica.fingerprint()


def _numbers(name: str, rows: Sequence[Row], pruned: int) -> list[str]:
    """Return what is wrong with the numbers of the events of a model: they have no gap."""
    forgotten = {seq for row in rows if row.kind == "forget" for _, seq in json.loads(row.body)["events"]}
    numbers = sorted({row.seq for row in rows[1:]} | {seq for seq in forgotten if seq > rows[0].seq})
    numbers = [rows[0].seq, *numbers]
    if len({row.seq for row in rows}) != len(rows):
        return [f"{name}: two events have one number"]
    missing = {*range(max(rows[0].seq, pruned), numbers[-1] + 1)} - {*numbers}
    return [f"{name}: the log lacks the events {sorted(missing)[:5]}"] if missing else []


def _states(name: str, expected: Json, clients: Sequence[httpx.Client]) -> list[str]:
    """Return the nodes whose state is not, and does not become, the expected one."""
    problems = []
    for client in clients:
        found: list[Any] = [None]

        def equal(client: httpx.Client = client, found: list[Any] = found) -> bool:
            answer = client.get(f"/models/{name}/fingerprint")
            found[0] = {key: answer.json().get(key) for key in expected} if answer.is_success else answer.text
            return bool(found[0] == expected)

        try:
            wait_until(equal, 30.0)
        except AssertionError:
            problems.append(f"{name} at {client.base_url}: {found[0]}, and the replay has {expected}")
    return problems


def _token(row: Row) -> int:
    """Return the value of a sample without an id that no other one has."""
    body = jiter.from_json(row.body)
    x = body["x"] if isinstance(body, dict) else body[0]
    return round(x["n"] * 2**40) if "n" in x else -row.seq
