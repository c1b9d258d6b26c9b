"""Fraud detection: 5% of the payments are frauds, and each label arrives 500 payments later.

`prequential(delay=500)` predicts each payment at once, and scores and learns it when its label arrives. The
frauds change their pattern in the middle of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import bnp_online as bnp
from bnp_online.evaluation.prequential import prequential

DELAY = 500


def payments(n: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield payments, each with its label: fraud or not."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        fraud = bool(rng.random() < 0.05)
        night = rng.random() < (0.7 if fraud else 0.1)
        online = rng.random() < (0.9 if fraud and i >= n // 2 else 0.4)
        abroad = rng.random() < (0.5 if fraud else 0.02)
        amount = rng.lognormal(4.0 if fraud and i < n // 2 else 3.0, 0.7)
        yield (
            {
                "amount": float(amount),
                "hour": int(rng.integers(0, 6) if night else rng.integers(6, 24)),
                "country": "XX" if abroad else str(rng.choice(["SE", "DK"])),
                "online": bool(online),
            },
            fraud,
        )


def main(n: int = 6000) -> dict[str, float]:
    """Return the area under the ROC curve with immediate and with delayed labels."""
    found = {}
    for name, delay in (("at once", None), (f"{DELAY} late", DELAY)):
        learner = bnp.BNPClassifier(hidden=(32,), device="cpu")
        result = prequential(payments(n), learner, "classification", delay=delay)
        found[name] = result.metrics["ROCAUC"]
        print(f"labels {name}: area under the ROC curve {found[name]:.3f}")
    return found


if __name__ == "__main__":
    main()
