"""Divergence: a sample after which a model has no finite prediction.

The estimator refuses a step before it writes anything, if no member of the mixture is finite on the sample.
A step may also end in weights that are finite on no sample, for example with a learning rate that is far too
high. The server finds this before it acknowledges the sample: it predicts the sample once more. Then it
restores the state before the sample, and refuses the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnp_online.errors import NonFiniteStateError

from . import snapshot
from .hosted import NON_FINITE, Applied, HostedModel
from .validation import Entry, SampleEvent


def apply_one_by_one(model: HostedModel, entries: Sequence[Entry]) -> tuple[HostedModel, Applied]:
    """Apply entries one at a time, with a copy of the state before each, and refuse those that diverge.

    Returns
    -------
    HostedModel
        The model, or a restored one in its place.
    Applied
        Result of the entries, up to one for which the GPU has too little free memory.
    """
    total = Applied()
    for entry in entries:
        model, applied = _apply_one(model, entry)
        total.add(applied)
        if total.shortage is not None:
            break
    return model, total


def _apply_one(model: HostedModel, entry: Entry) -> tuple[HostedModel, Applied]:
    if not isinstance(entry, SampleEvent):
        return model, model.apply([entry])
    before, acted, replay = snapshot.taking(model, alone=True), model.acted[:], model.replay
    entry.step = entry.refusal = None  # of an earlier attempt
    applied = model.apply([entry])
    if model.is_sound([entry]):
        return model, applied
    diverged, model = model, snapshot.restore(before(), model.settings, model.clock)
    model.adopt(diverged)
    model.sequence, model.acted, model.replay = entry.seq, acted, replay
    entry.step = None
    entry.refusal = NonFiniteStateError("no prediction would be finite after this step: use a smaller lr")
    return model, Applied([entry.refusal], {entry.seq: NON_FINITE})
