"""``python -m benchmarks NAME``: runs a benchmark program; without a name, lists the programs."""

from __future__ import annotations

import importlib
import sys

#: By name: the module, whose ``main`` takes the other arguments, and one line for the list.
PROGRAMS = {
    "quality": (
        "quality.main",
        "prequential quality on real streams, against River, Vowpal Wabbit, SGD and Adam",
    ),
    "groups": (
        "quality.groups",
        "prequential quality on autocorrelated, stationary and drifting streams",
    ),
    "sparse": ("sparse.main", "quality and cost on strings, words and ids, against Vowpal Wabbit and River"),
    "development": ("quality.development", "prequential quality on generated streams"),
    "averaging": ("quality.averaging", "accuracy of one model against workers that share its stream"),
    "explain": ("quality.algorithm_figures", "figures of docs/algorithm.md, from a generated stream"),
    "speed": ("speed.main", "time, memory and start of the numba engine"),
    "steps": ("speed.against", "time of a step in one call, against a checkout"),
    "strings": ("speed.strings", "cost of a string feature, against a number"),
    "together": ("speed.together", "many models: one compiled call, against a call for each"),
    "parsing": ("speed.parsing", "cost of a line of a stream before it is learned"),
    "http": ("serving.throughput", "requests a second, against endpoints that do nothing (needs wrk)"),
    "load": ("serving.load", "one minute of mixed requests, then a crash and a recovery"),
    "logs": ("serving.logs", "events a second that a log commits, PostgreSQL against SQLite"),
    "recovery": ("serving.recovery", "recovery of a long log, against a checkout"),
    "runs": ("serving.runs", "CPU time of a sample in the log, stored alone and in a run"),
    "stores": (
        "serving.stores",
        "rates over HTTP, PostgreSQL against SQLite, and against a checkout (needs wrk)",
    ),
    "staleness": ("serving.staleness", "lag of a replica behind its owner"),
    "shadows": ("serving.shadows", "cost of shadows: rate of learning and latency (needs wrk)"),
    "on_demand": ("serving.on_demand", "cost of models that are not in memory"),
    "capacity": ("serving.capacity", "machines for a rate of samples, from the results of record"),
    "choices": ("serving.choice_figure", "figure of docs/cluster.md"),
    "models": ("serving.models", "rate, memory, start and shutdown with 500 models, against a checkout"),
    "many": ("serving.many", "rate with 1,000 small models, against a checkout (needs wrk)"),
    "checkpoints": (
        "serving.checkpoints",
        "size and time of checkpoints with a million values, and the stall of requests",
    ),
    "page": ("serving.page", "frames and blocking of the dashboard (needs Chromium)"),
    "paper": ("paper.main", "experiments of the paper, with a verdict on each claim"),
    "conditioning": ("paper.conditioning", "condition number of the Hessian during training"),
    "langevin": ("extensions.langevin", "effective samples a second of Langevin samplers"),
    "intervals": ("extensions.intervals", "coverage and width of predictive intervals"),
    "explanations": (
        "extensions.explanations",
        "cost of explanations and importances, and agreement with Shapley values",
    ),
    "bandit": ("extensions.bandit", "regret of contextual bandits"),
    "optimizers": ("extensions.optimizers", "momentum, Adam and regularizers on top of BNP"),
    "drift": ("drift.main", "detection of drift, and the gain of each response"),
    "gpu": ("gpu.steps", "the step on a GPU, against plain SGD and the CPU (needs CUDA)"),
}


def usage() -> str:
    """Return the list of programs."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {about}" for name, (_, about) in PROGRAMS.items()]
    return "\n".join(
        ["usage: python -m benchmarks NAME [options]; NAME --help lists the options", "", *lines]
    )


def main(argv: list[str]) -> None:
    """Run the program that the first argument names; exit code 2 if there is no such program."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    name, *options = argv
    if name not in PROGRAMS:
        print(f"unknown program {name!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module(f"benchmarks.{PROGRAMS[name][0]}").main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
