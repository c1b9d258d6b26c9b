"""Drift detection on the prequential loss of a model, and the step at which the drift response is due.

Both depend only on the learned samples and their order. A replay of the log takes the same actions at the
same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnp_online.evaluation.drift import ADWIN, Detector, PageHinkley
from bnp_online.mixture import MAX_LOSS

from ..schemas import DriftSpec

#: An action is taken only at steps that are multiples of this. Between them, samples are learned in one call.
ACT_EVERY = 32


def detector_of(setting: DriftSpec) -> Detector | None:
    """Return the detector of a setting."""
    if setting.detector == "none":
        return None
    if setting.detector == "adwin":
        return ADWIN() if setting.delta is None else ADWIN(setting.delta)
    delta = {} if setting.delta is None else {"delta": setting.delta}
    return PageHinkley(threshold=setting.threshold, **delta)


class Drift:
    """A detector, its detections, and the action that is due.

    Parameters
    ----------
    setting : DriftSpec
        Detector and action.

    Attributes
    ----------
    detections, actions : int
        Number of drifts detected, and of actions taken.
    last : int or None
        Step of the latest detection.
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
        """Add the loss of a sample; return whether a drift was detected.

        Parameters
        ----------
        loss : float
            Log loss in nats, or squared error.
        variance : float or None
            Variance of the targets, for a squared error: the detector gets the error in standard deviations.
        step : int
            Step of the model with this sample.
        """
        if self._detector is None:
            return False
        if variance is not None:
            loss = _deviations(loss, variance)
        if self._detector.update(min(loss, MAX_LOSS)) <= 0.0:
            return False  # no change, or an improvement
        self.detections += 1
        self.last = step
        self.due = self.acts
        return True

    def see_many(
        self, losses: Sequence[float], first: int, variances: Sequence[float] | None = None
    ) -> list[int]:
        """Add the losses of consecutive samples, as `see` in a loop; return the steps with a detection.

        Parameters
        ----------
        losses, variances
            As for `see`, of each sample.
        first : int
            Step of the model with the first sample.
        """
        if self._detector is None:
            return []
        if variances is not None:
            losses = [_deviations(loss, variance) for loss, variance in zip(losses, variances, strict=True)]
        changes = self._detector.update_many([min(loss, MAX_LOSS) for loss in losses])
        steps = [first + i for i, change in changes if change > 0.0]
        if steps:
            self.detections += len(steps)
            self.last = steps[-1]
            self.due = self.acts
        return steps

    def steps_to_action(self, step: int) -> int:
        """Return how many samples may be learned before the next step at which an action can be due."""
        return ACT_EVERY - step % ACT_EVERY

    def ready(self, step: int) -> bool:
        """Return whether an action must be taken before the next sample."""
        return self.due and step % ACT_EVERY == 0

    def done(self) -> None:
        """Count the action as taken."""
        self.due = False
        self.actions += 1

    def dismiss(self) -> None:
        """Cancel the due action: a rollback to before an action undoes it."""
        self.due = False

    def changed(self, setting: DriftSpec) -> Drift:
        """Return drift detection with another setting; an unchanged detector keeps its state."""
        new = Drift(setting)
        new.detections, new.actions, new.last = self.detections, self.actions, self.last
        if setting.model_copy(update={"action": self.setting.action}) == self.setting:
            new._detector = self._detector
            new.due = self.due and setting.action == self.setting.action
        return new

    def report(self) -> dict[str, Any]:
        """Return the setting and the counts, for the description of a model."""
        return {
            "setting": self.setting.model_dump(mode="json"),
            "detections": self.detections,
            "last_step": self.last,
            "actions": self.actions,
            "due": self.due,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a JSON value."""
        return {
            "detector": None if self._detector is None else self._detector.state_dict(),
            "detections": self.detections,
            "actions": self.actions,
            "last": self.last,
            "due": self.due,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict` with the same setting."""
        if self._detector is not None:
            self._detector.load_state_dict(state["detector"])
        self.detections, self.actions = state["detections"], state["actions"]
        self.last, self.due = state["last"], state["due"]


def _deviations(loss: float, variance: float) -> float:
    """Return the error of a squared error in standard deviations of the targets."""
    return math.sqrt(loss / variance) if variance > 0.0 else 0.0
