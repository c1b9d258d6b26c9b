"""Capture of a function in a CUDA graph: recorded once, then replayed without the host's work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigurationError

#: Runs before a capture, in which libraries choose kernels and allocate workspaces.
WARM_UPS = 3
#: CUDA allows one capture at a time in a process; the learners of other threads continue meanwhile.
_CAPTURE = threading.Lock()


def captured(function: Callable[[], None]) -> Callable[[], None]:
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
    """
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with _CAPTURE, _reproducible():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # after a failed capture, torch leaves its own stream current
            for _ in range(WARM_UPS):
                function()
            try:
                # thread_local: the threads of other learners may allocate and synchronize during the capture.
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    function()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ConfigurationError(
                    "engine",
                    f"the network cannot be captured in a CUDA graph: use engine='auto' ({error})",
                ) from error
        torch.cuda.current_stream().wait_stream(side)
    return graph.replay


@contextmanager
def _reproducible() -> Iterator[None]:
    """Restrict cuDNN to deterministic algorithms during the capture: the graph keeps its choice."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
