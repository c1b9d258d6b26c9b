"""Sparse stage of a learner: strings, words and rare numbers in front of the dense network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..engines.numba_buffers import JOINED
from ..errors import ConfigurationError, StateError
from ..mixture import STACK_TRACE
from ..values import Column, Derived, Vector
from . import names, saving, step
from .columns import FIELD, LOG
from .columns import PAIRS as OF_PAIRS_SCOPE
from .columns import SUMS as SUMS_SCOPE
from .constants import IDENTIFIERS_FROM, IDENTIFIERS_SHARE, LAST_PAIRS, MOST_CELLS, PRIOR
from .names import encoded as encode
from .state import (
    BY_PAIR,
    BY_ROW,
    CLASSES,
    CLOSED,
    EXPERTS,
    FRESH,
    INVERSE,
    KNOWN,
    MAX_VALUES,
    MEMBERS,
    OF_PAIRS,
    OF_ROWS,
    OPEN,
    RECYCLED,
    ROWS,
    SAMPLES,
    SHARE,
    SUMS,
    TEXT,
    TEXT_END,
    TEXT_WASTE,
    TOUCHED,
    WEIGHT,
    Items,
    Reals,
    State,
    block,
    extended,
    most_values,
    untrained,
)
from .undo import Undo

_PREFIX = "sparse."
#: Number of groups of linear members.
GROUPS = 2
_NOTHING_GIVEN = np.zeros((0, 0))
#: Scalars that are working space, or that the arrays determine.
_DERIVED_SCALARS = (ROWS, CLASSES, TEXT_END, TEXT_WASTE)


class SparseStage:
    """State of the stage of one learner; it exists from the sample that opens it.

    A change of size makes a new `State` (`grown`), which `adopt` takes over when the sample is learned.

    Parameters
    ----------
    regression : bool
        Kind of the targets.
    seed, max_values : int
        Seed of draws; greatest number of values. With many classes it is less: see `most_values`.
    fresh : bool
        Whether no sample was learned before: the groups then begin with equal weights.
    real : dtype
        float32, or float64 for tests of exactness.

    Attributes
    ----------
    fields : dict of str to int
        Kind by field, in order of arrival.
    ids : dict of str to int
        Number by field.
    without_row : int
        Number of one-hot columns whose values found no row (`max_values`).
    without_column : int
        Number of the values that `front` read last, of a field with a column for each value, without one.
    """

    def __init__(
        self,
        regression: bool,
        seed: int,
        max_values: int,
        *,
        fresh: bool = True,
        real: Any = np.float32,
    ) -> None:
        self.fields: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self.without_row = self.without_column = 0
        self._regression, self._seed, self.max_values = regression, seed, max_values
        self._real = np.dtype(real)
        state = untrained(regression, seed, max_values, self._real)
        np.fill_diagonal(state.stack[INVERSE:], STACK_TRACE)
        if not fresh:  # the prediction does not jump
            state.hedge[WEIGHT] = [1.0, 0.0, 0.0, 1.0, 0.0]
        self.state = state
        self._undo: tuple[Undo, dict[str, int], dict[str, int]] | None = None

    @property
    def values(self) -> int:
        """Number of values."""
        return int(self.state.scalars[ROWS])

    @property
    def recycled(self) -> int:
        """Number of values that were replaced because of `max_values`."""
        return int(self.state.scalars[RECYCLED])

    @property
    def weights(self) -> list[float]:
        """Shares of the network, of the linear group, of the pairs and of the stack in the prediction."""
        hedge = self.state.hedge[WEIGHT]
        return [*(hedge[:EXPERTS] * hedge[EXPERTS]).tolist(), float(hedge[EXPERTS + 1])]

    def copying(self) -> Callable[[], dict[str, Tensor]]:
        """Copy everything that learning changes, and return a function that returns it by name."""
        return functools.partial(saving.named, saving.copied(self.state))

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes."""
        return self.copying()()

    def header(self) -> list[list[Any]]:
        """Return the fields with their kinds, as JSON."""
        return [[name, kind] for name, kind in self.fields.items()]

    def load(
        self, header: Sequence[Any], tensors: Mapping[str, Tensor], columns: Sequence[Column], classes: int
    ) -> None:
        """Load the results of `header` and `state_dict`, for the columns of a learner.

        Raises
        ------
        StateError
            If the state is damaged, or does not fit.
        """
        fields = _fields(header)
        for column in columns:
            if isinstance(column, Derived) and not _fits(column, fields):
                raise StateError(f"the state of the sparse stage is damaged: {column!r:.80} is no column")
        self.state = saving.restored(
            tensors,
            regression=self._regression,
            seed=self._seed,
            max_values=self.max_values,
            classes=classes,
            fields=len(fields),
            numbers=len(_numeric(columns)),
            evidence=sum(isinstance(each, Derived) and each.scope != LOG for each in columns),
            real=self._real,
        )
        self.adopt(self.laid_out(columns, fields), fields)
        of_values = sum(not isinstance(column, str | Derived) for column in columns)
        self.without_row = of_values - int((self.state.column[: self.values] >= 0).sum())

    def numbers_of_values(self) -> dict[str, int]:
        """Return the number of values by field."""
        counts = np.bincount(self.state.field[: self.values], minlength=len(self.fields))
        return dict(zip(self.fields, counts.tolist(), strict=True))

    def identifiers(self) -> list[tuple[str, int, int]]:
        """Return the fields with strings that have about as many values as samples, with both numbers.

        The result is empty except after 1000·2ᵏ samples: the search takes time in proportion to the values.
        Values from before the stage opened are not counted beyond the number of samples.
        """
        samples = int(self.state.scalars[SAMPLES])
        turns, rest = divmod(samples, IDENTIFIERS_FROM)
        if rest or turns & (turns - 1) or not turns:
            return []
        found = self.numbers_of_values().items()
        least = IDENTIFIERS_SHARE * samples
        return [
            (name, min(count, samples), samples)
            for name, count in found
            if self.fields[name] == OPEN and count >= least
        ]

    def items(
        self, fields: Sequence[str], names: Sequence[str], amounts: Sequence[float], new: Sequence[str] = ()
    ) -> Items:
        """Return values, by field and name with their amounts, in arrays.

        `new` has the fields that a sample adds. Values of other unknown fields get the amount 0.
        """
        ids = self.ids
        if new:
            ids = {**ids, **{name: len(ids) + i for i, name in enumerate(new)}}
        unknown = len(ids)
        return Items(
            *encode(names),
            np.array([ids.get(field, unknown) for field in fields], np.int64),
            np.array([n if f in ids else 0.0 for f, n in zip(fields, amounts, strict=True)], np.float64),
        )

    def front(
        self, items: Items, row: Vector, missing: Iterable[str] = (), state: State | None = None
    ) -> State:
        """Write the evidence to the columns of `row`, and predict by both groups; return the state used."""
        s = self.state if state is None else state
        if len(items.ends) > len(s.rows):
            s = self._with_room_for_items(s, len(items.ends))
            if state is None:
                self.state = s
        for name in missing:
            field = self.ids.get(name, -1)
            if field >= 0 and s.slot[field] >= 0:
                places = s.places[s.slot[field]]
                row[places[places >= 0]] = np.nan
        found = step.front(items.text, items.ends, items.fields, items.amounts, row, *s)
        self.without_column = found
        return s

    @staticmethod
    def _with_room_for_items(s: State, count: int) -> State:
        size = 2 * count
        return s._replace(
            rows=extended(s.rows, (size,)),
            row_amounts=extended(s.row_amounts, (size,)),
            fresh=extended(s.fresh, (size,)),
            keys=np.zeros(size, np.uint64),
            key_amounts=np.zeros(size),
        )

    def unknown(self) -> set[int]:
        """Return the indices of the items without a row, after `front`."""
        return {*self.state.fresh[: int(self.state.scalars[FRESH])].tolist()}

    def combine(self, dense: Vector, given: Vector = _NOTHING_GIVEN) -> Vector:
        """Return the prediction, after `front`.

        Parameters
        ----------
        dense : array of shape (outputs,)
            Prediction of the network.
        given : array of shape (2, outputs), optional
            Earlier predictions of the groups (`groups`), by which `learn` judges them; NaN for none.
        """
        out = np.empty(len(dense))
        s = self.state
        step.combine(dense, given, out, s.config, s.scalars, s.target, s.hedge, s.stack, s.outputs)
        return out

    def groups(self) -> Vector:
        """Return the predictions of both groups, after `combine`, of shape (2, outputs)."""
        outputs = 1 if self._regression else int(self.state.scalars[CLASSES])
        found: Vector = self.state.outputs[1:EXPERTS, :outputs].copy()
        return found

    def learn(self, items: Items, y: float, weight: float, *, judged: bool) -> None:
        """Learn a sample, after `front` and `combine`."""
        self._reserve(len(items.ends), len(items.text))
        if self._undo is not None:
            self._undo[0].before_step(self.state)
        judged = judged and weight > 0.0
        step.learn(y, weight, judged, items.text, items.ends, items.fields, items.amounts, *self.state)
        if self.state.scalars[TOUCHED] * 64 > len(self.state.pair_scales):
            self._double_pairs()

    def evidence(self) -> list[tuple[str, str, float, Vector]]:
        """Return field, name, weight and evidence by class of each known value of a sample, after `front`.

        The evidence of a regression is the deviation of the mean target. A text has the prior of a field with
        strings here, unlike in its columns.
        """
        s, fields, found = self.state, [*self.fields], list[tuple[str, str, float, Vector]]()
        known = int(s.scalars[KNOWN])
        for row, amount in zip(s.rows[:known].tolist(), s.row_amounts[:known].tolist(), strict=True):
            text = s.names[s.start[row] : s.start[row] + s.length[row]].tobytes()
            name = text.decode("utf-8", "surrogatepass")
            found.append((fields[s.field[row]], name, *self._evidence_of(row, amount)))
        return found

    def _evidence_of(self, row: int, amount: float) -> tuple[float, Vector]:
        """Return the weight of the samples with a value, and its evidence by class."""
        s = self.state
        if self._regression:
            weight = float(s.counts[row, 1])
            return weight, (s.counts[row, :1] - weight * s.outputs[SHARE, :1]) / (weight + PRIOR)
        counts = np.zeros(int(s.scalars[CLASSES]))
        counts[: s.counts.shape[1]] = s.counts[row, : len(counts)]
        weight, share = float(counts.sum()), s.outputs[SHARE, : len(counts)]
        if len(counts) < 2:
            return weight, np.zeros(1)
        odds = (counts + PRIOR * share) / (np.maximum(weight - counts, 0.0) + PRIOR * (1.0 - share))
        return weight, amount * (np.log(odds) - np.log(share / (1.0 - share)))

    def enter_columns(self, columns: Sequence[Column], positions: Mapping[Column, int]) -> None:
        """Record the positions of one-hot columns in the rows of their values."""
        values = [
            (column[0], column[1])
            for column in columns
            if not isinstance(column, str | Derived) and column[0] in self.fields
        ]
        if values:
            fields, found_names = zip(*values, strict=True)
            items = self.items(fields, found_names, [1.0] * len(values))
            self._reserve(len(items.ends), len(items.text))
            if self._undo is not None:
                self._undo[0].before_entering(self.state, items)
            found = np.array([positions[value] for value in values], np.int64)
            self.without_row += step.enter(items.text, items.ends, items.fields, found, *self.state)

    def begin(self) -> None:
        """Begin to copy what samples change, so that `undo` can return to the present state.

        The time and the memory depend on the samples until `end`, not on the number of values.
        """
        self._undo = Undo(self.state), self.ids.copy(), self.fields.copy()

    def undo(self) -> None:
        """Return to the state at `begin`; the time depends on the number of values."""
        assert self._undo is not None  # noqa: S101 (after `begin`)
        copies, self.ids, self.fields = self._undo
        self.state, self._undo = copies.undo(self.state), None

    def end(self) -> None:
        """Keep the present state."""
        self._undo = None

    def adopt(self, state: State, fields: Mapping[str, int]) -> None:
        """Take over a state from `laid_out`, with its fields."""
        self.state = state
        for name, kind in fields.items():
            self.ids.setdefault(name, len(self.ids))
            self.fields[name] = kind

    def laid_out(self, columns: Sequence[Column], fields: Mapping[str, int]) -> State:
        """Return the state for the columns of a learner, and for fields by name and kind."""
        s = self.state
        width = s.totals.shape[0]
        merged = {**self.fields, **fields}
        ids = {name: i for i, name in enumerate(merged)}
        slot, places = (
            np.full(len(merged), -1, np.int32),
            [np.full((2, width + 1), -1, np.int32) for _ in range(2)],
        )
        for position, column in enumerate(columns):
            if not isinstance(column, Derived) or column.scope == LOG:
                continue
            at = SUMS
            if column.scope == OF_PAIRS_SCOPE:
                at = OF_PAIRS
            elif column.scope == FIELD:
                field = ids[column.name]
                if slot[field] < 0:
                    slot[field] = len(places)
                    places.append(np.full((2, width + 1), -1, np.int32))
                at = int(slot[field])
            if column.output <= width:
                places[at][column.part, column.output] = position
        s = s._replace(kinds=np.array([*merged.values()], np.int32), slot=slot, places=np.stack(places))
        shown = [i for i, column in enumerate(columns) if isinstance(column, Derived) and column.scope != LOG]
        evidence = extended(s.evidence, (len(s.evidence), len(shown)))
        s = s._replace(evidence=evidence, evidence_at=np.array(shown, np.int64))
        numeric = _numeric(columns)
        return _with_numbers(s, numeric, [isinstance(columns[i], str) for i in numeric])

    def add_class(self) -> None:
        """Append a class."""
        s = self.state
        classes, width = int(s.scalars[CLASSES]), s.totals.shape[0]
        if classes == width:
            s = self._widened(s, 2 * width)
        s = s._replace(scalars=s.scalars.copy(), bias=s.bias.copy())
        if classes:
            s.bias[:, :, classes] = s.bias[:, :, :classes].min(axis=2)
        s.scalars[CLASSES] += 1.0
        self.state = s

    def check_limit(self, max_values: int) -> None:
        """Check a greatest number of values.

        Raises
        ------
        ConfigurationError
            If there are more values now.
        """
        if most_values(max_values, _room(self.state.weights)) < self.values:
            raise ConfigurationError(
                "max_values", f"the model has {self.values} values: give {self.values} or more"
            )

    def limit(self, max_values: int) -> None:
        """Change the greatest number of values, which `check_limit` has checked."""
        config = self.state.config.copy()
        config[MAX_VALUES] = most_values(max_values, _room(self.state.weights))
        self.max_values, self.state = max_values, self.state._replace(config=config)

    def _widened(self, s: State, width: int) -> State:
        """Return a state with room for more classes; in the rows as long as the limits of memory allow it."""
        changed, config, before = dict[str, Any](), s.config.copy(), s.totals.shape[0]
        most = most_values(self.max_values, width)
        if self.values <= most and _room(s.weights) == before:
            changed |= _moved(s, OF_ROWS, len(s.scales), width, self.values)
            config[MAX_VALUES] = most
        if len(s.pair_scales) * width <= MOST_CELLS and _room(s.pair_weights) == before:
            changed |= _moved(s, BY_PAIR, len(s.pair_scales), width, len(s.pair_scales))
        return s._replace(
            **changed,
            config=config,
            bias=extended(s.bias, (2, MEMBERS, width)),
            number_weights=extended(s.number_weights, (2, MEMBERS, width, s.number_weights.shape[3])),
            totals=extended(s.totals, (width,)),
            outputs=extended(s.outputs, (len(s.outputs), width)),
            places=_with_classes(s.places, width),
        )

    def _reserve(self, values: int, size: int) -> None:
        """Make room for values and the bytes of their names."""
        s, rows = self.state, self.values
        most = int(s.config[MAX_VALUES])
        need = min(rows + values, most)
        if need > len(s.scales):
            capacity = min(2 * need, most)
            arrays = {name: extended(getattr(s, name), (capacity,)) for name in BY_ROW}
            s = s._replace(**arrays, **_moved(s, OF_ROWS, capacity, _room(s.weights), rows))
        if 2 * need > len(s.slots):
            s = s._replace(slots=np.full(1 << (3 * need - 1).bit_length(), -1, np.int32))
            names.link_all(s)
        end, waste = int(s.scalars[TEXT_END]), int(s.scalars[TEXT_WASTE])
        if end + size > len(s.names):
            text = np.zeros(max(2 * (end - waste + size), 64), np.uint8)
            starts = s.start.copy()
            names.gather(s, text, starts)
            s = s._replace(names=text, start=starts, scalars=s.scalars)
            s.scalars[TEXT_END], s.scalars[TEXT_WASTE] = end - waste, 0.0
        self.state = s

    def _double_pairs(self) -> None:
        """Double the table of pairs: each row is copied to both rows that its pairs may have then."""
        s = self.state
        size, width = len(s.pair_scales), _room(s.pair_weights)
        if size < LAST_PAIRS and 2 * size * width <= MOST_CELLS:
            doubled = _moved(s, BY_PAIR, 2 * size, width, size)
            for array in doubled.values():
                array[size:] = array[:size]
            self.state = s._replace(**doubled)


def _fields(header: Sequence[Any]) -> dict[str, int]:
    """Return the kinds of fields in a result of `SparseStage.header`."""
    try:
        fields = dict(header)
    except (TypeError, ValueError):
        fields = {}
    if (
        not isinstance(header, list)
        or len(fields) != len(header)
        or not all(
            type(name) is str and type(kind) is int and CLOSED <= kind <= TEXT
            for name, kind in fields.items()
        )
    ):
        raise StateError("the state of the sparse stage is damaged: a field has no name or no kind")
    return fields


def _fits(column: Derived, fields: Mapping[str, int]) -> bool:
    """Return whether a stage with some fields may have a column."""
    scope, name, output, part = column
    known = scope in (SUMS_SCOPE, OF_PAIRS_SCOPE, LOG) or (scope == FIELD and name in fields)
    return known and type(output) is int and output >= 0 and type(part) is int and 0 <= part < 2


def _numeric(columns: Sequence[Column]) -> NDArray[np.int64]:
    """Return the positions of the columns of numbers and of their logarithms."""
    found = [
        position
        for position, column in enumerate(columns)
        if isinstance(column, str) or (isinstance(column, Derived) and column.scope == LOG)
    ]
    return np.array(found, np.int64)


def _with_numbers(s: State, numeric: NDArray[np.int64], counted: Sequence[bool]) -> State:
    """Return a state with numeric columns; their number only grows, and their order stays.

    Samples before a column joined count as 0 where `counted`, and as unknown values elsewhere.
    """
    old, n = len(s.numeric), len(numeric)
    if n == old:
        return s._replace(numeric=numeric)
    numbers = extended(s.numbers, (s.numbers.shape[0], n))
    numbers[JOINED, old:] = s.scalars[SAMPLES] * np.array(counted[old:])
    return s._replace(
        numbers=numbers,
        numeric=numeric,
        z=np.zeros(n),
        number_weights=extended(s.number_weights, (*s.number_weights.shape[:3], n)),
        number_scales=extended(s.number_scales, (2, n)),
    )


def _room(weights: Reals) -> int:
    """Return the number of outputs for which rows have weights."""
    return int(weights.shape[1] // MEMBERS)


def _moved(s: State, names: Sequence[str], rows: int, width: int, used: int) -> dict[str, Any]:
    """Return the first `used` rows of counts, weights and scales in a larger block, by name."""
    old = [getattr(s, name)[:used] for name in names]
    outputs = _room(old[1])
    counted = old[0].shape[1] if width == outputs else width
    counts, weights, scales = block(rows, counted, width, old[0].dtype)
    counts[:used, : old[0].shape[1]], scales[:used] = old[0], old[2]
    for r in range(MEMBERS):
        weights[:used, r * width : r * width + outputs] = old[1][:, r * outputs : (r + 1) * outputs]
    return dict(zip(names, (counts, weights, scales), strict=True))


def _with_classes(places: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Return positions of evidence columns with room for more classes."""
    larger = np.full((places.shape[0], 2, width + 1), -1, np.int32)
    larger[:, :, : places.shape[2]] = places
    return larger
