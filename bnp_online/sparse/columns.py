"""Dense columns that the stage adds to a network: which ones a number of fields and classes needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ..encoding import FeatureIndex, order_of
from ..values import Column, Derived, Features, Vector
from .constants import (
    DENSE_COLUMNS,
    MOST_EVIDENCE,
    MOST_ONE_HOT,
    MOST_ONE_HOT_COLUMNS,
    RARE,
    SHOWN_CLASSES,
    TAILS_FROM,
    TAILS_SHARE,
    TEXT_PRIORS,
)
from .state import CLOSED, OPEN, TEXT

#: Field of the rare numbers.
ROUTED = "*"

#: Scopes of derived columns.
FIELD, SUMS, PAIRS, LOG = "field", "sums", "pairs", "log"


def evidence_columns(fields: Iterable[tuple[str, int]], classes: int) -> list[Derived]:
    """Return the evidence columns for fields, by name and kind, and a number of classes (regression: 1).

    Classes beyond `SHOWN_CLASSES` have none.
    """
    classes = min(classes, SHOWN_CLASSES)
    shown = [(name, kind) for name, kind in fields if kind != CLOSED]
    if len(shown) * (classes + 1) <= MOST_EVIDENCE:
        scopes = [(FIELD, name, kind) for name, kind in shown]
    else:
        scopes = [(SUMS, "", TEXT if any(kind == TEXT for _, kind in shown) else CLOSED)]
    found: list[Derived] = []
    for scope, name, kind in [*scopes, (PAIRS, "", CLOSED)]:
        found.append(Derived(scope, name, 0, 0))
        parts = len(TEXT_PRIORS) if kind == TEXT else 1
        found += [Derived(scope, name, c, part) for part in range(parts) for c in range(1, max(classes, 2))]
    return found


class Growth(NamedTuple):
    """Changes that a sample needs.

    Attributes
    ----------
    columns : list of Column
        New dense columns.
    fields : dict of str to int
        New fields of the stage, and fields of another kind than before.
    """

    columns: list[Column]
    fields: dict[str, int]


def growth(
    index: FeatureIndex,
    fields: Mapping[str, int],
    features: Features,
    classes: int,
    step: int,
    *,
    is_open: bool,
    more_classes: bool,
) -> Growth:
    """Return the changes that a sample needs, and with them whether the stage opens.

    Parameters
    ----------
    index : FeatureIndex
        Dense columns.
    fields : mapping of str to int
        Kinds of the fields of the stage.
    features : Features
        The sample.
    classes : int
        Number of classes with this sample; 1 for a regression.
    step : int
        Number of samples learned.
    is_open, more_classes : bool
        Whether the stage is open; whether the sample has a new class.
    """
    if is_open and not more_classes and _settled(index, fields, features):
        return NO_GROWTH
    dense, routed = list[Column](), False
    texts = [name for name in features.texts if fields.get(name) != TEXT]
    for column in features.values.keys() - index.positions.keys():
        if not isinstance(column, str):
            if fields.get(column[0], CLOSED) == CLOSED and column[0] not in features.texts:
                dense.append(column)
        elif step >= RARE and len(index.columns) >= DENSE_COLUMNS:
            routed = True
        else:
            dense.append(column)
    changed = dict.fromkeys(texts, TEXT)
    if routed and ROUTED not in fields:
        changed[ROUTED] = TEXT
    outgrown = {name for name in _outgrown(index, dense) if fields.get(name, CLOSED) == CLOSED}
    changed |= dict.fromkeys(outgrown, OPEN)
    if is_open:
        new = {column[0] for column in dense if not isinstance(column, str)} - fields.keys()
        changed = _within({**dict.fromkeys(new, CLOSED), **changed}, fields, index.max_features)
        dense = [
            column
            for column in dense
            if isinstance(column, str) or column[0] in fields or column[0] in changed
        ]
    if not changed and not (is_open and more_classes):
        return Growth(sorted(dense, key=order_of)[: index.max_features - len(index.columns)], {})
    dense = [column for column in dense if isinstance(column, str) or column[0] not in changed]
    names = {column[0] for column in features.values if not isinstance(column, str)} | index.one_hot.keys()
    changed = {**dict.fromkeys(names - fields.keys(), CLOSED), **changed}
    changed = _within(changed, fields, index.max_features)
    after = {**fields, **{name: changed[name] for name in sorted(changed)}}
    derived = [each for each in evidence_columns(after.items(), classes) if each not in index.positions]
    columns = [*sorted(dense, key=order_of), *sorted(derived)]
    return Growth(columns[: index.max_features - len(index.columns)], {n: after[n] for n in sorted(changed)})


def _within(changed: dict[str, int], fields: Mapping[str, int], most: int) -> dict[str, int]:
    """Return changes of fields without the new fields that would be more than `most` in all.

    A field with words or with more values than columns comes first, then the order is that of the names.
    """
    new = changed.keys() - fields.keys()
    beyond = sorted(new, key=lambda name: (changed[name] == CLOSED, name))[max(most - len(fields), 0) :]
    return {name: kind for name, kind in changed.items() if name not in beyond} if beyond else changed


NO_GROWTH = Growth([], {})


def _settled(index: FeatureIndex, fields: Mapping[str, int], features: Features) -> bool:
    """Return whether an open stage needs no change for a sample: quickly, for most samples."""
    positions = index.positions
    for column in features.values:
        if type(column) is tuple and fields.get(column[0], CLOSED) != CLOSED:
            continue
        if column not in positions:
            return False
    return all(fields.get(name) == TEXT for name in features.texts)


def _outgrown(index: FeatureIndex, new: Iterable[Column]) -> set[str]:
    """Return the features that outgrow a column for each value."""
    values = [column[0] for column in new if not isinstance(column, str)]
    if len(values) + sum(map(len, index.one_hot.values())) > MOST_ONE_HOT_COLUMNS and values:
        return {*values, *index.one_hot}
    return {name for name in values if len(index.one_hot.get(name, ())) >= MOST_ONE_HOT}


def heavy_tails(index: FeatureIndex, values: Vector, clipped: Vector) -> list[Column]:
    """Return the columns of logarithms that numbers with heavy tails need.

    Parameters
    ----------
    index : FeatureIndex
        Dense columns.
    values, clipped : float64 (columns,)
        Numbers of values of each column, and of those that were clipped when standardized.
    """
    heavy = (values >= TAILS_FROM) & (clipped > TAILS_SHARE * values)
    wanted = [
        Derived(LOG, column, 0, 0)
        for i in np.flatnonzero(heavy)
        if isinstance(column := index.columns[i], str)
    ]
    new: list[Column] = [each for each in wanted if each not in index.positions]
    return new[: index.max_features - len(index.columns)]
