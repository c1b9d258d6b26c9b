from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnp_online.errors import ConfigurationError
from bnp_online.network import Network, cnn, draw_uniform, entry_start, mlp, mlp_start, with_head


def grown(hidden: tuple[int, ...] = (6, 4), activation: str = "relu", seed: int = 0) -> Network:
    network = mlp(hidden, activation, (seed, 0), inputs=3)
    network.grow_outputs(2)
    return network


def randomize(network: nn.Module, *, whole: bool = False) -> None:
    """Give every parameter a value; whole numbers make sums exact in any order."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape) if whole else torch.randn(parameter.shape))


# --- draw_uniform


def test_a_draw_depends_on_its_key_alone() -> None:
    first = draw_uniform(100, 0.5, 7, "input", "temperature")
    torch.manual_seed(1)
    np.random.default_rng(2).random(9)
    draw_uniform(3, 1.0, 8, "other")
    assert torch.equal(first, draw_uniform(100, 0.5, 7, "input", "temperature"))
    assert torch.equal(first[:10], draw_uniform(10, 0.5, 7, "input", "temperature"))
    torch.testing.assert_close(first * 2, draw_uniform(100, 1.0, 7, "input", "temperature"))


def test_a_draw_is_the_same_in_every_version() -> None:
    expected = torch.tensor([0.9235175251960754, -0.2442864030599594, -0.544029951095581])
    assert torch.equal(draw_uniform(3, 1.0, 0, "input", "a"), expected)


@pytest.mark.parametrize(
    "key", [(8, "input", "a"), (7, "input", "b"), (7, "inputa"), (7, "input", "a", ""), ("\ud800",)]
)
def test_another_key_draws_other_numbers(key: tuple[str | int, ...]) -> None:
    a, b = draw_uniform(1000, 1.0, 7, "input", "a"), draw_uniform(1000, 1.0, *key)
    assert abs(float(np.corrcoef(a.numpy(), b.numpy())[0, 1])) < 0.1


def test_draws_are_uniform() -> None:
    numbers = draw_uniform(100_000, 2.0, 0, "x").double().numpy()
    assert draw_uniform(5, 1.0, 0).dtype == torch.float32
    assert np.abs(numbers).max() <= 2.0
    counts = np.histogram(numbers, bins=50, range=(-2.0, 2.0))[0]
    chi_squared = float(((counts - 2000.0) ** 2 / 2000.0).sum())
    assert chi_squared < 85.4  # 99.9% quantile for 49 degrees of freedom
    assert abs(float(np.corrcoef(numbers[:-1], numbers[1:])[0, 1])) < 0.02


def test_nothing_is_drawn_for_a_count_of_0() -> None:
    assert draw_uniform(0, 1.0, 1).shape == (0,)


# --- the multilayer perceptron


def test_the_start() -> None:
    network = grown((300,))
    layer, head = network.get_submodule("body.1"), network.head
    assert isinstance(layer, nn.Linear)
    bound = 1.0 / np.sqrt(3.0)
    assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert abs(float(layer.weight.detach().mean())) < 0.1 * bound
    assert float(layer.bias.detach().std()) > 0.1
    assert not head.weight.any()
    assert not head.bias.any()


def test_the_start_of_a_feature_depends_on_its_name_and_the_seed() -> None:
    def columns(names: list[str], seed: int = 0) -> dict[str, Tensor]:
        weight, _ = entry_start((seed, 0), names, 5)
        return dict(zip(names, weight.T, strict=True))

    one, other = columns(["a", "b", "c"]), columns(["c", "a", "d"])
    assert torch.equal(one["a"], other["a"])
    assert torch.equal(one["c"], other["c"])
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], columns(["a", "b", "c"], seed=1)["a"])


def test_equal_seeds_start_equally() -> None:
    first, second, other = (mlp((6, 4), "relu", seed).state_dict() for seed in ((3, 0), (3, 0), (3, 1)))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["body.3.weight"], other["body.3.weight"])


@pytest.mark.parametrize(("hidden", "inputs"), [((), 3), ((4,), 0), ((5, 4), 3)])
def test_the_start_of_an_mlp_is_drawn_without_the_network(hidden: tuple[int, ...], inputs: int) -> None:
    network = dict(mlp(hidden, "relu", (7, 2), inputs).body.named_parameters())
    drawn = dict(mlp_start(hidden, (7, 2), inputs))
    assert drawn.keys() == {f"body.{name}" for name in network}
    assert all(torch.equal(drawn[f"body.{name}"], value) for name, value in network.items())


def test_layers_and_activations() -> None:
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    for name, kind in kinds.items():
        body = mlp((6, 4), name, (0, 0)).get_submodule("body")
        assert isinstance(body, nn.Sequential)
        assert [type(layer) for layer in body] == [nn.Flatten, nn.Linear, kind, nn.Linear, kind]


@pytest.mark.parametrize("hidden", [(), (5,), (7, 4), (3, 9, 2)])
def test_growth_leaves_the_outputs_exactly_equal(hidden: tuple[int, ...]) -> None:
    network = grown(hidden)
    randomize(network, whole=True)
    x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, -1.0]])
    before = network(x)
    network.grow_outputs(3)
    assert torch.equal(network(x)[:, :2], before)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_growth_leaves_the_outputs_equal_up_to_the_order_of_sums(activation: str) -> None:
    network = grown((50, 30), activation)
    randomize(network)
    x = torch.randn(1, 3)
    before = network(x)
    network.grow_outputs(3)
    torch.testing.assert_close(network(x)[:, :2], before)


@pytest.mark.parametrize("hidden", [(), (7, 4)])
def test_growth_appends_and_leaves_every_parameter_as_it_is(hidden: tuple[int, ...]) -> None:
    network = grown(hidden)
    randomize(network)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.5, -1.5]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.grow_outputs(3)
    after = network.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name][tuple(slice(size) for size in value.shape)], value)
    assert network.head.out_features == 5
    assert not network.head.weight[2:].any()
    assert network.head.bias[2:].tolist() == [-1.5] * 3
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_linear_model_starts_at_zero() -> None:
    network = grown(())
    assert not network.head.weight.any()
    assert network.head.weight.shape == (2, 3)


def test_a_network_without_inputs_or_outputs_computes() -> None:
    network = mlp((4,), "relu", (0, 0))
    assert network(torch.zeros(1, 0)).shape == (1, 0)
    network.grow_outputs(1)
    assert network(torch.zeros(1, 0)).tolist() == [[0.0]]


def test_an_input_is_flattened() -> None:
    network = mlp((4,), "relu", (0, 0), inputs=6)
    network.grow_outputs(2)
    assert network(torch.ones(5, 2, 3)).shape == (5, 2)


# --- convolutions and modules


@pytest.mark.parametrize(
    ("shape", "hidden", "flat"),
    [((8, 8), (5,), 128), ((1, 28, 28), (), 32 * 49), ((3, 9, 6), (5, 4), 64), ((2, 4, 4), (), 32)],
)
def test_the_shapes_of_a_cnn(shape: tuple[int, ...], hidden: tuple[int, ...], flat: int) -> None:
    network = cnn(shape, hidden, "relu", (0, 0))
    network.grow_outputs(3)
    assert network(torch.randn(2, *shape)).shape == (2, 3)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    channels = shape[0] if len(shape) == 3 else 1
    assert [tuple(c.weight.shape) for c in convolutions] == [(16, channels, 3, 3), (32, 16, 3, 3)]
    widths = [layer.in_features for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert widths == [flat, *hidden]
    bound = 1.0 / np.sqrt(16 * 9)
    assert 0.95 * bound < float(convolutions[1].weight.detach().abs().max()) <= bound


def test_growth_leaves_the_outputs_of_a_cnn_exactly_equal() -> None:
    network = cnn((6, 6), (5,), "relu", (0, 0))
    network.grow_outputs(2)
    randomize(network, whole=True)
    x = torch.randint(-2, 3, (1, 6, 6)).float()
    before = network(x)
    network.grow_outputs(2)
    assert torch.equal(network(x)[:, :2], before)


@pytest.mark.parametrize("shape", [(), (8,), (1, 3, 8), (8, 3), (1, 1, 8, 8)])
def test_a_cnn_needs_an_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cnn(shape, (), "relu", (0, 0))
    assert caught.value.field == "input_shape"


def test_a_module_is_copied_with_its_weights() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(0.5))
    body.train()
    network = with_head(body, (2, 3))
    assert body.training
    assert network.head.in_features == 4
    assert network.head.out_features == 0
    weight = network.get_parameter("body.1.weight")
    own = body[1].weight
    assert isinstance(own, Tensor)
    assert torch.equal(weight, own)
    with torch.no_grad():
        weight.zero_()
    assert own.any()


@pytest.mark.parametrize("body", [nn.Conv2d(1, 2, 1), nn.LSTM(3, 4)])
def test_a_module_must_return_vectors(body: nn.Module) -> None:
    with pytest.raises(ConfigurationError) as caught:
        with_head(body, (1, 3, 3) if isinstance(body, nn.Conv2d) else (2, 3))
    assert caught.value.field == "network"
