"""Power load, predicted from temperature, wind and hour, with concept drift.

In the middle of the stream a heat pump is installed. Cold weather then causes a much higher load. The error
rises, and falls again as the learner adapts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

import bnp_online as bnp


def readings(n: int, seed: int = 0) -> Iterator[tuple[dict[str, float | None], float]]:
    """Yield sensor readings and the load; a failed sensor reads None."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        temperature, wind, hour = rng.normal(8, 8), rng.gamma(2, 2), i % 24
        heating = max(0.0, 18 - temperature) * (0.9 if i >= n // 2 else 0.2)
        load = 3 + heating * (1 + 0.05 * wind) + 2 * math.sin(hour * math.pi / 12) + rng.normal(0, 0.3)
        failed = rng.random() < 0.01
        yield {"temperature": None if failed else temperature, "wind": wind, "hour": float(hour)}, load


def main(n: int = 6000) -> list[float]:
    """Return the mean absolute error of each tenth of the stream."""
    model = bnp.BNPRegressor(hidden=(32,), device="cpu")
    errors: list[list[float]] = [[] for _ in range(10)]
    for i, (x, y) in enumerate(readings(n)):
        prediction = model.predict_one(x)
        if prediction is not None:
            errors[10 * i // n].append(abs(y - prediction))
        model.learn_one(x, y)
    means = [float(np.mean(part)) for part in errors]
    for tenth, mean in enumerate(means):
        note = " ← heat pump" if tenth == 5 else ""
        print(f"{tenth * n // 10:6} {'#' * round(10 * mean)} {mean:.2f}{note}")
    return means


if __name__ == "__main__":
    main()
