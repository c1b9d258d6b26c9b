"""The dashboard at /: the page, its style sheets and its scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from .pages import PAGE_HEADERS

_FOLDER = Path(__file__).parents[1] / "dashboard"

#: Assets of the page, and their media types.
_ASSETS = {
    "style.css": "text/css",
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "charts.js": "text/javascript",
    "dom.js": "text/javascript",
    "layers.js": "text/javascript",
    "operate.js": "text/javascript",
    "scores.js": "text/javascript",
    "uplot/uPlot.iife.min.js": "text/javascript",
    "uplot/uPlot.min.css": "text/css",
}
#: Headers of every page, with a stricter policy: the dashboard has no inline style.
_HEADERS = {
    **PAGE_HEADERS,
    "content-security-policy": PAGE_HEADERS["content-security-policy"].replace(" 'unsafe-inline'", ""),
    "cache-control": "no-cache",  # other versions of the server have other pages
}


@needs(None)
async def dashboard(request: Request) -> Response:
    """Return the dashboard."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS, media_type="text/html")


def _asset(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    @needs(None)
    async def asset(request: Request) -> Response:
        """Return an asset of the page."""
        return FileResponse(_FOLDER / name, headers=_HEADERS, media_type=media_type)

    return asset


ROUTES = [
    PlainRoute("/", dashboard, ["GET"]),
    *(PlainRoute(f"/dashboard/{name}", _asset(name, kind), ["GET"]) for name, kind in _ASSETS.items()),
]
