"""End of the process at once, after a failure from which only a new process can continue.

The log has everything. A supervisor starts the process again after any exit code but 0.
"""

from __future__ import annotations

import logging
import os
from typing import Final

#: Exit code after a GPU failed (EX_TEMPFAIL of sysexits.h).
DEVICE_FAILED: Final = 75
#: Exit code of a process that must not write to its log any more.
LOST: Final = 76

_logger = logging.getLogger(__name__)


def end_process(code: int, error: Exception) -> None:
    """End the process without the usual steps of a shutdown."""
    _logger.critical("the server ends with exit code %d: %s", code, error)
    logging.shutdown()
    os._exit(code)
