"""Capture of functions in CUDA graphs: recorded once, then replayed without the host's work."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ..errors import ConfigurationError
from .devices import Activity, is_gpu, is_out_of_memory

#: Runs before a capture, in which libraries choose kernels and allocate workspaces.
WARM_UPS = 3
#: Bytes of the workspace of cuBLAS in a graph. By default it is 32 MiB for each graph.
WORKSPACE = 1 << 22
#: CUDA allows one capture at a time in a process; the learners of other threads continue meanwhile.
_CAPTURE = threading.Lock()


class GraphPool:
    """CUDA graphs of one program, which are replayed one after another and share their memory.

    Parameters
    ----------
    device : str
        The GPU, such as ``"cuda:0"``. It is the current one of the thread in each call.
    activity : Activity
        Counts the captures.

    Notes
    -----
    cuBLAS keeps a workspace for each thread and stream. torch frees it when any graph that was captured on
    the stream is destroyed, although other graphs still use it (pytorch#193402), and a process has 32
    streams. So the workspaces are cleared before a capture: the graph gets one in its own memory. They are
    cleared after it too, so that no later work on the stream uses the graph's.

    The garbage collector is off during a capture, in all threads: it could free memory of the device, which a
    capture does not allow.

    A capture that fails, because the function needs the host, may leave torch's allocator in disorder: it
    keeps freed memory, and later captures of the process may fail. A model that cannot be captured is a
    mistake of the program; the server captures only networks of this library.
    """

    def __init__(self, device: str, activity: Activity) -> None:
        self._device = device
        self._activity = activity
        self._stream: Any = None  # made at the first capture, as the pool
        self._pool: Any = None

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture a function in a CUDA graph; return the graph's replay.

        Parameters
        ----------
        function : callable
            Reads and writes tensors at fixed addresses. It neither synchronizes nor reads a value. It runs
            `WARM_UPS` times before the capture; the caller ensures that these runs change nothing.

        Raises
        ------
        ConfigurationError
            If the function copies between host and device, or depends on values.
        torch.OutOfMemoryError
            If the device has too little free memory. The function can be captured later.
        """
        start = time.perf_counter()
        with _CAPTURE, reproducible(self._device), _no_garbage_collection(), _small_workspaces():
            if self._stream is None:
                self._pool = torch.cuda.graph_pool_handle()
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            graph = self._captured(function)
        self._activity.captures += 1
        self._activity.capture_seconds += time.perf_counter() - start
        replay: Callable[[], None] = graph.replay
        return replay

    def _captured(self, function: Callable[[], None]) -> Any:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # after a failed capture, torch leaves its own stream current
            for _ in range(WARM_UPS):
                function()
            torch._C._cuda_clearCublasWorkspaces()
            try:
                # thread_local: the threads of other learners may allocate and synchronize during the capture.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    function()
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise torch.OutOfMemoryError(str(error)) from error
                raise ConfigurationError(
                    "engine",
                    f"the network cannot be captured in a CUDA graph: use engine='auto' ({error})",
                ) from error
            finally:
                torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph


class _Reproducible:
    """Restricts torch to exact and deterministic algorithms while any block runs, in all threads.

    By default, convolutions on a GPU round their inputs to 10 bits of mantissa (TF32).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before: list[Any] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._blocks == 0:
                self._before = [getattr(owner, name) for owner, name, _ in _settings()]
                for owner, name, exact in _settings():
                    setattr(owner, name, exact)
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    for (owner, name, _), before in zip(_settings(), self._before, strict=True):
                        setattr(owner, name, before)


def _settings() -> list[tuple[Any, str, Any]]:
    """Return settings of torch, as owner and name, with the values for exact and deterministic algorithms."""
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    exact: list[tuple[Any, str, Any]] = [(cudnn, "deterministic", True)]
    if hasattr(cudnn, "conv"):  # since torch 2.9, which allows one of both ways
        return exact + [(each, "fp32_precision", "ieee") for each in (products, cudnn.conv, cudnn.rnn)]
    return exact + [(each, "allow_tf32", False) for each in (products, cudnn)]


_REPRODUCIBLE = _Reproducible()


def reproducible(device: str) -> AbstractContextManager[None]:
    """Restrict torch to exact and deterministic algorithms for the block, on a GPU."""
    return _REPRODUCIBLE() if is_gpu(device) else nullcontext()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _small_workspaces() -> Iterator[None]:
    """Set the size of new workspaces of cuBLAS for the block, where torch can (since 2.13)."""
    size = getattr(torch.backends.cuda, "cublas_workspace_size", None)
    if size is None:
        yield
        return
    before = size()
    size(WORKSPACE)
    try:
        yield
    finally:
        size(before)
