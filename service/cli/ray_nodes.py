"""Actors of Ray: a server as the child process of each, and the number of replicas.

Ray places the actors and starts them again, also on another machine. The servers listen themselves: no
request passes through Ray. PostgreSQL decides which process owns a shard, so it does no harm if Ray runs an
actor twice.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from .launch import PACKAGE

_logger = logging.getLogger(__name__)

OWNER, STANDBY, REPLICA = "owner", "standby", "replica"
#: Name of the actor that scales the replicas.
SCALER = "scaler"
#: Seconds between two starts of a server that ends soon after its start: the first, and the longest pause.
_PAUSES = (0.2, 10.0)
#: Seconds that a server without its actor has to finish running requests.
_ORPHAN_SECONDS = 5.0
_CHILD = f"from {PACKAGE}.cli.ray_nodes import serve; serve()"


@dataclass(frozen=True)
class NodeSpec:
    """Server that an actor runs.

    Attributes
    ----------
    name : str
        Name of the actor, and of the node (``BNP_NODE``).
    role : {"owner", "standby", "replica"}
        Role of the server.
    shards : str
        Its shards, as ``0-31``, or ``auto``.
    port : int
        Port to listen on.
    host : str, optional
        Address to listen on; default: that of the machine in the Ray cluster.
    settings : dict
        Further settings (``BNP_…``). The key in ``BNP_API_KEY`` reads the metrics, and is not for the server.
    cpus, gpus : float
        What Ray reserves for it.
    """

    name: str
    role: str
    shards: str
    port: int
    host: str | None
    settings: Mapping[str, str]
    cpus: float = 1.0
    gpus: float = 0.0

    def environment(self, host: str) -> dict[str, str]:
        """Return the settings of the server on a machine with this address."""
        settings = {name: value for name, value in self.settings.items() if name != "BNP_API_KEY"}
        above = settings.get("BNP_DATA_DIR") or Path(tempfile.gettempdir(), "bnp-online-ray")
        # With a GPU, small networks are faster on the CPU; the specification of a model may name its device.
        settings.setdefault("BNP_DEVICE", "auto" if self.gpus else "cpu")
        return {
            **settings,
            "BNP_DATA_DIR": str(Path(above, self.name)),
            "BNP_HOST": host,
            "BNP_PORT": str(self.port),
            "BNP_ROLE": self.role,
            "BNP_SHARDS": self.shards,
            "BNP_ADDRESS": f"http://{host}:{self.port}",
            "BNP_NODE": self.name,
        }


def start(spec: NodeSpec) -> Any:
    """Return the handle of the actor for a server, which is created if it does not exist."""
    import ray

    actor = ray.remote(Node).options(
        name=spec.name,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=spec.cpus,
        num_gpus=spec.gpus,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=8,
        scheduling_strategy="SPREAD",
    )
    return actor.remote(spec)


class Node:
    """Actor that runs a server as its child process, and starts it again when it ends.

    Parameters
    ----------
    spec : NodeSpec
        The server.
    """

    def __init__(self, spec: NodeSpec) -> None:
        import ray

        host = spec.host or str(ray.util.get_node_ip_address())
        self._spec = spec
        self._environment = spec.environment(host)
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._code: int | None = None  # of the last process that ended
        key = spec.settings.get("BNP_API_KEY")
        self._client = httpx.Client(
            base_url=self._environment["BNP_ADDRESS"],
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=5.0,
        )
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        environment = {
            **os.environ,
            **self._environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        pause = _PAUSES[0]
        while not self._ended.is_set():
            began = time.monotonic()
            # Its standard input is a pipe that closes when this process ends, however it ends.
            self._process = subprocess.Popen(  # noqa: S603 (the interpreter of this process)
                [sys.executable, "-c", _CHILD], env=environment, stdin=subprocess.PIPE
            )
            self._starts += 1
            self._code = code = self._process.wait()
            if not self._ended.is_set():
                _logger.warning(
                    "The server %s ended with exit code %d: it is started again", self._spec.name, code
                )
            pause = _PAUSES[0] if time.monotonic() - began > _PAUSES[1] else min(2 * pause, _PAUSES[1])
            self._ended.wait(pause)

    def status(self) -> dict[str, Any]:
        """Return address, process and number of starts of the server, and whether it answers."""
        try:
            answers = self._client.get("/health/live").status_code == 200
        except httpx.HTTPError:
            answers = False
        return {
            "node": self._spec.name,
            "role": self._spec.role,
            "shards": self._spec.shards,
            "address": self._environment["BNP_ADDRESS"],
            "state": "answers" if answers else "starts" if self._code is None else self._failure(),
            "pid": self._process.pid if self._process else None,
            "actor": os.getpid(),
            "starts": self._starts,
        }

    def _failure(self) -> str:
        return f"starts again: it ended with exit code {self._code}, see the logs of Ray"

    def predicted(self) -> dict[str, float]:
        """Return the predictions since the start of the server, by model; nothing without an answer."""
        try:
            answer = self._client.get("/metrics").raise_for_status()
        except httpx.HTTPError as error:
            _logger.warning("No metrics of %s: %s", self._spec.name, error)
            return {}
        families = text_string_to_metric_families(answer.text)
        samples = (sample for family in families for sample in family.samples)
        return {
            str(sorted(sample.labels.items())): sample.value
            for sample in samples
            if sample.name == "bnp_model_predicted_total"
        }

    def stop(self, seconds: float = 40.0) -> None:
        """Let the server finish running requests, and kill it after some seconds."""
        self._ended.set()
        if (process := self._process) is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()


def serve() -> None:
    """Run the server in a child process of an actor, and end with the actor."""
    threading.Thread(target=_end_with_the_actor, daemon=True).start()
    from ..__main__ import main

    main()


def _end_with_the_actor() -> None:
    os.read(0, 1)  # returns at the end of the actor's process
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


@dataclass
class Scaling:
    """Number of replicas for a rate of predictions.

    A higher rate adds replicas at once. One replica is removed when the others would have stayed below 80% of
    their rate for a minute.

    Attributes
    ----------
    least, most : int
        Limits of the number of replicas.
    rate : float
        Predictions per second of one replica.
    patience : float
        Seconds of a low rate before a replica is removed.

    Examples
    --------
    >>> scaling = Scaling(1, 4, rate=1000.0)
    >>> scaling.wanted(2500.0, replicas=1, now=0.0)
    3
    """

    least: int
    most: int
    rate: float
    patience: float = 60.0
    _low_since: float | None = field(default=None, init=False)

    def wanted(self, rate: float, replicas: int, now: float) -> int:
        """Return the number of replicas.

        Parameters
        ----------
        rate : float
            Predictions per second of all replicas.
        replicas : int
            Their number.
        now : float
            Time in seconds.
        """
        enough = min(max(self.least, math.ceil(rate / self.rate)), self.most)
        low = replicas > self.least and rate < 0.8 * self.rate * (replicas - 1)
        if not low or replicas > self.most:
            self._low_since = None
            return min(max(enough, replicas), self.most)
        if self._low_since is None:
            self._low_since = now
        if now - self._low_since < self.patience:
            return replicas
        self._low_since = None
        return replicas - 1


class Scaler:
    """Actor that adds and removes replicas.

    Parameters
    ----------
    spec : NodeSpec
        Specification of a replica: its name and port are those of the first one.
    scaling : Scaling
        The rule.
    seconds : float
        Time between two checks.
    """

    def __init__(self, spec: NodeSpec, scaling: Scaling, seconds: float = 5.0) -> None:
        self._spec, self._scaling, self._seconds = spec, scaling, seconds
        self._ended = threading.Event()
        self._before: dict[str, dict[str, float]] = {}
        self._checked = time.monotonic()
        self._rate = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import ray

        while True:
            with contextlib.suppress(ray.exceptions.RayError):  # of a replica that is started again
                self._check()
            if self._ended.wait(self._seconds):
                return

    def _check(self) -> None:
        import ray

        names = [f"{self._spec.name}-{k}" for k in range(self._scaling.most)]
        known = set(ray.util.list_named_actors())
        running = [name for name in names if name in known]
        calls: dict[str, Any] = {name: ray.get_actor(name).predicted.remote() for name in running}
        done, _ = (
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=self._seconds)
            if calls
            else ([], [])
        )
        now = time.monotonic()
        found: dict[str, dict[str, float]] = {
            name: ray.get(call) for name, call in calls.items() if call in done
        }
        grown = (
            max(count - self._before[name].get(series, count), 0.0)
            for name, of in found.items()
            if name in self._before
            for series, count in of.items()
        )
        self._rate = sum(grown) / (now - self._checked)
        self._before, self._checked = found, now
        wanted = self._scaling.wanted(self._rate, len(running), now)
        for name in [name for name in names if name not in known][: max(wanted - len(running), 0)]:
            start(self.replica(name))
        for name in running[wanted:]:
            end(name)

    def replica(self, name: str) -> NodeSpec:
        """Return the specification of the replica with this name."""
        number = int(name.rpartition("-")[2])
        return replace(self._spec, name=name, port=self._spec.port + number)

    def status(self) -> dict[str, Any]:
        """Return the rate of predictions, and the limits of the number of replicas."""
        return {"rate": self._rate, "least": self._scaling.least, "most": self._scaling.most}

    def stop(self) -> None:
        """Change the number of replicas no more."""
        self._ended.set()
        self._thread.join(2 * self._seconds)


def end(name: str, seconds: float = 40.0) -> None:
    """Stop what an actor runs, and remove the actor."""
    import ray

    actor = ray.get_actor(name)
    with contextlib.suppress(ray.exceptions.RayError):  # it does not answer: its machine is lost
        ray.get(actor.stop.remote(), timeout=seconds + 5.0)
    ray.kill(actor, no_restart=True)
