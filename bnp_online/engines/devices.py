"""Devices of the torch engine: their names, their errors, their memory.

An engine has the device ``"cpu"`` or a GPU with its number, such as ``"cuda:1"``. Each of its calls runs in
`on`, which makes the GPU the current one of the thread and translates the errors of CUDA:

- `DeviceMemoryError`: too little free memory. Nothing has changed, and later calls can succeed.
- `DeviceLostError`: a sticky error, such as an illegal memory access. Every later call of the process on this
  GPU fails, and the content of its memory is lost. Only a new process can use the GPU again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..errors import BNPError, ConfigurationError, DeviceLostError, DeviceMemoryError

#: Number of the error ``cudaErrorMemoryAllocation``.
_ALLOCATION = 2
#: What cuBLAS and cuDNN say if they cannot allocate memory.
_UNALLOCATED = re.compile(r"CU(BLAS|DNN)_STATUS_ALLOC_FAILED|out of memory", re.IGNORECASE)

_watchers: list[Callable[[DeviceLostError], None]] = []


@dataclass
class Activity:
    """Work of an engine on a GPU since the engine was made.

    Attributes
    ----------
    captures : int
        Number of captured CUDA graphs.
    capture_seconds : float
        Time of their warm-up and capture.
    rows : int
        Number of rows that were learned or predicted.
    seconds : float
        Time from the start of the first replay of a call until its results were on the host.
    """

    captures: int = 0
    capture_seconds: float = 0.0
    rows: int = 0
    seconds: float = 0.0


class Memory(NamedTuple):
    """Memory of a GPU in bytes.

    Attributes
    ----------
    allocated, reserved : int
        Held by tensors of this process, and by torch for them.
    free, total : int
        Free for all processes, and the size.
    """

    allocated: int
    reserved: int
    free: int
    total: int


def is_gpu(device: str) -> bool:
    """Return whether a device is a GPU."""
    return device.startswith("cuda")


def is_available(device: str) -> bool:
    """Return whether this machine has a device."""
    if not is_gpu(device):
        return True
    number = int(device.partition(":")[2] or 0)
    return torch.cuda.is_available() and number < torch.cuda.device_count()


def available(device: str) -> str:
    """Return the device of a saved model; with a warning ``"auto"`` if this machine does not have it."""
    if is_available(device):
        return device
    warnings.warn(
        f"the model was saved on {device}, which this machine does not have: device='auto'", stacklevel=3
    )
    return "auto"


def resolved(device: str) -> str:
    """Return the device with its number: ``"cuda"`` is the current GPU of the thread.

    Raises
    ------
    ConfigurationError
        If the machine does not have the device.
    """
    if not is_gpu(device):
        return device
    if not is_available(device):
        if not torch.cuda.is_available():
            raise ConfigurationError("device", "torch sees no CUDA device: use 'cpu' or 'auto'")
        last = torch.cuda.device_count() - 1
        raise ConfigurationError("device", f"torch sees no {device}: the last CUDA device is 'cuda:{last}'")
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def tensor_device(device: str) -> str:
    """Return where the tensors of a device are."""
    return device


def on(device: str) -> AbstractContextManager[None]:
    """Make a device the current one for the block, and translate its errors.

    Raises
    ------
    DeviceMemoryError
        If the GPU has too little free memory.
    DeviceLostError
        After a sticky error. The functions of `watch` were called.
    """
    return _on_gpu(device) if is_gpu(device) else nullcontext()


@contextmanager
def _on_gpu(device: str) -> Iterator[None]:
    try:
        with torch.cuda.device(device):
            yield
    except BNPError:
        raise
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise DeviceMemoryError(f"{device} has too little free memory: {_first_line(error)}") from error
        if _is_lost(device):
            lost = DeviceLostError(f"{device} failed: {_first_line(error)}")
            for tell in _watchers:
                tell(lost)
            raise lost from error
        raise


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is for lack of memory of a GPU.

    A capture that runs out of memory may end with another error.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or getattr(error, "error_code", None) == _ALLOCATION:
            return True
        if isinstance(error, RuntimeError) and _UNALLOCATED.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_lost(device: str) -> bool:
    """Return whether a GPU fails at any call: a sticky error comes again, any other is reported once."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def watch(tell: Callable[[DeviceLostError], None]) -> Callable[[], None]:
    """Call a function whenever a GPU was found lost, in the thread that found it.

    Returns
    -------
    callable
        Ends this.
    """
    _watchers.append(tell)
    return lambda: _watchers.remove(tell)


def environment(device: str) -> dict[str, str]:
    """Return what the bits of an engine on a GPU depend on: its name, and the versions of CUDA and cuDNN."""
    if not is_gpu(device):
        return {}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch leaves it untyped
    }


def memory(device: str) -> Memory | None:
    """Return the memory of a GPU; None if it does not answer."""
    try:
        free, total = torch.cuda.mem_get_info(device)
        return Memory(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device), free, total)
    except RuntimeError:
        return None
