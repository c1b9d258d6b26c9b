"""What the experts of a model predicted for a pending prediction, packed until its label arrives.

A model computes it when it applies the event of the prediction, from its state at that place in the log. The
log need not contain it: a replay computes the same, also without unlearned samples or for an upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bnp_online.values import ExpertPredictions, Label

from ..storage import event_codec


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


class Own(NamedTuple):
    """What a shadow predicted when its champion answered.

    Attributes
    ----------
    given : tuple or None
        Prediction and probabilities; None if it does not count.
    experts : bytes or None
        From `pack`.
    """

    given: event_codec.Given | None
    experts: bytes | None


def pack_own(own: Own) -> bytes:
    """Return what a shadow predicted, as bytes."""
    given = b"null" if own.given is None else event_codec.encode_given(own.given)
    return np.uint64(len(given)).tobytes() + given + (own.experts or b"")


def unpack_own(body: bytes | None) -> Own:
    """Return what `pack_own` was given."""
    if body is None:
        return Own(None, None)
    stop = 8 + int(np.frombuffer(body, np.uint64, 1)[0])
    return Own(event_codec.decode_given(body[8:stop]), body[stop:] or None)
