"""Reference pages generated from the code at each build of the documentation.

A page is a function without parameters that returns Markdown. `PAGES` maps paths to pages.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.reference import commands, errors, http, metrics, settings

#: Pages by their path in the documentation.
PAGES: dict[str, Callable[[], str]] = {
    "reference/command-line.md": commands.page,
    "reference/errors.md": errors.page,
    "reference/http.md": http.page,
    "reference/metrics.md": metrics.page,
    "reference/settings.md": settings.page,
}
