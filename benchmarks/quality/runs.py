"""Runs of contestants over streams, in this process or in worker processes."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..common.program import one_thread
from ..common.streams import Stream, load
from .contestant import Contestant, Setting, Tick
from .rivals import BY_NAME


@dataclass(frozen=True)
class Job:
    """One run of a contestant.

    Attributes
    ----------
    stream : str
        Name.
    samples : int
        Length of the stream.
    limit, data_dir
        Arguments of `load`.
    model : str
        Name of the contestant.
    setting : dict
        One of its settings.
    seed : int or None
        None if the result does not depend on it.
    """

    stream: str
    samples: int
    limit: int | None
    data_dir: Path | None
    model: str
    setting: Setting
    seed: int | None


#: Function of (name, limit, data_dir) that returns a stream.
Load: TypeAlias = Callable[[str, int | None, Path | None], Stream]
#: Function that performs a job and returns the run as JSON.
Perform: TypeAlias = Callable[[Job, Tick], dict[str, Any]]


@functools.lru_cache(maxsize=1)
def load_once(load: Load, name: str, limit: int | None, data_dir: Path | None) -> Stream:
    """Return ``load(name, limit, data_dir)``, the same stream until another one is loaded."""
    return load(name, limit, data_dir)


def _ignore(n: int) -> None:
    """Ignore the progress."""


def perform(job: Job, tick: Tick = _ignore) -> dict[str, Any]:
    """Run a contestant over a stream, and return the run as JSON."""
    return record_of(job, load_once(load, job.stream, job.limit, job.data_dir), BY_NAME[job.model], tick)


def record_of(job: Job, stream: Stream, contestant: Contestant, tick: Tick) -> dict[str, Any]:
    """Run a contestant over a stream, and return the run as JSON."""
    run = contestant.run(stream, job.seed or 0, job.setting, tick)
    return {
        "stream": job.stream,
        "model": job.model,
        "setting": dict(job.setting),
        "seed": job.seed,
        "metrics": run.metrics,
        "seconds": round(run.seconds, 3),
        "samples_per_second": round(job.samples / run.seconds, 1),
    }


def measure(
    jobs: Sequence[Job],
    processes: int,
    console: Console,
    done: Callable[[dict[str, Any]], None],
    perform: Perform = perform,
) -> None:
    """Perform jobs with a progress bar, and pass on each run at its end.

    Parameters
    ----------
    jobs : list of Job
        Jobs in starting order.
    processes : int
        Number of worker processes; 1 runs the jobs in this process.
    console : Console
        Console of the progress bar.
    done : callable
        Takes each run.
    perform : callable of (Job, Tick)
        Performs a job; a function of a module, which worker processes import.
    """
    bar = Progress(
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
    )
    with bar:
        task = bar.add_task("", total=sum(job.samples for job in jobs))
        finished = 0
        for job, record in (
            _here(jobs, perform, bar, task) if processes == 1 else _beside(jobs, perform, processes)
        ):
            finished += job.samples
            bar.update(task, completed=finished, description=f"{job.stream}: {job.model}")
            done(record)


def _here(
    jobs: Sequence[Job], perform: Perform, bar: Progress, task: TaskID
) -> Iterator[tuple[Job, dict[str, Any]]]:
    one_thread()
    finished = 0
    for job in jobs:
        bar.update(task, description=f"{job.stream}: {job.model}")
        yield job, perform(job, functools.partial(_advance, bar, task, finished))
        finished += job.samples


def _advance(bar: Progress, task: TaskID, before: int, n: int) -> None:
    bar.update(task, completed=before + n)


def _beside(jobs: Sequence[Job], perform: Perform, processes: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")  # torch and numba do not survive a fork
    with ProcessPoolExecutor(processes, context, initializer=one_thread) as pool:
        futures = {pool.submit(perform, job, _ignore): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
