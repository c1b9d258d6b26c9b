"""Convolutional networks of the paper's experiments."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

#: Makes a normalization layer for so many channels; None for none.
Norm = Callable[[int], nn.Module] | None
#: Groups of GroupNorm, at most, and channels in each, at least.
_GROUPS, _LEAST = 8, 2


def group_norm(channels: int) -> nn.Module:
    """Return GroupNorm with 8 groups, or fewer where there are few channels."""
    return nn.GroupNorm(max(1, min(_GROUPS, channels // _LEAST)), channels)


NORMS: dict[str, Norm] = {"none": None, "batch": nn.BatchNorm2d, "group": group_norm}


def _normalized(norm: Norm, channels: int) -> nn.Module:
    return nn.Identity() if norm is None else norm(channels)


def small_cnn(norm: Norm, width: int) -> nn.Sequential:
    """Return two 3×3 convolutions of `width` and twice as many channels, each halved, for 28×28 images."""
    layers: list[nn.Module] = []
    channels = 1
    for wide in (width, 2 * width):
        layers += [
            nn.Conv2d(channels, wide, 3, padding=1),
            _normalized(norm, wide),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = wide
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 7 * 7, 10))


class _Block(nn.Module):
    """Two 3×3 convolutions and their shortcut."""

    def __init__(self, norm: Norm, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 3, stride=stride, padding=1),
            _normalized(norm, wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            _normalized(norm, wide),
        )
        same = stride == 1 and channels == wide
        past = nn.Sequential(nn.Conv2d(channels, wide, 1, stride=stride), _normalized(norm, wide))
        self.past = nn.Identity() if same else past
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.body(x) + self.past(x)))


def resnet18(norm: Norm, width: int) -> nn.Sequential:
    """Return ResNet-18 in its form for 32×32 images; `width` is that of the first stage, 64 in the original.

    Convolutions have a bias, for BNP to centre their inputs by.
    """
    layers = [nn.Conv2d(3, width, 3, padding=1), _normalized(norm, width), nn.ReLU()]
    channels = width
    for stage in range(4):
        wide = width * 2**stage
        layers += [_Block(norm, channels, wide, 1 if stage == 0 else 2), _Block(norm, wide, wide, 1)]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
