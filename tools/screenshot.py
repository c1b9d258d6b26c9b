"""``python -m tools.screenshot``: takes the picture of the dashboard in the README and the tutorial.

A server learns three data sets of River, most samples as streams and the last ones in single requests.
Chromium then shows the page of the first one. Without ``--out`` the picture of record is replaced.
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from bnp_online.client import Client
from service.cli.launch import ServerProcess

OUT = Path(__file__).parents[1] / "docs" / "images" / "dashboard.png"
#: Samples of each model that are sent in single requests, before the page is opened and while it is open.
_SINGLE = 20
#: Colours of the picture, which keep its file small.
_COLOURS = 256
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu"]


def streams() -> dict[str, tuple[str, Callable[[], Iterable[tuple[dict[str, Any], Any]]]]]:
    """Return task and data set of each model, by its name."""
    from river import datasets  # late: it takes a second

    return {
        "default": ("classification", datasets.ImageSegments),
        "approval": ("regression", datasets.TrumpApproval),
        "phishing": ("classification", datasets.Phishing),
    }


def teach(client: Client, samples: int | None) -> Iterable[tuple[dict[str, Any], Any]]:
    """Let the server learn, and return the last samples of the first model, for when the page is open."""
    rest: list[tuple[dict[str, Any], Any]] = []
    for name, (task, stream) in streams().items():
        if name != "default":
            client.create(name, task)
        known = [*itertools.islice(stream(), samples)]
        known, last = known[: -2 * _SINGLE], known[-2 * _SINGLE :]
        client.learn_many(known, model=name)
        for x, y in last[:_SINGLE]:
            client.learn_one(x, y, model=name)
        rest = rest or last[_SINGLE:]
    return rest


def shoot(
    url: str, client: Client, rest: Iterable[tuple[dict[str, Any], Any]], width: int, height: int
) -> bytes:
    """Return the picture of the page, once it shows the samples that are learned while it is open."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("Chromium is needed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.goto(url)
        page.locator("#status[data-state=live]").wait_for()
        page.locator("#score canvas").wait_for()
        for x, y in rest:
            client.learn_one(x, y)
        step = client.describe("default").step
        page.locator(f'#tile-step data[value="{step}"]').wait_for()
        page.locator("#overview-list td:nth-child(5)", has_text="/s").first.wait_for()
        picture = page.screenshot()
        browser.close()
    return picture


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.screenshot", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=OUT, help="PNG to write")
    parser.add_argument("--samples", type=int, help="samples of each model, at least 41 (default: all)")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=950)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"BNP_PORT": "0", "BNP_DATA_DIR": folder, "BNP_LOG_LEVEL": "info"}
        with ServerProcess(environment=settings) as server:
            url = server.ready()
            with Client(url) as client:
                rest = teach(client, arguments.samples)
                picture = shoot(url, client, rest, arguments.width, arguments.height)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps small dots
    image.save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
