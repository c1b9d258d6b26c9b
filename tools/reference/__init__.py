"""Pages of the documentation that are written from the code, each time it is built.

A page is a function without parameters that returns Markdown; `PAGES` says where each stands.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.reference import commands, errors, http, metrics, settings

#: By the path of a page in the folder of the documentation.
PAGES: dict[str, Callable[[], str]] = {
    "reference/command-line.md": commands.page,
    "reference/errors.md": errors.page,
    "reference/http.md": http.page,
    "reference/metrics.md": metrics.page,
    "reference/settings.md": settings.page,
}
