"""Options and runs of the programs of this package."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..common.streams import FILES, load, names
from .contestant import Contestant
from .results import Results
from .runs import Job, measure

QUICK = 100


def add_options(parser: argparse.ArgumentParser, models: Sequence[str], default: Sequence[str]) -> None:
    """Add the options that the programs share.

    Parameters
    ----------
    parser : ArgumentParser
        Result of `arguments_of`.
    models : list of str
        Names of the contestants.
    default : list of str
        Default of ``--models``.
    """
    parser.add_argument(
        "--models", nargs="+", choices=models, default=default, metavar="NAME", help=", ".join(models)
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"folder with {' and '.join(FILES.values())}, and with streams NAME.npz (arrays X and y) in it "
        "or in its folder streams",
    )
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


def run(
    name: str, arguments: argparse.Namespace, contestants: Sequence[Contestant], console: Console
) -> Results:
    """Perform the runs that the results lack, with a progress bar; each is saved at its end."""
    limit = QUICK if arguments.quick else None
    facts = {name: load(name, limit, arguments.data_dir).describe() for name in arguments.streams}
    results = Results(name, arguments.out, facts, contestants, quick=arguments.quick)
    if arguments.keep:
        results.keep()
    try:
        jobs = list(_plan(results, facts, contestants, arguments))
        measure(jobs, arguments.jobs, console, results.add)
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
    limit = QUICK if arguments.quick else None
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    for stream, fact in facts.items():
        for contestant in contestants:
            if contestant.name not in arguments.models:
                continue
            for setting in contestant.settings(fact["features"]):
                for seed in seeds if contestant.seeded else [None]:
                    if not results.has(stream, contestant, setting, seed):
                        data_dir = arguments.data_dir
                        yield Job(stream, fact["samples"], limit, data_dir, contestant.name, setting, seed)
