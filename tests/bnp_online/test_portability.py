"""The library runs without what only Linux has: fork, POSIX locks, ``/proc``."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Modules of the standard library that Windows lacks.
POSIX = {"fcntl", "grp", "posix", "pwd", "pty", "resource", "syslog", "termios", "tty"}

#: Learns, saves and loads with these modules and calls taken away.
PROGRAM = """
import os, sys, tempfile
from pathlib import Path
import numpy, numba, torch, river.base  # they may do as they like

for name in ("fork", "forkpty", "register_at_fork", "O_DIRECTORY", "sched_getaffinity", "getpriority"):
    if hasattr(os, name):
        delattr(os, name)
for name in {posix!r}:
    sys.modules[name] = None
opened = os.open

def open_file(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(path)  # as Windows does
    return opened(path, *args, **kwargs)

os.open = open_file
import bnp_online as bnp

for model in (bnp.BNPClassifier((3,)), bnp.BNPRegressor((3,), intervals=4),
              bnp.BNPClassifier((3,), engine="torch", device="cpu")):
    for i in range(30):
        model.learn_one({{"a": float(i % 3), "b": "xyz"[i % 3]}}, i % 2)
    path = os.path.join(sys.argv[1], "model")
    model.save(path)
    assert bnp.load(path).fingerprint() == model.fingerprint()
print("learned")
"""


def test_no_module_imports_what_windows_lacks() -> None:
    for path in (ROOT / "bnp_online").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = {node.module}
            assert not {name.partition(".")[0] for name in names} & POSIX, path
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(("/proc", "/dev", "/sys")), path


def test_it_learns_and_saves_without_posix(tmp_path: Path) -> None:
    program = PROGRAM.format(posix=sorted(POSIX - {"posix"}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "learned", answer.stderr
