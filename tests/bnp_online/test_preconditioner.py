"""BNP on whole models: what `step` does, which inputs count, what is refused, and what is left alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

from bnp_online.errors import ConfigurationError, StateError, UnobservedLayerError, UnsupportedLayerError
from bnp_online.parameters import StepScale
from bnp_online.preconditioner import BNP
from tests.support.reference import Reference, ReferenceModel, array, gradients, relative_error

Build = Callable[[], nn.Sequential]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own bytes)


SCALES: list[StepScale] = ["paper", "norm", "none"]
each_scale = pytest.mark.parametrize("scale", SCALES)
duplicators = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])


def mlp() -> nn.Sequential:
    """Three layers, the second without a bias; float64."""
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 3)
    return nn.Sequential(*layers).double()


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    convs = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False)
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(16, 3)).double()


LAYERS: dict[Build, list[str]] = {mlp: ["0", "2", "4"], cnn: ["0", "2", "4"]}
SHAPES: dict[Build, tuple[int, ...]] = {mlp: (5,), cnn: (2, 6, 6)}


def batch(*shape: int, seed: int = 0) -> Tensor:
    """Inputs whose features have means and scales of their own."""
    rng = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 2.0, shape[-1], dtype=torch.float64)
    return scale * (1.0 + torch.randn(*shape, generator=rng, dtype=torch.float64))


def loss_of(out: Tensor) -> Any:  # torch leaves `backward` untyped
    """A loss whose gradient differs by sample and by output."""
    return (out - torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)).square().mean()


def learn(model: nn.Module, *inputs: Tensor) -> None:
    """Leave the gradient of the mean loss of each input, summed, in ``.grad``."""
    model.zero_grad()
    for x in inputs:
        loss_of(model(x)).backward()


def moments_of(pre: BNP) -> list[Tensor]:
    """Copies of every statistic."""
    return [t.clone() for m in pre.moments.values() for t in (m.mean, m.var, torch.tensor(m.weight))]


def state_of(model: nn.Module, pre: BNP) -> list[Tensor]:
    """Copies of every gradient and every statistic."""
    return [p.grad.clone() for p in model.parameters() if p.grad is not None] + moments_of(pre)


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    """Equal to the last bit, in number too."""
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(got) == len(expected)
    assert all(relative_error([a], [array(b)]) <= tolerance for a, b in zip(got, expected, strict=True))


def assert_follows(
    pre: BNP, reference: ReferenceModel, n: int | None = None, tolerance: float = 1e-12
) -> None:
    """Take the step; gradients and statistics are those of the definition."""
    expected = reference.step(n)
    pre.step()
    assert pre.moments.keys() == reference.layers.keys()
    for name, layer in reference.layers.items():
        assert relative_error(gradients(layer.layer), expected[name]) <= tolerance
        moments = pre.moments[name]
        assert relative_error([moments.mean, moments.var], list(layer.moments)) <= tolerance


class TestStep:
    @each_scale
    @pytest.mark.parametrize("build", LAYERS)
    def test_follows_the_definition_while_the_model_learns(self, build: Build, scale: StepScale) -> None:
        model = build()
        pre, reference = BNP(model, step_scale=scale), ReferenceModel(model, LAYERS[build], step_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step, size in enumerate((4, 1, 3, 1, 8)):
            optimizer.zero_grad()
            loss_of(reference.forward(batch(size, *SHAPES[build], seed=step))).backward()
            assert_follows(pre, reference)
            optimizer.step()

    def test_settings_reach_every_layer(self) -> None:
        settings: dict[str, Any] = {"rho": 0.5, "eps_rel": 0.3, "eps_abs": 0.2}
        model = mlp()
        pre, reference = BNP(model, **settings), ReferenceModel(model, LAYERS[mlp], **settings)
        for step in range(4):
            model.zero_grad()
            loss_of(reference.forward(batch(4, 5, seed=step))).backward()
            assert_follows(pre, reference)

    @pytest.mark.parametrize(
        "build",
        [
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
            lambda ps: torch.optim.Adam(ps, lr=0.01),
            lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
        ],
        ids=["SGD", "Adam", "AdamW"],
    )
    def test_any_optimizer_takes_the_gradient(self, build: Callable[[Any], torch.optim.Optimizer]) -> None:
        """The same parameters as when the optimizer is handed the definition's gradients."""
        model, other = mlp(), mlp()
        pre, reference = BNP(model), ReferenceModel(other, LAYERS[mlp])
        optimizers = build(model.parameters()), build(other.parameters())
        for step in range(5):
            learn(model, batch(4, 5, seed=step))
            pre.step()
            other.zero_grad()
            loss_of(reference.forward(batch(4, 5, seed=step))).backward()
            for name, expected in reference.step().items():
                for grad, value in zip(gradients(other.get_submodule(name)), expected, strict=True):
                    grad.copy_(torch.from_numpy(value))
            for optimizer in optimizers:
                optimizer.step()
        assert_close(list(model.parameters()), list(other.parameters()), 1e-9)

    @each_scale
    def test_accumulated_gradients_are_those_of_one_large_batch(self, scale: StepScale) -> None:
        model, other = cnn(), cnn()
        pre, pre_other = BNP(model, step_scale=scale), BNP(other, step_scale=scale)
        x = batch(6, 2, 6, 6)
        model.zero_grad()
        for part in x.chunk(3):
            (model(part).square().mean() / 3).backward()
        other(x).square().mean().backward()
        pre.step()
        pre_other.step()
        assert_close(state_of(model, pre), state_of(other, pre_other), 1e-11)

    @each_scale
    def test_a_layer_used_twice_sees_more_rows_but_not_more_samples(self, scale: StepScale) -> None:
        shared = nn.Linear(5, 5)
        model = nn.Sequential(shared, nn.Tanh(), shared).double()
        pre, reference = BNP(model, step_scale=scale), ReferenceModel(model, ["0"], step_scale=scale)
        for step, size in enumerate((2, 1, 5)):
            model.zero_grad()
            loss_of(reference.forward(batch(size, 5, seed=step))).backward()
            assert_follows(pre, reference, n=size)

    @each_scale
    def test_layers_with_tied_parameters_are_one_layer_used_twice(self, scale: StepScale) -> None:
        a, b = nn.Linear(5, 5), nn.Linear(5, 5)
        b.weight, b.bias = a.weight, a.bias
        tied = nn.Sequential(a, nn.Tanh(), b).double()
        once = copy.deepcopy(a)
        model = nn.Sequential(once, nn.Tanh(), once)
        pres = BNP(tied, step_scale=scale), BNP(model, step_scale=scale)
        for step in range(3):
            for m, pre in zip((tied, model), pres, strict=True):
                learn(m, batch(3, 5, seed=step))
                pre.step()
            assert_equal(state_of(tied, pres[0]), state_of(model, pres[1]))

    def test_tied_convolutions_may_differ_in_stride_and_padding(self) -> None:
        a, b = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3, stride=2, padding=2, dilation=2)
        b.weight, b.bias = a.weight, a.bias
        model = nn.Sequential(a, b).double()
        pre, reference = BNP(model, step_scale="norm"), Reference(a, step_scale="norm")
        x = batch(2, 2, 9)
        learn(model, x)
        weight, bias = (array(grad).copy() for grad in gradients(a))
        expected = reference.step([array(x), array(a(x))], weight, bias, 2, [a, b])
        pre.step()
        assert relative_error(gradients(a), expected) <= 1e-12


class TestWhatCounts:
    """The inputs that move the statistics are those of which the gradient arrives."""

    def test_a_layer_without_a_gradient_is_left_alone(self) -> None:
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        pre.step()
        before = moments_of(pre)
        model.zero_grad()
        loss_of(model[:1](batch(4, 5, seed=1))).backward()  # the other layers take no part
        pre.step()
        assert not torch.equal(moments_of(pre)[0], before[0])
        assert_equal(moments_of(pre)[3:], before[3:])
        assert not gradients(model[2])

    @pytest.mark.parametrize("mode", ["no_grad", "inference", "eval", "no backward"])
    def test_other_forward_passes_leave_the_statistics_alone(self, mode: str) -> None:
        models = mlp(), mlp()
        pres = BNP(models[0], step_scale="norm"), BNP(models[1], step_scale="norm")
        guards = {"no_grad": torch.no_grad(), "inference": torch.inference_mode()}
        with guards.get(mode, nullcontext()):
            models[0].train(mode != "eval")(batch(7, 5, seed=9))
        models[0].train()
        for model, pre in zip(models, pres, strict=True):
            learn(model, batch(4, 5))
            pre.step()
        assert_equal(state_of(models[0], pres[0]), state_of(models[1], pres[1]))

    @each_scale
    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_activation_checkpointing_changes_nothing(self, scale: StepScale, use_reentrant: bool) -> None:
        class Checkpointed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = mlp()

            def forward(self, x: Tensor) -> Any:
                return checkpoint(self.layers[1:], self.layers[0](x), use_reentrant=use_reentrant)

        plain, model = mlp(), Checkpointed()
        pres = BNP(plain, step_scale=scale), BNP(model, step_scale=scale)
        for step in range(2):
            for m, pre in zip((plain, model), pres, strict=True):
                learn(m, batch(3, 5, seed=step), batch(2, 5, seed=step + 9))
                pre.step()
            assert_equal(state_of(plain, pres[0]), state_of(model, pres[1]))

    def test_a_graph_that_is_used_twice_counts_once(self) -> None:
        models = mlp(), mlp()
        pres = BNP(models[0], step_scale="norm"), BNP(models[1], step_scale="norm")
        loss = loss_of(models[0](batch(4, 5)))
        loss.backward(retain_graph=True)
        loss.backward()
        (2.0 * loss_of(models[1](batch(4, 5)))).backward()
        for pre in pres:
            pre.step()
        assert_close(state_of(models[0], pres[0]), state_of(models[1], pres[1]))

    @pytest.mark.parametrize("build", LAYERS)
    def test_an_empty_batch_is_no_batch(self, build: Build) -> None:
        model = build()
        pre = BNP(model, step_scale="norm")
        learn(model, batch(4, *SHAPES[build]))
        pre.step()
        before = moments_of(pre)
        model.zero_grad()
        model(batch(0, *SHAPES[build])).sum().backward()
        pre.step()
        assert_equal(moments_of(pre), before)
        assert not any(bool(grad.any()) for layer in model for grad in gradients(layer))

    @each_scale
    def test_a_layer_without_inputs_has_only_its_bias(self, scale: StepScale) -> None:
        """What a learner is before its first feature: an empty matrix, and G is the column e."""
        with pytest.warns(UserWarning, match="zero-element"):
            model = nn.Linear(0, 3)
        pre = BNP(model, step_scale=scale)
        learn(model, torch.ones(2, 0))
        before = gradients(model)[1].clone()
        pre.step()
        assert_equal(gradients(model), [torch.zeros(3, 0), before])

    @pytest.mark.parametrize("hooked_first", [True, False])
    def test_other_hooks_may_change_inputs_and_outputs(self, hooked_first: bool) -> None:
        """Whichever hook came first, BNP sees what the layer got."""
        model = mlp()
        pres = [BNP(model, step_scale="norm")] if hooked_first else []
        model[2].register_forward_pre_hook(lambda _, args: (3.0 * args[0],))
        model[2].register_forward_hook(lambda _, args, out: out + 1.0)
        pre = pres[0] if pres else BNP(model, step_scale="norm")
        reference = ReferenceModel(model, LAYERS[mlp], step_scale="norm")
        loss_of(reference.forward(batch(4, 5))).backward()
        assert_follows(pre, reference)

    def test_an_input_given_by_keyword_counts(self) -> None:
        class Keyword(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Any:
                return self.layer(input=x)

        model = Keyword().double()
        pre, reference = BNP(model), ReferenceModel(model, ["layer"])
        loss_of(reference.forward(batch(4, 5))).backward()
        assert_follows(pre, reference)

    @each_scale
    def test_attention_written_with_linear_layers_works(self, scale: StepScale) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

            def forward(self, x: Tensor) -> Any:
                heads = [layer(x).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
                return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

        model = Attention().double()
        pre = BNP(model, step_scale=scale)
        reference = ReferenceModel(model, ["q", "k", "v", "out"], step_scale=scale)
        for step in range(3):
            model.zero_grad()
            loss_of(reference.forward(batch(2, 7, 6, seed=step))).backward()
            assert_follows(pre, reference, tolerance=1e-11)

    def test_normalization_layers_are_left_alone(self) -> None:
        norms = nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.RMSNorm(6)
        model = nn.Sequential(nn.Linear(5, 6), *norms, nn.Linear(6, 3)).double()
        pre = BNP(model)
        learn(model, batch(4, 5))
        before = [grad.clone() for norm in norms for grad in gradients(norm)]
        pre.step()
        assert list(pre.moments) == ["0", "5"]
        assert_equal([grad for norm in norms for grad in gradients(norm)], before)

    def test_a_frozen_weight_leaves_the_layer_alone(self) -> None:
        model = mlp()
        model[0].weight.requires_grad_(False)
        pre = BNP(model)
        learn(model, batch(4, 5))
        before, start = gradients(model[0])[0].clone(), moments_of(pre)[:3]
        pre.step()
        assert_equal(gradients(model[0]), [before])
        assert_equal(moments_of(pre)[:3], start)

    @each_scale
    def test_a_frozen_bias_is_no_bias(self, scale: StepScale) -> None:
        model = mlp()
        model[0].bias.requires_grad_(False)
        pre = BNP(model, step_scale=scale)
        reference = ReferenceModel(model, LAYERS[mlp], step_scale=scale)
        loss_of(reference.forward(batch(4, 5))).backward()
        assert_follows(pre, reference)


class TestUnobserved:
    """A gradient of inputs that BNP did not see is refused, and nothing is changed."""

    def refuse(self, model: nn.Module, pre: BNP, name: str) -> None:
        before = state_of(model, pre)
        with pytest.raises(UnobservedLayerError, match=f"^{name} has a gradient"):
            pre.step()
        assert_equal(state_of(model, pre), before)

    def test_a_layer_that_ran_in_eval_mode(self) -> None:
        model = mlp()
        pre = BNP(model)
        model[4].eval()
        learn(model, batch(4, 5))
        self.refuse(model, pre, "4")

    def test_a_weight_that_was_used_without_its_layer(self) -> None:
        class Functional(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return F.linear(self.first(x), self.second.weight, self.second.bias)

        model = Functional().double()
        pre = BNP(model)
        learn(model, batch(4, 5))
        self.refuse(model, pre, "second")

    def test_a_gradient_that_was_transformed_already(self) -> None:
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        pre.step()
        self.refuse(model, pre, "0")


class TestPrecision:
    @pytest.mark.parametrize("inside", [True, False])
    def test_autocast(self, inside: bool) -> None:
        model = mlp().float()
        pre, reference = BNP(model, step_scale="norm"), ReferenceModel(model, LAYERS[mlp], step_scale="norm")
        with torch.autocast("cpu", torch.bfloat16):
            out = reference.forward(batch(4, 5).float())
        loss_of(out.float()).backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            assert_follows(pre, reference, tolerance=1e-5)

    @pytest.mark.parametrize("unscale_first", [True, False])
    def test_a_gradient_scaler_may_unscale_before_or_after(self, unscale_first: bool) -> None:
        models = mlp().float(), mlp().float()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for model, scaled in zip(models, (False, True), strict=True):
            pre, optimizer = BNP(model), torch.optim.SGD(model.parameters(), lr=0.1)
            loss = loss_of(model(batch(4, 5).float()))
            loss = scaler.scale(loss) if scaled else loss
            loss.backward()
            if scaled and unscale_first:
                scaler.unscale_(optimizer)
            pre.step()
            scaler.step(optimizer) if scaled else optimizer.step()
        assert_close(list(models[1].parameters()), list(models[0].parameters()), 1e-6)

    def test_inputs_that_overflowed_are_not_counted(self) -> None:
        model = mlp().float()
        pre, optimizer = BNP(model, step_scale="norm"), torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        learn(model, batch(4, 5).float())
        pre.step()
        before = [p.detach().clone() for p in model.parameters()]
        start = copy.copy(pre.moments["0"])
        optimizer.zero_grad()
        loss: Any = scaler.scale(loss_of(model(batch(4, 5).float() * torch.inf)))
        loss.backward()
        pre.step()
        scaler.step(optimizer)
        assert_equal([p.detach() for p in model.parameters()], before)
        assert_close([pre.moments["0"].mean, pre.moments["0"].var], [start.mean, start.var], 1e-6)
        learn(model, batch(4, 5).float())
        pre.step()
        assert all(bool(value.isfinite().all()) for value in state_of(model, pre))

    def test_a_bfloat16_model_keeps_float32_statistics(self) -> None:
        model = mlp().bfloat16()
        pre, reference = BNP(model), ReferenceModel(model, LAYERS[mlp])
        loss_of(reference.forward(batch(4, 5).bfloat16()).float()).backward()
        expected = reference.step()
        pre.step()
        for name, layer in reference.layers.items():
            moments = pre.moments[name]
            assert moments.mean.dtype == moments.var.dtype == torch.float32
            assert relative_error([moments.mean, moments.var], list(layer.moments)) <= 1e-6
            assert relative_error(gradients(layer.layer), expected[name]) <= 2**-8

    def test_statistics_follow_the_model_to_another_precision(self) -> None:
        model = mlp().float()
        pre, reference = BNP(model), ReferenceModel(model, LAYERS[mlp])
        for step, dtype in enumerate((torch.float32, torch.float32, torch.float64, torch.float64)):
            model.to(dtype).zero_grad()
            loss_of(reference.forward(batch(4, 5, seed=step).to(dtype))).backward()
            assert_follows(pre, reference, tolerance=1e-5)
            assert {m.mean.dtype for m in pre.moments.values()} == {dtype}

    @pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
    @pytest.mark.parametrize("build", LAYERS)
    def test_statistics_follow_the_model_to_another_device(self, build: Build, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        models = build(), build()
        pres = BNP(models[0], step_scale="norm"), BNP(models[1], step_scale="norm")
        for step, place in enumerate(("cpu", device)):
            for model, pre, to in zip(models, pres, ("cpu", place), strict=True):
                model.to(to).zero_grad()
                model(batch(4, *SHAPES[build], seed=step).to(to)).square().mean().backward()
                pre.step()
        moved = state_of(models[1], pres[1])
        assert {m.mean.device.type for m in pres[1].moments.values()} == {device}
        if device != "meta":  # tensors without values
            assert_close(moved, state_of(models[0], pres[0]), 1e-9)

    def test_inputs_of_before_a_move_are_forgotten(self) -> None:
        """They lie on a device that the model has left."""
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        model.to("meta")
        model(batch(3, 5).to("meta")).square().mean().backward()
        pre.step()
        assert {m.mean.device.type for m in pre.moments.values()} == {"meta"}


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class LinearWithMore(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.scale = nn.Parameter(torch.ones(3))


def tied(a: nn.Module, b: nn.Module, *names: str) -> nn.Sequential:
    """Two layers that share the parameters named."""
    for name in names:
        setattr(b, name, getattr(a, name))
    return nn.Sequential(a, b)


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "embedding": lambda: nn.Embedding(4, 3),
    "fused attention": lambda: nn.MultiheadAttention(4, 2),
    "recurrent": lambda: nn.LSTM(3, 2),
    "transposed convolution": lambda: nn.ConvTranspose2d(2, 3, 3),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "PReLU": nn.PReLU,
    "a parameter of its own": OwnParameter,
    "a linear layer with one more": LinearWithMore,
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(3, 2, bias=False)),
    "normalized by a hook": lambda: spectral_norm(nn.Linear(3, 2)),
    "lazy": lambda: nn.LazyLinear(2),
    "complex": lambda: nn.Linear(3, 2, dtype=torch.complex64),
}
TIED: dict[str, Callable[[], nn.Sequential]] = {
    "weights with different biases": lambda: tied(nn.Linear(3, 3), nn.Linear(3, 3), "weight"),
    "weights, one without a bias": lambda: tied(nn.Linear(3, 3), nn.Linear(3, 3, bias=False), "weight"),
    "biases with different weights": lambda: tied(nn.Linear(3, 3), nn.Linear(3, 3), "bias"),
    "bias with a normalization": lambda: tied(nn.Linear(3, 3), nn.LayerNorm(3), "bias"),
    "groups": lambda: tied(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, groups=2), "weight", "bias"),
}


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
class TestRefused:
    """A layer that BNP does not cover is refused by name, unless it is skipped; nothing stays hooked."""

    @pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
    def test_layers_that_are_not_covered(self, build: Callable[[], nn.Module]) -> None:
        model = nn.ModuleDict({"fine": nn.Linear(3, 3), "other": build()})
        before = hooks_of(model)
        with pytest.raises(UnsupportedLayerError, match=r"^other \(.*(skip|batch)"):
            BNP(model)
        assert hooks_of(model) == before
        assert list(BNP(model, skip=["other"]).moments) == ["fine"]

    @pytest.mark.parametrize("build", TIED.values(), ids=TIED)
    def test_layers_that_share_only_a_part(self, build: Callable[[], nn.Sequential]) -> None:
        model = build()
        for skip in ([], ["1"]):
            with pytest.raises(UnsupportedLayerError, match="list both in skip"):
                BNP(model, skip=skip)
        assert hooks_of(model) == 0
        assert not BNP(model, skip=["0", "1"]).moments

    def test_a_weight_tied_to_an_embedding(self) -> None:
        model = tied(nn.Embedding(4, 3), nn.Linear(3, 4), "weight")
        for skip in ([], ["0"]):
            with pytest.raises(UnsupportedLayerError, match=r"^[01] "):
                BNP(model, skip=skip)

    @pytest.mark.parametrize(
        ("field", "settings"),
        [
            ("rho", {"rho": 1.5}),
            ("rho", {"rho": float("nan")}),
            ("eps_rel", {"eps_rel": -1.0}),
            ("eps_abs", {"eps_rel": 0.0, "eps_abs": 0.0}),
            ("step_scale", {"step_scale": "nrom"}),
            ("skip", {"skip": ["9"]}),
            ("skip", {"skip": "0"}),  # its letters are names
            ("skip", {"skip": [nn.ReLU()]}),
        ],
        ids=str,
    )
    def test_settings_out_of_range(self, field: str, settings: dict[str, Any]) -> None:
        model = nn.Sequential(nn.Linear(3, 3))
        with pytest.raises(ConfigurationError) as caught:
            BNP(model, **settings)
        assert field in caught.value.field
        assert hooks_of(model) == 0


class TestSkip:
    @pytest.mark.parametrize(
        ("skip", "left"),
        [
            ([], ["0.0", "0.1", "1", "2"]),
            (["1"], ["0.0", "0.1", "2"]),
            (["0"], ["1", "2"]),
            ([nn.Conv1d], ["0.0", "0.1", "1"]),
            ([nn.Sequential], ["1", "2"]),
            (["0.1", nn.Conv1d], ["0.0", "1"]),
        ],
        ids=str,
    )
    def test_by_name_and_by_type(self, skip: list[Any], left: list[str]) -> None:
        inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model = nn.ModuleList([inner, nn.Linear(3, 3), nn.Conv1d(3, 3, 1)])
        assert list(BNP(model, skip=skip).moments) == left

    def test_a_skipped_layer_keeps_its_gradient(self) -> None:
        model = mlp()
        pre = BNP(model, skip=["2"])
        learn(model, batch(4, 5))
        before = [[g.clone() for g in gradients(model[i])] for i in (0, 2)]
        pre.step()
        assert_equal(gradients(model[2]), before[1])
        assert not torch.equal(gradients(model[0])[0], before[0][0])


class TestState:
    def test_remove_takes_every_hook_off(self) -> None:
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        pre.step()
        before = moments_of(pre)
        pre.remove()
        pre.remove()  # a second time does no harm
        assert hooks_of(model) == 0
        learn(model, batch(4, 5))
        with pytest.raises(UnobservedLayerError):
            pre.step()
        assert_equal(moments_of(pre), before)

    def test_a_restored_state_goes_on_to_the_last_bit(self) -> None:
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        pre.step()
        other = mlp()
        restored = BNP(other)
        restored.load_state_dict(pre.state_dict())
        for m, p in ((model, pre), (other, restored)):
            learn(m, batch(3, 5, seed=1))
            p.step()
        assert_equal(state_of(model, pre), state_of(other, restored))

    @pytest.mark.parametrize(
        "change",
        [
            lambda state: state.pop("2"),
            lambda state: state.update({"9": state["2"]}),
            lambda state: state["4"].pop("var"),
            lambda state: state["4"].update(more=1.0),
            lambda state: state["4"].update(mean=torch.zeros(7)),
            lambda state: state["4"].update(mean=None),
            lambda state: state["4"].update(weight="many"),
        ],
        ids=[
            "layer missing",
            "layer unknown",
            "key missing",
            "key unknown",
            "shape",
            "no tensor",
            "no number",
        ],
    )
    def test_a_state_that_does_not_fit_changes_nothing(self, change: Callable[[Any], None]) -> None:
        model = mlp()
        pre = BNP(model)
        learn(model, batch(4, 5))
        pre.step()
        state = BNP(mlp()).state_dict()
        change(state)
        before = state_of(model, pre)
        with pytest.raises(StateError):
            pre.load_state_dict(state)
        assert_equal(state_of(model, pre), before)

    @duplicators
    def test_copies_of_a_model_with_its_bnp_go_their_own_way(self, duplicate: Callable[[Any], Any]) -> None:
        model = mlp()
        pre = BNP(model, step_scale="norm")
        learn(model, batch(4, 5))
        pre.step()
        twin, twin_pre = duplicate((model, pre))
        before = state_of(model, pre)
        assert_equal(moments_of(twin_pre), moments_of(pre))
        learn(twin, batch(3, 5, seed=1))
        twin_pre.step()
        assert_equal(state_of(model, pre), before)
        learn(model, batch(3, 5, seed=1))
        pre.step()
        assert_equal(state_of(model, pre), state_of(twin, twin_pre))
        twin_pre.remove()
        assert (hooks_of(twin), hooks_of(model)) == (0, 4)

    @duplicators
    def test_a_copy_of_the_model_alone_takes_a_bnp_of_its_own(self, duplicate: Callable[[Any], Any]) -> None:
        model = mlp()
        pre = BNP(model)
        twin = duplicate(model)
        twin_pre, reference = BNP(twin), ReferenceModel(twin, LAYERS[mlp])
        before = state_of(model, pre)
        loss_of(reference.forward(batch(4, 5))).backward()
        assert_follows(twin_pre, reference)
        assert_equal(state_of(model, pre), before)


def final_loss(lr: float, *, preconditioned: bool) -> float:
    """Mean loss over the last of 400 steps on features with means of 10 and scales from 0.01 to 100."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 2, 9)
    target = torch.randn(9, generator=rng) / scale
    torch.manual_seed(0)
    model = nn.Linear(9, 1)
    # Scales that differ by 10⁴ need a damping below the smallest of them.
    pre = BNP(model, rho=0.9, eps_rel=1e-8, eps_abs=1e-6) if preconditioned else None
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses: list[float] = []
    for _ in range(400):
        x = 10.0 + scale * torch.randn(32, 9, generator=rng)
        loss: Any = F.mse_loss(model(x).squeeze(1), (x - 10.0) @ target)
        optimizer.zero_grad()
        loss.backward()
        if pre is not None:
            pre.step()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-50:]) / 50


def test_a_badly_conditioned_regression_is_learned_where_plain_sgd_cannot() -> None:
    plain = [final_loss(lr, preconditioned=False) for lr in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)]
    best = min(loss for loss in plain if loss == loss)  # not the diverged
    assert final_loss(0.1, preconditioned=True) < 1e-4 * best
