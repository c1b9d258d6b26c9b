"""``doctor``: installed versions, the device of computation, and access to the data folder."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from bnp_online.client import ClientError

from ..settings import Settings, read_settings
from .options import AsJson, Key, Url, connected
from .output import CommandError, show

_PACKAGES = {
    "library": ("bnp-online", "torch", "numba", "numpy", "river", "safetensors"),
    "server": ("fastapi", "uvicorn", "pydantic"),
    "files": ("pyarrow",),
}


def doctor(url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Check the installation: versions, device and engine, and whether the event log can be written."""
    settings = read_settings()
    problems: list[str] = []
    found: dict[str, Any] = {"python": platform.python_version()}
    for group, names in _PACKAGES.items():
        found[group] = {name: _version(name) for name in names}
    found |= _computing(settings)
    found["data_dir"] = str(settings.data_dir.absolute())
    found["log"] = _log(settings, problems)
    if url is not None:
        found["server"] = _server(url, key, problems)
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


def _try(folder: Path, well: str) -> str:
    with tempfile.TemporaryFile(dir=folder):
        return well


def _server(url: str, key: str | None, problems: list[str]) -> str:
    try:
        with connected(url, key, patience=0.0) as client:
            return client.ready().status
    except (ClientError, CommandError) as error:
        problems.append(f"the server at {url} is not ready: {error}")
        return "not ready"
