"""Logging: one line per event, as text or JSON, with the request id, and never the content of a request.

The message of an exception may quote the request that caused it. A traceback in the log therefore has the
source lines and the names of the exceptions, without their messages.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
import warnings
from contextvars import ContextVar
from typing import Any

import orjson

from ..settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request, empty outside of a request."""

#: ``service`` in a checkout, ``bnp_online_server`` where it is installed.
_PACKAGE = __name__.partition(".")[0]

#: Kinds of lines that are counted at the same time.
_MOST_KINDS = 1_000

_logger = logging.getLogger(__name__)


#: Loggers whose lines a client without a key can cause.
_LIMITED = (
    "asyncio",
    "uvicorn.error",
    "service.requests",
    f"{_PACKAGE}.models.readiness",
    f"{_PACKAGE}.http.exchange",
    f"{_PACKAGE}.http.uvicorn_protocol",
    __name__,
)


class RateLimit(logging.Filter):
    """Filter that limits the lines of each kind, so that clients cannot fill a disk.

    The lines of one kind have the same logger, level, message before formatting, and status of the response.
    The last line before the limit announces that further ones are left out, and the first line afterwards has
    their number. Lines of the level DEBUG are not limited.

    Parameters
    ----------
    most : int
        Maximum number of lines of one kind in a period.
    period : float
        Length of a period in seconds.
    """

    def __init__(self, most: int = 10, period: float = 60.0) -> None:
        super().__init__()
        self._most = most
        self._period = period
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}  # start of the period, number of lines
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written."""
        if record.levelno <= logging.DEBUG:
            return True
        fields: dict[str, Any] = getattr(record, "fields", {})
        kind = record.name, record.levelno, str(record.msg), fields.get("status")
        with self._lock:
            start, count = self._kinds.pop(kind, (record.created, 0))
            left_out = 0
            if record.created - start >= self._period:
                start, count, left_out = record.created, 0, max(0, count - self._most)
            if len(self._kinds) >= _MOST_KINDS:  # of those, the one that was logged longest ago
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = start, count + 1
        if left_out:
            record.fields = {**fields, "left_out": left_out}
        elif count + 1 == self._most:
            note = f"further lines of this kind are left out for up to {self._period:g} s"
            record.fields = {**fields, "note": note}
        return count < self._most


class _Formatter(logging.Formatter):
    """Common part of both formats."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a line, in order."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := REQUEST_ID.get():
            line["request_id"] = identifier
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = "".join(self._traceback(record.exc_info[1]))
        return line

    def _traceback(self, error: BaseException) -> list[str]:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        lines = [] if before is None else [*self._traceback(before), "\nThis exception led to:\n"]
        lines += traceback.format_tb(error.__traceback__)
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}\n")
        if isinstance(error, BaseExceptionGroup):
            lines += [line for inner in error.exceptions for line in self._traceback(inner)]
        return lines


class JsonFormatter(_Formatter):
    """Format of one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return orjson.dumps(self.fields(record), default=str).decode()


class TextFormatter(_Formatter):
    """Format for people: one line per event; a traceback takes several."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = self.fields(record)
        trace = fields.pop("traceback", "")
        moment, level, logger, message = (fields.pop(name) for name in ("time", "level", "logger", "message"))
        # A line break or an escape sequence in a message could forge a line of the log.
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        rest = "".join(f" {name}={value}" for name, value in fields.items())
        return f"{moment} {level:<8} {logger}: {message}{rest}" + (f"\n{trace.rstrip()}" if trace else "")


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the `logging.config.dictConfig` of the server; other packages log warnings only."""
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    level = settings.log_level.upper()
    loggers: dict[str, dict[str, Any]] = {
        name: {"level": level} for name in ("service", _PACKAGE, "bnp_online", "uvicorn")
    }
    for name in _LIMITED:
        loggers.setdefault(name, {})["filters"] = ["limit"]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"limit": {"()": RateLimit}},
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level if level in ("ERROR", "CRITICAL") else "WARNING"},
        "loggers": loggers,
    }


def catch_thread_errors() -> None:
    """Log uncaught exceptions of threads in place of Python's report, which would print their messages."""

    def report(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            name = "" if args.thread is None else args.thread.name
            _logger.critical("Thread %s ended with an error", name, exc_info=args.exc_value)

    threading.excepthook = report


def catch_warnings() -> None:
    """Log Python's warnings, such as that of a feature with identifiers, instead of printing them."""

    def report(message: Warning | str, *_: object, **__: object) -> None:
        _logger.warning("%s", message)

    warnings.showwarning = report


def report_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop: an exception handler for the loop."""
    _logger.error("Event loop: %s", context["message"], exc_info=context.get("exception"))
