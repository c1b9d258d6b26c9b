"""Engine of multilayer perceptrons that learns a block of rows in one launch."""

from __future__ import annotations

from typing import Self

import torch

from ..base import LearnerSpec
from ..torch_engine import TorchEngine
from ..torch_runner import Size, StepRunner
from .runner import KernelFactory, PersistentRunner, working_bytes

#: Greatest working area of a block in shared memory, in bytes: every GPU has it without a request.
MOST_WORKING = 48 * 1024


def takes(spec: LearnerSpec, inputs: int, outputs: int) -> bool:
    """Return whether the kernel takes a learner of a size, spare inputs and outputs included.

    It takes every multilayer perceptron whose working area fits: both tasks and generations, with experts,
    replay and late labels. Other networks need autograd.
    """
    if spec.network != "mlp" or outputs == 0:
        return False
    return working_bytes(spec, inputs, outputs, torch.float32) <= MOST_WORKING


class PersistentEngine(TorchEngine):
    """Torch engine that runs its rows in one launch, where the kernel takes the learner.

    State, growth and checkpoints are those of `TorchEngine`. A learner that grows beyond the kernel goes on
    as a `TorchEngine`, with the same state.

    Parameters
    ----------
    spec, device, dtype
        As for `TorchEngine`.
    capture : bool
        Whether a learner that the kernel does not take is captured in CUDA graphs.
    compiled : KernelFactory or None
        Compiles the kernel; without it, no learner is taken.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        device: str = "cuda",
        dtype: torch.dtype = torch.float32,
        *,
        capture: bool = True,
        compiled: KernelFactory | None,
    ) -> None:
        self._compiled = compiled
        super().__init__(spec, device, dtype, capture=capture)

    def _new_runner(self, size: Size) -> StepRunner:
        if self._compiled is None or not takes(self.spec, size.channels, size.outputs):
            return super()._new_runner(size)
        return PersistentRunner(self.spec, size, self.device, self._dtype, self.activity, self._compiled)

    def _untrained(self) -> Self:
        return type(self)(self.spec, "cpu", self._dtype, capture=False, compiled=None)
