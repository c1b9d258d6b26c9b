"""The benchmarks of what is built on BNP, by running their programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.extensions import bandit, explanations, intervals, langevin, optimizers
from bnp_online import BNP
from tests.support.programs import DOCS, RESULTS
from tests.support.reference import array, preconditioner

PROGRAMS: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
    "langevin": (langevin.main, ["--seeds", "0"]),
    "intervals": (intervals.main, ["--seeds", "0"]),
    "bandit": (bandit.main, ["--seeds", "0"]),
    "optimizers": (optimizers.main, ["--seeds", "0", "--streams", "Phishing"]),
}
PAGE = DOCS / "extensions.md"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_measures_shows_and_writes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, options = PROGRAMS[name]
    out, figure, page = tmp_path / "out.json", tmp_path / "figure.png", tmp_path / "page.md"
    page.write_text(f"before\n<!-- {name}:begin -->\n<!-- {name}:end -->\nafter\n")
    main([*options, "--quick", "--out", str(out), "--figure", str(figure), "--markdown", str(page)])
    content = json.loads(out.read_text())
    assert content["benchmark"] == name
    assert content["environment"]["commit"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    written = page.read_text()
    assert "| --- | --:" in written
    printed = capsys.readouterr().out
    main(["--read", str(out), "--markdown", str(page)])
    assert page.read_text() == written
    assert capsys.readouterr().out.strip() in printed


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_shows_what_was_measured(name: str, tmp_path: Path) -> None:
    main, _ = PROGRAMS[name]
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    main(["--read", str(RESULTS / f"{name}.json"), "--markdown", str(page)])
    assert page.read_text() == PAGE.read_text()


def test_coverage_on_the_real_streams_is_within_two_points() -> None:
    results = json.loads((RESULTS / "intervals.json").read_text())["results"]
    for name in intervals.REAL:
        for level, (coverage, _) in results[name][intervals.OURS].items():
            assert abs(coverage - 100.0 * float(level)) <= 2.0


def test_the_rivals_of_the_intervals_do_what_their_authors_say() -> None:
    rng = np.random.default_rng(0)
    errors = [*np.abs(rng.standard_normal(1000)), *(3.0 * np.abs(rng.standard_normal(1000)))]
    for gamma, off in ((0.0, 0.05), (0.02, 0.015)):
        rival, held = intervals.Conformal(0.9, gamma), []
        for error in errors:
            radius = rival.radius()
            if radius is not None:
                held.append(error <= radius)
            rival.learn(float(error), radius)
        assert abs(statistics.fmean(held) - 0.9) < off
        assert abs(statistics.fmean(held[500:900]) - 0.9) < 0.04  # before the drift both are right


def test_psgld_without_noise_descends_along_the_scaled_gradient() -> None:
    model = nn.Linear(2, 1).double()
    before = array(model.weight).copy()
    optimizer = langevin.PSGLD(model.parameters(), 0.1, samples=10**18, seed=0)
    x = torch.tensor([[1.0, 100.0]]).double()
    model(x).sum().backward()
    optimizer.step()
    moved = before - array(model.weight)
    np.testing.assert_allclose(moved, 0.1, rtol=1e-4)  # of gradients of 1 and 100: both have size 1


def test_the_reference_posterior_is_that_of_the_loss() -> None:
    of = langevin.problem("linear", 0)
    model = nn.Linear(langevin.FEATURES, 1).double()
    with torch.no_grad():
        model.bias[:] = float(of.mean[0])
        model.weight[:] = torch.from_numpy(of.mean[1:])
    loss: Any = of.loss(model(torch.from_numpy(of.x)).squeeze(1)) * langevin.COUNT
    penalty = sum(p.square().sum() for p in model.parameters())
    (loss + 0.5 * langevin.PRIOR * penalty).backward()
    for p in model.parameters():
        assert p.grad is not None
        assert float(p.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_a_penalty_on_intrinsic_parameters_is_decoupled_decay_of_weights_and_bias(decay: float) -> None:
    """For a fixed P: a step of descent in z on L + λ/2 ‖z‖² against BNP's step and `decay_`, in float64."""
    torch.manual_seed(0)
    layer, rate = nn.Linear(3, 2).double(), 0.1
    pre = BNP(layer, step_scale="none")
    x = torch.tensor([[1.0, 5.0, -2.0], [0.5, 7.0, 1.0]]).double()
    pre.moments[""].update(x)
    pre.moments[""].frozen = True
    mean, var = array(pre.moments[""].mean), array(pre.moments[""].var)
    p = preconditioner(mean, var + 1e-2 * var.max() + 1e-4, centred=True)
    extended = np.column_stack([array(layer.bias), array(layer.weight)])
    layer(x).square().mean().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    gradient = np.column_stack([array(layer.bias.grad), array(layer.weight.grad)])
    z = extended @ np.linalg.inv(p).T
    expected = (z - rate * (gradient @ p + decay * z)) @ p.T
    pre.step()
    optimizers.decay_(layer, "intrinsic", rate * decay)
    torch.optim.SGD(layer.parameters(), lr=rate).step()
    got = np.column_stack([array(layer.bias), array(layer.weight)])
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


def test_l2_and_decoupled_decay_leave_biases_alone() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.bias.fill_(1.0)
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    weight = array(layer.weight).copy()
    gradients = [array(grad).copy() for grad in (layer.weight.grad, layer.bias.grad)]
    optimizers.decay_(layer, "l2", 0.5)
    np.testing.assert_allclose(array(layer.weight.grad), gradients[0] + 0.5 * weight)
    np.testing.assert_array_equal(array(layer.bias.grad), gradients[1])
    optimizers.decay_(layer, "decoupled", 0.5)
    np.testing.assert_allclose(array(layer.weight), 0.5 * weight)
    assert array(layer.bias).tolist() == [1.0, 1.0]


def test_explanations_of_a_linear_model_are_its_shapley_values() -> None:
    case = explanations.Case("linear", {"hidden": (), "lr": 0.3, "task": "regression"}, 3)
    assert explanations.agreement(case) == 1.0
    assert explanations.cost(case).keys() == {"predict", "explain", "occlusion", "novelty"}
