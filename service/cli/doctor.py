"""``doctor``: installed versions, the device of computation, and access to the data folder; or a server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import os
import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bnp_online.client import Client, ClientError
from bnp_online.client.errors import ForbiddenError, UnauthorizedError

from ..settings import Settings, misspelt_settings, read_settings
from ..source_urls import SourceUrl
from .options import AsJson, Key, Url, connected
from .output import CommandError, show

_PACKAGES = {
    "library": ("bnp-online", "torch", "numba", "numpy", "river", "safetensors"),
    "server": ("fastapi", "uvicorn", "pydantic"),
    "files": ("pyarrow",),
    "cluster": ("psycopg",),
    "kafka": ("confluent-kafka",),
    "nats": ("nats-py",),
    "mlflow": ("mlflow-skinny",),
    "traces": ("opentelemetry-exporter-otlp-proto-http",),
}

#: Whether there are tables, the schema, and whether the user may write to the tables, or else create them.
_RIGHTS = """
SELECT to_regclass('event') IS NOT NULL, current_schema(), coalesce(
    has_table_privilege(to_regclass('event'), 'INSERT'),
    has_schema_privilege(current_schema(), 'CREATE'),
    false
)
"""


def doctor(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Check the installation: versions, device and engine, and whether the event log can be written.

    The result: `python`, the versions of packages (of the `library`, the `server`, and each extra), `device`,
    `engine`, `processors`, `data_dir`, the state of the `log` and of the topics (`ingest`), and `problems`.

    With --url, check a running server instead. The result: `server`, `status`, the numbers of `models` by
    state and of their `samples`; of the first model `versions`, `device` and `engine`; the part of the server
    in a `cluster`; and `problems`.
    """
    if url is not None:
        problems: list[str] = []
        _finish({"server": url, **_server(url, key, problems)}, problems, as_json)
        return
    settings = read_settings()
    problems = misspelt_settings(os.environ)
    found: dict[str, Any] = {"python": platform.python_version()}
    for group, names in _PACKAGES.items():
        found[group] = {name: _version(name) for name in names}
    found |= _computing(settings)
    found["data_dir"] = str(settings.data_dir.absolute())
    found["log"] = _log(settings, problems) if settings.store is None else _store(settings.store, problems)
    if settings.ingest:
        found["ingest"] = {each.topic: _topic(each, problems) for each in settings.ingest}
    _finish(found, problems, as_json)


def _finish(found: dict[str, Any], problems: list[str], as_json: bool) -> None:
    show({**found, "problems": problems}, as_json=as_json)
    if problems:
        raise CommandError("; ".join(problems))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _computing(settings: Settings) -> dict[str, Any]:
    """Return the device and engine of the default model after one sample, which decides them."""
    import bnp_online as bnp

    estimator = bnp.BNPClassifier(device=settings.device)
    estimator.learn_one({"a": 1.0}, 0)
    return {"device": estimator.device_name, "engine": estimator.engine_name, "processors": os.cpu_count()}


def _log(settings: Settings, problems: list[str]) -> str:
    """Test whether a server could write its log; nothing is created."""
    from ..errors import StorageError  # late: torch
    from ..storage.data_dir import FolderInUseError, lock
    from ..storage.sqlite import SqliteLog

    folder = settings.data_dir
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not folder.exists():
            return _try(
                next(parent for parent in folder.absolute().parents if parent.exists()), "can be made"
            )
        if not (folder / "events.sqlite3").exists():
            return _try(folder, "can be written")
        with contextlib.closing(lock(folder)), contextlib.closing(SqliteLog(folder)) as log:
            log.probe()
    except FolderInUseError:
        return "in use by a running server"
    except (OSError, StorageError) as error:
        reason = getattr(error, "strerror", None) or error  # the file of an OSError may be a temporary one
        problems.append(
            f"the log in {folder} cannot be written: {reason}; set BNP_DATA_DIR to another folder"
        )
        return "cannot be written"
    return "can be written"


def _store(url: SecretStr, problems: list[str]) -> str:
    """Test whether PostgreSQL answers, and its user may write; nothing is created."""
    try:
        import psycopg  # late: optional
    except ImportError:
        problems.append("BNP_STORE needs psycopg: pip install 'bnp-online[cluster]'")
        return "cannot be reached"
    try:
        with contextlib.closing(psycopg.connect(url.get_secret_value(), connect_timeout=5)) as connection:
            tables, schema, may_write = connection.execute(_RIGHTS).fetchone() or (False, None, False)
    except psycopg.Error as error:
        problems.append(f"the log cannot be reached: {' '.join(str(error).split())}; see BNP_STORE")
        return "cannot be reached"
    if not may_write:
        place = (
            "the tables" if tables else f"the schema {schema}" if schema else "a schema that does not exist"
        )
        problems.append(f"the log cannot be written: the user in BNP_STORE may not write to {place}")
        return "cannot be written"
    return "can be written" if tables else "can be written; it has no tables yet: `bnp-online cluster init`"


def _topic(url: SourceUrl, problems: list[str]) -> str:
    """Test whether a broker has a topic; nothing is read."""
    from ..ingest.ingest import source_of  # late: torch
    from ..ingest.source import SourceError

    async def look() -> int:
        source = source_of(url)
        try:
            await source.open()
            return len(await source.bounds())
        finally:
            await source.close()

    try:
        partitions = asyncio.run(look())
    except SourceError as error:
        problems.append(f"model {url.model!r} cannot learn from {url.topic}: {error}; see BNP_INGEST")
        return "not available"
    return f"{partitions} partition{'s' if partitions > 1 else ''}"


def _try(folder: Path, well: str) -> str:
    with tempfile.TemporaryFile(dir=folder):
        return well


def _server(url: str, key: str | None, problems: list[str]) -> dict[str, Any]:
    """Return the state of a server; what needs a key is left out without one."""
    found: dict[str, Any] = {"status": "not ready"}
    try:
        with connected(url, key, patience=0.0) as client:
            health = client.ready()
            found["status"] = health.status
            if health.detail is not None:
                problems.append(health.detail)
            try:
                found |= _models(client, problems)
                found |= _node(client)
            except UnauthorizedError:
                if key is not None:
                    raise
                found["models"] = "give a key with --key, or in BNP_API_KEY"
            except ForbiddenError as error:
                found.setdefault("models", str(error))
    except (ClientError, CommandError) as error:
        problems.append(f"the server at {url}: {error}")
    return found


def _models(client: Client, problems: list[str]) -> dict[str, Any]:
    """Return the number of models and samples, and versions, device and engine of the first model."""
    models = client.models().models
    states = Counter(each.state for each in models)
    if failed := [each.name for each in models if each.state == "failed"]:
        problems.append(f"{len(failed)} models failed: {', '.join(failed[:3])}; see the log of the server")
    found: dict[str, Any] = {"models": {"all": len(models), **states}}
    found["samples"] = sum(each.step or 0 for each in models)
    for each in models:
        if each.state == "ready":
            described = client.describe(each.name)
            return found | {
                "versions": described.versions, "device": described.device, "engine": described.engine
            }  # fmt: skip
    return found


def _node(client: Client) -> dict[str, Any]:
    """Return the part of the server in its cluster, which a key for all models may see."""
    cluster = client.cluster()
    if not cluster.shards:
        return {}
    own = next((each for each in cluster.nodes if each.node == cluster.node), None)
    owned = len(own.owned) if own is not None else 0
    return {
        "cluster": {
            "node": cluster.node, "role": cluster.role, "owns": owned, "of": len(cluster.shards),
            "nodes": len(cluster.nodes),
        }
    }  # fmt: skip
