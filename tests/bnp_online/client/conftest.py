"""The client is tested against a real server."""

from __future__ import annotations

from tests.service.conftest import serve, server

__all__ = ["serve", "server"]
