"""The dashboard at /: the page, its style sheets and its scripts."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from ..http.responses import address
from .pages import PAGE_HEADERS, STATIC, file_route

#: Assets of the page, and their media types.
_ASSETS = {
    "style.css": "text/css",
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "charts.js": "text/javascript",
    "cluster.js": "text/javascript",
    "dom.js": "text/javascript",
    "explanations.js": "text/javascript",
    "layers.js": "text/javascript",
    "operate.js": "text/javascript",
    "overview.js": "text/javascript",
    "scores.js": "text/javascript",
    "shadows.js": "text/javascript",
    "uplot/uPlot.iife.min.js": "text/javascript",
    "uplot/uPlot.min.css": "text/css",
}
#: Headers of every page, with a stricter policy: the dashboard has no inline style.
_HEADERS = {
    **PAGE_HEADERS,
    "content-security-policy": PAGE_HEADERS["content-security-policy"].replace(" 'unsafe-inline'", ""),
    "cache-control": "no-cache",  # other versions of the server have other pages
}

#: Address in the text that is read without scripts.
_EXAMPLE = b"http://localhost:8000"


@needs(None)
async def page(request: Request) -> Response:
    """Return the page. Its text for browsers without scripts has the address of the request."""
    content = await asyncio.to_thread((STATIC / "index.html").read_bytes)
    if own := address(request.scope):
        content = content.replace(_EXAMPLE, own.encode())
    return Response(content, headers=_HEADERS, media_type="text/html")


ROUTES = [
    PlainRoute("/", page, ["GET"]),
    *(file_route(f"/dashboard/{name}", STATIC / name, kind, _HEADERS) for name, kind in _ASSETS.items()),
]
