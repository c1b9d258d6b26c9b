"""State of a learner as one safetensors file with a JSON header: versioned, checksummed, never pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from torch import Tensor

from .errors import CheckpointError

#: Version of the format; a reader refuses later ones by name.
FORMAT = 1
_HEADER = "bnp_online"
#: Largest header of a safetensors file, in bytes.
_LONGEST_HEADER = 100_000_000
#: Largest number of digits of an integer in a header with limits.
_LONGEST_INT = 1000

#: Types of tensors in a file, in the order of their data: no tensor begins between its elements.
_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = [*_NAMES]

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
    return b"".join(_parts(state))


def _parts(state: State) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in parts, without copies of the tensors.

    `safetensors.torch.save` copies them twice, and no other thread runs meanwhile.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state["tensors"].items()}
    header = {key: value for key, value in state.items() if key != "tensors"}
    envelope = {"format": FORMAT, "sha256": digest(header, tensors), "state": header}
    # Escapes would make the header up to three times as long, and its length is limited.
    about: dict[str, Any] = {"__metadata__": {_HEADER: _json(envelope, ensure_ascii=not _is_unicode(header))}}
    ordered = sorted(tensors, key=lambda name: (_TYPES.index(tensors[name].dtype), name))
    end = 0
    for name in ordered:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        kind = _NAMES[tensor.dtype]
        about[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        if tensors[name].numel():  # torch cannot view the bytes of nothing
            yield tensors[name].reshape(-1).view(torch.uint8).numpy().data


def loads(
    data: bytes, *, longest_header: int = _LONGEST_HEADER, most_values: int | None = None
) -> dict[str, Any]:
    """Return the state in bytes from `dumps`.

    Parameters
    ----------
    data : bytes
        Content of a file.
    longest_header : int
        Maximum size of the JSON header in bytes, by default that of safetensors.
    most_values : int, optional
        Maximum number of commas and opening brackets in the header, including those in names. With it,
        integers have at most 1,000 digits.

    Notes
    -----
    The limits are checked before the header is parsed. One call parses it, other threads wait meanwhile, and
    a value of two bytes takes up to a hundred bytes of memory.

    Raises
    ------
    CheckpointError
        If the bytes are of another kind, damaged, in a later version of the format, or beyond a limit.
    """
    size = int.from_bytes(data[:8], "little")
    if size > longest_header:
        raise CheckpointError(f"the header has {size} bytes; the limit is {longest_header}")
    raw = data[8 : 8 + size]
    _check_values(raw, most_values)
    try:
        tensors = load_bytes(data)
        metadata = json.loads(raw).get("__metadata__") or {}
    except (SafetensorError, KeyError, *_UNREADABLE) as error:  # KeyError: numbers of a type that torch lacks
        raise CheckpointError(f"not a safetensors file, or cut short: {error}") from error
    if most_values is None:
        return _open(metadata, tensors)
    _check_values(metadata.get(_HEADER, "").encode(), most_values)
    return _open(metadata, tensors, _short_int)


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

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "The folder does not exist: create it", str(target.parent))
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(aside, "wb", opener=partial(os.open, mode=mode)) as file:
            for part in _parts(state):
                file.write(part)
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
    with open(path, "rb") as opened:  # safetensors reports every failure as a missing file
        try:
            os.fsencode(path).decode()
        except UnicodeDecodeError:  # safetensors does not find this name
            return loads(opened.read())
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, AttributeError) as error:  # AttributeError: torch lacks the type of a tensor
        raise CheckpointError(
            f"{os.fspath(path)} is no safetensors file, or is cut short: {error}"
        ) from error
    return _open(metadata, tensors)


def _open(
    metadata: Mapping[str, str], tensors: dict[str, Tensor], parse_int: Callable[[str], int] | None = None
) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise CheckpointError("a safetensors file, but none that bnp_online wrote")
    try:
        envelope = json.loads(metadata[_HEADER], parse_int=parse_int)
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


def _check_values(raw: bytes, most: int | None) -> None:
    found = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if most is not None and found > most:
        raise CheckpointError(f"the header has {found} values; the limit is {most}")


def _short_int(digits: str) -> int:
    """Return an integer; its conversion takes quadratic time."""
    if len(digits) > _LONGEST_INT:
        raise ValueError(f"an integer has more than {_LONGEST_INT} digits")
    return int(digits)


def _is_unicode(value: object) -> bool:
    """Return whether UTF-8 can represent all strings of a JSON value: it has no unpaired surrogates."""
    try:
        _json(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(value: object, *, ensure_ascii: bool = True) -> str:
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        default=_plain,
        ensure_ascii=ensure_ascii,
    )


def _plain(value: object) -> object:
    """Return a NumPy scalar, such as a seed from ``np.arange``, as a Python one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a state cannot hold a {type(value).__name__}")
