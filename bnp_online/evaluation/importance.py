"""Running importance of features: the mean size of their contributions to predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import StateError
from ..values import Vector

#: Steps between two explained samples, up to a step and after it: at a server that learns streams of lines an
#: explanation takes as long as a few steps.
EVERY, DENSE, LATER = 64, 4096, 256
#: Greatest number of explained samples in the mean, after which older ones lose weight.
SAMPLES = 50


def is_due(step: int, *, strings: bool) -> bool:
    """Return whether the sample of a step is explained: the 64th of the first 4,096, then the 256th.

    Parameters
    ----------
    step : int
        Number of samples learned, this one included.
    strings : bool
        Whether the model has strings with many values, or words: then an explanation takes several times as
        long, and the 256th is explained from the start.

    Examples
    --------
    >>> [step for step in range(3968, 4700) if is_due(step, strings=False)]
    [3968, 4032, 4096, 4352, 4608]
    """
    return step % (LATER if strings or step > DENSE else EVERY) == 0


class Importances:
    """Mean absolute contribution by feature, of the samples that `is_due` chooses.

    The mean is plain over the first 50 samples, and exponentially weighted from then on. A feature that
    appears later has contributed 0 before. The importances depend on the samples and their order alone.

    Attributes
    ----------
    count : int
        Number of explained samples.

    Examples
    --------
    >>> importances = Importances()
    >>> importances.add(["age", "city"], np.array([-3.0, 1.0]))
    >>> importances.report(1)
    [{'feature': 'age', 'importance': 3.0, 'share': 0.75}]
    """

    def __init__(self) -> None:
        self.count = 0
        self._names: list[str] = []
        self._values = np.empty(0)

    def add(self, names: Sequence[str], contributions: Vector) -> None:
        """Add the contributions to a prediction.

        Parameters
        ----------
        names : sequence of str
            Features in order of arrival: those of earlier calls, then new ones.
        contributions : array of shape (features,)
            Their contributions.
        """
        self.count += 1
        if len(names) != len(self._names) or names[-1:] != self._names[-1:]:
            before = dict(zip(self._names, self._values.tolist(), strict=True))
            self._names, self._values = [*names], np.array([before.get(name, 0.0) for name in names])
        sizes = np.minimum(np.abs(contributions), 1e150)  # their sum stays finite
        self._values += (sizes - self._values) / min(self.count, SAMPLES)

    def report(self, most: int) -> list[dict[str, Any]]:
        """Return the features with the greatest importance, with their shares in the sum over all."""
        total = float(self._values.sum())
        best = np.argsort(-self._values, kind="stable")[:most].tolist()
        return [
            {
                "feature": self._names[i],
                "importance": float(self._values[i]),
                "share": float(self._values[i]) / total if total > 0.0 else 0.0,
            }
            for i in best
        ]

    def copy(self) -> Importances:
        """Return a copy."""
        twin = Importances()
        twin.count, twin._names, twin._values = self.count, self._names, self._values.copy()
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {"count": self.count, "names": self._names, "values": self._values.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the state is of another form.
        """
        count, names, values = state["count"], state["names"], state["values"]
        if len(names) != len(values) or not all(math.isfinite(each) for each in values):
            raise StateError("the importances have another form")
        self.count, self._names, self._values = count, [*names], np.array(values, np.float64)
