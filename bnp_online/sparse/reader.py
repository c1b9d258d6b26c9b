"""Reader of samples for an open stage: one pass over a dict."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..encoding import FeatureIndex
from ..values import LARGEST, Column, Features, TextRules, Vector, check_features
from ..words import counted, words
from .columns import ROUTED
from .names import encoded
from .stage import SparseStage
from .state import Items

#: Types of which every value within ±`LARGEST` is a number.
_NUMPY = frozenset({np.float64, np.float32, np.int64, np.int32})
_NUMBERS = _NUMPY | {bool, int, float}
_NO_RULES = TextRules()


class PlainFeatures(Features):
    """Sample as `Reader` returns it.

    Attributes
    ----------
    row : float64 (columns,)
        Dense columns of the numbers. Those of strings are 0: `step.front` finds them.
    items : Items
        Values of strings, words and rare numbers.
    stage : SparseStage
        The stage that `row` and `items` are for.
    """

    row: Vector
    items: Items
    stage: SparseStage

    def __init__(
        self, x: dict[str, Any], reader: Reader, row: Vector, items: Items, missing: list[str]
    ) -> None:
        given = x.copy()  # the values are immutable
        object.__setattr__(self, "missing", tuple(missing))
        vars(self).update(row=row, items=items, stage=reader.stage, given=given, rules=reader.index.rules)

    @functools.cached_property
    def _checked(self) -> Features:
        return check_features(vars(self)["given"], vars(self)["rules"])

    @property
    def values(self) -> dict[Column, float]:
        """Value by column."""
        return self._checked.values

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the features with words or counts."""
        return self._checked.texts


class Reader:
    """Reads dicts with known names of features; any other dict needs `FeatureIndex.check`.

    Parameters
    ----------
    index : FeatureIndex
        Dense columns.
    stage : SparseStage
        The open stage. Another index or stage needs another reader; new fields do not.
    """

    def __init__(self, index: FeatureIndex, stage: SparseStage) -> None:
        self.index, self.stage = index, stage
        self._rules = index.rules or _NO_RULES

    def read(self, x: object) -> PlainFeatures | None:
        """Return a sample with the values that `FeatureIndex.check` finds; None if it needs that function."""
        if type(x) is not dict or self.index.joined or self.stage.without_row:
            return None
        ids, positions, (of_text, prefixes, ngrams) = self.stage.ids, self.index.positions, self._rules
        routed = ids.get(ROUTED)
        row = np.zeros(len(positions))
        names, fields, missing = list[str](), list[int](), list[str]()
        amounts, counts = list[tuple[int, list[float]]](), list[tuple[str, float]]()
        for name, value in x.items():
            kind = type(value)
            if kind in _NUMPY:  # Python compares its own numbers faster
                value = value.item()
            if type(name) is not str or (of_text and name in of_text and kind is not str):
                return None
            if kind is str:
                field = ids.get(name)
                if field is None or (prefixes and name[:-1] in prefixes):
                    return None
                if name not in of_text:
                    names.append(value)
                    fields.append(field)
                    continue
                found = counted(words(value), ngrams)
                amounts.append((len(names), [*found.values()]))
                names += found
                fields += [field] * len(found)
            elif value is None:
                missing.append(name)
            elif kind not in _NUMBERS:
                return None
            elif not -LARGEST <= value <= LARGEST:
                if value == value:
                    return None
                missing.append(name)
            elif prefixes and name.startswith(prefixes):
                counts.append((name, float(value)))
            elif (position := positions.get(name)) is not None:
                row[position] = value
            elif routed is None:
                return None
            else:
                amounts.append((len(names), [float(value)]))
                names.append(name)
                fields.append(routed)
        for name, _ in counts:
            prefix = next(each for each in prefixes if name.startswith(each))
            field = ids.get(f"{prefix}*")
            if field is None:
                return None
            fields.append(field)
        if counts:
            amounts.append((len(names), [count for _, count in counts]))
            names += [name[len(next(filter(name.startswith, prefixes))) :] for name, _ in counts]
        if missing:
            self.index.place_missing(row, missing)
        self.index.place_logs(row)
        weights = np.ones(len(names))
        for start, of in amounts:
            weights[start : start + len(of)] = of
        items = Items(*encoded(names), np.array(fields, np.int64), weights)
        return PlainFeatures(x, self, row, items, missing)
