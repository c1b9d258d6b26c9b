"""What the container looks like from inside: `python probe.py QUESTION` prints the answer as JSON.

Only the standard library: test_compose.py sends this file to the Python of the image.
"""

import errno
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = {
    "compilers": "gcc g++ cc c++ clang cpp as ld rustc cargo go make cmake ninja",
    "installers": "pip pip3 uv conda easy_install git",
}
MODULES = ["pip", "ensurepip", "setuptools", "wheel", "pkg_resources"]
FIND = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"


def server_status() -> dict[str, str]:
    """Give what the kernel says of the server's process."""
    lines = Path("/proc/1/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def refused_writes() -> dict[str, str]:
    """Give what happens on writing into folders outside the volume."""
    answers = {}
    for folder in ("/", "/etc", "/opt", "/opt/venv", "/usr/local", "/home", "/var"):
        try:
            Path(folder, "probe").write_bytes(b"")
        except OSError as error:
            answers[folder] = errno.errorcode[error.errno or 0]
        else:
            answers[folder] = "written"
    return answers


def writable_folders() -> dict[str, str]:
    """Give every folder that the user may write into, with the kind of its file system."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    kinds = {folder: kind for _, folder, kind, *_ in map(str.split, mounts)}
    writable = {}
    for folder, names, _ in os.walk("/"):
        names[:] = [name for name in names if os.path.join(folder, name) not in ("/proc", "/sys")]
        if os.access(folder, os.W_OK):
            up = map(str, (Path(folder), *Path(folder).parents))
            writable[folder] = next(kinds[mount] for mount in up if mount in kinds)
    return writable


def tools() -> list[str]:
    """Give what there is to build or install with: commands, and modules of both Pythons."""
    found = [tool for kind in TOOLS.values() for tool in kind.split() if shutil.which(tool)]
    for python in ("/opt/venv/bin/python", os.path.realpath("/opt/venv/bin/python")):
        run = subprocess.run([python, "-c", FIND, *MODULES], capture_output=True, text=True, check=True)
        found += run.stdout.split()
    return found


def versions() -> dict[str, str]:
    """Give the version of every installed package."""
    return {package.name: package.version for package in importlib.metadata.distributions()}


QUESTIONS = {
    question.__name__: question
    for question in (server_status, refused_writes, writable_folders, tools, versions)
}

if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]]()))
