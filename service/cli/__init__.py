"""Command-line program ``bnp-online``. Exit codes: 0 success, 1 failure or interruption, 2 wrong usage."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command, and exit with its code."""
    try:
        from .application import run
    except KeyboardInterrupt:
        sys.exit(1)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install 'bnp-online[server]'")
    sys.exit(run())
