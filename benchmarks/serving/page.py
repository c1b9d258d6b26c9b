"""Frames and blocking of the dashboard in Chromium.

Chromium shows the dashboard of a server that learns samples at a fixed rate. The page counts frames, long
tasks of its main thread and changes of its text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright
from rich.console import Console
from rich.progress import Progress

from ..common.program import Content, arguments_of, run
from ..common.report import Cell, Table
from .client import Connection
from .server import serve

RATES = (0, 500, 5000)
#: Samples in a request of the stream; requests a second follow from the rate.
LINES, FEATURES = 100, 8
#: Seconds before counting starts: the page has loaded, the server has compiled.
WARM = 4.0
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]

#: Script that counts in the page.
_COUNT = """
async (milliseconds) => {
  const found = { frames: [], blocked: [], changes: 0 };
  new PerformanceObserver((list) => found.blocked.push(...list.getEntries().map((e) => e.duration)))
    .observe({ type: "longtask" });
  new MutationObserver(() => found.changes++)
    .observe(document.getElementById("tile-step"), { subtree: true, childList: true, attributes: true });
  const until = performance.now() + milliseconds;
  let last = performance.now();
  await new Promise((done) => {
    const frame = (now) => {
      found.frames.push(now - last);
      last = now;
      if (now < until) requestAnimationFrame(frame);
      else done();
    };
    requestAnimationFrame(frame);
  });
  return { ...found, heap: performance.memory?.usedJSHeapSize ?? 0 };
}
"""


def _line(n: int) -> str:
    x = {f"feature{i}": (n * (i + 3)) % 17 / 17 for i in range(FEATURES)}
    return json.dumps({"x": x, "y": ["red", "green", "blue"][n % 3]})


async def _teach(port: int, rate: int, until: float) -> int:
    """Learn at a rate of samples a second; return the number of learned samples."""
    connection, sent, begun = Connection("127.0.0.1", port), 0, time.perf_counter()
    while rate and (now := time.perf_counter()) < until:
        if sent < rate * (now - begun):
            body = "\n".join(_line(sent + i) for i in range(LINES)).encode()
            await connection.post("/learn", body, "application/x-ndjson")
            sent += LINES
        else:
            await asyncio.sleep(0.002)
    await connection.close()
    return sent


async def _measure(page: Any, url: str, port: int, rate: int, seconds: float) -> dict[str, Any]:
    """Return the counts of the page at one rate."""
    await Connection("127.0.0.1", port).post("/learn", _line(0).encode())
    await page.goto(url)
    begun = time.perf_counter()
    teaching = asyncio.create_task(_teach(port, rate, begun + WARM + seconds))
    await asyncio.sleep(WARM)
    counted = await page.evaluate(_COUNT, 1000.0 * seconds)
    sent = await teaching
    frames = sorted(counted["frames"])
    return {
        "rate": rate,
        "learned_per_second": round(sent / (WARM + seconds)),
        "frames_per_second": round(len(frames) / seconds, 1),
        "frame_ms_p99": round(frames[int(0.99 * len(frames))], 1),
        "blocked_ms_per_second": round(sum(counted["blocked"]) / seconds, 1),
        "longest_block_ms": round(max(counted["blocked"], default=0.0), 1),
        "changes_per_second": round(counted["changes"] / seconds, 1),
        "heap_mib": round(counted["heap"] / 2**20, 1),
    }


async def _run(chromium: str, seconds: float, progress: Progress) -> list[dict[str, Any]]:
    found = []
    task = progress.add_task("watching", total=len(RATES))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
                page = await browser.new_page()
                found.append(await _measure(page, server.url, server.port, rate, seconds))
                await page.close()
            progress.advance(task)
        await browser.close()
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """Return the counts, a row for each rate."""
    names = {
        "learned_per_second": "learned a second",
        "frames_per_second": "frames a second",
        "frame_ms_p99": "99% of frames within, ms",
        "blocked_ms_per_second": "blocked, ms a second",
        "longest_block_ms": "longest block, ms",
        "changes_per_second": "changes a second",
        "heap_mib": "heap, MiB",
    }
    rows = [[Cell(f"{each[name]:,}") for name in names] for each in found]
    return Table("The page at three rates", list(names.values()), rows)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the counts at each rate."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("python -m benchmarks page needs Chromium (apt-get install chromium)")
    with Progress(console=console) as progress:
        return {"rates": asyncio.run(_run(chromium, arguments.seconds, progress))}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("page", __doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="counted at each rate")
    run("page", parser.parse_args(argv), measure, lambda content: {"page": [table(content["rates"])]})
