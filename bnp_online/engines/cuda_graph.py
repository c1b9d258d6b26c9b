"""Functions that work on tensors at fixed addresses, captured in a CUDA graph once and replayed often."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..errors import ConfigurationError

#: Runs before a capture, in which libraries choose their kernels and allocate their workspaces.
WARM_UPS = 3
#: CUDA allows one capture at a time in a process; learners of other threads go on meanwhile.
_CAPTURE = threading.Lock()


def captured(function: Callable[[], None], device: str) -> Callable[[], None]:
    """Return something that does on the device what `function` does, without the host's part in it.

    Parameters
    ----------
    function : callable
        Reads and writes tensors that stay where they are; never synchronizes, nor looks at a value. It is
        run `WARM_UPS` times before it is captured, so whoever calls sees to it that this changes nothing.
    device : str
        On ``"cpu"`` there are no graphs: `function` itself is returned, which is how it is tested there.

    Raises
    ------
    ConfigurationError
        If it cannot be captured: it copies between host and device, or depends on values.
    """
    if device == "cpu":
        return function
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with _CAPTURE, _reproducible():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # on the way out of a failed capture, torch leaves its stream current
            for _ in range(WARM_UPS):
                function()
            try:
                # thread_local: other learners' threads may allocate and synchronize while this one captures.
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    function()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ConfigurationError(
                    "engine",
                    f"the network cannot be captured in a CUDA graph: use engine='autograd' ({error})",
                ) from error
        torch.cuda.current_stream().wait_stream(side)
    return graph.replay


@contextmanager
def _reproducible() -> Iterator[None]:
    """Let cuDNN choose among algorithms that give equal bits each time: the graph keeps what it chooses."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
