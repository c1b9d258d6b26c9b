"""The dashboard at /: the page, its style sheets and its scripts."""

from __future__ import annotations

import asyncio
from html import escape
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ..auth.guard import PlainRoute
from ..auth.scopes import Access, needs
from ..errors import RequestError
from ..http.requests import headers_of
from ..http.responses import address
from ..models.access import models_of
from ..models.registry import Summary
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

#: Address in the text that is read without scripts, and place of the models in it.
_EXAMPLE, _MODELS = b"http://localhost:8000", b"<!-- models -->"
#: Models that this text lists, and the links of each.
_MOST = 100
_LINKS = {"description": "", "scores": "/metrics", "history": "/history"}
_LIST = Access("read")


@needs(None)
async def page(request: Request) -> Response:
    """Return the page. Its text for browsers without scripts lists the models and names the own address."""
    content = await asyncio.to_thread((STATIC / "index.html").read_bytes)
    if own := address(request.scope):
        content = content.replace(_EXAMPLE, own.encode())
    content = content.replace(_MODELS, _listed(request.scope).encode())
    return Response(content, headers=_HEADERS, media_type="text/html")


def _listed(scope: Scope) -> str:
    """Return the models that the reader may see, in HTML; a browser sends no key without the script."""
    try:
        scope["caller"] = scope["app"].state.guard.admit(headers_of(scope), _LIST)
    except RequestError as error:
        return f"<p>The models are not listed here: {escape(error.message)}.</p>"
    models = models_of(scope).summaries()
    if not models:
        return "<p>There is no model yet.</p>"
    rows = "".join(map(_row, models[:_MOST]))
    more = f"<p>And {len(models) - _MOST:,} more.</p>" if len(models) > _MOST else ""
    return f'<ul aria-label="Models">{rows}</ul>{more}'


def _row(model: Summary) -> str:
    name, path = escape(model.name), f"models/{quote(model.name, safe='')}"
    facts = [model.task, *([] if model.step is None else [f"samples learned: {model.step:,}"]), model.state]
    links = ", ".join(
        f'<a href="{path}{end}" aria-label="{text} of {name}">{text}</a>' for text, end in _LINKS.items()
    )
    return f"<li><b>{name}</b>, {', '.join(facts)}: {links}</li>"


ROUTES = [
    PlainRoute("/", page, ["GET"]),
    *(file_route(f"/dashboard/{name}", STATIC / name, kind, _HEADERS) for name, kind in _ASSETS.items()),
]
