"""Take pip, and what could bring it back, out of the Python that runs this. Called by the Dockerfile."""

import shutil
import sysconfig
from pathlib import Path

NAMES = ("pip", "setuptools", "pkg_resources", "wheel", "ensurepip", "_distutils_hack")

# The official base image keeps its packages in site-packages, Debian's in dist-packages.
libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/lib/python3/dist-packages"}
for library in map(Path, libraries):
    for name in NAMES:
        shutil.rmtree(library / name, ignore_errors=True)
        for metadata in (*library.glob(f"{name}-*.dist-info"), *library.glob(f"{name}-*.egg-info")):
            shutil.rmtree(metadata)
    (library / "distutils-precedence.pth").unlink(missing_ok=True)

for folder in (Path("/usr/local/bin"), Path("/usr/bin")):
    for pattern in ("pip", "pip3", "pip3.*", "pip-3.*", "wheel", "easy_install*"):
        for command in folder.glob(pattern):
            command.unlink()
