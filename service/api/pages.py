"""The page /docs with its assets, and the OpenAPI document.

The page loads everything from this server: it works without a network, and its policy forbids other sources.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from ..http.responses import json_response

STATIC = Path(__file__).parents[1] / "dashboard"
"""Folder of the pages."""

# Pages may load scripts of this server and call its routes; no other page may frame them. Swagger UI sets
# styles from its script, and has its icons in data: URLs.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


def file_route(
    path: str, file: Path, media_type: str, headers: Mapping[str, str] | None = None
) -> PlainRoute:
    """Return a public route that serves a file."""

    @needs(None)
    async def serve_file(request: Request) -> Response:
        # Starlette's FileResponse would start threads, which may fail at the system's limit.
        content = await asyncio.to_thread(file.read_bytes)
        return Response(content, headers=headers, media_type=media_type)

    return PlainRoute(path, serve_file, ["GET"])


@needs(None)
async def document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return json_response(request.app.openapi())


def _swagger() -> Path:
    """Return the folder with Swagger UI, in a package that is installed for it and never imported."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package fastapi-offline is not installed")
    return Path(found.origin).with_name("static")


ROUTES = [
    file_route("/docs", STATIC / "docs.html", "text/html", PAGE_HEADERS),
    file_route("/docs/start.js", STATIC / "docs.js", "text/javascript"),
    file_route("/docs/swagger-ui-bundle.js", _swagger() / "swagger-ui-bundle.js", "text/javascript"),
    file_route("/docs/swagger-ui.css", _swagger() / "swagger-ui.css", "text/css"),
    PlainRoute("/openapi.json", document, ["GET"]),
]
