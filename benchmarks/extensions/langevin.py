"""Effective samples a second of Langevin samplers.

The posteriors of two ill-conditioned regressions are known exactly, or from a long Metropolis chain. Each
sampler runs four chains with full gradients, so that its step is the only source of error. It counts at the
best rate whose samples agree with the posterior; without such a rate, at the one that mixes best (marked).

References
----------
C. Li et al., *Preconditioned stochastic gradient Langevin dynamics for deep neural networks*, AAAI 2016.
A. Vehtari et al., *Rank-normalization, folding, and localization: an improved R̂*, Bayesian Analysis 16, 2021:
the effective sample sizes, as ArviZ computes them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNP, SGLD

from ..common.report import Cell, Table
from .program import Results, arguments_of, run

Array = NDArray[np.float64]
COUNT, FEATURES, CHAINS, PRIOR = 400, 6, 4, 1.0
_TASKS = ("linear", "logistic")


class PSGLD(torch.optim.Optimizer):
    """SGLD preconditioned by RMSprop, a diagonal from the gradients; without Γ, as in its authors' code."""

    def __init__(self, params: Any, lr: float, samples: int, seed: int) -> None:
        super().__init__(params, {"lr": lr})
        self._samples = samples
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step, and add noise."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(p, alpha=PRIOR / self._samples)
                square = self.state[p].setdefault("square", p.grad.square())
                square.mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
                shape = 1.0 / (square.sqrt() + 1e-5)
                noise = torch.randn(p.shape, generator=self._generator, dtype=p.dtype)
                p.add_(shape * p.grad, alpha=-group["lr"])
                p.add_(shape.sqrt() * noise, alpha=math.sqrt(2.0 * group["lr"] / self._samples))


@dataclass(frozen=True)
class Problem:
    """A regression and its posterior in [b, w]: mean and covariance."""

    task: str
    x: Array
    y: Array
    mean: Array
    cov: Array
    curvature: float

    def loss(self, out: Tensor) -> Tensor:
        """Return the mean negative log likelihood."""
        y = torch.from_numpy(self.y)
        if self.task == "linear":
            return 0.5 * (out - y).square().mean()
        return F.binary_cross_entropy_with_logits(out, y)


def problem(task: str, seed: int, steps: int = 20_000) -> Problem:
    """Return a regression whose features have scales from 0.2 to 5, and means of two to four of them."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(math.log10(0.2), math.log10(5.0), FEATURES)
    centres = rng.choice([-1.0, 1.0], FEATURES) * rng.uniform(2.0, 4.0, FEATURES)
    standard = rng.standard_normal((COUNT, FEATURES))
    x = scales * (centres + standard)
    signal = standard @ rng.standard_normal(FEATURES)
    ones = np.column_stack([np.ones(COUNT), x])
    largest = float(np.linalg.eigvalsh(ones.T @ ones / COUNT)[-1])
    if task == "linear":
        y = signal + rng.standard_normal(COUNT)
        cov: Array = np.linalg.inv(ones.T @ ones + PRIOR * np.eye(FEATURES + 1)).astype(np.float64)
        mean: Array = cov @ ones.T @ y
        return Problem(task, x, y, mean, cov, largest)
    y = (rng.random(COUNT) < 1.0 / (1.0 + np.exp(-signal))).astype(float)
    draws = _metropolis(ones, y, rng, steps)
    return Problem(task, x, y, draws.mean(0), np.cov(draws.T), largest / 4.0)


def _metropolis(x: Array, y: Array, rng: np.random.Generator, steps: int, chains: int = 16) -> Array:
    """Return draws of random-walk Metropolis with proposals from the Hessian at the mode."""
    n = x.shape[1]
    w = np.zeros(n)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + PRIOR * np.eye(n)
        w = w + np.linalg.solve(hessian, x.T @ (y - p) - PRIOR * w)
    shape = np.linalg.cholesky(np.linalg.inv(hessian)).T * (2.4 / math.sqrt(n))

    def height(at: Array) -> Array:
        out = at @ x.T
        found: Array = out @ y - np.logaddexp(0.0, out).sum(1) - 0.5 * PRIOR * (at**2).sum(1)
        return found

    at = np.tile(w, (chains, 1))
    here, kept = height(at), []
    for i in range(steps):
        there = at + rng.standard_normal((chains, n)) @ shape
        new = height(there)
        taken = np.log(rng.random(chains)) < new - here
        at, here = np.where(taken[:, None], there, at), np.where(taken, new, here)
        if i >= steps // 10 and i % 5 == 0:
            kept.append(at)
    return np.concatenate(kept)


def _sgld(model: nn.Module, lr: float, seed: int) -> torch.optim.Optimizer:
    return SGLD(model.parameters(), lr, samples=COUNT, prior_precision=PRIOR, seed=seed)


def _psgld(model: nn.Module, lr: float, seed: int) -> torch.optim.Optimizer:
    return PSGLD(model.parameters(), lr, COUNT, seed)


def _shaped(model: nn.Module, lr: float, seed: int) -> torch.optim.Optimizer:
    pre = BNP(model, eps_rel=1e-4, eps_abs=1e-8)
    return SGLD(
        model.parameters(),
        lr,
        samples=COUNT,
        prior_precision=PRIOR,
        preconditioner=pre,
        burn_in=300,
        seed=seed,
    )


@dataclass(frozen=True)
class Sampler:
    """Sampler and its rates; `relative` rates are in units of one over the largest curvature."""

    make: Callable[[nn.Module, float, int], torch.optim.Optimizer]
    rates: tuple[float, ...]
    relative: bool = False


SAMPLERS = {
    "SGLD": Sampler(_sgld, (0.25, 0.5, 1.0, 1.5), relative=True),
    "pSGLD (RMSprop)": Sampler(_psgld, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "BNP-SGLD": Sampler(_shaped, (0.1, 0.3, 1.0, 3.0)),
}


class Chain:
    """Chain of a sampler."""

    def __init__(self, of: Problem, sampler: Sampler, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(FEATURES, 1).double()
        self._x, self._loss = torch.from_numpy(of.x), of.loss
        self._sampler = sampler.make(self.model, rate / (of.curvature if sampler.relative else 1.0), seed)

    def step(self) -> None:
        """Take one step with the gradient of all samples."""
        self._sampler.zero_grad()
        self._loss(self.model(self._x).squeeze(1)).backward()  # type: ignore[no-untyped-call]  # of torch
        self._sampler.step()

    def draws(self, burn_in: int, steps: int) -> Array:
        """Return [b, w] after each step."""
        kept = np.empty((steps, FEATURES + 1))
        for i in range(-burn_in, steps):
            self.step()
            if i >= 0:
                kept[i, 0] = self.model.bias.item()
                kept[i, 1:] = self.model.weight.detach().numpy()[0]
        return kept


def judged(of: Problem, chains: Array) -> dict[str, Any]:
    """Return the least effective sample size, R̂, and the errors of mean and deviation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version on import
        import arviz
    if not np.isfinite(chains).all() or np.abs(chains).max() > 1e6:
        return {"ess": 0.0, "r_hat": None, "mean_error": None, "deviation_ratio": None, "agrees": False}
    data = arviz.convert_to_dataset({"w": chains})
    deviation = np.sqrt(np.diag(of.cov))
    flat = chains.reshape(-1, chains.shape[-1])
    ratio = flat.std(0) / deviation
    worst = float(ratio[np.abs(np.log(ratio)).argmax()])
    error = float((np.abs(flat.mean(0) - of.mean) / deviation).max())
    r_hat = float(arviz.rhat(data)["w"].max())
    agrees = error < 0.3 and 0.8 < worst < 1.25 and r_hat < 1.05
    return {
        "ess": float(arviz.ess(data)["w"].min()),
        "r_hat": r_hat,
        "mean_error": error,
        "deviation_ratio": worst,
        "agrees": agrees,
    }


def _seconds(of: Problem, steps: int) -> dict[str, float]:
    """Return the time of a step of each sampler: medians of seven repeats, interleaved."""
    chains = {name: Chain(of, sampler, sampler.rates[0], 0) for name, sampler in SAMPLERS.items()}
    times: dict[str, list[float]] = {name: [] for name in chains}
    for _ in range(8):
        for name, chain in chains.items():
            start = time.perf_counter()
            for _ in range(steps):
                chain.step()
            times[name].append((time.perf_counter() - start) / steps)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def measure(arguments: argparse.Namespace, console: Console) -> Results:
    """Return the figures by task and sampler, at each rate and at the best one."""
    quick = arguments.quick
    burn_in, steps = (50, 150) if quick else (600, 2400)
    results: Results = {}
    with Progress(console=console) as progress:
        runs = sum(len(sampler.rates) for sampler in SAMPLERS.values()) * len(_TASKS)
        bar = progress.add_task("sampling", total=runs)
        for task in _TASKS:
            of = problem(task, arguments.seeds[0], 500 if quick else 20_000)
            seconds = _seconds(of, 10 if quick else 200)
            results[task] = {"condition": float(np.linalg.cond(of.cov)), "samplers": {}}
            for name, sampler in SAMPLERS.items():
                rates = []
                for rate in sampler.rates[: 1 if quick else None]:
                    draws = [Chain(of, sampler, rate, seed).draws(burn_in, steps) for seed in range(CHAINS)]
                    rates.append({"rate": rate, **judged(of, np.stack(draws))})
                    progress.advance(bar)
                best = max(rates, key=lambda found: (found["agrees"], found["ess"]))
                per_second = best["ess"] / (CHAINS * (steps + burn_in) * seconds[name])
                results[task]["samplers"][name] = {
                    "best": best,
                    "rates": rates,
                    "seconds": seconds[name],
                    "ess_per_second": per_second,
                    "steps": CHAINS * steps,
                }
    return results


_ERRORS = {"r_hat": "{:.3f}", "mean_error": "{:.2f} σ", "deviation_ratio": "× {:.2f}"}


def tables(results: Results) -> list[Table]:
    """Return a table for each task."""
    found = []
    header = ["sampler", "rate", "µs a step", "ESS", "ESS a second", "R̂", "error of the mean", "deviation"]
    for task, of in results.items():
        rows = []
        most = max(each["ess_per_second"] for each in of["samplers"].values())
        for name, each in of["samplers"].items():
            best = each["best"]
            shown = [name if best["agrees"] else f"{name} †", f"{best['rate']:g}"]
            shown += [f"{1e6 * each['seconds']:.0f}", f"{best['ess']:.0f}", f"{each['ess_per_second']:.3g}"]
            for key, form in _ERRORS.items():
                shown.append("–" if best[key] is None else form.format(best[key]))
            bold = each["ess_per_second"] == most
            rows.append([Cell(text, bold and i == 4) for i, text in enumerate(shown)])
        steps = next(iter(of["samplers"].values()))["steps"]
        title = (
            f"{task.capitalize()} regression, {COUNT} samples, {FEATURES} features, condition of the "
            f"posterior {of['condition']:.0f}: least effective sample size of all parameters in {steps:,} "
            "steps, and the worst errors against the posterior. † the samples agree with it at no rate."
        )
        found.append(Table(title, header, rows))
    return found


def draw(results: Results, path: Path) -> None:
    """Draw effective samples a second, a panel for each task."""
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, len(results), figsize=(9.5, 2.4), layout="constrained", sharex=True)
        for ax, (task, of) in zip(np.atleast_1d(axes), results.items(), strict=True):
            names = list(of["samplers"])[::-1]
            values = [of["samplers"][name]["ess_per_second"] for name in names]
            ax.barh(names, values, height=0.55, color=["#c2410c" if "BNP" in n else "#94a3b8" for n in names])
            for place, (name, value) in enumerate(zip(names, values, strict=True)):
                mark = "" if of["samplers"][name]["best"]["agrees"] else " †"
                ax.text(value * 1.1, place, f"{value:.3g}{mark}", va="center")
            ax.set_xscale("log")
            ax.set_xlim(min(values) / 3.0, max(values) * 9.0)
            ax.set_title(f"{task} regression", loc="left", fontsize=10)
            ax.set_xlabel("effective samples a second; † not mixed")
            ax.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    run("langevin", arguments_of("langevin", __doc__, (0,)).parse_args(argv), measure, tables, draw)
