"""Regret of contextual bandits.

*linear*: five arms, ten features of scales from 0.1 to 10 with means of some deviations, rewards linear in
them, and noise. *ImageSegments*: a classification, whose arms are the classes and whose reward is 1 for the
right one. Policies with a setting take its best value on each problem, in hindsight (*).

References
----------
L. Li et al., *A contextual-bandit approach to personalized news article recommendation*, WWW 2010: LinUCB.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from river import bandit, preprocessing
from river.bandit.base import ArmID, ContextualPolicy

from bnp_online.contrib.bandit import BNPThompsonSampling

from ..common import streams
from ..common.report import Cell, Table
from .program import Results, arguments_of, run

Array = NDArray[np.float64]
DECISIONS = 2000
#: Context, mean reward of each arm, and the reward that it would give now.
Round = tuple[dict[str, float], Array, Array]


class PlainThompsonSampling(BNPThompsonSampling):
    """Thompson sampling without preconditioning: SGLD on the raw contexts, at a given rate."""

    def __init__(self, rate: float = 1e-3, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.rate = rate

    def _phi(self, x: Array) -> Array:
        return np.concatenate([np.ones((*x.shape[:-1], 1)), x], axis=-1)

    def _rate(self, arm: Any, noise: float) -> float:
        return min(self.rate, 16 / len(arm.rewards))


class EpsilonGreedy(BNPThompsonSampling):
    """ε-greedy policy on the same models, without noise."""

    def __init__(self, epsilon: float = 0.05, seed: int = 0) -> None:
        super().__init__(temperature=0.0, seed=seed)
        self.epsilon = epsilon

    def _pull(self, arm_ids: list[ArmID], context: dict[str, Any]) -> ArmID:  # type: ignore[override]  # as in River
        if self._rng.random() < self.epsilon:
            return arm_ids[int(self._rng.integers(len(arm_ids)))]
        return super()._pull(arm_ids, context)


class StandardizedLinUCB:
    """River's LinUCB on contexts standardized by River."""

    def __init__(self, seed: int) -> None:
        self._policy = bandit.LinUCBDisjoint(seed=seed)
        self._scaler = preprocessing.StandardScaler()

    def pull(self, arm_ids: list[ArmID], context: dict[str, float]) -> ArmID:
        """Pull an arm."""
        self._scaler.learn_one(context)
        return self._policy.pull(arm_ids, self._scaler.transform_one(context))

    def update(self, arm_id: ArmID, context: dict[str, float], reward: float) -> None:
        """Learn a reward."""
        self._policy.update(arm_id, self._scaler.transform_one(context), reward)


Policy = ContextualPolicy | StandardizedLinUCB
OURS = "BNP-SGLD"
POLICIES: dict[str, dict[str, Callable[[int], Policy]]] = {
    OURS: {"": lambda seed: BNPThompsonSampling(seed=seed)},
    "BNP-SGLD, T = 1": {"": lambda seed: BNPThompsonSampling(temperature=1.0, seed=seed)},
    "SGLD*": {
        f"rate {rate:g}": lambda seed, rate=rate: PlainThompsonSampling(rate, seed)  # type: ignore[misc]  # mypy cannot infer it
        for rate in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    },
    "ε-greedy*": {
        f"ε = {epsilon:g}": lambda seed, epsilon=epsilon: EpsilonGreedy(epsilon, seed)  # type: ignore[misc]  # mypy cannot infer it
        for epsilon in (0.01, 0.05, 0.1)
    },
    "LinUCB (River)": {"": lambda seed: bandit.LinUCBDisjoint(seed=seed)},
    "LinUCB, standardized": {"": lambda seed: StandardizedLinUCB(seed)},
}


def linear(seed: int) -> Iterator[Round]:
    """Yield rounds of the linear problem, endlessly."""
    rng = np.random.default_rng(seed)
    scales, arms, n = np.logspace(-1.0, 1.0, 10), 5, 10
    centres = scales * rng.normal(0.0, 3.0, n)
    theta, bias = rng.standard_normal((arms, n)) / np.sqrt(n), rng.normal(0.0, 0.3, arms)
    while True:
        standard = rng.standard_normal(n)
        means = theta @ standard + bias
        context = {f"x{i}": value for i, value in enumerate((centres + scales * standard).tolist())}
        yield context, means, means + 0.5 * rng.standard_normal(arms)


def classes(seed: int) -> Iterator[Round]:
    """Yield rounds of ImageSegments in the order of a seed."""
    stream = streams.load("ImageSegments")
    for i in np.random.default_rng(seed).permutation(len(stream.samples)):
        x, y = stream.samples[i]
        rewards = np.array([float(label == y) for label in stream.labels])
        yield x, rewards, rewards


PROBLEMS = {"linear": linear, "ImageSegments": classes}


def regret(policy: Policy, rounds: Iterator[Round], decisions: int) -> list[float]:
    """Return the cumulative regret after each hundredth of the decisions."""
    total, curve = 0.0, []
    with np.errstate(over="ignore", invalid="ignore"):  # SGLD diverges at some rates, which is a result
        for i, (context, means, rewards) in zip(range(decisions), rounds, strict=False):
            arm = policy.pull(list(range(len(means))), context)
            policy.update(arm, context, float(rewards[int(arm)]))
            total += float(means.max() - means[int(arm)])
            if (i + 1) % max(decisions // 100, 1) == 0:
                curve.append(total)
    return curve


def measure(arguments: argparse.Namespace, console: Console) -> Results:
    """Return the regret curves of all seeds at the best setting, by problem and policy."""
    decisions = 60 if arguments.quick else DECISIONS
    results: Results = {}
    with Progress(console=console) as progress:
        runs = len(PROBLEMS) * sum(map(len, POLICIES.values())) * len(arguments.seeds)
        bar = progress.add_task("deciding", total=runs)
        for problem, rounds in PROBLEMS.items():
            results[problem] = {}
            for name, settings in POLICIES.items():
                found = []
                for setting, make in list(settings.items())[: 1 if arguments.quick else None]:
                    curves = []
                    for seed in arguments.seeds:
                        curves.append(regret(make(seed), rounds(seed), decisions))
                        progress.advance(bar)
                    found.append((statistics.fmean(curve[-1] for curve in curves), setting, curves))
                mean, setting, curves = min(found)
                results[problem][name] = {"regret": mean, "setting": setting, "curves": curves}
    return results


def tables(results: Results) -> list[Table]:
    """Return a row for each policy: regret by problem, over seeds."""
    names = list(next(iter(results.values())))
    least = {problem: min(each["regret"] for each in of.values()) for problem, of in results.items()}
    rows = []
    for name in names:
        cells = [Cell(name)]
        for problem, of in results.items():
            each = of[name]
            ends = [curve[-1] for curve in each["curves"]]
            spread = statistics.stdev(ends) if len(ends) > 1 else 0.0
            setting = f" ({each['setting']})" if each["setting"] else ""
            cells.append(
                Cell(f"{each['regret']:.0f} ± {spread:.0f}{setting}", each["regret"] == least[problem])
            )
        rows.append(cells)
    seeds = len(results[next(iter(results))][names[0]]["curves"])
    title = (
        f"Cumulative regret after {DECISIONS:,} decisions, mean and standard deviation over {seeds} seeds. "
        "* the best of several settings on each problem, in hindsight."
    )
    return [Table(title, ["policy", *results], rows)]


def draw(results: Results, path: Path) -> None:
    """Draw the regret over time, means and range of the seeds, a panel for each problem."""
    mpl.use("Agg")
    colours = ("#c2410c", "#f59e0b", "#94a3b8", "#1d4ed8", "#0f766e", "#7c3aed")
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, len(results), figsize=(9.5, 3.6), layout="constrained")
        for ax, (problem, of) in zip(axes, results.items(), strict=True):
            for colour, (name, each) in zip(colours, of.items(), strict=True):
                curves = np.array(each["curves"])
                x = np.linspace(0.0, DECISIONS, curves.shape[1] + 1)[1:]
                ax.plot(x, curves.mean(0), color=colour, label=name, linewidth=1.8 if name == OURS else 1.1)
                ax.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.12, linewidth=0)
            ax.set_title(problem, loc="left", fontsize=10)
            ax.set_xlabel("decisions")
            ax.set_ylim(
                0, 1.15 * max(np.mean([c[-1] for c in e["curves"]]) for n, e in of.items() if n != "SGLD*")
            )
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("cumulative regret")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    run("bandit", arguments_of("bandit", __doc__, (0, 1, 2, 3, 4)).parse_args(argv), measure, tables, draw)
