"""CUDA graphs, simulated on the CPU: a capture records operations, a replay runs them on the same storages.

As on a GPU, Python code runs during the capture only, an operation of a capture computes nothing, and the
memory that a graph allocated has no defined content before its replay. What a capture does not allow raises:
a value read by the host, a tensor made from values of the host, an index by a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

_READS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "lift_fresh")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _aliases(tree: Any) -> Any:
    return _pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    """Return the content of a storage, as a view."""
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
    """Operations of a capture, and the content of all storages before it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.calls: list[tuple[Any, Any, Any, Any, set[int]]] = []
        self.own: dict[int, Any] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.removeprefix("aten::"), kwargs or {}
        masks = name.startswith("index") and any(t.dtype == torch.bool for t in _tensors(args[1:2]))
        if name.startswith(_READS) or (masks and name.startswith(("index_put", "index.Tensor"))):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        given = _tensors((args, kwargs))
        for tensor in given:
            if _storage(tensor) not in self.own and _storage(tensor) not in self.before:
                content = _bytes(tensor.untyped_storage())
                self.before[_storage(tensor)] = content, content.clone()
        kept = _aliases(args), _aliases(kwargs)
        out = func(*args, **kwargs)
        known = {_storage(tensor) for tensor in given}
        for tensor in _tensors(out):
            if _storage(tensor) not in known:
                self.own[_storage(tensor)] = tensor.untyped_storage()
        self.calls.append((func, *kept, _aliases(out), known))
        return out


class _Graph:
    """Stand-in of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.recorder = _Recorder()

    def replay(self) -> None:
        """Run the recorded operations on the storages of the capture."""
        for storage in self.recorder.own.values():
            _bytes(storage).fill_(0xFF)  # NaN, or −1
        with torch.no_grad():
            for func, args, kwargs, out, known in self.recorder.calls:
                for was, now in zip(_tensors(out), _tensors(func(*args, **kwargs)), strict=True):
                    if _storage(was) not in known:
                        was.copy_(now)


class _Stream:
    """Stand-in of `torch.cuda.Stream`."""

    def wait_stream(self, other: object) -> None:
        """Do nothing: there is one stream."""


@contextmanager
def _capture(graph: _Graph, **options: object) -> Iterator[None]:
    with graph.recorder:
        yield
    for content, before in graph.recorder.before.values():
        content.copy_(before)
    graph.recorder.before.clear()


@contextmanager
def _on_stream(stream: _Stream) -> Iterator[None]:
    yield


#: For `monkeypatch.setattr(torch.cuda, name, value)`.
FAKES = {
    "CUDAGraph": _Graph,
    "Stream": _Stream,
    "stream": _on_stream,
    "current_stream": _Stream,
    "graph": _capture,
}
