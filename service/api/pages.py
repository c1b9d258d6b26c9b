"""The pages: /docs, with everything that it loads, and the OpenAPI document that it shows.

All of it comes from this server, so the pages work without a network and may load nothing from elsewhere.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from ..http.requests import json_response

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bnp-online: the routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

# What a page of this server may do: load its own scripts, call its own routes; no other page may frame it.
# Swagger UI sets styles from its script, and draws its icons from data: URLs.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@needs(None)
async def docs(request: Request) -> Response:
    """Show the routes, and try them."""
    return HTMLResponse(_PAGE, headers=PAGE_HEADERS)


@needs(None)
async def start_docs(request: Request) -> Response:
    """Start Swagger UI: a script of its own, since the page may run none that stands in it."""
    return Response(_START, media_type="text/javascript")


@needs(None)
async def swagger_script(request: Request) -> Response:
    """Return Swagger UI."""
    return FileResponse(_swagger() / "swagger-ui-bundle.js")


@needs(None)
async def swagger_style(request: Request) -> Response:
    """Return the style of Swagger UI."""
    return FileResponse(_swagger() / "swagger-ui.css")


@needs(None)
async def document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return json_response(request.app.openapi())


def _swagger() -> Path:
    """Return the folder of a package that is here for its copy of Swagger UI alone; it is not imported."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package fastapi-offline is not installed")
    return Path(found.origin).with_name("static")


ROUTES = [
    PlainRoute("/docs", docs, ["GET"]),
    PlainRoute("/docs/start.js", start_docs, ["GET"]),
    PlainRoute("/docs/swagger-ui-bundle.js", swagger_script, ["GET"]),
    PlainRoute("/docs/swagger-ui.css", swagger_style, ["GET"]),
    PlainRoute("/openapi.json", document, ["GET"]),
]
