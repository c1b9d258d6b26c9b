"""Forms of the samples for rivals; their preparation is not timed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from bnp_online.engines.base import INPUT_CLIP
from bnp_online.words import counted, words

from ..common.streams import Sample, Stream


def given(stream: Stream) -> Iterator[Sample]:
    """Yield the samples as they are."""
    return iter(stream.samples)


def _logarithm(value: float) -> float:
    """Return a number on a scale of logarithms, with its sign: click logs have heavy tails."""
    return math.copysign(math.log1p(abs(value)), value)


class _Standardization:
    """Standardization of numbers by the mean and the variance so far, with the number itself."""

    def __init__(self) -> None:
        self._moments: dict[str, tuple[int, float, float]] = {}

    def __call__(self, name: str, value: float) -> float:
        n, mean, deviations = self._moments.get(name, (0, 0.0, 0.0))
        difference = value - mean
        mean += difference / (n + 1)
        deviations += difference * (value - mean)
        self._moments[name] = n + 1, mean, deviations
        scale = math.sqrt(deviations / (n + 1))
        return max(-INPUT_CLIP, min((value - mean) / scale, INPUT_CLIP)) if scale else 0.0


def columns(stream: Stream) -> Iterator[tuple[dict[str, float], Any]]:
    """Yield samples with a number for each value and word.

    A value of a field is 1. A word has its count. A number is its standardized logarithm.
    """
    standardized = _Standardization()
    for x, y in stream.samples:
        row: dict[str, float] = {}
        for name, value in x.items():
            if name in stream.texts:
                row |= {f"{name}={word}": count for word, count in counted(words(value)).items()}
            elif isinstance(value, str):
                row[f"{name}={value}"] = 1.0
            else:
                row[name] = standardized(name, _logarithm(value))
        yield row, y


def counts(stream: Stream) -> Iterator[tuple[dict[str, float], Any]]:
    """Yield samples with a count for each value and word; a number is the value of its power of two."""
    for x, y in stream.samples:
        row: dict[str, float] = {}
        for name, value in x.items():
            if name in stream.texts:
                row |= {f"{name}={word}": count for word, count in counted(words(value)).items()}
            else:
                shown = value if isinstance(value, str) else round(_logarithm(value) / math.log(2.0))
                row[f"{name}={shown}"] = 1.0
        yield row, y


_RESERVED = re.compile(r"[\s:|]")
_NAMESPACES = "abcdefghijklmopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lines(stream: Stream) -> Iterator[tuple[str, Any]]:
    """Yield samples as features in the text format of Vowpal Wabbit, a namespace for each field.

    The namespaces have different first letters, as ``-q`` takes them for pairs; n contains the numbers, as
    logarithms.
    """
    letters: dict[str, str] = {}
    for x, y in stream.samples:
        parts, numbers = [], []
        for name, value in x.items():
            if not isinstance(value, str):
                numbers.append(f" {name}:{_logarithm(value):.6g}")
                continue
            letter = letters.setdefault(name, _NAMESPACES[len(letters)])
            shown = " ".join(words(value)) if name in stream.texts else _RESERVED.sub("_", value)
            parts.append(f"|{letter} {shown} ")
        if numbers:
            parts.append(f"|n{''.join(numbers)}")
        yield "".join(parts), y
