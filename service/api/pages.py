"""The page /docs with its assets, and the OpenAPI document.

The page loads everything from this server: it works without a network, and its policy forbids other sources.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from ..auth.guard import PlainRoute
from ..auth.scopes import needs
from ..http.responses import json_response

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

# Pages may load scripts of this server and call its routes; no other page may frame them. Swagger UI sets
# styles from its script, and has its icons in data: URLs.
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@needs(None)
async def docs(request: Request) -> Response:
    """Return the page of the routes."""
    return HTMLResponse(_PAGE, headers=PAGE_HEADERS)


@needs(None)
async def start_docs(request: Request) -> Response:
    """Return the script that starts Swagger UI; the policy forbids inline scripts."""
    return Response(_START, media_type="text/javascript")


@needs(None)
async def swagger_script(request: Request) -> Response:
    """Return the script of Swagger UI."""
    return FileResponse(_swagger() / "swagger-ui-bundle.js")


@needs(None)
async def swagger_style(request: Request) -> Response:
    """Return the style sheet of Swagger UI."""
    return FileResponse(_swagger() / "swagger-ui.css")


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
    PlainRoute("/docs", docs, ["GET"]),
    PlainRoute("/docs/start.js", start_docs, ["GET"]),
    PlainRoute("/docs/swagger-ui-bundle.js", swagger_script, ["GET"]),
    PlainRoute("/docs/swagger-ui.css", swagger_style, ["GET"]),
    PlainRoute("/openapi.json", document, ["GET"]),
]
