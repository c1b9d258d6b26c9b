"""``python -m service.cli.repair --skip SEQ``: let a server start that an event of its log keeps from it."""

from __future__ import annotations

import argparse
import sys

from ..models.recovery import START_ERRORS
from ..settings import Settings
from ..storage.data_dir import lock
from ..storage.sqlite import DAMAGED, SqliteLog


def main() -> None:
    """Mark events as damaged: from then on they are passed over, and what they taught is lost."""
    parser = argparse.ArgumentParser(prog="python -m service.cli.repair", description=main.__doc__)
    parser.add_argument(
        "--skip",
        type=int,
        nargs="+",
        required=True,
        metavar="SEQ",
        help="number of an event, as the server named it",
    )
    arguments = parser.parse_args()
    settings = Settings()
    try:
        with lock(settings.data_dir):
            log = SqliteLog(settings.data_dir)
            log.correct(dict.fromkeys(arguments.skip, DAMAGED), {})
            log.close()
    except START_ERRORS as error:
        sys.exit(str(error))
    print(f"Passed over from now on: {', '.join(map(str, arguments.skip))}. The server can start.")


if __name__ == "__main__":
    main()
