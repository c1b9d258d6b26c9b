"""The dashboard at /: a page, its style and its scripts, all from this server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from .pages import PAGE_HEADERS

_FOLDER = Path(__file__).parents[1] / "dashboard"

#: What the page loads, and as which type.
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
#: As for every page, and stricter: this one has no style that stands in it.
_HEADERS = {
    **PAGE_HEADERS,
    "content-security-policy": PAGE_HEADERS["content-security-policy"].replace(" 'unsafe-inline'", ""),
    "cache-control": "no-cache",  # another version of the server has another page
}


@needs(None)
async def dashboard(request: Request) -> Response:
    """Show the models as they learn."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS, media_type="text/html")


def _asset(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    @needs(None)
    async def asset(request: Request) -> Response:
        """Return what the page loads."""
        return FileResponse(_FOLDER / name, headers=_HEADERS, media_type=media_type)

    return asset


ROUTES = [
    PlainRoute("/", dashboard, ["GET"]),
    *(PlainRoute(f"/dashboard/{name}", _asset(name, kind), ["GET"]) for name, kind in _ASSETS.items()),
]
