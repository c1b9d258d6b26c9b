"""The dashboard at /: the page, its style sheets and its scripts."""

from __future__ import annotations

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

ROUTES = [
    file_route("/", STATIC / "index.html", "text/html", _HEADERS),
    *(file_route(f"/dashboard/{name}", STATIC / name, kind, _HEADERS) for name, kind in _ASSETS.items()),
]
