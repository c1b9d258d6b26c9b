"""No sample leaves a model behind that cannot predict any more.

A step is refused before anything is written if no copy of the network is finite on its sample. But a step
may also end in weights that are finite on nothing: a legal stream at a rate that is far too high gets there.
That is found before the sample is acknowledged, by predicting it once more; the state goes back to what it
was, and the sample is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bnp_online.errors import NonFiniteStateError

from . import snapshot
from .hosted import NON_FINITE, Applied, HostedModel
from .validation import Entry, SampleEvent

#: After a poisonous sample so many are taken one at a time, with a copy of the state before each.
_CAREFUL = 1000

_logger = logging.getLogger(__name__)


class Guard:
    """Applies groups to one model.

    Attributes
    ----------
    poisoned : bool
        Whether the state is one that nobody may see: it is to be brought back to what it was.
    """

    def __init__(self) -> None:
        self.poisoned = False
        self._careful = 0

    @property
    def careful(self) -> bool:
        """Whether entries are to be applied by `apply_carefully`."""
        return self._careful > 0

    def apply(self, model: HostedModel, entries: Sequence[Entry]) -> Applied | None:
        """Apply entries that were admitted and logged; None if that poisoned the model."""
        applied = model.apply(entries)
        if model.is_sound(entries):
            return applied
        _logger.warning("a sample poisoned model %r: its state is brought back", model.name)
        self.poisoned, self._careful = True, _CAREFUL
        return None

    @contextmanager
    def bringing_back(self) -> Iterator[None]:
        """Bring the model back to before those entries in the block; then they are applied carefully."""
        try:
            yield
        finally:
            self.poisoned = False

    def apply_carefully(self, model: HostedModel, entries: Sequence[Entry]) -> tuple[HostedModel, Applied]:
        """Apply entries one at a time, with a copy of the state before each.

        Returns
        -------
        HostedModel
            The model, or another one in its place.
        Applied
            What came of the entries.
        """
        total = Applied()
        for entry in entries:
            model, applied = self._apply_one(model, entry)
            total.outcomes += applied.outcomes
            total.refused |= applied.refused
            total.steps |= applied.steps
            total.drifts += applied.drifts
        return model, total

    def _apply_one(self, model: HostedModel, entry: Entry) -> tuple[HostedModel, Applied]:
        self._careful = max(0, self._careful - 1)
        if not isinstance(entry, SampleEvent):
            return model, model.apply([entry])
        before, acted = snapshot.take(model), model.acted[:]
        applied = model.apply([entry])
        if model.is_sound([entry]):
            return model, applied
        model = snapshot.restore(before, model.settings, model.clock)
        model.sequence, model.acted = entry.seq, acted
        refusal = NonFiniteStateError("no prediction would be finite after this step: use a smaller lr")
        entry.refuse(refusal)
        return model, Applied([refusal], {entry.seq: NON_FINITE})
