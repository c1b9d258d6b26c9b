"""``python -m tools.audit``: licences and known vulnerabilities of the installed packages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions

#: Permissive licences, as written in expressions, old fields and classifiers.
PERMISSIVE = re.compile(
    r"(?:the )?(?:0BSD|3-Clause BSD|Apache|BSD|BSL-1\.0|CC0|HPND|ISC|MIT|PSF|Python Software Foundation|"
    r"Unlicense|Zlib|ZPL-2\.1)\b",
    re.IGNORECASE,
)
#: Reviewed packages: their licences cover their own files, which are neither changed nor copied here.
#: (axe-playwright-python names none: its repository says MIT, and its copy of axe-core MPL-2.0.)
#: (tqdm, in part under the MPL, is needed by a tool of the tests.)
#: (psycopg, under the LGPL, is an extra that users install and can replace.)
REVIEWED = {
    "axe-playwright-python",
    "certifi",
    "hypothesis",
    "orjson",
    "pathspec",
    "psycopg",
    "psycopg-binary",
    "riverapi",
    "tqdm",
}


def licences(package: Distribution) -> list[str]:
    """Return the licences in the metadata of a package; all must be permissive."""
    data = package.metadata
    if "License-Expression" in data:
        return [word.strip(" ()") for word in re.split(r"\b(?:AND|OR)\b", data["License-Expression"])]
    found = [
        classifier.rpartition(" :: ")[2]
        for classifier in data.get_all("Classifier", [])
        if classifier.startswith("License :: ") and not classifier.endswith(("OSI Approved", "DFSG approved"))
    ]
    return found or list(filter(None, (data.get_all("License") or [""])[0].splitlines()[:1]))


def doubtful(packages: Iterable[Distribution]) -> Iterator[str]:
    """Yield a line for each package whose licence is unknown, or neither permissive nor reviewed."""
    for package in packages:
        said = licences(package)
        known = package.name.lower() in REVIEWED
        if not known and not (said and all(PERMISSIVE.match(licence) for licence in said)):
            yield f"{package.name} {package.version}: {', '.join(said) or 'no licence in its metadata'}"


def main() -> None:
    """Print the problems; exit code 1 if there are any, or if pip-audit failed."""
    problems = sorted(set(doubtful(distributions())))
    print("Licences:", *(problems or ["all permissive or reviewed"]), sep="\n  ")
    print("Known vulnerabilities:", flush=True)
    asked = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"],
        check=False,
    )
    if asked.returncode:
        print("  pip-audit found vulnerabilities or failed; see above.")
    sys.exit(1 if problems or asked.returncode else 0)


if __name__ == "__main__":
    main()
