"""Watches the prequential loss of a model for drift, and says when something is to be done about it.

What a detector finds follows from the samples that were learned, in their order, and from nothing else; so
does the step at which an action is due. Who learns the log again takes the same actions at the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnp_online.evaluation.drift import ADWIN, Detector, PageHinkley
from bnp_online.mixture import MAX_LOSS

from ..schemas import DriftSpec

#: An action is taken before the first sample after a number of steps that this divides: so samples can be
#: learned in calls of that many, which no action interrupts.
ACT_EVERY = 32


def detector_of(setting: DriftSpec) -> Detector | None:
    """Return the detector that a setting asks for."""
    if setting.detector == "none":
        return None
    if setting.detector == "adwin":
        return ADWIN() if setting.delta is None else ADWIN(setting.delta)
    delta = {} if setting.delta is None else {"delta": setting.delta}
    return PageHinkley(threshold=setting.threshold, **delta)


class Drift:
    """A detector, what it found, and what is to be done.

    Parameters
    ----------
    setting : DriftSpec
        Which detector, and what is to be done.

    Attributes
    ----------
    detections, actions : int
        How often the loss rose, and how often something was done.
    last : int or None
        The step at which it rose last.
    acts : bool
        Whether the setting has an action.
    due : bool
        Whether an action is due.
    """

    def __init__(self, setting: DriftSpec) -> None:
        self.setting = setting
        self.acts = setting.action != "none"
        self.detections = self.actions = 0
        self.last: int | None = None
        self.due = False
        self._detector = detector_of(setting)

    def see(self, loss: float, variance: float | None, step: int) -> bool:
        """Take the loss of a sample in; return whether losses have risen.

        Parameters
        ----------
        loss : float
            Nats, or the squared error.
        variance : float or None
            Of the targets, for a squared error: the detector sees the error in standard deviations.
        step : int
            Samples learned with this one.
        """
        if self._detector is None:
            return False
        if variance is not None:
            loss = math.sqrt(loss / variance) if variance > 0.0 else 0.0
        if self._detector.update(min(loss, MAX_LOSS)) <= 0.0:
            return False  # no change, or one for the better
        self.detections += 1
        self.last = step
        self.due = self.acts
        return True

    def steps_to_action(self, step: int) -> int:
        """Return how many samples may be learned before the next step at which an action can be due."""
        return ACT_EVERY - step % ACT_EVERY

    def ready(self, step: int) -> bool:
        """Return whether something is to be done before the next sample."""
        return self.due and step % ACT_EVERY == 0

    def done(self) -> None:
        """Count that it was done."""
        self.due = False
        self.actions += 1

    def dismiss(self) -> None:
        """Leave undone what is due: a rollback to before an action is meant to undo it."""
        self.due = False

    def changed(self, setting: DriftSpec) -> Drift:
        """Return what watches from now on by another setting; a detector that stays has seen what it has."""
        new = Drift(setting)
        new.detections, new.actions, new.last = self.detections, self.actions, self.last
        if setting.model_copy(update={"action": self.setting.action}) == self.setting:
            new._detector = self._detector
            new.due = self.due and setting.action == self.setting.action
        return new

    def report(self) -> dict[str, Any]:
        """Return what a model says of its drifts."""
        return {
            "setting": self.setting.model_dump(mode="json"),
            "detections": self.detections,
            "last_step": self.last,
            "actions": self.actions,
            "due": self.due,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `see` and `done` change, as JSON."""
        return {
            "detector": None if self._detector is None else self._detector.state_dict(),
            "detections": self.detections,
            "actions": self.actions,
            "last": self.last,
            "due": self.due,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, of the same setting."""
        if self._detector is not None:
            self._detector.load_state_dict(state["detector"])
        self.detections, self.actions = state["detections"], state["actions"]
        self.last, self.due = state["last"], state["due"]
