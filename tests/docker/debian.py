"""Images of Debian's programs, in place of official ones where no registry can be reached."""

import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docker.stack import docker

#: Libraries of the base image: another version of these would not fit its loader.
_BASE = re.compile(r"/(ld-linux|libc\.so|libm\.so|libpthread|libdl\.so|librt\.so)")


def libraries(files: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that programs and libraries need, without the base image's."""
    found: set[Path] = set()
    for file in files:
        listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"=> (/\S+)", listed) if not _BASE.search(path)}
    return found


@contextmanager
def built(folder: Path, name: str, dockerfile: str) -> Iterator[str]:
    """Build an image of a folder without a network, and remove it in the end."""
    (folder / "Dockerfile").write_text(dockerfile)
    tag = f"{name}:{secrets.token_hex(4)}"
    docker("build", "--network", "none", "--tag", tag, str(folder))
    try:
        yield tag
    finally:
        docker("image", "rm", "--force", tag)


def copy_libraries(files: Iterable[Path], folder: Path) -> None:
    """Copy the shared libraries of programs into a folder."""
    folder.mkdir()
    for path in libraries(files):
        shutil.copy(path, folder / path.name)


def package_of(program: Path, name: str) -> Path:
    """Return a program, which must be installed."""
    if not program.exists():
        pytest.fail(f"There is no {program} to put into an image: install Debian's package {name}.")
    return program
