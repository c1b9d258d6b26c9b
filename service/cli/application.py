"""The commands, put together, and what becomes of errors."""

from __future__ import annotations

import sys

import typer

from bnp_online.client import ClientError, errors

from . import administration, bench, doctor, learning, replay, serve
from .output import CommandError

#: What typer ends with on Ctrl-C.
_INTERRUPTED = 130

app = typer.Typer(
    name="bnp-online",
    help="Neural networks that learn from every example the moment it arrives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(learning.learn)
app.command()(learning.predict)
app.command()(replay.replay)
app.command()(bench.bench)
app.command()(administration.models)
app.command()(administration.checkpoint)
app.command()(administration.rollback)
app.command()(administration.export)
app.command("import")(administration.import_)
app.command()(doctor.doctor)
app.command()(serve.version)


def run() -> int:
    """Run the command of `sys.argv`, and return its exit code."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            return _say("Interrupted: no file was changed; what a server has learned stays learned.", 1)
        return end.code if isinstance(end.code, int) else 0
    except CommandError as failure:
        return _say(str(failure), failure.code)
    except errors.AccessError as error:
        return _say(f"{error} Give a key with --key, or in BNP_API_KEY.", 1)
    except ClientError as error:
        return _say(str(error), 1)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = None  # so that nothing is flushed into it at the end
        return 1
    except OSError as error:
        return _say(f"{error.filename or ''}: {error.strerror}".lstrip(": "), 1)
    return 0


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
