"""GPUs, simulated on the CPU: a capture records operations, and a replay runs them on the same storages.

Everything that Python decided during a capture stays as it was, as on a GPU. The simulation raises where CUDA
would:

- during a capture, if the host reads a value, makes a tensor of its own, or uses a shape that depends on
  values;
- if the memory is exhausted (`SimulatedGPU.exhausted`), at allocations for an engine and at captures;
- after a sticky error (`SimulatedGPU.lost`), at each call;
- if a graph is replayed whose workspace of cuBLAS was freed. Workspaces are kept as in torch 2.13: by thread
  and stream, cleared for its stream when a graph is destroyed.

Memory that a graph allocated has no defined content before its replay: it is filled with NaN. Not simulated
are time, precision, and copies that the host does not wait for.
"""

from __future__ import annotations

import atexit
import gc
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bnp_online.engines import devices

#: Operations for which the host waits.
_WAITS = (
    *("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"),
    *("_unique2", "unique_dim", "bincount", "histc", "repeat_interleave"),
)
#: Operations of cuBLAS.
_BLAS = ("mm", "bmm", "baddbmm", "addmm", "mv", "addmv", "addmv_", "dot")
#: Streams of a device; further ones are earlier ones again.
_STREAMS = 32
_GIB = 1 << 30


class IllegalError(RuntimeError):
    """What CUDA refuses, or what makes it fail."""


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _aliases(tree: Any) -> Any:
    """Return a tree of arguments with tensors as they are now: the host may change their shape."""
    return _pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """Return the content of a storage, as a view."""
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _name(function: Any) -> str:
    return str(function._schema.name.removeprefix("aten::"))


class SimulatedGPU:
    """State of the simulated GPUs of this process.

    Parameters
    ----------
    count : int
        Number of GPUs.
    faults : path, optional
        File whose content is a fault, ``"memory"`` or ``"sticky"``, while it exists: another process writes
        it.
    clears : bool
        Whether the destruction of a graph clears the workspaces of its stream, as in torch 2.13.

    Attributes
    ----------
    exhausted, lost : bool
        Whether the memory is exhausted, and whether there was a sticky error.
    captures : list of int
        GPU of each capture.
    entered : list of int
        GPU that was the current one at each replay.
    workspaces : dict
        Live workspaces by thread and stream.
    """

    def __init__(self, count: int = 2, faults: Path | None = None, *, clears: bool = True) -> None:
        self.count = count
        self._faults = faults
        self._clears = clears
        self.exhausted = self.lost = False
        self.captures: list[int] = []
        self.entered: list[int] = []
        self.workspaces: dict[tuple[int, int], int] = {}
        self.workspace_size = 32 << 20
        self.capturing: _Graph | None = None
        self._home: dict[int, _Graph | None] = {}  # the graph in whose memory a workspace is
        self._freed: set[int] = set()
        self._streams = 0
        self._local = threading.local()

    def require_memory(self) -> None:
        """Raise if the memory is exhausted, or the GPU is lost."""
        self.require()
        if self.exhausted or self._fault() == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 MiB.")

    def require(self) -> None:
        """Raise after a sticky error."""
        self.lost = self.lost or self._fault() == "sticky"
        if self.lost:
            raise torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered\nCompile with ..."
            )

    def _fault(self) -> str | None:
        return self._faults.read_text() if self._faults is not None and self._faults.exists() else None

    def new_stream(self) -> int:
        """Return the number of a new stream."""
        self._streams += 1
        return 1 + (self._streams - 1) % _STREAMS

    @property
    def stream(self) -> int:
        """Current stream of the thread; 0 is the default one."""
        return int(getattr(self._local, "stream", 0))

    @stream.setter
    def stream(self, number: int) -> None:
        self._local.stream = number

    @property
    def device(self) -> int:
        """Current GPU of the thread."""
        return int(getattr(self._local, "device", 0))

    @device.setter
    def device(self, number: int) -> None:
        self._local.device = number

    def workspace(self) -> int:
        """Return the workspace of the current thread and stream."""
        where = threading.get_ident(), self.stream
        if where not in self.workspaces:
            self.workspaces[where] = made = len(self._home)
            self._home[made] = self.capturing
        return self.workspaces[where]

    def clear_workspaces(self, stream: int | None = None) -> None:
        """Free the workspaces of all threads, on all streams or on one."""
        for where in [each for each in self.workspaces if stream in (None, each[1])]:
            self._freed.add(self.workspaces.pop(where))

    def destroyed(self, graph: _Graph) -> None:
        """Clear the workspaces of the stream on which a graph was captured."""
        if self._clears:
            self.clear_workspaces(graph.stream)

    def require_workspaces(self, graph: _Graph) -> None:
        """Raise if a workspace that a graph uses was freed, and is not in the graph's own memory."""
        for number in graph.recorder.workspaces & self._freed:
            if self._home[number] is not graph:
                raise IllegalError("an illegal memory access: a workspace of cuBLAS was freed")


class _Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
    """Notes the workspaces of operations that run at once."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _name(func) in _BLAS:
            self._gpu.workspace()
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
    """Operations of a capture, and the content of all storages before it."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._gpu = gpu
        self.calls: list[tuple[Any, Any, Any, Any, set[int]]] = []
        self.own: dict[int, Any] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.workspaces: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        masked = name in ("index", "index_put", "index_put_") and any(
            tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1:2])
        )
        if masked or name.startswith((*_WAITS, "lift_fresh")):
            raise IllegalError(f"operation not permitted when stream is capturing: {name}")
        if name in _BLAS:
            self.workspaces.add(self._gpu.workspace())
        given = _tensors((args, kwargs))
        for tensor in given:  # all of them: the schema of `native_batch_norm` does not tell what it writes
            if _storage(tensor) not in self.own and _storage(tensor) not in self.before:
                content = _bytes(tensor.untyped_storage())
                self.before[_storage(tensor)] = content, content.clone()
        kept = _aliases(args), _aliases(kwargs)
        out = func(*args, **kwargs)
        known = {_storage(tensor) for tensor in given}
        for tensor in _tensors(out):
            if _storage(tensor) not in known:
                self.own[_storage(tensor)] = tensor.untyped_storage()
        if torch.Tag.inplace_view not in func.tags:  # else it changes only what the host knows of a tensor
            self.calls.append((func, *kept, _aliases(out), known))
        return out


class _Graph:
    """Stand-in of `torch.cuda.CUDAGraph`."""

    gpu: SimulatedGPU

    def __init__(self) -> None:
        self.recorder = _Recorder(self.gpu)
        self.stream = 0

    def replay(self) -> None:
        """Run the recorded operations on the storages of the capture."""
        self.gpu.require()
        self.gpu.entered.append(self.gpu.device)
        self.gpu.require_workspaces(self)
        for storage in self.recorder.own.values():
            _bytes(storage).fill_(0xFF)  # NaN, or −1
        with torch.no_grad():
            for func, args, kwargs, out, known in self.recorder.calls:
                for was, now in zip(_tensors(out), _tensors(func(*args, **kwargs)), strict=True):
                    if _storage(was) not in known:
                        was.copy_(now)

    def __del__(self) -> None:
        self.gpu.destroyed(self)


class _Stream:
    """Stand-in of `torch.cuda.Stream`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def wait_stream(self, other: object) -> None:
        """Do nothing: operations run in the order of their calls."""


class _Device:
    """Stand-in of `torch.cuda.device`: makes a GPU the current one of the thread."""

    gpu: SimulatedGPU

    def __init__(self, device: str) -> None:
        self._number = _number(device)

    def __enter__(self) -> Self:
        self._before, self.gpu.device = self.gpu.device, self._number
        return self

    def __exit__(self, *error: object) -> None:
        self.gpu.device = self._before


def _number(device: str | int | None) -> int:
    return int(device.partition(":")[2] or 0) if isinstance(device, str) else device or 0


@contextmanager
def simulated_cuda(
    count: int = 2, faults: Path | None = None, *, clears: bool = True
) -> Iterator[SimulatedGPU]:
    """Simulate GPUs in this process during the block, in all threads; the parameters are those of
    `SimulatedGPU`."""
    gpu = SimulatedGPU(count, faults, clears=clears)
    graph_class = type("CUDAGraph", (_Graph,), {"gpu": gpu})

    @contextmanager
    def on_stream(stream: _Stream) -> Iterator[None]:
        before, gpu.stream = gpu.stream, stream.number
        try:
            with _Watched(gpu):
                yield
        finally:
            gpu.stream = before

    @contextmanager
    def capture(graph: _Graph, *, stream: _Stream, **options: Any) -> Iterator[None]:
        gpu.require_memory()
        if options.keys() != {"pool", "capture_error_mode"}:
            raise IllegalError(f"a capture with other options than those of the engine: {options}")
        if gc.isenabled():
            raise IllegalError("the garbage collector may free memory of the device during the capture")
        _require_exact()
        graph.stream, gpu.capturing = stream.number, graph
        try:
            with graph.recorder:
                yield
        finally:
            gpu.capturing = None
            for content, before in graph.recorder.before.values():
                content.copy_(before)
            graph.recorder.before.clear()
        gpu.captures.append(gpu.device)

    def tensor_device(device: str) -> str:
        if devices.is_gpu(device):
            gpu.require_memory()
            return "cpu"
        return device

    def workspace_size(size: int | None = None) -> int:
        if size is not None:
            gpu.workspace_size = size
        return gpu.workspace_size

    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: gpu.count,
        "current_device": lambda: gpu.device,
        "device": type("device", (_Device,), {"gpu": gpu}),
        "synchronize": lambda device=None: gpu.require(),
        "get_device_name": lambda device=None: "simulated GPU",
        "mem_get_info": lambda device=None: (_GIB, 4 * _GIB),
        "memory_allocated": lambda device=None: _GIB,
        "memory_reserved": lambda device=None: 2 * _GIB,
        "CUDAGraph": graph_class,
        "Stream": lambda device=None: _Stream(gpu.new_stream()),
        "stream": on_stream,
        "current_stream": lambda device=None: _Stream(gpu.stream),
        "graph": capture,
        "graph_pool_handle": object,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        clear = mock.patch.object(torch._C, "_cuda_clearCublasWorkspaces", gpu.clear_workspaces, create=True)
        stack.enter_context(clear)
        stack.enter_context(mock.patch.object(torch.backends.cuda, "cublas_workspace_size", workspace_size))
        stack.enter_context(mock.patch.object(devices, "tensor_device", tensor_device))
        yield gpu


def _require_exact() -> None:
    """Raise if a captured convolution may round its inputs, or choose an algorithm by chance."""
    cudnn: Any = torch.backends.cudnn
    if not cudnn.deterministic or cudnn.conv.fp32_precision != "ieee":
        raise IllegalError("the algorithms of cuDNN are not exact and deterministic during the capture")


def install(count: int = 2, faults: Path | None = None) -> None:
    """Simulate GPUs in this process until it ends."""
    simulation = simulated_cuda(count, faults)
    simulation.__enter__()
    atexit.register(simulation.__exit__, None, None, None)


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
    """Notes operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = _name(func), kwargs or {}
        if name.startswith(_WAITS) or (name == "_to_copy" and str(kwargs.get("device")) == "cpu"):
            self.found.append(name)
        return func(*args, **kwargs)


@contextmanager
def host_waits() -> Iterator[list[str]]:
    """Yield the operations of this thread for which the host waits for the simulated GPU."""
    with _Waits() as watched:
        yield watched.found
