"""Bytes of a file: where they come from, their compression, and the share that has been read."""

from __future__ import annotations

from ..errors import BNPError


class FileError(BNPError, ValueError):
    """A file, or the options for it, cannot be read as samples; the message says what to do."""
