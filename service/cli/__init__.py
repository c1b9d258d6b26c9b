"""``bnp-online``: the command line. Exit codes: 0 done, 1 it failed or was interrupted, 2 used wrongly."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command, and end with its exit code."""
    try:
        from .application import run
    except KeyboardInterrupt:
        sys.exit(1)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install 'bnp-online[cli]'")
    sys.exit(run())
