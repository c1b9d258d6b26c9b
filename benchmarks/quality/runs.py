"""Runs contestants over streams, here or in processes beside this one."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..common.program import one_thread
from ..common.streams import Stream, load
from .contestant import Setting, Tick
from .rivals import CONTESTANTS

_BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes
    ----------
    stream : str
        Name.
    samples : int
        How many there are.
    limit, data_dir
        What `load` takes.
    model : str
        Name of the contestant.
    setting : dict
        One of its settings.
    seed : int or None
        None where it makes no difference.
    """

    stream: str
    samples: int
    limit: int | None
    data_dir: Path | None
    model: str
    setting: Setting
    seed: int | None


@functools.lru_cache(maxsize=1)
def _stream(name: str, limit: int | None, data_dir: Path | None) -> Stream:
    return load(name, limit, data_dir)


def _ignore(n: int) -> None:
    """Take a tick that nobody watches."""


def perform(job: Job, tick: Tick = _ignore) -> dict[str, Any]:
    """Run a contestant over a stream, and return the run as JSON."""
    stream = _stream(job.stream, job.limit, job.data_dir)
    run = _BY_NAME[job.model].run(stream, job.seed or 0, job.setting, tick)
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
    jobs: Sequence[Job], processes: int, console: Console, done: Callable[[dict[str, Any]], None]
) -> None:
    """Perform jobs, with a progress bar in samples, and hand over each run as soon as it has ended.

    Parameters
    ----------
    jobs : list of Job
        In the order in which they begin.
    processes : int
        How many run at a time; 1 is this process.
    console : Console
        Where the bar goes.
    done : callable
        Takes the runs.
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
        for job, record in _here(jobs, bar, task) if processes == 1 else _beside(jobs, processes):
            finished += job.samples
            bar.update(task, completed=finished, description=f"{job.stream}: {job.model}")
            done(record)


def _here(jobs: Sequence[Job], bar: Progress, task: TaskID) -> Iterator[tuple[Job, dict[str, Any]]]:
    one_thread()
    finished = 0
    for job in jobs:
        bar.update(task, description=f"{job.stream}: {job.model}")
        yield job, perform(job, functools.partial(_advance, bar, task, finished))
        finished += job.samples


def _advance(bar: Progress, task: TaskID, before: int, n: int) -> None:
    bar.update(task, completed=before + n)


def _beside(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")  # torch and numba do not survive a fork
    with ProcessPoolExecutor(processes, context, initializer=one_thread) as pool:
        futures = {pool.submit(perform, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
