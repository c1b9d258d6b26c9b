"""Images of the paper's experiments, read from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.streams import FILES

CIFAR = "CIFAR-10"
#: The binary version of CIFAR-10 (its Python version is pickled, and not read), and a small part of it.
_BINARY, _PART = "cifar-10-batches-bin", "cifar10_4000.npz"
#: A label, then 32×32 pixels of red, of green and of blue.
_RECORD = 1 + 3 * 32 * 32

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Images:
    """Data set of images.

    Attributes
    ----------
    x, test_x : float32 (N, channels, height, width)
        Pixels from 0 to 1; of CIFAR-10, by the mean and deviation of each channel in the training set.
    y, test_y : int64 (N,)
        Classes.
    source : str
        Origin and size of this part of it.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    source: str


def load_images(name: str, data_dir: Path, samples: int | None = None, test: int | None = None) -> Images:
    """Return a data set, or the first of its samples.

    Parameters
    ----------
    name : {"MNIST", "Fashion-MNIST", "CIFAR-10"}
        Which.
    data_dir : path
        With ``mnist.npz`` or ``fashion_mnist.npz``, as the quality benchmark takes them; for CIFAR-10 the
        folder ``cifar-10-batches-bin``, or ``cifar10_4000.npz``: of that, the first 3,000 to train.
    samples, test : int, optional
        How many to keep, at most, for training and for testing.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    if name == CIFAR:
        train, held_out, file = _cifar(data_dir)
    else:
        file = FILES[name]
        with np.load(data_dir / file) as arrays:
            train = arrays["x_train"][:, None], arrays["y_train"]
            held_out = arrays["x_test"][:, None], arrays["y_test"]
    (x, y), (test_x, test_y) = _tensors(train, samples), _tensors(held_out, test)
    if name == CIFAR:
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        x, test_x = (x - mean) / std, (test_x - mean) / std
    counts = (
        f"the first {len(y):,} of {len(train[1]):,} to train, of {len(held_out[1]):,} to test {len(test_y):,}"
    )
    return Images(x, y, test_x, test_y, f"{file}: {counts}")


def _tensors(arrays: Arrays, limit: int | None) -> tuple[Tensor, Tensor]:
    pixels, labels = (array[:limit] for array in arrays)
    return torch.from_numpy(pixels).float() / 255.0, torch.from_numpy(labels.astype(np.int64))


def _cifar(data_dir: Path) -> tuple[Arrays, Arrays, str]:
    folder = data_dir / _BINARY
    if folder.is_dir():
        return (
            _records(sorted(folder.glob("data_batch_*.bin"))),
            _records([folder / "test_batch.bin"]),
            _BINARY,
        )
    with np.load(data_dir / _PART) as arrays:
        x, y = np.ascontiguousarray(arrays["x"].transpose(0, 3, 1, 2)), arrays["y"]
    split = len(y) * 3 // 4
    return (x[:split], y[:split]), (x[split:], y[split:]), _PART


def _records(paths: list[Path]) -> Arrays:
    """Read files of the binary version."""
    records = np.concatenate([np.fromfile(path, dtype=np.uint8).reshape(-1, _RECORD) for path in paths])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
