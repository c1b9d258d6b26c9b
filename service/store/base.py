"""What a store must do: the protocol that the writer of a model sees, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a model, with all that is needed to make it again.

    Attributes
    ----------
    kind : {"learn", "label"}
        A sample that came whole, or the label of an earlier prediction.
    x, y, w
        The sample as it came.
    id : str or None
        The client's name for the event.
    given : tuple or None
        For a label: the prediction given at the time and its probabilities, which are what is scored.
    """

    kind: Literal["learn", "label"]
    x: Any
    y: Any
    w: Any
    id: str | None = None
    given: tuple[Any, Any] | None = None


class EventLog(Protocol):
    """The order in which things happened, over all models; written before a model changes.

    An implementation is called from the writer thread of every model.
    """

    def append(self, model: str, events: Sequence[Event]) -> int:
        """Keep a group of events, all or none, before returning.

        Parameters
        ----------
        model : str
            Name of the model that they change.
        events : sequence of Event
            At least one, in the order in which they are about to be applied.

        Returns
        -------
        int
            Sequence number of the last of them; numbers rise by one from 1.
        """
        ...
