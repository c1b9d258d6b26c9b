"""Options shared by several commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

import httpx
import typer

from bnp_online.client import Client, ClientError
from bnp_online.client.clients import DEFAULT_URL
from bnp_online.client.errors import (
    NoAnswerError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownModelError,
)
from bnp_online.client.schemas import DEFAULT_MODEL, Task

from .output import CommandError, file_errors, note

if TYPE_CHECKING:
    from bnp_online.files import Samples

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="BNP_API_KEY", help="API key, where one is needed.", show_envvar=True),
]
Url: TypeAlias = Annotated[
    str | None, typer.Option(help="URL of a running server; default: in this process.")
]
ServerUrl: TypeAlias = Annotated[str, typer.Option("--url", help="URL of the server.")]
Model: TypeAlias = Annotated[
    str | None, typer.Option("--model", "-m", help="Name of a model of the server; default: default.")
]
ServerModel: TypeAlias = Annotated[str, typer.Option("--model", "-m", help="Name of the model.")]
ModelArgument: TypeAlias = Annotated[str, typer.Argument(help="Name of the model.")]
Load: TypeAlias = Annotated[Path | None, typer.Option(help="Model file, written by --save or export.")]

__all__ = ["DEFAULT_MODEL", "DEFAULT_URL", "SampleFile", "connected", "nearest", "reads_samples"]


@dataclass(frozen=True)
class SampleFile:
    """File of samples: the options that say how it is read."""

    file: Annotated[
        str,
        typer.Argument(help="CSV, TSV, NDJSON, Parquet or Arrow file, also compressed; - is standard input."),
    ]
    target: Annotated[
        str | None, typer.Option(help="Column with the target; lines with x and y need none.")
    ] = None
    form: Annotated[
        Literal["csv", "tsv", "ndjson", "parquet", "arrow"] | None,
        typer.Option("--format", help="Format; default: by the name and the content of the file."),
    ] = None
    sep: Annotated[
        str | None,
        typer.Option(metavar="CHARACTER", help="Separator of columns; default: by the content."),
    ] = None
    decimal: Annotated[Literal[".", ","], typer.Option(help="Decimal sign of numbers.")] = "."
    na: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Word for a missing value, in the target too; repeatable."),
    ] = None
    drop: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out; repeatable.")
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column to keep although each row has another value; repeatable."
        ),
    ] = None
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column with text, which is split into words; repeatable."),
    ] = None
    labels: Annotated[
        Literal["str", "int"] | None, typer.Option(help="Type of the classes; default: by the column.")
    ] = None
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the text; default: UTF-8, or UTF-16 if it begins so.")
    ] = None
    dates: Annotated[
        Literal["calendar", "raw", "drop"],
        typer.Option(help="Dates as seconds and calendar features, as seconds alone, or left out."),
    ] = "calendar"

    @property
    def name(self) -> str:
        """Name of the file, without its folder."""
        return "standard input" if self.file == "-" else Path(self.file).name

    def rows(
        self,
        *,
        labelled: bool,
        task: Task = "classification",
        features: Collection[str] = (),
        fields: Collection[str] = (),
        text: Collection[str] = (),
    ) -> Samples:
        """Open the file, and return its rows in order.

        Parameters
        ----------
        labelled : bool
            Whether a row without a target is invalid.
        task : {"classification", "regression"}
            Task of the model.
        features : collection of str
            Columns of the model so far: a feature with columns ``name=value`` is read as strings again,
            another one as numbers, and calendar features that the model has are there again.
        fields : collection of str
            Features of the model with words, or with more values than columns: they are read as strings.
        text : collection of str
            Columns with text: they are read as strings, although each row has another one.
        """
        from bnp_online.files import read_samples, string_features  # late: pyarrow

        for name in self.text or ():
            if name == self.target or name in (self.drop or ()):
                other = "--target" if name == self.target else "--drop"
                raise CommandError(f"{other} and --text both name {name!r}: leave out one of them.", 2)
        with file_errors(self.file):
            return read_samples(
                self.file,
                self.target,
                labelled=labelled,
                format=self.form,
                sep=self.sep,
                decimal=self.decimal,
                na=tuple(self.na or ()),
                drop=tuple(self.drop or ()),
                keep={*(self.keep or ()), *(self.text or ())},
                texts={*text, *(self.text or ())},
                strings={*string_features(features), *fields},
                numbers=features,
                labels=self.labels,
                encoding=self.encoding,
                dates=self.dates,
                calendar=features,
                task=task,
                notice=note,
            )


def reads_samples(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `source` of a command by the options of `SampleFile`."""
    hints = get_type_hints(SampleFile, include_extras=True)
    given = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in dataclasses.fields(SampleFile)
    ]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(source=SampleFile(**{each.name: options.pop(each.name) for each in given}), **options)

    signature = inspect.signature(command, eval_str=True)
    own = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if name != "source"
    ]
    run.__signature__ = signature.replace(parameters=[*given, *own])  # type: ignore[attr-defined]  # for typer
    return run


@contextlib.contextmanager
def connected(url: str, key: str | None, patience: float = 2.0) -> Iterator[Client]:
    """Yield a client for the server at a URL; errors that concern the connection name the remedy."""
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"{url} is not the URL of a server: it must begin with http:// or https://", 2)
    if not url.partition("://")[2].strip("/"):
        raise CommandError(f"{url} is not the URL of a server: it has no host", 2)
    key = None if key is None else key.strip()
    if key is not None and not (key.isascii() and key.isprintable()):
        raise CommandError("The key has a character that no key has: check --key, or BNP_API_KEY", 2)
    try:
        client = Client(url, key=key, patience=patience)
    except httpx.InvalidURL as error:
        raise CommandError(f"{url} is not the URL of a server: {error}", 2) from None
    with client:
        try:
            yield client
        except NoAnswerError as error:
            raise CommandError(f"{error}: {_remedy(url, str(error))}") from None
        except UnexpectedAnswerError:
            raise CommandError(
                f"{url} does not answer as a server of bnp-online does: check the host and the port"
            ) from None
        except UnauthorizedError as error:
            raise CommandError(f"{error}: give a key with --key, or in BNP_API_KEY") from None
        except UnknownModelError as error:
            raise CommandError(_unknown_model(client, str(error))) from None


def _remedy(url: str, reason: str) -> str:
    if url.startswith("https://") and "SSL" in reason:
        if "CERTIFICATE" in reason:
            return "set SSL_CERT_FILE to the certificate of its authority"
        return f"its port may have no TLS: try http://{url.removeprefix('https://')}"
    return "start a server with `bnp-online serve`, or correct --url"


def nearest(name: str, names: list[str]) -> str:
    """Return a hint to the most similar name, or to all names if there are few; empty without any."""
    if near := get_close_matches(name, names, 1):
        return f"did you mean {near[0]!r}?"
    return f"the names are {', '.join(map(repr, names))}" if 0 < len(names) <= 20 else ""


def _unknown_model(client: Client, reason: str) -> str:
    """Return the message for a model that the server does not have."""
    names: list[str] = []
    with contextlib.suppress(ClientError):  # the key may not list them
        names = [model.name for model in client.models().models]
    found = re.search(r"'(.*)'", reason)
    hint = nearest(found[1] if found else "", names)
    return f"{reason.partition(':')[0]} at {client.url}: {hint or '`bnp-online models` lists them'}"
