"""Row of numbers that the host passes for a sample, and the sample made of it on the device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: Columns of a row after its inputs; the places of the samples to replay follow. From `LABEL` on they are
#: integers: class index, place in the memory, number of samples learned with this one, number of samples
#: remembered before.
TARGET, SAMPLE_WEIGHT, NEW_INPUTS, NEW_TARGET, NEW_WEIGHTS, LABEL, SLOT, STEP, REMEMBERED, DRAWS = range(10)


class Sample(NamedTuple):
    """Sample on the device.

    Attributes
    ----------
    z : (2, n)
        Input, standardized without the sample and with it. A missing value is at the mean.
    values : float64 (n,)
        Bounded values; NaN marks a missing one.
    missing : bool (n,)
        Which values are missing.
    y, goal : float64 ()
        Class index or bounded target; class index or standardized target.
    weight : float64 ()
        Sample weight.
    places : int64 (columns,)
        Columns of the row from `LABEL` on.
    """

    z: Tensor
    values: Tensor
    missing: Tensor
    y: Tensor
    goal: Tensor
    weight: Tensor
    places: Tensor

    @property
    def label(self) -> Tensor:
        """Class index of a classification, (1,)."""
        return self.places[:1]

    @property
    def slot(self) -> Tensor:
        """Place in the memory."""
        return self.places[SLOT - LABEL]

    @property
    def step(self) -> Tensor:
        """Number of samples learned, this one included."""
        return self.places[STEP - LABEL]

    @property
    def remembered(self) -> Tensor:
        """Number of samples remembered before."""
        return self.places[REMEMBERED - LABEL]

    @property
    def draws(self) -> Tensor:
        """Places in the memory of the samples to replay."""
        return self.places[DRAWS - LABEL :]
