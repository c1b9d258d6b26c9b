"""Source of the kernel, as one text: sizes, constants and the layout of its arguments, then the files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import torch

from ... import mixture
from ...mixture import NEIGHBOURS
from .. import base, numba_bins, numba_kernels, numba_step, torch_neighbours, torch_sample

#: Files in the order in which they need each other.
FILES = (
    "platform.cuh",
    "arithmetic.cuh",
    "network.cuh",
    "experts.cuh",
    "values.cuh",
    "neighbours.cuh",
    "bins.cuh",
    "kernel.cu",
)
#: Name of the kernel.
KERNEL = "run_rows"
#: Pairs of metric and window, for which the nearest are sought.
PAIRS = sorted({(metric, window) for metric, window, _ in NEIGHBOURS})

#: Arguments that are addresses, by type, and numbers. All have 8 bytes.
ADDRESSES = {
    "real": (
        "members", "floor", "fan_in", "linear_weight", "linear_bias", "memory_x", "metric", "inputs_in_use",
        "bins_table", "bins_squares", "distances",
    ),
    "double": (
        "given", "expert_values", "counts", "network_rates", "etas", "inputs", "target",
        "weights", "shares", "error_scale", "coefficients", "inverse", "classes", "memory_y", "first", "seen",
        "largest", "joined", "clipped", "values", "sound", "usable", "able", "lost", "hedged", "stacked",
        "stack_shares", "features", "gradient", "direction", "losses", "raised", "new_weights",
        "inputs_after", "values_seen", "candidates",
    ),
    "long long": (
        "sizes", "offsets", "mean_row", "latest_expert", "mean_expert", "replays", "owners", "windows",
        "bin_rows", "best",
    ),
    "bool": ("bins_used",),
}  # fmt: skip
WHOLE = (
    "columns", "layers", "outputs", "all_inputs", "all_outputs", "widest", "row_length", "resident", "means",
    "networks", "linears", "experts", "owned", "rates", "mixes", "stacks", "neighbours", "bounded", "binned",
    "regression", "standardize", "activation", "step_scale", "replay", "remembered", "memory_columns",
    "measured", "metric_of",
)  # fmt: skip
REAL = ("eps_rel", "eps_abs", "most_weight")
#: Names of all arguments in order.
ARGUMENTS = (*(name for names in ADDRESSES.values() for name in names), *WHOLE, *REAL)

_CONSTANTS = (
    (base, ("INPUT_CLIP", "TARGET_CLIP", "ERROR_CLIP")),
    (numba_kernels, ("LARGEST", "RELU", "TANH", "GELU", "NORM", "PAPER", "NONE")),
    (numba_step, ("LARGEST_RATE",)),
    (torch_neighbours, ("GOAL", "SAMPLE_WEIGHT", "RAW_TARGET", "MISSING")),
    (
        torch_sample,
        ("TARGET", "NEW_INPUTS", "NEW_TARGET", "NEW_WEIGHTS", "SLOT", "STEP", "REMEMBERED", "DRAWS"),
    ),
    (
        mixture,
        (
            "SHARE", "SHARES_ETA", "SHARES_SHARE", "MAX_LOSS", "ERROR_RETENTION", "ERROR_FLOOR",
            "LEAST_VOTES", "METRIC_EVERY", "METRIC_POWER", "BIN_RATE", "BIN_DAMPING", "BIN_INTEGERS",
            "STACK_RETENTION", "STACK_TRACE", "STACK_SMOOTHING", "STACK_SCALE_FLOOR", "STACK_ERROR_CLIP",
            "STACK_FROM", "STACK_MOST_CLASSES", "STACK_LEAST", "FIRST_VALUES", "BOUND_DEVIATIONS",
            "BOUND_GROWTH", "FIRST_DEVIATIONS",
        ),
    ),
)  # fmt: skip


def source(dtype: torch.dtype, blocks: int, threads: int) -> str:
    """Return the source of the kernel.

    Parameters
    ----------
    dtype : torch.dtype
        float32, or float64 for tests of exactness.
    blocks, threads : int
        Number of blocks in the cluster, and of threads in a block, a multiple of 32.
    """
    constants = {name: getattr(module, name) for module, names in _CONSTANTS for name in names}
    constants |= {
        "SAMPLE_WEIGHT_COLUMN": torch_sample.SAMPLE_WEIGHT,
        "BIN_INTERVALS": numba_bins.INTERVALS,
        "BINS": numba_bins.BINS,
        "ROOT_HALF": 0.5**0.5,
        "ROOT_TWO_PI": 0.3989422804014327,
        "PAIRS": len(PAIRS),
        "VOTERS": len(NEIGHBOURS),
        "MOST_NEAREST": max(k for *_, k in NEIGHBOURS),
    }
    tables = {
        "BIN_EDGES": mixture.BIN_EDGES,
        "PAIR_METRIC": [metric for metric, _ in PAIRS],
        "VOTER_PAIR": [PAIRS.index((metric, window)) for metric, window, _ in NEIGHBOURS],
        "VOTER_COUNT": [k for *_, k in NEIGHBOURS],
    }
    lines = [
        f"#define BLOCKS {blocks}",
        f"#define THREADS {threads}",
        f"using real = {'float' if dtype == torch.float32 else 'double'};",
        *(_constant(name, value) for name, value in constants.items()),
        *_layout(),
    ]
    first, *rest = (resources.files(__package__).joinpath(name).read_text() for name in FILES)
    arrays = [_table(name, values) for name, values in tables.items()]
    return "\n".join([*lines, first, *arrays, *rest])


def _layout() -> list[str]:
    """Return the declaration of the arguments."""
    lines = ["struct Learner {"]
    lines += [f"    {kind}* {name};" for kind, names in ADDRESSES.items() for name in names]
    lines += [f"    long long {name};" for name in WHOLE] + [f"    double {name};" for name in REAL]
    return [*lines, "};"]


def _constant(name: str, value: float) -> str:
    return f"constexpr {'int' if isinstance(value, int) else 'double'} {name} = {value!r};"


def _table(name: str, values: Sequence[float]) -> str:
    kind = "int" if all(isinstance(value, int) for value in values) else "double"
    return f"TABLE {kind} {name}[] = {{{', '.join(map(repr, values))}}};"
