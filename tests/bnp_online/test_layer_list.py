"""Networks as lists of layers: shapes and sizes against torch, and errors that name the layer."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

import bnp_online as bnp
from bnp_online.checkpoint import digest
from bnp_online.engines.base import LearnerSpec
from bnp_online.engines.torch_engine import TorchEngine
from bnp_online.errors import ConfigurationError
from bnp_online.layer_list import ACTIVATION_NAMES, Layer, count_parameters, read_layers
from bnp_online.network import ACTIVATIONS, from_layers

#: Every kind of layer and every setting.
LAYERS: list[Any] = [
    {"conv": 4, "kernel": 3},
    "relu",
    {"pool": 2},
    {
        "residual": [{"conv": 4}, {"norm": "group", "groups": 2}, "tanh", {"residual": ["gelu"]}],
    },
    {
        "residual": [{"conv": 6, "kernel": [3, 1], "stride": 2, "padding": [1, 0], "bias": False}],
        "shortcut": [{"conv": 6, "kernel": 1, "stride": [2, 2], "groups": 2}],
    },
    {"norm": "layer"},
    {"pool": [1, 2], "kind": "mean"},
    {"pool": "global", "kind": "max"},
    "flatten",
    {"dense": 5, "bias": False},
    {"norm": "layer"},
    "gelu",
]
SHAPE = (2, 10, 8)


class ByHand(nn.Module):
    """The same network as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.wide = nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), bias=False)
        self.short = nn.Conv2d(4, 6, 1, stride=2, groups=2)
        self.all = nn.GroupNorm(1, 6)
        self.dense = nn.Linear(6, 5, bias=False)
        self.last = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.one(x)), 2)
        inner = torch.tanh(self.norm(self.two(h)))
        h = h + inner + F.gelu(inner)
        h = F.avg_pool2d(self.all(self.wide(h) + self.short(h)), (1, 2))
        out: Tensor = self.head(F.gelu(self.last(self.dense(h.amax((2, 3))))))
        return out


def test_it_learns_as_the_same_module_with_a_preconditioner() -> None:
    spec = LearnerSpec(
        task="classification", network=LAYERS, input_shape=SHAPE, lr=0.05, standardize=False, seed=3
    )
    engine = TorchEngine(spec, dtype=torch.float64)
    engine.grow([], 3)
    module = ByHand().double()
    names = ["body.0", "body.3.body.0", "body.3.body.1", "body.4.body.0", "body.4.shortcut.0"]
    names += ["body.5", "body.9", "body.10", "head"]
    state = engine.state_dict()
    with torch.no_grad():
        for name, layer in zip(names, module.children(), strict=True):
            for kind, parameter in layer.named_parameters():
                parameter.copy_(state[f"network.{name}.{kind}"][0])
    pre = bnp.BNP(module, spec.rho, spec.eps_rel, spec.eps_abs, spec.step_scale)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    for _ in range(300):
        label = int(rng.integers(3))
        x = rng.normal(size=SHAPE)
        x[0, :, label] += 2.0
        predicted = engine.predict(x)
        with torch.no_grad():
            expected = torch.softmax(module.eval()(torch.from_numpy(x)[None])[0], 0)
        np.testing.assert_allclose(predicted, expected, rtol=1e-9, atol=1e-12)
        engine.learn(x[None], np.array([float(label)]), np.ones(1))
        optimizer.zero_grad()
        F.cross_entropy(module.train()(torch.from_numpy(x)[None]), torch.tensor([label])).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        pre.step()
        optimizer.step()
    trained = engine.state_dict()
    for name, layer in zip(names, module.children(), strict=True):
        for kind, parameter in layer.named_parameters():
            got = trained[f"network.{name}.{kind}"][0]
            torch.testing.assert_close(got, parameter.detach(), rtol=1e-8, atol=1e-10)
            assert not torch.equal(got, state[f"network.{name}.{kind}"][0])


def test_bnp_covers_each_layer_with_a_matrix() -> None:
    model = bnp.BNPClassifier(network=LAYERS, input_shape=SHAPE)
    names = {each.name for each in model.diagnose()}
    assert {"body.0", "body.3.body.0", "body.4.body.0", "body.4.shortcut.0", "body.9", "head"} <= names


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    one, same, other = (
        digest({}, dict(from_layers(LAYERS, SHAPE, (seed, 0)).state_dict())) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_the_start_of_a_network_is_that_of_the_convolutional_one() -> None:
    """The weights are drawn in the same way, so that both have equal bits under equal names."""
    cnn = bnp.BNPClassifier((7,), network="cnn", input_shape=(6, 8), seed=5)
    layers = [{"conv": 16}, "relu", {"pool": 2}, {"conv": 32}, "relu", {"pool": 2}, "flatten"]
    mine = bnp.BNPClassifier(network=[*layers, {"dense": 7}, "relu"], input_shape=(6, 8), seed=5)
    rng = np.random.default_rng(1)
    for i in range(20):
        x = rng.normal(size=(6, 8))
        cnn.learn_one(x, i % 3)
        mine.learn_one(x, i % 3)
    assert mine.fingerprint() == cnn.fingerprint()
    assert mine.num_parameters == cnn.num_parameters


def test_a_saved_model_opens_and_learns_on(tmp_path: Any) -> None:
    model = bnp.BNPRegressor(network=LAYERS, input_shape=SHAPE)
    rng = np.random.default_rng(2)
    rows = [(rng.normal(size=SHAPE), float(rng.normal())) for _ in range(8)]
    for x, y in rows[:5]:
        model.learn_one(x, y)
    model.save(tmp_path / "model")
    loaded = bnp.load(tmp_path / "model")
    assert loaded.network == LAYERS
    for each in (model, loaded):
        for x, y in rows[5:]:
            each.learn_one(x, y)
    assert loaded.fingerprint() == model.fingerprint()
    assert model.clone().network == LAYERS


def test_a_list_given_as_python_has_it_is_stored_as_json() -> None:
    layers = ({"conv": np.int64(2), "kernel": (3, 1)}, "flatten", {"dense": 4.0})
    model = bnp.BNPClassifier(network=layers, input_shape=(1, 5, 5))  # type: ignore[arg-type]
    stored = model.state_dict()["parameters"]["network"]
    assert json.loads(json.dumps(stored)) == [{"conv": 2, "kernel": [3, 1]}, "flatten", {"dense": 4}]


def test_the_names_of_activations_are_those_of_networks() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


# --- errors


@pytest.mark.parametrize(
    ("network", "field", "message"),
    [
        ([], "network", "must be a list of layers"),
        (["rleu"], "network[0]", "did you mean 'relu'?"),
        (["lstm"], "network[0]", "use one of relu, tanh, gelu, flatten"),
        (["conv"], "network[0]", 'conv needs a value, such as {"conv": 2}'),
        ([5], "network[0]", 'must be a layer, such as {"dense": 64}'),
        ([None], "network[0]", "must be a layer"),
        ([{}], "network[0]", "it has none"),
        ([{"desne": 3}], "network[0]", "did you mean dense?"),
        ([{"conv": 3, "dense": 4}], "network[0]", "is both conv and dense: make it 2 layers"),
        ([{"conv": 3, "kernal": 4}], "network[0].kernal", "did you mean kernel?"),
        ([{"dense": 3, "seed": 4}], "network[0].seed", "is no setting of dense: it has bias"),
        ([{"conv": 0}], "network[0].conv", "must be an integer from 1 to 65536, not 0"),
        ([{"conv": True}], "network[0].conv", "not True"),
        ([{"conv": 2.5}], "network[0].conv", "not 2.5"),
        ([{"conv": 2, "kernel": "3"}], "network[0].kernel", "or two of them for height and width"),
        ([{"conv": 2, "kernel": [3, 3, 3]}], "network[0].kernel", "not [3, 3, 3]"),
        ([{"conv": 2, "padding": -1}], "network[0].padding", "from 0 to 255"),
        ([{"conv": 2, "bias": 1}], "network[0].bias", "must be true or false"),
        ([{"conv": 4, "groups": 2}], "network[0].groups", "(3) and after it (4), and 2 does not: use 1"),
        ([{"conv": 4, "kernel": 9, "padding": 0}], "network[0]", "a kernel of (9, 9) does not fit an image"),
        ([{"dense": 4}], "network[0]", 'dense needs a vector, not the shape (3, 8, 8): put "flatten"'),
        (["flatten", {"conv": 4}], "network[1]", 'not the shape (192): put it before "flatten"'),
        (["flatten", {"pool": 2}], "network[1]", "pool needs an image"),
        ([{"pool": 9}], "network[0]", "a pool of (9, 9) does not fit an image of (8, 8)"),
        ([{"pool": "all"}], "network[0].pool", 'a size such as 2, or "global"'),
        ([{"pool": 2, "kind": "median"}], "network[0].kind", "must be 'max' or 'mean'"),
        ([{"norm": "batch"}], "network[0].norm", "must be 'layer' or 'group'"),
        ([{"norm": "group"}], "network[0]", "needs groups"),
        ([{"norm": "layer", "groups": 3}], "network[0].groups", "omit it"),
        ([{"norm": "group", "groups": 2}], "network[0].groups", "must divide the 3 channels"),
        (["flatten", {"dense": 1}, {"norm": "layer"}], "network[2]", "always 0"),
        (["relu", {"residual": [{"conv": 4}]}], "network[1]", '"shortcut": [{"conv": CHANNELS'),
        ([{"residual": []}], "network[0].residual", "must be a list of layers"),
        ([{"residual": 3}], "network[0].residual", "must be a list of layers"),
        ([{"residual": ["relu", {"dense": 3}]}], "network[0].residual[1]", "dense needs a vector"),
        ([{"residual": ["relu"], "shortcut": ["x"]}], "network[0].shortcut[0]", "is no layer"),
        ([{"conv": 32}], "network", 'ends with the shape (32, 8, 8): add "flatten" at the end'),
        (["relu"] * 257, "network", "has 257 layers: use at most 256"),
        (["relu"] * 200 + [{"residual": ["relu"] * 100}], "network", "has 301 layers"),
        ([{"conv": 65_536}] * 20, "network", "computes 88080384 values"),
    ],
)
def test_an_error_names_the_layer_and_the_remedy(network: Any, field: str, message: str) -> None:
    if "values" in message:
        network = [*network, "flatten"]
    with pytest.raises(ConfigurationError) as caught:
        bnp.BNPClassifier(network=network, input_shape=(3, 8, 8))
    assert caught.value.field == field
    assert message in caught.value.message


def test_residual_layers_inside_each_other_have_a_limit() -> None:
    network: list[Any] = ["relu"]
    for _ in range(8):
        network = [{"residual": network}]
    assert read_layers(network, (3,))[0].after == (3,)
    with pytest.raises(ConfigurationError, match="inside each other"):
        read_layers([{"residual": network}], (3,))


def test_a_network_needs_an_input_shape() -> None:
    with pytest.raises(ConfigurationError, match="network: of layers needs input_shape"):
        bnp.BNPClassifier(network=["flatten"])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7,)])
def test_other_shapes_can_be_flattened(shape: tuple[int, ...]) -> None:
    model = bnp.BNPClassifier(network=["flatten", {"dense": 3}], input_shape=shape)
    model.learn_one(np.ones(shape), "a")
    assert model.predict_one(np.ones(shape)) == "a"
    with pytest.raises(ConfigurationError, match="conv needs an image"):
        read_layers([{"conv": 3}, "flatten"], shape)


# --- properties

small = st.integers(1, 4)
pairs = st.one_of(small, st.lists(small, min_size=2, max_size=2))
activations = st.sampled_from(["relu", "tanh", "gelu"])


def settings_of(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


images: st.SearchStrategy[Any] = st.deferred(
    lambda: st.one_of(
        activations,
        st.builds(
            lambda channels, rest: {"conv": channels, **rest},
            st.sampled_from([2, 4]),
            settings_of(
                kernel=pairs,
                stride=st.sampled_from([1, 2]),
                padding=st.integers(0, 2),
                groups=st.sampled_from([1, 2]),
                bias=st.booleans(),
            ),
        ),
        st.builds(
            lambda size, rest: {"pool": size, **rest},
            st.one_of(st.integers(1, 2), st.just("global")),
            settings_of(kind=st.sampled_from(["max", "mean"])),
        ),
        st.sampled_from([{"norm": "layer"}, {"norm": "group", "groups": 2}, {"norm": "group", "groups": 1}]),
        st.builds(lambda inner: {"residual": inner}, st.lists(images, min_size=1, max_size=3)),
        st.builds(
            lambda inner, short: {"residual": inner, "shortcut": short},
            st.lists(images, min_size=1, max_size=2),
            st.lists(images, min_size=1, max_size=2),
        ),
    )
)
vectors = st.one_of(
    activations,
    st.builds(lambda n, rest: {"dense": n, **rest}, st.integers(1, 5), settings_of(bias=st.booleans())),
    st.just({"norm": "layer"}),
    st.builds(lambda inner: {"residual": inner}, st.lists(activations, min_size=1, max_size=2)),
)
networks = st.builds(
    lambda front, back: [*front, "flatten", *back],
    st.lists(images, max_size=4),
    st.lists(vectors, max_size=3),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["conv", "dense", "pool", "norm", "residual", "shortcut", "kernel", "x", "bias"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def read(network: list[Any], shape: Sequence[int]) -> tuple[tuple[Layer, ...], ConfigurationError | None]:
    """The layers, or the error."""
    try:
        return read_layers(network, shape), None
    except ConfigurationError as error:
        return (), error


@settings(max_examples=300, deadline=None)
@given(networks, st.sampled_from([(2, 6, 6), (4, 5, 7), (6, 6)]))
def test_a_network_is_refused_or_has_the_shapes_and_sizes_of_its_modules(
    network: list[Any], shape: tuple[int, ...]
) -> None:
    before = copy.deepcopy(network)
    layers, error = read(network, shape)
    if error is not None:
        assert error.field.startswith("network")
        return
    features, parameters = count_parameters(network, shape)
    built = from_layers(network, shape, (0, 0))
    x = torch.zeros(1, *shape)
    modules = list(built.body.children())[len(shape) == 2 :]  # an image of one channel is unflattened first
    out = x[:, None] if len(shape) == 2 else x
    for layer, module in zip(layers, modules, strict=True):
        assert layer.before == tuple(out.shape[1:])
        out = module.train()(out)
        assert layer.after == tuple(out.shape[1:])
    assert out.shape == (1, features)
    assert sum(p.numel() for p in built.body.parameters()) == parameters
    assert network == before


@settings(max_examples=500, deadline=None)
@given(st.lists(anything, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_whatever_is_given_is_a_network_or_is_refused(network: list[Any], shape: list[int]) -> None:
    layers, error = read(network, shape)
    if error is None:
        assert len(layers[-1].after) == 1
    else:
        assert error.field.startswith("network")
        assert error.message
