"""Everything at once: learners, administrators, full disks, signals and kills at any moment.

After each start, every model is compared with an independent replay of the log, and every file of the data
folder is searched for content that was deleted. ``BNP_TEST_SEED`` repeats the choices of a run, not the order
of its threads.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.support.chaos import Chaos

#: `make torture` takes five minutes.
SECONDS = float(os.environ.get("BNP_TEST_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("BNP_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
#: Runs with one data folder. Then a new one is taken, so that replays stay short.
RUNS = 12


def run(folder: Path, seed: int, seconds: float, prefix: str = "") -> None:
    """Let servers end at any moment; fail at the first broken promise.

    Parameters
    ----------
    folder : path
        Folder of the data folders.
    seed : int
        Seed of the first data folder. It rises by one with each.
    seconds : float
        Duration, roughly.
    prefix : str
        Python code that each server runs first.
    """
    begun = time.monotonic()
    for number in itertools.count():
        chaos = Chaos(folder / str(number), seed + number, prefix)
        try:
            for _ in range(RUNS):
                chaos.run()
                print(f"{time.monotonic() - begun:4.0f} s {chaos.report()}", file=sys.stderr, flush=True)
                if time.monotonic() - begun > seconds:
                    return
        finally:
            chaos.server.kill()


@pytest.mark.timeout(SECONDS + 240)
def test_all_promises_hold_after_any_end(tmp_path: Path) -> None:
    print(f"BNP_TEST_SEED={SEED}", file=sys.stderr)
    run(tmp_path, SEED, SECONDS)


#: Faults of a server. The test above must find each of them.
FAULTS = {
    "an event is not applied": """
from service.models.hosted import HostedModel
real, count = HostedModel._accept, iter(range(10**9))
def accept(self, entry, prediction, step, drifts):
    if next(count) == 40:
        return {"model": self.name, "step": step, "prediction": None, "loss": None, "duplicate": False}
    return real(self, entry, prediction, step, drifts)
HostedModel._accept = accept
""",
    "answers before the commit": """
import random
from service.storage.sqlite import SqliteLog
real = SqliteLog.append
def append(self, groups):
    if random.random() > 0.03:
        return real(self, groups)
    return [self.head(group.model) + sum(each.samples for each in group.events) for group in groups]
SqliteLog.append = append
""",
    "nothing is erased": """
from service.storage.sqlite_erasure import Erasure
Erasure.erase = lambda self, remove: remove()
""",
    "unlearning changes the log alone": """
from service.models.operations import Operations
def swap(self, model, version):
    self._checkpointer.paused = False
Operations._swap = swap
""",
    "a replay takes all weights as 1": """
from service.storage import event_codec
real = event_codec.read_sample
event_codec.read_sample = lambda event: real(event)._replace(w=1.0)
""",
    "a replay takes no drift action": """
from service.models.drift import Drift
Drift.ready = lambda self, step: False
""",
    "a deletion is not logged": """
from service.storage.sqlite import SqliteLog
SqliteLog.drop = lambda self, model: None
""",
}


@pytest.mark.fuzz
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(tmp_path: Path, fault: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="problems"):
        run(tmp_path, 1, 180.0, FAULTS[fault])
