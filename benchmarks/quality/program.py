"""Options and runs of the programs of this package."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..common.streams import FILES, load, names, place
from .contestant import Contestant
from .results import Results
from .runs import Job, Load, Perform, measure, perform

QUICK = 100
_FOLDER = (
    f"folder with {' and '.join(FILES.values())}, and with streams NAME.npz (arrays X and y) in it or in its "
    "folder streams"
)


def add_options(
    parser: argparse.ArgumentParser,
    models: Sequence[str],
    default: Sequence[str],
    folder: str = _FOLDER,
) -> None:
    """Add the options that the programs share.

    Parameters
    ----------
    parser : ArgumentParser
        Result of `arguments_of`.
    models : list of str
        Names of the contestants.
    default : list of str
        Default of ``--models``.
    folder : str
        Help of ``--data-dir``.
    """
    parser.add_argument(
        "--models", nargs="+", choices=models, default=default, metavar="NAME", help=", ".join(models)
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=folder)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples of each stream at most")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="continue: keep the runs of the same versions in the JSON, and add the others",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each in a process")


def check_streams(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with a usage error if ``--streams`` names an unknown stream, or one that needs ``--data-dir``."""
    known = names(arguments.data_dir)
    for name in arguments.streams:
        if name in FILES and arguments.data_dir is None:
            parser.error(f"{name}: --data-dir is needed")
        if name not in known:
            parser.error(f"{name}: no such stream or file in --data-dir; known: {', '.join(known)}")


@dataclass(frozen=True)
class Suite:
    """Streams and contestants of a program.

    Attributes
    ----------
    contestants : sequence of Contestant
        In the order of the tables.
    load : callable of (name, limit, data_dir)
        Returns a stream.
    place : callable of (name, facts)
        Returns the place of a stream in the tables.
    perform : callable of (Job, Tick)
        Performs a run; a function of a module.
    """

    contestants: Sequence[Contestant]
    load: Load = load
    place: Callable[[str, Mapping[str, Any]], Any] = place
    perform: Perform = perform


def limit_of(arguments: argparse.Namespace) -> int | None:
    """Return the greatest number of samples of a stream; None without a limit."""
    limits = [QUICK] if arguments.quick else []
    return min([*limits, *([] if arguments.limit is None else [arguments.limit])], default=None)


def run(name: str, arguments: argparse.Namespace, suite: Suite, console: Console) -> Results:
    """Perform the runs that the results lack, with a progress bar; each is saved at its end."""
    limit = limit_of(arguments)
    facts = {name: suite.load(name, limit, arguments.data_dir).describe() for name in arguments.streams}
    results = Results(name, arguments.out, facts, suite.contestants, quick=arguments.quick, place=suite.place)
    if arguments.keep:
        results.keep()
    try:
        jobs = list(_plan(results, facts, suite.contestants, arguments))
        measure(jobs, arguments.jobs, console, results.add, suite.perform)
    finally:
        results.save()
    return results


def _plan(
    results: Results,
    facts: Mapping[str, Any],
    contestants: Sequence[Contestant],
    arguments: argparse.Namespace,
) -> Iterator[Job]:
    """Yield the requested runs that the results lack."""
    limit = limit_of(arguments)
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    for stream, fact in facts.items():
        for contestant in contestants:
            if contestant.name not in arguments.models:
                continue
            for setting in contestant.settings(fact):
                for seed in seeds if contestant.seeded else [None]:
                    if not results.has(stream, contestant, setting, seed):
                        data_dir = arguments.data_dir
                        yield Job(stream, fact["samples"], limit, data_dir, contestant.name, setting, seed)
