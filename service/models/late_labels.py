"""What the experts of a model predicted for a pending prediction, packed until its label arrives.

A model computes it when it applies the event of the prediction, from its state at that place in the log. The
log need not contain it: a replay computes the same, also without unlearned samples or for an upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnp_online.values import ExpertPredictions, Label


def pack(given: ExpertPredictions) -> bytes:
    """Return predictions of the experts as bytes, without their labels."""
    return np.uint64(len(given.values)).tobytes() + given.values.tobytes()


def unpack(body: bytes, labels: Sequence[Label] | None) -> ExpertPredictions:
    """Return the predictions from `pack`.

    Parameters
    ----------
    body : bytes
        Result of `pack`.
    labels : sequence of label or None
        Classes of the model, in order of arrival: at least those of the predictions; None for a regression.
    """
    count = int(np.frombuffer(body, np.uint64, 1)[0])
    values: Any = np.frombuffer(body, np.float64, offset=8).reshape(count, -1)
    return ExpertPredictions(() if labels is None else tuple(labels[: values.shape[1]]), values)
