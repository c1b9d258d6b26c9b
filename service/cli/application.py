"""Command-line program: its commands, and the messages and exit codes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from bnp_online.client import ClientError, errors

from . import administration, bench, demo, doctor, keys, learning, repair, serve
from .output import CommandError, note

#: Exit code of typer after Ctrl-C.
_INTERRUPTED = 130

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
    learning.predict,
    learning.replay,
    administration.models,
    administration.checkpoint,
    administration.rollback,
    administration.export,
    administration.import_,
    repair.repair,
    doctor.doctor,
    bench.bench,
    serve.version,
)
for _command in _COMMANDS:
    app.command(_command.__name__.rstrip("_"))(_command)
app.add_typer(keys.app, name="keys")


def run() -> int:
    """Run the command of `sys.argv`, and return its exit code."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            return _fail("Interrupted: no file was changed; a server keeps what it has learned.")
        return end.code if isinstance(end.code, int) else 0
    except CommandError as failure:
        return _fail(str(failure), failure.code)
    except errors.AccessError as error:
        return _fail(f"{error} Give a key with --key, or in BNP_API_KEY.")
    except ClientError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stdout = None  # so that nothing is flushed at exit
        return 1
    except OSError as error:
        return _fail(f"{error.filename or ''}: {error.strerror}".lstrip(": "))
    return 0


def _fail(message: str, code: int = 1) -> int:
    note(message)
    return code
