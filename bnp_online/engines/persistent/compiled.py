"""The kernel on a GPU, compiled by NVRTC."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor
from torch.cuda._utils import _cuda_load_module, _get_nvrtc_library

from .runner import Kernel
from .source import KERNEL, source

#: Threads of a block.
_THREADS = 256
#: Least compute capability with clusters of blocks. Older GPUs run all networks of a learner in one block.
_WITH_CLUSTERS = (9, 0)
#: Shared memory that CUDA keeps in each block.
_RESERVED = 1024


class CompilationError(RuntimeError):
    """NVRTC did not compile the kernel; the message is its log."""


def binary(text: str, capability: tuple[int, int], library: ctypes.CDLL | None = None) -> bytes:
    """Compile a source for a GPU.

    ``torch.cuda._compile_kernel`` would do the same, but needs an installed CUDA toolkit for its headers. The
    kernel includes none.

    Parameters
    ----------
    text : str
        Source.
    capability : tuple of int
        Compute capability of the GPU.
    library : ctypes.CDLL, optional
        NVRTC, if not torch's.

    Raises
    ------
    CompilationError
        If the source has errors.
    """
    nvrtc = _get_nvrtc_library() if library is None else library
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), f"{KERNEL}.cu".encode(), 0, None, None
    )
    if created != 0:
        raise CompilationError(f"NVRTC cannot begin: error {created}")
    try:
        major, minor = capability
        options = [f"--gpu-architecture=sm_{major}{minor}".encode(), b"--std=c++17"]
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * 2)(*options))
        if failed:
            raise CompilationError(_result(nvrtc, program, "ProgramLog").decode())
        return _result(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _result(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> bytes:
    """Return the log or the binary of a program."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
    return buffer.raw


class CompiledKernel:
    """Kernel for the current GPU."""

    threads, lanes = _THREADS, 32

    def __init__(self, dtype: torch.dtype, blocks: int) -> None:
        device = torch.cuda.get_device_properties()
        capability = device.major, device.minor
        self.blocks = blocks if capability >= _WITH_CLUSTERS else 1
        most: int = device.shared_memory_per_block_optin  # type: ignore[attr-defined]  # its stub lacks it
        self.shared = most - _RESERVED
        module = _cuda_load_module(binary(source(dtype, self.blocks, _THREADS), capability))
        self._kernel = getattr(module, KERNEL)
        self._kernel.set_shared_memory_config(self.shared)

    def run(
        self, learners: Tensor, rows: Tensor, results: Tensor, *, learns: bool, late: bool, shared: int
    ) -> None:
        """Run the kernel on rows of learners; see `runner.Kernel`."""
        grid, block = (self.blocks * len(learners), 1, 1), (_THREADS, 1, 1)
        arguments = [learners, rows, results, rows.shape[-2], int(learns), int(late)]
        self._kernel(grid, block, arguments, shared_mem=shared)


def compiled(dtype: torch.dtype, blocks: int) -> Kernel:
    """Return the kernel for the current GPU; each is compiled once in a process (it takes seconds)."""
    return _compiled(dtype, blocks, torch.cuda.current_device())


@functools.cache
def _compiled(dtype: torch.dtype, blocks: int, device: int) -> Kernel:
    return CompiledKernel(dtype, blocks)
