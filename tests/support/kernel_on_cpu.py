"""The kernel of the persistent engine, compiled as C++ for the CPU; see ``cuda_on_cpu/cuda_on_cpu.h``."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnp_online.engines.base import LearnerSpec
from bnp_online.engines.persistent.engine import PersistentEngine
from bnp_online.engines.persistent.source import REAL, source

COMPILER = shutil.which("g++")
_HEADERS = Path(__file__).parent / "cuda_on_cpu"
_LANES = 4


class FailedLaunchError(AssertionError):
    """Threads of a launch did not come to the same barriers."""


def built(text: str, *options: str, lanes: int = _LANES) -> Path:
    """Compile the source of the kernel; processes share the results of equal sources."""
    header = (_HEADERS / "cuda_on_cpu.h").read_text()
    name = hashlib.sha256(repr((text, header, options, lanes)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"bnp-kernel-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target, own = folder / name, folder / f"{name}-{os.getpid()}"
    if not target.exists():
        code = own.with_suffix(".cpp")
        code.write_text(text)
        assert COMPILER is not None
        command = [COMPILER, "-std=c++17", f"-I{_HEADERS}", f"-DLANES={lanes}", *options, str(code)]
        subprocess.run([*command, "-o", str(own)], check=True, capture_output=True, text=True)
        code.unlink()
        own.replace(target)
    return target


class KernelOnCPU:
    """Kernel whose threads are fibers.

    Parameters
    ----------
    dtype, blocks
        As for `compiled.CompiledKernel`.
    most_blocks, threads, lanes : int
        Greatest number of blocks; threads of a block, and of a group.
    shared : int
        Shared memory of a block, in bytes.
    order : int
        Order of the threads between two barriers: 0 ascending, 1 descending, else a seed.
    left_out : int
        Line whose barrier is left out; 0 for none.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        blocks: int,
        *,
        most_blocks: int = 3,
        threads: int = 8,
        lanes: int = _LANES,
        shared: int = 1 << 20,
        order: int = 0,
        left_out: int = 0,
    ) -> None:
        self.blocks, self.threads, self.lanes = min(blocks, most_blocks), threads, lanes
        self.shared, self.order, self.left_out = shared, order, left_out
        text = source(dtype, self.blocks, threads)
        self._library = ctypes.CDLL(str(built(text, "-O1", "-shared", "-fPIC", lanes=lanes)))

    def run(
        self, learners: Tensor, rows: Tensor, results: Tensor, *, learns: bool, late: bool, shared: int
    ) -> None:
        """Run the kernel, and check its barriers."""
        addresses = [ctypes.c_void_p(each.data_ptr()) for each in (learners, rows, results)]
        numbers = [len(learners), rows.shape[1], int(learns), int(late), shared, self.order, self.left_out]
        failure = self._library.launch(*addresses, *numbers)
        if failure:
            raise FailedLaunchError(f"failure {failure} of `cpu::Failure`")


def engine_on_cpu(spec: LearnerSpec, dtype: torch.dtype = torch.float32, **options: Any) -> PersistentEngine:
    """Return a persistent engine whose kernel runs on the CPU; the options are those of `KernelOnCPU`."""
    compiled = partial(KernelOnCPU, **options)
    return PersistentEngine(spec, "cpu", dtype, capture=False, compiled=compiled)


def write_image(arguments: Mapping[str, Tensor | float], path: Path) -> None:
    """Write arguments of the kernel, with all that they point to, for the program of the sanitizer."""
    with path.open("wb") as file:
        file.write(np.int64(len(arguments)).tobytes())
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                start = value.storage_offset() * value.element_size()
                data = bytes(value.untyped_storage())[start:]
                file.write(np.int64(len(data)).tobytes() + data)
            else:
                number = np.float64(value) if name in REAL else np.int64(int(value))
                file.write(np.int64(-1).tobytes() + number.tobytes())


def run_program(program: Path, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run the program of the sanitizer, up to the first race."""
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
