"""State of a learner as one safetensors file with a JSON header: versioned, checksummed, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from .errors import CheckpointError

#: Version of the format; a reader refuses later ones by name.
FORMAT = 1
_HEADER = "bnp_online"

#: Errors of malformed or hostile JSON: endless nesting, numbers that read as infinity.
_UNREADABLE = (ValueError, RecursionError)

State = Mapping[str, Any]


def digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hex, of a JSON header and of the names, types, shapes and bytes of tensors."""
    sha = hashlib.sha256(_json(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():  # torch cannot view the bytes of nothing
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def pack(data: bytes) -> Tensor:
    """Return bytes as a tensor: a header has no room for large values."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def unpack(packed: Tensor) -> bytes:
    """Return the bytes of a tensor from `pack`."""
    return packed.numpy().tobytes()


def dumps(state: State) -> bytes:
    """Return a state as the bytes of a safetensors file.

    Parameters
    ----------
    state : mapping
        ``"tensors"``, a mapping of names to tensors, and further entries that JSON can hold.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state["tensors"].items()}
    header = {key: value for key, value in state.items() if key != "tensors"}
    envelope = {"format": FORMAT, "sha256": digest(header, tensors), "state": header}
    return save_bytes(tensors, {_HEADER: _json(envelope)})


def loads(data: bytes) -> dict[str, Any]:
    """Return the state in bytes from `dumps`.

    Raises
    ------
    CheckpointError
        If the bytes are of another kind, damaged, or in a later version of the format.
    """
    try:
        tensors = load_bytes(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, KeyError, *_UNREADABLE) as error:  # KeyError: numbers of a type that torch lacks
        raise CheckpointError(f"not a safetensors file, or cut short: {error}") from error
    return _open(metadata, tensors)


def save(path: str | os.PathLike[str], state: State, *, mode: int = 0o666) -> None:
    """Write a state to a file, atomically: a temporary file is flushed to disk, then renamed.

    Parameters
    ----------
    path : path
        The file; replaced if it exists. After a crash it has the old state or the new one.
    state : mapping
        As for `dumps`.
    mode : int
        Mode of the file, less the bits of the process's umask.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(aside, "wb", opener=partial(os.open, mode=mode)) as file:
            file.write(dumps(state))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the state in a file from `save`.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, is damaged, or is in a later version of the format.
    OSError
        If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, AttributeError) as error:  # AttributeError: torch lacks the type of a tensor
        raise CheckpointError(
            f"{os.fspath(path)} is no safetensors file, or is cut short: {error}"
        ) from error
    return _open(metadata, tensors)


def _open(metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise CheckpointError("a safetensors file, but none that bnp_online wrote")
    try:
        envelope = json.loads(metadata[_HEADER])
        version, sha256, header = envelope["format"], envelope["sha256"], dict(envelope["state"])
    except (*_UNREADABLE, KeyError, TypeError) as error:
        raise CheckpointError(f"the header is damaged: {error}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"written in format {version}; this version reads format {FORMAT}: upgrade bnp-online"
        )
    try:
        intact = digest(header, tensors) == sha256
    except _UNREADABLE:
        intact = False
    if not intact:
        raise CheckpointError("the checksum does not match: the file is damaged")
    return {**header, "tensors": tensors}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    """Return a NumPy scalar, such as a seed from ``np.arange``, as a Python one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a state cannot hold a {type(value).__name__}")
