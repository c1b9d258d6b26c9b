"""The float64 reference of the default learner against examples by hand and against direct solutions."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support import reference_experts
from tests.support.reference_experts import ReferenceExperts
from tests.support.reference_glitches import Admission
from tests.support.reference_learner import Array, Layer, ReferenceLearner
from tests.support.reference_mixture import ReferenceMixture
from tests.support.reference_neighbours import (
    Remembered,
    class_shares,
    distance,
    mean_target,
    own_metric,
    votes,
)
from tests.support.reference_stack import MOST, Stack, hedge

TASKS = ("classification", "regression")


def network(task: str, widths: Sequence[int], lr: float, seed: int = 0) -> ReferenceLearner:
    """Hidden layers at random and a head of zeros; the widths are those of inputs, layers and outputs."""
    rng = np.random.default_rng(seed)
    layers = [
        Layer(rng.normal(size=(m, n)) / math.sqrt(n), np.zeros(m)) for n, m in itertools.pairwise(widths)
    ]
    layers[-1].weight = np.zeros_like(layers[-1].weight)
    return ReferenceLearner(
        task=task,
        layers=layers,
        activation="tanh",
        lr=lr,
        rho=0.99,
        eps_rel=1e-2,
        eps_abs=1e-4,
        step_scale="norm",
        standardize=True,
    )


def draw(step: int, turn: int, count: int) -> int:
    return (step * 7 + turn * 3) % count


def experts(task: str, inputs: int = 2, outputs: int = 1, memory: int = 60) -> ReferenceExperts:
    """Members of each kind: seven by networks, six neighbours."""
    plain = [network(task, (inputs, 4, outputs), lr, seed) for seed, lr in enumerate((0.1, 0.3, 0.05))]
    return ReferenceExperts(
        task,
        [
            (plain[0], False, ("raw",)),
            (plain[1], False, ("raw", "mean")),
            (plain[2], True, ("raw", "mean")),
        ],
        [network(task, (inputs, outputs), lr) for lr in (0.1, 1.0)],
        [(w, k, m) for m in ("standardized", "network") for w, k in ((1500, 1), (1500, 10), (500, 5))],
        replay=2,
        memory=memory,
        draw=draw,
    )


def row(z: Sequence[float], raw: float, weight: float = 1.0) -> Remembered:
    given = np.array(z)
    return Remembered(np.nan_to_num(given), np.isnan(given), raw, weight, raw)


def unclipped(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of values that are all counted as they are."""
    return float(np.mean(values)), float(np.std(values))


def counted(values: Sequence[float], *, flag: bool = False) -> Admission:
    admission = Admission([flag])
    for value in values:
        admission.count(np.array([value]))
    return admission


def mean_and_sd(admission: Admission) -> tuple[float, float]:
    return float(admission.moments.mean[0]), math.sqrt(admission.moments.var[0])


# Hedge


def test_hedge_of_two_members_by_hand() -> None:
    losses = np.array([0.0, 5.0 * math.log(2.0)])
    weights = hedge(np.array([0.5, 0.5]), losses, 0.2, 0.01)  # 2/3 and 1/3, then the share
    np.testing.assert_allclose(weights, [0.665, 0.335], rtol=1e-12)
    np.testing.assert_allclose(hedge(weights, np.full(2, MOST), 0.2, 0.01), [0.66335, 0.33665], rtol=1e-12)


def test_hedge_weight_of_a_member_without_prediction_is_its_share() -> None:
    weights = np.array([0.9, 0.1])
    np.testing.assert_allclose(hedge(weights, np.array([math.inf, 1.0]), 0.2, 0.01), [0.005, 0.995])
    np.testing.assert_allclose(hedge(weights, np.full(2, math.inf), 0.2, 0.01), [0.5, 0.5])


# Neighbours


def test_votes_of_three_neighbours_by_hand() -> None:
    rows = [row([1.0], 1.0), row([2.0], 1.0), row([0.0], 0.0)]
    z, missing, scale = np.zeros(1), np.zeros(1, bool), np.ones(1)
    cast = votes(z, missing, rows, 3, scale)
    np.testing.assert_allclose(cast, [[10.0, 0.0], [1.0 / 0.6, 1.0], [1.0 / 1.1, 1.0]], rtol=1e-8)
    total = 0.5 + 10.0 + 1.0 / 0.6 + 1.0 / 1.1
    np.testing.assert_allclose(class_shares(cast, 2, 3), [10.25 / total, 1.0 - 10.25 / total, 0.0], rtol=1e-8)
    np.testing.assert_allclose(votes(z, missing, rows, 2, scale), [[10.0, 0.0], [1.0 / 1.1, 1.0]], rtol=1e-8)
    assert len(votes(z, missing, rows, 9, scale)) == 3  # all there are


def test_neighbours_of_a_regression_and_their_weights_by_hand() -> None:
    rows = [row([1.0], 6.0, weight=2.0), row([0.0], 1.0, weight=0.5), row([0.5], 100.0, weight=0.0)]
    cast = votes(np.zeros(1), np.zeros(1, bool), rows, 3, np.ones(1))
    np.testing.assert_allclose([v for v, _ in cast], [5.0, 0.0, 2.0 / 1.1], rtol=1e-8)
    assert mean_target(cast) == pytest.approx((5.0 + 6.0 * 2.0 / 1.1) / (5.0 + 2.0 / 1.1), rel=1e-8)
    assert math.isnan(mean_target([(0.0, 3.0)]))
    np.testing.assert_allclose(class_shares([], 2, 2), [0.5, 0.5])


def test_newest_neighbour_wins_a_tie() -> None:
    rows = [row([1.0], 2.0), row([-1.0], 1.0), row([1.0], 0.0)]
    assert [label for _, label in votes(np.zeros(1), np.zeros(1, bool), rows, 2, np.ones(1))] == [2.0, 1.0]


def test_missing_coordinate_takes_no_part_in_a_distance() -> None:
    z, missing = np.array([0.0, 0.0, 3.0]), np.array([False, False, True])
    scale = np.array([1.0, 2.0, 5.0])
    assert distance(z, missing, row([1.0, 1.0, 0.0], 0.0), scale) == pytest.approx((1.0 + 4.0) * 3.0 / 2.0)
    assert distance(z, missing, row([1.0, math.nan, 0.0], 0.0), scale) == pytest.approx(3.0)
    stranger = row([math.nan, math.nan, 0.0], 0.0)
    assert distance(z, missing, stranger, scale) == math.inf
    assert votes(z, missing, [stranger], 1, scale) == []


def test_metric_of_a_network_by_hand() -> None:
    layers = [
        Layer(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.zeros(3)),
        Layer(np.eye(3), np.zeros(3)),
    ]
    np.testing.assert_allclose(own_metric(layers), [(4.0 / 3.0) ** 1.5, (2.0 / 3.0) ** 1.5])
    np.testing.assert_array_equal(own_metric(layers[:1]), np.ones(2))  # no hidden layer
    layers[0].weight = np.zeros((3, 2))
    np.testing.assert_array_equal(own_metric(layers), np.ones(2))


# Stack


def test_classification_stack_is_the_newton_step_on_the_exact_hessian_recursion() -> None:
    rng = np.random.default_rng(0)
    stack, a, hessian = Stack(3), np.zeros(4), np.eye(4) * 30.0
    bounded = 0
    for t in range(300):
        p = rng.dirichlet(np.full(3, 0.5), size=3) if t >= 10 else np.full((3, 3), 1.0 / 3.0)  # g = 0
        q = np.array([0.5, 0.3, 0.2]) @ p
        label = int(rng.integers(3))
        f = np.log(np.vstack([p, q]) + 1e-3)
        s = np.exp(f[-1] + a @ f)
        s = s / s.sum()
        np.testing.assert_allclose(stack.classes(p, q), s, rtol=1e-9)
        g = f @ s - f[:, label]
        hessian = 0.999 * hessian + np.outer(g, g)
        a = a - np.linalg.solve(hessian, g)
        factor = np.trace(np.linalg.inv(hessian)) / (4 / 30.0)
        hessian, bounded = hessian * max(factor, 1.0), bounded + (factor > 1.0 + 1e-9)
        stack.learn_class(p, q, label)
        np.testing.assert_allclose(stack.coefficients, a, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(stack.inverse, np.linalg.inv(hessian), rtol=1e-7, atol=1e-10)
    assert 10 <= bounded < 300


def test_gradient_of_the_stack_is_that_of_its_log_loss() -> None:
    rng = np.random.default_rng(1)
    stack = Stack(2)
    stack.coefficients = rng.normal(size=3)
    p = rng.dirichlet(np.ones(200), size=2)
    p[:, :4] = 5e-5
    q = np.array([0.5, 0.5]) @ p
    before, step = stack.coefficients, 1e-6
    slopes = []
    for i in range(3):
        ends = []
        for sign in (1.0, -1.0):
            stack.coefficients = before + sign * step * np.eye(3)[i]
            ends.append(-math.log(stack.classes(p, q)[50]))
        slopes.append((ends[0] - ends[1]) / (2.0 * step))
    stack.coefficients = before
    stack.learn_class(p, q, 50)
    g = np.array(slopes)
    expected = before - g / 30.0 / (0.999 + g @ g / 30.0)
    np.testing.assert_allclose(stack.coefficients, expected, rtol=1e-6, atol=1e-9)


def test_above_128_classes_the_stack_leaves_out_the_improbable_ones() -> None:
    rng = np.random.default_rng(2)
    stack = Stack(2)
    stack.coefficients = rng.normal(size=3)
    p = rng.dirichlet(np.ones(129), size=2)
    p[:, :5] = 1e-4
    q = np.array([0.5, 0.5]) @ p
    s = stack.classes(p, q)
    out = q <= 1e-4
    assert out[:5].all()
    np.testing.assert_array_equal(s[out], q[out])
    assert s[~out].sum() == pytest.approx(1.0 - q[out].sum())
    assert not np.allclose(s[~out], q[~out])
    before = copy.deepcopy(stack)
    stack.learn_class(p, q, 2)
    np.testing.assert_array_equal(stack.coefficients, before.coefficients)
    np.testing.assert_array_equal(stack.inverse, before.inverse)
    few = p[:, 1:] / p[:, 1:].sum(axis=1, keepdims=True)  # 128 classes: all take part
    q = np.array([0.5, 0.5]) @ few
    assert (stack.classes(few, q)[:4] != q[:4]).all()
    stack.learn_class(few, q, 2)
    assert (stack.inverse != before.inverse).any()


def test_regression_stack_is_weighted_least_squares() -> None:
    """A prior of weight 30 λ^t and no bound that matters: the errors are small and the features large."""
    rng = np.random.default_rng(3)
    stack, scale, rows, targets = Stack(2), 2.0, [], []
    for t in range(200):
        q = float(rng.normal())
        p = q + 3.0 * rng.normal(size=(2, 1))
        y = q + 0.3 * (p[0, 0] - q) - 0.1 * (p[1, 0] - q) + 0.5 + 0.1 * float(rng.normal())
        rows.append([(p[0, 0] - q) / scale, (p[1, 0] - q) / scale, 1.0])
        targets.append((y - q) / scale)
        stack.learn_value(p, q, y, scale)
        assert np.trace(stack.inverse) < 3.0 / 30.0
        weights = np.sqrt(0.999 ** np.arange(t, -1, -1.0))
        prior = math.sqrt(30.0 * 0.999 ** (t + 1)) * np.eye(3)
        design = np.vstack([np.array(rows) * weights[:, None], prior])
        answer = np.append(np.array(targets) * weights, np.zeros(3))
        solution = np.linalg.lstsq(design, answer, rcond=None)[0]
        np.testing.assert_allclose(stack.coefficients, solution, rtol=1e-8, atol=1e-10)
    assert stack.value(np.array([[4.0], [2.0]]), 1.0, scale) == pytest.approx(1.0 + 0.9 - 0.1 + 0.5, abs=0.2)


def test_error_of_the_regression_stack_is_clipped() -> None:
    one, other = Stack(1), Stack(1)
    one.learn_value(np.array([[2.0]]), 1.0, 1e8, 1.0)
    other.learn_value(np.array([[2.0]]), 1.0, 6.0, 1.0)
    np.testing.assert_array_equal(one.coefficients, other.coefficients)


# Glitches


def test_equal_values_first_do_not_freeze_a_feature() -> None:
    admission = counted([0.1] * 20)
    assert mean_and_sd(admission) == (0.1, 0.0)
    values = [0.1] * 20 + np.random.default_rng(0).uniform(4.0, 6.0, 300).tolist()
    np.testing.assert_allclose(mean_and_sd(counted(values)), unclipped(values), rtol=1e-12)


def test_rare_flag_given_as_a_number_is_not_clipped() -> None:
    values = [float(t % 500 == 499) for t in range(5000)]
    np.testing.assert_allclose(mean_and_sd(counted(values)), unclipped(values), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_heavy_tail_keeps_its_deviation(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(size=5000).tolist()
    sd = mean_and_sd(counted(values))[1]
    assert 0.95 * unclipped(values)[1] < sd <= unclipped(values)[1] * (1.0 + 1e-12)


def test_zeros_at_night_do_not_clip_the_day() -> None:
    rng = np.random.default_rng(0)
    sun = [max(0.0, math.sin(2.0 * math.pi * (t % 96) / 96 - math.pi / 2.0)) for t in range(960)]
    values = [1000.0 * float(rng.uniform(0.5, 1.0)) * height for height in sun]
    assert values[:20] == [0.0] * 20
    admission = Admission([False])
    clipped = [t for t, v in enumerate(values) if admission.count(np.array([v]))[0] != v]
    assert len(clipped) <= 8
    assert max(clipped, default=0) < 96  # the first morning
    np.testing.assert_allclose(mean_and_sd(admission), unclipped(values), rtol=0.01)


def test_shift_of_50_deviations_is_followed() -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=1000), rng.normal(50.0, 1.0, 1000)).tolist()
    admission = Admission([False])
    clipped = [t for t, v in enumerate(values) if admission.count(np.array([v]))[0] != v]
    assert clipped == [1000, 1001, 1002]  # to 10, 20 and 40
    np.testing.assert_allclose(mean_and_sd(admission), unclipped(values), rtol=0.01)


@pytest.mark.parametrize("at", [0, 7, 19, 20, 200])
def test_single_absurd_value_does_not_ruin_the_moments(at: int) -> None:
    values = np.random.default_rng(1).normal(20.0, 2.0, 400)
    values[at] = 999999.0
    mean, sd = mean_and_sd(counted(values.tolist()))
    assert mean == pytest.approx(20.0, abs=0.5)
    assert 1.5 < sd < 3.0


def test_first_twenty_are_clipped_to_15_times_the_median_deviation() -> None:
    values = [*map(float, range(19)), 1000.0]  # median 9.5, MAD 5: up to 84.5
    admission = counted(values)
    mean, sd = unclipped([*values[:19], 84.5])
    np.testing.assert_allclose(mean_and_sd(admission), (mean, sd), rtol=1e-12)
    assert admission.largest[0] == pytest.approx(84.5 - mean)
    bound = mean + max(10.0 * sd, 2.0 * (84.5 - mean))
    assert admission.admitted(np.array([1e9]))[0] == pytest.approx(bound)
    mostly_zero = counted([0.0] * 11 + [7.0] * 9)  # MAD 0: unclipped
    np.testing.assert_allclose(mean_and_sd(mostly_zero), unclipped([0.0] * 11 + [7.0] * 9))


def test_bound_grows_with_what_it_admits() -> None:
    admission = counted([-1.0, 1.0] * 10)
    sizes = []
    for _ in range(4):
        mean, sd = mean_and_sd(admission)
        largest = admission.largest[0]
        admitted = float(admission.count(np.array([1e6]))[0])
        assert admitted - mean == pytest.approx(max(10.0 * sd, 2.0 * largest))
        sizes.append(admitted)
    assert sizes == sorted(sizes)


def test_flag_is_never_clipped() -> None:
    values = [*np.random.default_rng(0).normal(size=50).tolist(), 1e6]
    np.testing.assert_allclose(mean_and_sd(counted(values, flag=True)), unclipped(values))


def test_missing_value_does_not_count_among_the_first_twenty() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20).tolist()
    gaps = [v for value in values for v in (value, math.nan)]
    admission = counted(gaps[:38])
    assert len(admission.first[0]) == 19
    admission = counted(gaps)
    np.testing.assert_allclose(mean_and_sd(admission)[0], np.mean(values))
    assert admission.moments.n == 40


def test_column_that_joins_later_has_twenty_values_of_its_own() -> None:
    admission = Admission([False])
    for value in range(30):
        admission.count(np.array([float(value)]))
    admission.widen([False])
    late = np.random.default_rng(0).normal(100.0, 1.0, 20)
    late[3] = 1e6
    for value in late:
        admitted = admission.count(np.array([1.0, value]))
        assert len(admission.first[1]) == 20 or admitted[1] == value
    clipped = np.array(admission.first[1])
    assert clipped.max() < 130.0
    np.testing.assert_allclose(admission.moments.mean[1], np.append(np.zeros(30), clipped).mean())
    np.testing.assert_allclose(admission.moments.var[1], np.append(np.zeros(30), clipped).var())
    assert admission.largest[1] == pytest.approx(clipped.max() - admission.moments.mean[1])


# The whole


def stream(task: str, length: int, missing_from: int = 0) -> list[tuple[Array, float, float]]:
    rng = np.random.default_rng(5)
    samples = []
    for t in range(length):
        x = rng.normal(size=2)
        y = float(x[0] > 0.2) if task == "classification" else float(3.0 * x[0] - x[1] + 7.0)
        if t >= missing_from:
            x[rng.random(2) < 0.1] = math.nan
        samples.append((x, 0.0 if t == 0 and task == "classification" else y, float(rng.choice([0.5, 1.0]))))
    return samples


@pytest.mark.parametrize("task", TASKS)
def test_hedge_of_networks_is_the_first_generation(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its rate, where nothing is clipped and no value is missing among the first twenty."""
    monkeypatch.setattr(reference_experts, "ETAS", (0.2,))
    table = [(0.1, False, "raw"), (0.3, False, "mean"), (0.3, True, "mean"), (0.2, True, "raw")]
    outputs = 2 if task == "classification" else 1
    networks = [network(task, (2, 4, outputs), lr, seed) for seed, (lr, _, _) in enumerate(table)]
    first = ReferenceMixture(
        copy.deepcopy(networks), [r for _, r, _ in table], [by == "mean" for _, _, by in table], 2, 30, draw
    )
    second = ReferenceExperts(
        task,
        [(n, r, (by,)) for n, (_, r, by) in zip(networks, table, strict=True)],
        [],
        [],
        replay=2,
        memory=30,
        draw=draw,
        seen=outputs,
    )
    for t, (x, y, weight) in enumerate(stream(task, 80, missing_from=25)):
        if t > 0:
            np.testing.assert_allclose(second.weights @ second.members(x), first.predict(x), rtol=1e-9)
        first.learn(x, y, weight)
        second.learn(x, y, weight)
        np.testing.assert_allclose(second.weights, first.weights, rtol=1e-9)
        assert second.error_scale == pytest.approx(first.error_scale, rel=1e-9)
    for one, other in zip(first.learners, second.networks, strict=True):
        np.testing.assert_allclose(one.layers[-1].weight, other.learner.layers[-1].weight, rtol=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_members_are_in_order(task: str) -> None:
    model = experts(task)
    for x, y, weight in stream(task, 60):
        if task == "classification" and y == model.seen == 1:
            model.grow(0, 1)
        model.learn(x, y, weight)
    x = np.array([0.3, -0.4])
    p = model.members(x)
    assert p.shape == (13, 2 if task == "classification" else 1)
    assert model.coefficients.shape == (14,)
    assert model.inverse.shape == (14, 14)
    assert model.weights.shape == (13,)
    assert model.weights.sum() == pytest.approx(1.0)
    assert model.shares.sum() == pytest.approx(1.0)
    z = model._standardized(model.inputs, x)
    networks = model.networks
    by = [networks[0].learner, *(each for n in networks[1:3] for each in (n.learner, n.mean))]
    for k, learner in enumerate([*by, networks[3].learner, networks[4].learner]):
        np.testing.assert_array_equal(p[k], model._made(learner, z))
    nearest = min(model._newest(), key=lambda each: distance(z, np.isnan(x), each, np.ones(2)))
    if task == "regression":
        assert p[7, 0] == pytest.approx(nearest.raw)
    else:
        assert p[7].argmax() == nearest.raw
    assert (model.metric != 1.0).all()  # renewed at the 50th sample
    assert not np.allclose(p[8:10], p[11:13])


def two_coins() -> ReferenceExperts:
    """Two linear members that say 80% and 40%, of two classes seen."""
    model = ReferenceExperts(
        "classification", [], [network("classification", (1, 2), lr) for lr in (0.1, 0.2)], [], 0, 50, draw
    )
    for label in (0.0, 1.0):
        model.learn(np.zeros(1), label, 1.0)
    model.rates, model.stack = [np.array([0.5, 0.5])] * 2, Stack(2)
    for each, p in zip(model.networks, ([0.8, 0.2], [0.4, 0.6]), strict=True):
        each.learner.layers[0].bias = np.log(p)
        each.learner.layers[0].weight[:] = 0.0
    model.shares = np.array([0.25, 0.75])
    return model


def test_output_and_update_of_two_members_by_hand() -> None:
    model = two_coins()
    s0 = 0.601 / 1.002
    np.testing.assert_allclose(model.predict(np.zeros(1)), [0.15 + 0.75 * s0, 0.1 + 0.75 * 0.401 / 1.002])
    model.learn(np.zeros(1), 0.0, 1.0)
    raised = np.array([0.8, 0.4]) ** 0.2  # 0.5 exp(0.2 log p), normalized
    expected = 0.99 * (raised / raised.sum() + np.array([0.8, 0.4]) / 1.2) / 2.0 + 0.005
    np.testing.assert_allclose(model.weights, expected, rtol=1e-12)
    raised = np.array([0.25, 0.75]) * np.array([0.6, s0]) ** 0.5
    np.testing.assert_allclose(model.shares, 0.997 * raised / raised.sum() + 0.0015, rtol=1e-12)
    f = np.log(np.array([[0.801, 0.201], [0.401, 0.601], [0.601, 0.401]]))
    g = (f[:, 1] - f[:, 0]) * (1.0 - s0)
    a = -np.linalg.solve(29.97 * np.eye(3) + np.outer(g, g), g)
    np.testing.assert_allclose(model.coefficients, a, rtol=1e-10)


def test_new_class_changes_neither_hedge_nor_stack() -> None:
    model = two_coins()
    model.rates = [np.array([0.9, 0.1])] * 2
    before = copy.deepcopy(model)
    model.grow(0, 1)
    model.learn(np.zeros(1), 2.0, 1.0)
    np.testing.assert_array_equal(model.weights, before.weights)
    np.testing.assert_array_equal(model.shares, before.shares)
    np.testing.assert_array_equal(model.coefficients, before.coefficients)
    np.testing.assert_array_equal(model.inverse, before.inverse)
    assert model.seen == 3
    assert model.predict(np.zeros(1)).shape == (3,)


def test_stack_does_not_change_with_one_class() -> None:
    model = ReferenceExperts("classification", [], [network("classification", (1, 1), 0.1)], [], 0, 50, draw)
    for t in range(5):
        model.learn(np.array([float(t)]), 0.0, 1.0)
    np.testing.assert_array_equal(model.coefficients, np.zeros(2))
    np.testing.assert_array_equal(model.inverse, np.eye(2) / 30.0)
    np.testing.assert_array_equal(model.predict(np.zeros(1)), [1.0])


@pytest.mark.parametrize("task", TASKS)
def test_weight_of_zero_changes_neither_hedge_nor_stack(task: str) -> None:
    model = experts(task, outputs=2 if task == "classification" else 1)
    for x, y, weight in stream(task, 30):
        model.learn(x, y, weight)
    before = copy.deepcopy(model)
    model.learn(np.array([1.0, 2.0]), 1.0, 0.0)
    for name in ("weights", "shares", "coefficients", "inverse", "error_scale"):
        np.testing.assert_array_equal(getattr(model, name), getattr(before, name))
    assert model.inputs.moments.n == 31
    assert model.remembered[-1].weight == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_network_that_is_not_finite_restarts(task: str) -> None:
    model = experts(task, outputs=2 if task == "classification" else 1)
    for x, y, weight in stream(task, 47):
        model.learn(x, y, weight)
    model.replay = 0  # what restarts then equals its source
    model.networks[1].mean.layers[0].weight[0, 0] = math.inf  # predicts raw, too
    model.networks[3].learner.layers[0].bias[0] = math.nan
    model.networks[4].learner.layers[0].bias[0] = math.nan  # no linear one is left
    x = np.array([0.5, 0.5])
    p = model.members(x)
    assert np.isnan(p).any(axis=1).tolist() == [False, False, True, False, False, True, True] + [False] * 6
    expected = model.weights[~np.isnan(p).any(axis=1)]
    q, _, filled = model._combined(p)
    np.testing.assert_allclose(q, expected @ p[~np.isnan(p).any(axis=1)] / expected.sum())
    np.testing.assert_array_equal(filled[5], q)
    model.learn(x, 1.0, 1.0)
    np.testing.assert_allclose(model.weights[[1, 2, 5, 6]], 0.01 / 13.0)
    best = model.networks[0 if model.weights[0] > model.weights[3:5].max() else 2]
    for restarted, source in zip(model.networks[1].learner.layers, best.learner.layers, strict=True):
        np.testing.assert_array_equal(restarted.weight, source.weight)
        np.testing.assert_array_equal(restarted.var, source.var)
    np.testing.assert_array_equal(
        model.networks[1].mean.layers[0].weight, model.networks[1].learner.layers[0].weight
    )
    linear = model.networks[3].learner.layers[0]
    assert not linear.weight.any()  # its own start
    np.testing.assert_array_equal(linear.mean, model.networks[0].learner.layers[0].mean)
    assert np.isfinite(model.predict(x)).all()


def test_sample_that_no_network_can_learn_changes_nothing() -> None:
    model = two_coins()
    for each in model.networks:
        each.learner.layers[0].bias[0] = math.nan
    before = copy.deepcopy(model)
    with pytest.raises(FloatingPointError):
        model.learn(np.zeros(1), 1.0, 1.0)
    assert (model.step, model.count) == (before.step, before.count)
    np.testing.assert_array_equal(model.weights, before.weights)
    assert model.inputs.moments.n == before.inputs.moments.n


def test_window_and_capacity_bound_the_neighbours() -> None:
    voters = [(50, 1, "standardized"), (1500, 1, "standardized")]
    model = ReferenceExperts("regression", [], [network("regression", (1, 1), 0.1)], voters, 0, 70, draw)
    for t in range(200):
        model.learn(np.array([10.0 if 100 <= t < 150 else t % 2]), float(t), 1.0)
    assert [each.raw for each in model._newest()] == [float(t) for t in range(199, 129, -1)]
    near, far = model.members(np.array([10.0]))[1:, 0]
    assert near >= 150.0
    assert 130.0 <= far < 150.0


def test_column_that_joins_is_present_in_the_memory() -> None:
    model = experts("regression")
    for x, y, weight in stream("regression", 55):
        model.learn(x, y, weight)
    model.grow(1, 0)
    assert not model.remembered[0].missing[2]
    assert model.remembered[0].z[2] == 0.0
    assert model.metric[2] == 1.0
    assert model.inputs.joined == [0, 0, 55]
    model.learn(np.array([1.0, 2.0, 3.0]), 4.0, 1.0)
    assert model.predict(np.zeros(3)).shape == (1,)


@pytest.mark.parametrize("at", [7, 19, 40])
def test_absurd_target_enters_clipped(at: int) -> None:
    model = experts("regression")
    samples = stream("regression", 80)
    for t, (x, y, weight) in enumerate(samples):
        model.learn(x, 1e8 if t == at else y, weight)
    seen = [y for t, (_, y, _) in enumerate(samples) if t != at]
    spread = np.std(seen)
    assert model.deviation < 2.5 * spread
    assert model.high < max(seen) + 15.0 * spread
    assert max(row.raw for row in model.remembered) <= model.high
    assert model.low == min(seen)
    assert abs(float(model.predict(np.zeros(2))[0]) - 7.0) < 10.0


def test_stack_of_a_regression_learns_from_the_21st_sample_on() -> None:
    model = experts("regression")
    for t, (x, y, weight) in enumerate(stream("regression", 22)):
        assert model.coefficients.any() == (t > 20), t
        model.learn(x, y, weight)
    assert model.coefficients.any()


def test_equal_targets_change_neither_hedge_nor_stack() -> None:
    model = experts("regression")
    for x, _, weight in stream("regression", 30):
        model.learn(x, 0.1, weight)
    np.testing.assert_array_equal(model.weights, np.full(13, 1.0 / 13.0))
    assert model.error_scale == 1.0
    assert not model.coefficients.any()
    np.testing.assert_array_equal(model.predict(np.zeros(2)), [pytest.approx(0.1)])
