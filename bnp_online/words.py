"""Words of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters, digits and underscores, in order.

    Examples
    --------
    >>> words("Don't panic: it's 42!")
    ['don', 't', 'panic', 'it', 's', '42']
    """
    return _WORD.findall(text.lower())


def counted(tokens: Iterable[str], ngrams: int = 1) -> dict[str, float]:
    """Return the number of times that each token, and each sequence of up to `ngrams` tokens, occurs.

    The tokens of a sequence are joined by a space.

    Examples
    --------
    >>> counted(["a", "b", "a"], ngrams=2)
    {'a': 2.0, 'b': 1.0, 'a b': 1.0, 'b a': 1.0}
    """
    tokens, found = [*tokens], dict[str, float]()
    for token in tokens:
        found[token] = found.get(token, 0.0) + 1.0
    for size in range(2, ngrams + 1):
        for start in range(len(tokens) - size + 1):
            token = " ".join(tokens[start : start + size])
            found[token] = found.get(token, 0.0) + 1.0
    return found
