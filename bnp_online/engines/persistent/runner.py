"""Runs rows of a learner in one launch of the kernel, on the tensors of the torch engine."""

from __future__ import annotations

import itertools
import math
import time
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...mixture import ETA, ETAS, NEIGHBOURS
from ...values import Flag, Vector
from .. import devices
from ..base import LearnerSpec
from ..mlp_rows import aligned, shapes
from ..numba_kernels import GELU, NONE, NORM, PAPER, RELU, TANH
from ..torch_neighbours import most_window
from ..torch_runner import Size, StepRunner
from .source import ARGUMENTS, PAIRS, REAL

#: Blocks of a learner with experts: one for each of its networks, and one for the experts. More than 8 blocks
#: in a cluster need a request.
MOST_BLOCKS = 8
#: Greatest number of groups in a block; each needs space for two sums.
MOST_GROUPS = 32
_ACTIVATIONS = {"relu": RELU, "tanh": TANH, "gelu": GELU}
_SCALES = {"norm": NORM, "paper": PAPER, "none": NONE}


class Kernel(Protocol):
    """Compiled kernel.

    Attributes
    ----------
    blocks, threads, lanes : int
        Number of blocks, of threads in a block, and of threads in a group.
    shared : int
        Greatest shared memory of a block, in bytes.
    """

    blocks: int
    threads: int
    lanes: int
    shared: int

    def run(
        self, learners: Tensor, rows: Tensor, results: Tensor, *, learns: bool, late: bool, shared: int
    ) -> None:
        """Run the kernel.

        Parameters
        ----------
        learners : int64 (K,)
            Addresses of the arguments of each learner.
        rows : float64 (K, B, columns)
            Rows of each learner.
        results : float64 (K, B, 1 + outputs)
            Gets whether a row was taken, and its prediction.
        learns, late : bool
            Whether to learn the rows, and from earlier predictions of the experts.
        shared : int
            Shared memory of a block, in bytes.
        """


class KernelFactory(Protocol):
    """Compiles the kernel for a precision and for a number of blocks, or fewer."""

    def __call__(self, dtype: torch.dtype, blocks: int) -> Kernel:
        """Return the compiled kernel."""


def working_bytes(spec: LearnerSpec, inputs: int, outputs: int, dtype: torch.dtype) -> int:
    """Return the shared memory that a block needs beside the rows of its networks."""
    sizes = [inputs, *spec.hidden, outputs]
    reals = 2 * sum(sizes[:-1]) + 2 * sum(sizes[1:]) + 3 * max(sizes)
    return 16 * MOST_GROUPS + dtype.itemsize * reals


class PersistentRunner(StepRunner):
    """Runs the steps of a multilayer perceptron of one size in one launch for a block of rows.

    The tensors are those of `StepRunner`.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner.
    size : Size
        Size, including spare inputs and outputs.
    device, dtype
        Device and precision.
    activity : Activity
        Counts the time of rows on a GPU.
    compiled : KernelFactory
        Compiles the kernel.

    Attributes
    ----------
    kernel : Kernel
        The kernel.
    shared : int
        Shared memory of a block, in bytes.
    address : int
        Address of the arguments on the device.
    shape : tuple
        What learners in one launch have in common: the kernel, its shared memory, the device, the size, and
        the settings that the columns of a row depend on.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        size: Size,
        device: str,
        dtype: torch.dtype,
        activity: devices.Activity,
        compiled: KernelFactory,
    ) -> None:
        super().__init__(spec, size, device, dtype, capture=False, activity=activity)
        self._spec, self._dtype = spec, dtype
        self.kernel = compiled(dtype, MOST_BLOCKS if spec.mixes else 1)
        self._kept: dict[str, Tensor] = {}  # what the arguments point to
        self._values: dict[str, float] = {}
        self._name_arguments()
        self._pack()
        columns_of = spec.task, spec.remembered, spec.replayed, spec.averages
        self.shape = self.kernel, self.shared, device, size, *columns_of

    @property
    def arguments(self) -> dict[str, Tensor | float]:
        """Arguments of the kernel by name, in order: tensors, and numbers."""
        return {name: self._kept.get(name, self._values.get(name, 0)) for name in ARGUMENTS}

    def predict(self, x: Vector, rest: Vector) -> Vector:
        """Return for each raw input whether it has a prediction, followed by it, as `StepRunner.predict`."""
        self._upload(x, rest)
        start = time.perf_counter()
        self._run(len(x), learns=False, late=False)
        return self._download(len(x), start)

    def _learn_rows(
        self, x: Vector, rest: Vector, given: Vector | None, *, predict: bool, pause: Flag | None
    ) -> tuple[int, Vector]:
        if given is not None:
            self._take(given)
        self._upload(x, rest)
        start = time.perf_counter()
        self._run(len(x), learns=True, late=given is not None)
        results = self._download(len(x), start)
        return int(results[:, 0].sum()), results[:, 1:]

    def _take(self, given: Vector) -> None:
        if self._given is None:
            self._given = self._rows.new_zeros(self.late_rows, given.shape[1], self.size.outputs)
            self._kept["given"] = self._given
            self._pack()
        part = self._given[: len(given)]
        part[..., : given.shape[2]].copy_(torch.from_numpy(given))
        part[..., given.shape[2] :] = 0.0

    def _run(self, count: int, *, learns: bool, late: bool) -> None:
        rows, results = self._rows[None, :count], self._results[None, :count]
        self.kernel.run(self._address, rows, results, learns=learns, late=late, shared=self.shared)

    def _name_arguments(self) -> None:
        """Collect the arguments of the kernel."""
        spec, size, kernel = self._spec, self.size, self.kernel
        sizes = [size.channels, *spec.hidden, size.outputs]
        offsets = [0, *itertools.accumulate(aligned(math.prod(shape)) for shape in shapes(sizes))]
        tensors, members, experts = self.step.tensors, spec.members, len(spec.experts)
        regression = spec.task == "regression"
        means = sum(member.averages for member in members)
        working = working_bytes(spec, size.channels, size.outputs, self._dtype)
        row = offsets[-1] * self._dtype.itemsize
        most_rows = -(-(len(members) + means) // max(kernel.blocks - 1, 1)) + 1
        resident = max(min((kernel.shared - working) // row, most_rows), 0)
        self.shared = working + resident * row
        measured = min(spec.remembered, most_window(size.channels)) if spec.neighbours else 0
        binned = tensors["bins.used"].numel() if spec.bins else 0
        self._values |= {
            "columns": self._rows.shape[1], "layers": len(sizes) - 1, "outputs": size.outputs,
            "all_inputs": sum(sizes[:-1]), "all_outputs": sum(sizes[1:]), "widest": max(sizes),
            "row_length": offsets[-1], "resident": resident, "means": means, "networks": len(members),
            "linears": len(spec.linear), "experts": experts, "owned": len(spec.owners),
            "rates": len(ETAS) if spec.stacks else 1, "mixes": spec.mixes, "stacks": spec.stacks,
            "neighbours": spec.neighbours, "bounded": size.channels + regression if spec.bounds else 0,
            "binned": binned, "regression": regression, "standardize": spec.standardize,
            "activation": _ACTIVATIONS[spec.activation], "step_scale": _SCALES[spec.step_scale],
            "replay": spec.replayed, "remembered": spec.remembered,
            "memory_columns": 4 if spec.neighbours else 2, "measured": measured, "metric_of": spec.metric_of,
            "eps_rel": spec.eps_rel, "eps_abs": spec.eps_abs,
            "most_weight": 1.0 / (1.0 - spec.rho) if spec.rho < 1.0 else math.inf,
        }  # fmt: skip
        self._kept |= self._state() | self._tables(sizes, offsets) | self._scratch(measured, binned)

    def _state(self) -> dict[str, Tensor]:
        """Return the tensors of the learner by the names of the arguments."""
        same = ("members", "floor", "fan_in", "counts", "inputs", "target", "classes", "memory_x", "memory_y")
        names = {name: name for name in (*same, "metric", "windows", "inputs_in_use")} | {
            "weights": "mixture.weights", "shares": "mixture.shares", "error_scale": "mixture.error_scale",
            "coefficients": "stack.coefficients", "inverse": "stack.inverse",
            "linear_weight": "linear.head.weight", "linear_bias": "linear.head.bias",
            "bins_squares": "bins.squares", "bins_used": "bins.used", "bins_table": "bins.head.bias",
            "first": "bounds.first", "seen": "bounds.values", "largest": "bounds.largest",
            "joined": "bounds.joined", "clipped": "bounds.clipped",
        }  # fmt: skip
        tensors = self.step.tensors
        found = {name: tensors[source] for name, source in names.items() if source in tensors}
        if self.step.experts is not None:
            found["expert_values"] = self.step.experts
        return found

    def _tables(self, sizes: list[int], offsets: list[int]) -> dict[str, Tensor]:
        """Return the tables that the specification determines."""
        members, mean_rows, latest, means = self._spec.members, list[int](), list[int](), list[int]()
        expert = mean = 0
        for member in members:
            latest.append(expert if member.latest else -1)
            expert += member.latest
            means.append(expert if member.averages else -1)
            mean_rows.append(mean if member.averages else -1)
            expert += member.averages
            mean += member.averages
        rates = [*(member.rate for member in members), *self._spec.linear]
        whole = {
            "sizes": sizes, "offsets": offsets, "mean_row": mean_rows, "latest_expert": latest,
            "mean_expert": means, "replays": [int(member.replays) for member in members],
            "owners": self._spec.owners,
        }  # fmt: skip
        tables = {n: torch.tensor(v, dtype=torch.int64, device=self._rows.device) for n, v in whole.items()}
        etas = ETAS if self._spec.stacks else (ETA,)
        return tables | {"network_rates": self._rows.new_tensor(rates), "etas": self._rows.new_tensor(etas)}

    def _scratch(self, measured: int, binned: int) -> dict[str, Tensor]:
        """Return working space in the memory of the device."""
        kernel, inputs, outputs = self.kernel, self.size.channels, self.size.outputs
        experts, exact = len(self._spec.experts), self._rows.new_zeros
        lists = kernel.blocks * (kernel.threads // kernel.lanes) + kernel.blocks + 1
        nearest = max(k for *_, k in NEIGHBOURS) * 2 * len(PAIRS) * lists
        counts = {
            "values": experts * outputs, "features": (experts + 1) * outputs,
            "hedged": outputs, "stacked": outputs, "stack_shares": outputs,
            "gradient": experts + 1, "direction": experts + 1, "losses": experts + 2, "raised": experts + 2,
            "new_weights": 2 * experts, "sound": experts, "usable": experts, "able": experts, "lost": experts,
            "inputs_after": 2 * inputs, "values_seen": kernel.blocks * inputs,
            "candidates": nearest if measured else 0,
        }  # fmt: skip
        found = {name: exact(count) for name, count in counts.items()}
        found["distances"] = exact(2 * measured, dtype=self._dtype)
        found["bin_rows"] = exact(2 * binned + 1, dtype=torch.int64)
        return found | {"best": exact(2, dtype=torch.int64)}

    def _pack(self) -> None:
        """Copy the arguments to the device: addresses and numbers of 8 bytes each."""
        packed = np.zeros(len(ARGUMENTS), dtype=np.int64)
        for i, (name, value) in enumerate(self.arguments.items()):
            if isinstance(value, Tensor):
                packed[i] = value.data_ptr() if value.numel() else 0
            else:
                packed[i] = np.float64(value).view(np.int64) if name in REAL else int(value)
        self._packed = torch.from_numpy(packed).to(self._rows.device)
        self.address = self._packed.data_ptr()
        self._address = torch.tensor([self.address], device=self._rows.device)
