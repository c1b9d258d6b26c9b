"""The query of a request: parameters that its route knows, each once."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from urllib.parse import parse_qsl

from ..errors import RequestError, UnknownFieldError

#: Characters of an unknown name in a message.
_SHOWN = 80


def read_query(query: bytes, known: Collection[str], fields: Collection[str] = ()) -> dict[str, str]:
    """Return the parameters of a query by name.

    Parameters
    ----------
    query : bytes
        The query, without the question mark.
    known : collection of str
        Names of the parameters that the route takes.
    fields : collection of str, optional
        Names of the fields of its body, for the message.

    Raises
    ------
    UnknownFieldError
        If the query has another parameter.
    RequestError
        If it has a parameter twice.

    Examples
    --------
    >>> read_query(b"after=5&limit=3", ("branch", "after", "limit"))
    {'after': '5', 'limit': '3'}
    >>> read_query(b"aftr=5", ("branch", "after", "limit"))
    Traceback (most recent call last):
    ...
    service.errors.UnknownFieldError: 'aftr' is not a parameter of this route: did you mean after?
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            raise UnknownFieldError(
                f"{name[:_SHOWN]!r} is not a parameter of this route{_remedy(name, known, fields)}", name
            )
        if name in found:
            raise RequestError(f"the query has {name} twice: send it once", name)
        found[name] = value
    return found


def _remedy(name: str, known: Collection[str], fields: Collection[str]) -> str:
    near = get_close_matches(name[:_SHOWN], [*known, *fields], 1)
    if near and near[0] in known:
        return f": did you mean {near[0]}?"
    if near:
        return f": send {near[0]} as a field of the body"
    return f"; it has {', '.join(known)}" if known else ", which has none: omit it"
