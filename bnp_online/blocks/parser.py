"""Parser of lines by templates, compiled.

A template is a sequence of slots. Each has the literal bytes before it, and a kind. A line fits a template if
it has the same literals, and in each slot a value of that kind. It then has, by construction, the syntax, the
names and the order of the line that the template was made from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_exact, jit_exact_inline
from ..values import LARGEST
from .bits import double
from .decimals import REACH, read_number
from .words import MEANING, WordTable, find, same

#: Kinds of slots. The first three are numbers, those from `LABEL` on are words.
NUMBER, TARGET, WEIGHT, END, ID, OTHER, LABEL, MODEL, STRING = range(9)
#: Columns of `TemplateTable.slots`: literal in `text`, kind, column of the result, place of the words, and
#: the byte behind the value.
TEXT, LENGTH, KIND, COLUMN, PLACE, DELIMITER = range(6)
#: Columns of `TemplateTable.ranges`.
FIRST, STOP, FULL, CALL = range(4)
#: Columns of the results: `values`, `codes` and `spans`.
TARGETS, WEIGHTS = range(2)
LABELS, MODELS, STRINGS = range(3)
LINE_START, LINE_END, ID_START, ID_END = range(4)
#: Bytes that must follow the lines in a buffer.
PADDING = REACH + 32
_LINE_FEED, _RETURN, _QUOTE, _BACKSLASH, _SPACE, _TILDE = b'\n\r"\\ ~'


class TemplateTable(NamedTuple):
    """Templates.

    Attributes
    ----------
    text : array of uint8
        Literals of all templates.
    slots : array of int64
        Slots of all templates, one after another.
    ranges : array of int64
        Of each template: its first slot, the end of its slots, whether each column of `rows` has a slot, and
        the number of the call in which it fitted last.
    """

    text: NDArray[np.uint8]
    slots: NDArray[np.int64]
    ranges: NDArray[np.int64]


class Limits(NamedTuple):
    """Greatest lengths in bytes: of a line, an id and a known word."""

    line: int
    id: int
    word: int


class Results(NamedTuple):
    """Arrays with a row for each line.

    Attributes
    ----------
    rows : array of float64
        Numbers by column, 0 where absent.
    values : array of float64
        Target (NaN if there is none) and weight (1 if there is none).
    codes : array of int32
        Label, model and strings; −1 where absent.
    spans : array of int64
        Start and end of the line and of its id; −1 where absent.
    """

    rows: NDArray[np.float64]
    values: NDArray[np.float64]
    codes: NDArray[np.int32]
    spans: NDArray[np.int64]


@jit_exact_inline
def _word_end(buffer: NDArray[np.uint8], start: int, stop: int, delimiter: int) -> int:
    """Return where a word ends: behind its last quotation mark, or at the delimiter."""
    i = start
    if buffer[i] == _QUOTE:
        i += 1
        while i < stop and buffer[i] != _QUOTE:
            i += 2 if buffer[i] == _BACKSLASH else 1
        return i + 1
    while i < stop and buffer[i] != delimiter and buffer[i] != _LINE_FEED:
        i += 1
    return i


@jit_exact_inline
def _text_end(buffer: NDArray[np.uint8], start: int, stop: int, delimiter: int) -> int:
    """Return where a text of plain ASCII ends; −1 if it has other characters."""
    for i in range(start, stop):
        byte = buffer[i]
        if byte in (delimiter, _RETURN, _LINE_FEED):
            return i
        if byte < _SPACE or byte > _TILDE or byte in (_QUOTE, _BACKSLASH):
            return -1
    return -1


@jit_exact_inline
def _clear(results: Results, r: int, full: int) -> None:
    if full == 0:
        for j in range(results.rows.shape[1]):
            results.rows[r, j] = 0.0
    results.values[r, TARGETS] = np.nan
    results.values[r, WEIGHTS] = 1.0
    for j in range(results.codes.shape[1]):
        results.codes[r, j] = -1
    results.spans[r, ID_START] = results.spans[r, ID_END] = -1


@jit_exact_inline
def _parse_line(
    buffer: NDArray[np.uint8],
    start: int,
    stop: int,
    templates: TemplateTable,
    template: int,
    words: WordTable,
    limits: Limits,
    powers: NDArray[np.uint64],
    results: Results,
    r: int,
) -> int:
    """Parse a line by a template; return where its line feed is, −1 if it does not fit."""
    _clear(results, r, templates.ranges[template, FULL])
    i = start
    for s in range(templates.ranges[template, FIRST], templates.ranges[template, STOP]):
        slot = templates.slots[s]
        length, kind = slot[LENGTH], slot[KIND]
        if i + length >= stop or not same(buffer, i, templates.text, slot[TEXT], length):
            return -1
        i += length
        if kind <= WEIGHT:
            value, end = read_number(buffer, i, powers)
            if end >= 0:
                if kind == NUMBER:
                    results.rows[r, slot[COLUMN]] = value
                else:
                    results.values[r, slot[COLUMN]] = value
                if not (abs(value) <= LARGEST if kind != WEIGHT else value >= 0.0):
                    return -1
                i = end
                continue
            if kind != NUMBER:
                return -1
        elif kind == END:
            return i if buffer[i] == _LINE_FEED and i - start <= limits.line else -1
        elif kind <= OTHER:
            if kind == ID:
                end = _text_end(buffer, i, min(stop, i + limits.id + 1), slot[DELIMITER])
                if end <= i or buffer[i] == _SPACE or buffer[end - 1] == _SPACE:
                    return -1
                results.spans[r, ID_START] = i
                results.spans[r, ID_END] = end
            else:
                end = _text_end(buffer, i, stop, slot[DELIMITER])
                if end < 0:
                    return -1
            i = end
            continue
        end = _word_end(buffer, i, min(stop, i + limits.word + 1), slot[DELIMITER])
        row = find(buffer, i, end - i, slot[PLACE], words) if end <= stop else -1
        if row < 0:
            return -1
        if kind == NUMBER:
            results.rows[r, slot[COLUMN]] = double(np.uint64(words.entries[row, MEANING]))
        else:
            results.codes[r, slot[COLUMN]] = words.entries[row, MEANING]
        i = end
    return -1


@jit_exact
def parse_lines(
    buffer: NDArray[np.uint8],
    start: int,
    stop: int,
    templates: TemplateTable,
    last: int,
    call: int,
    words: WordTable,
    limits: Limits,
    powers: NDArray[np.uint64],
    results: Results,
) -> tuple[int, int, int]:
    """Parse lines up to the first that fits no template.

    Parameters
    ----------
    buffer : array of uint8
        Lines, each with its line feed, and at least `PADDING` bytes behind `stop`.
    start, stop : int
        The part of the buffer with lines.
    last : int
        Template that is tried first; after that, the one that fitted last.
    call : int
        Number of the call.

    Returns
    -------
    tuple
        Number of lines that fitted, start of the next line, and the template that fitted last.
    """
    at, count = start, 0
    while count < results.rows.shape[0] and at < stop:
        end = -1
        for attempt in range(templates.ranges.shape[0]):
            template = last if attempt == 0 else attempt - (attempt <= last)
            end = _parse_line(buffer, at, stop, templates, template, words, limits, powers, results, count)
            if end >= 0:
                last = template
                templates.ranges[template, CALL] = call
                break
        if end < 0:
            break
        results.spans[count, LINE_START] = at
        results.spans[count, LINE_END] = end
        at = end + 1
        count += 1
    return count, at, last
