"""Command-line program: its commands, and the messages and exit codes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from pydantic import ValidationError

from bnp_online.client import ClientError
from bnp_online.errors import BNPError

from ..problems import explain
from . import (
    administration,
    bench,
    cluster,
    demo,
    doctor,
    explaining,
    keys,
    learning,
    predicting,
    repair,
    serve,
    store,
    upgrade,
)
from .output import CommandError, failure, note

#: Exit code of typer after Ctrl-C.
_INTERRUPTED = 130
#: Base of the errors of usage. Versions of typer have it in packages of different names.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="bnp-online",
    help="Online learning of neural networks, with a server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    serve.serve,
    demo.demo,
    learning.learn,
    predicting.predict,
    explaining.explain,
    learning.replay,
    administration.models,
    administration.checkpoint,
    administration.rollback,
    administration.export,
    administration.import_,
    upgrade.upgrade,
    repair.repair,
    doctor.doctor,
    bench.bench,
    serve.version,
)
for _command in _COMMANDS:
    app.command(_command.__name__.rstrip("_"))(_command)
app.add_typer(keys.app, name="keys")
app.add_typer(cluster.app, name="cluster")
app.add_typer(store.app, name="store")


def run() -> int:
    """Run the command of `sys.argv`, and return its exit code. An error is one line on standard error."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # it is a text file
    try:
        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except _UsageError as error:
        return _fail(_usage(error), 2)
    except CommandError as error:
        return _fail(str(error), error.code)
    except (ClientError, BNPError) as error:
        return _fail(str(error))
    except OSError as error:
        sys.stdout = None  # so that nothing is flushed at exit
        if isinstance(error, BrokenPipeError):  # the reader of the output has closed it
            return 1
        named = error.filename is not None
        return _fail(str(failure(str(error.filename) if named else "standard output", error)))
    if code == _INTERRUPTED:
        return _fail("Interrupted: no file was changed; a server keeps what it has learned.")
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int = 1) -> int:
    note(message)
    return code


def _usage(error: Exception) -> str:
    """Return the message for wrong options or arguments."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    if not str(error) or "NoArgsIsHelp" in type(error).__name__:  # the help is the message
        return str(error)
    if isinstance(error.__cause__, ValidationError) and option is not None:
        text = explain(error.__cause__.errors(include_url=False)[0], option.opts[0])
    else:
        text = error.format_message()  # type: ignore[attr-defined]  # all of them have it
    command = context.command_path if context is not None else app.info.name
    end = "" if text.endswith("?") else "."
    return f"{text.rstrip('.')}{end} See `{command} --help`."
