"""The benchmark of the paper's claims: its stacked copies, its resumption, its verdicts, and its page."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from benchmarks.common.program import markdown
from benchmarks.paper import convolutions, perceptrons
from benchmarks.paper import main as paper
from benchmarks.paper.claims import Claim, Curves, at_most, best_rate, faster, much_faster
from benchmarks.paper.cost import BN, HOOKS, PLAIN, allocations, peak, side
from benchmarks.paper.images import CIFAR, load_images
from benchmarks.paper.networks import NORMS, resnet18, small_cnn
from benchmarks.paper.results import Results
from benchmarks.paper.stack import Stack
from bnp_online import BNP
from tests.support.programs import DOCS, RESULTS, benchmark


def _run(*arguments: str | Path) -> str:
    return " ".join(benchmark("paper", *arguments).stdout.split())  # without the line breaks of a terminal


def _bright(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images that a network can learn: bright where their class says."""
    labels = rng.integers(10, size=count).astype(np.uint8)
    pixels = rng.integers(100, size=(count, 28, 28)).astype(np.uint8)
    pixels[np.arange(count), 2 * labels] += 150
    return pixels, labels


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("mnist.npz", "fashion_mnist.npz"):
        x, y = _bright(rng, 160)
        test_x, test_y = _bright(rng, 24)
        np.savez(folder / name, x_train=x, y_train=y, x_test=test_x, y_test=test_y)
    binary = folder / "cifar-10-batches-bin"
    binary.mkdir()
    for file in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(256, size=(30, 1 + 3 * 32 * 32)).astype(np.uint8)
        records[:, 0] %= 10
        records.tofile(binary / file)
    return folder


def _plainly(network: nn.Sequential, rate: float, bnp: bool, x: Tensor, y: Tensor) -> nn.Sequential:
    """Train a copy by itself, through autograd, hooks and torch's own optimizer."""
    network = copy.deepcopy(network)
    pre = BNP(network) if bnp else None
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for rows, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        loss: Any = F.cross_entropy(network(rows), labels)  # torch leaves `backward` untyped
        loss.backward()
        if pre is not None:
            pre.step()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("activation", perceptrons.ACTIVATIONS)
@pytest.mark.parametrize("name", perceptrons.METHODS)
def test_stacked_copies_learn_as_each_would_by_itself(name: str, activation: str, batch: int) -> None:
    method = perceptrons.METHODS[name]
    if batch == 1 and method.norm is nn.BatchNorm1d:
        pytest.skip("a mini-batch of one has no variance")
    kind = perceptrons.ACTIVATIONS[activation]
    networks = [perceptrons.network(12, kind, method, seed).double() for seed in (0, 1)]
    rates = (0.3, 0.03)
    x = 1.0 + torch.randn(12, 2, batch, 12, dtype=torch.float64)
    y = torch.randint(10, (12, 2, batch))
    stack = Stack(networks, rates, bnp=method.bnp)
    for rows, labels in zip(x, y, strict=True):
        stack.step(rows, labels)

    test_x, test_y = torch.randn(7, 12, dtype=torch.float64), torch.randint(10, (7,))
    losses, accuracies = stack.score(test_x, test_y)
    for i, (network, rate) in enumerate(zip(networks, rates, strict=True)):
        alone = _plainly(network, rate, method.bnp, x[:, i], y[:, i])
        for key, value in alone.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                torch.testing.assert_close(stack.tensors[key][i].detach(), value, rtol=1e-9, atol=1e-11)
        out = alone(test_x)
        torch.testing.assert_close(losses[i], F.cross_entropy(out, test_y).detach())
        assert accuracies[i] == (out.argmax(1) == test_y).double().mean()


def test_a_diverged_rate_is_infinitely_bad() -> None:
    assert best_rate([[0.1, None], [0.5, 0.7], [0.6, 0.5]]) == 2
    assert best_rate([[None], [None]]) is None


def _curves(*loss: float) -> Curves:
    epochs = [float(i) for i in range(len(loss))]
    return Curves(epochs, [list(loss)], [[0.5] * len(loss)], rate=0.1, at_edge=False)


def test_verdicts_compare_when_ours_is_where_the_other_one_ended() -> None:
    slow, quick, level = _curves(2.0, 1.5, 1.0), _curves(2.0, 1.0, 0.5), _curves(2.0, 1.5, 1.05)
    gone = Curves([0.0, 1.0, 2.0], [], [], rate=None, at_edge=False)
    assert quick.reaches(1.5) == 0.25
    assert quick.reaches(0.4) == math.inf
    assert faster(quick, slow)
    assert not faster(slow, quick)
    assert not faster(slow, slow)
    assert much_faster(quick, slow)
    assert not much_faster(_curves(2.0, 1.4, 0.8), slow)
    assert at_most(1.1)(level, slow)
    assert not at_most(1.1)(slow, quick)
    assert faster(slow, gone)
    assert not faster(gone, slow)

    settings = {"one": {"a": quick, "b": slow}, "two": {"a": slow, "b": quick}, "three": {"a": quick}}
    claim = Claim.judge("a is faster than b", settings, "a", "b", faster)
    assert claim.held == {"one": True, "two": False}
    assert claim.verdict == "not held (1 of 2 settings)"
    assert claim.found["one"] == "0.5 against 1, reached at 50%"
    assert Claim.judge("c?", settings, "a", "c", faster).verdict == "not measured"


def test_results_stand_and_those_of_another_setup_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "paper.json"
    Results(path, "paper", {"size": "quick"}).add("cell", {"best": (1, 2)})
    again = Results(path, "paper", {"size": "quick"})
    assert again.has("cell")
    assert not again.has("other")
    assert again.content["cells"]["cell"] == {"best": [1, 2], "environment": 0}
    with pytest.raises(ValueError, match="another setup"):
        Results(path, "paper", {"size": "full"})


def test_cifar_is_read_from_its_binary_files_or_from_a_part_of_it(data_dir: Path, tmp_path: Path) -> None:
    images = load_images(CIFAR, data_dir, samples=100, test=8)
    assert images.x.shape == (100, 3, 32, 32)
    assert images.test_x.shape == (8, 3, 32, 32)
    assert "the first 100 of 150 to train" in images.source
    torch.testing.assert_close(images.x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0.0)
    record = np.fromfile(data_dir / "cifar-10-batches-bin" / "data_batch_1.bin", dtype=np.uint8)
    assert images.y[0] == record[0]

    # The same pixels, the channel last, are the same images.
    all_of = load_images(CIFAR, data_dir)
    pixels = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in _batches(data_dir)])
    x = pixels[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "cifar10_4000.npz", x=np.concatenate([x, x[:50]]), y=np.resize(pixels[:, 0], 200))
    part = load_images(CIFAR, tmp_path)
    assert torch.equal(part.x, all_of.x)
    assert len(part.test_y) == 50


def _batches(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "cifar-10-batches-bin").glob("data_batch_*.bin"))


@pytest.mark.parametrize("norm", NORMS)
def test_networks_of_convolutions(norm: str) -> None:
    of_64 = resnet18(NORMS[norm], 64)
    weights = sum(
        layer.weight.numel() for layer in of_64.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    assert weights == 11_164_352  # those of ResNet-18 for 32×32 images
    assert small_cnn(NORMS[norm], 4)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    small = resnet18(NORMS[norm], 2)
    assert small(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    kind = {"none": (), "batch": (nn.BatchNorm2d,), "group": (nn.GroupNorm,)}[norm]
    assert sum(isinstance(layer, kind) for layer in small.modules()) == (20 if kind else 0)
    assert len(BNP(small).moments) == 21


def _learned(layer: nn.Module, *shape: int) -> BNP:
    """A layer whose gradient is there, and whose step is to come."""
    pre = BNP(layer)
    for i in range(2):
        layer.zero_grad()
        loss: Any = layer(torch.rand(*shape)).square().mean()  # torch leaves `backward` untyped
        loss.backward()
        if i == 0:
            pre.step()  # the first one makes what stays
    return pre


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(300, 200), (5, 300)), (nn.Conv2d(30, 40, 5), (5, 30, 8, 8))]
)
def test_a_step_of_bnp_allocates_nothing_of_the_size_of_the_weights(
    layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]
) -> None:
    pre = _learned(layer, *shape)
    sizes = allocations(pre.step)
    assert 0 < max(sizes) < layer.weight.numel() * 4 / 2
    assert max(allocations(lambda: layer.weight * 2.0)) == layer.weight.numel() * 4  # it would be seen


def test_training_with_bnp_allocates_at_most_the_weights_of_a_layer_more() -> None:
    for batch in (1, 64, 512):
        plain, hooks = (peak(allocations(side(name, batch))) for name in (PLAIN, HOOKS))
        assert plain <= hooks < plain + 784 * 100 * 4


def test_perceptron_program_writes_verdicts_json_and_figure_and_goes_on_where_it_was(
    data_dir: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "paper.json", tmp_path / "page.md"
    page.write_text("<!-- paper-mlp:begin -->\nold\n<!-- paper-mlp:end -->\n")
    quick = ("mlp", "--size", "quick", "--data-dir", data_dir, "--out", out)
    printed = _run(*quick, "--markdown", page)
    content = json.loads(out.read_text())
    assert len(content["cells"]) == 2 * 2 * (5 + 5 + 4)
    assert {"commit", "cpu", "versions"} <= content["environments"][0].keys()
    assert "verdict" in printed
    shown = markdown(perceptrons.tables(content))
    assert page.read_text() == f"<!-- paper-mlp:begin -->\n{shown}\n<!-- paper-mlp:end -->\n"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    missing, kept = (perceptrons.cell_name("MNIST", "ReLU", batch, "BNP") for batch in (6, 60))
    before = content["cells"].pop(missing)
    content["cells"][kept]["seconds"] = -1.0
    out.write_text(json.dumps(content))
    _run(*quick)
    after = json.loads(out.read_text())["cells"]
    assert after[kept]["seconds"] == -1.0  # was not run again
    for cell in (before, after[missing]):
        del cell["seconds"], cell["environment"]
    assert after[missing] == before  # to the bit


def test_program_of_convolutions_runs(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    _run("conv", "--size", "quick", "--data-dir", data_dir, "--out", out)
    content = json.loads(out.read_text())
    assert len(content["cells"]) == 2 * 3 * 5
    assert content["setup"]["device"] == "cpu"
    for claim in convolutions.claims(content):
        assert list(claim.held) == ["CNN", "ResNet-18"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_program_of_the_cost_runs_and_shows_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "paper.json"
    printed = _run("cost", "--repeats", "1", "--seconds", "0.0", "--out", out)
    content = json.loads(out.read_text())
    assert content["cells"]["64"][PLAIN]["times"] == 1.0
    assert BN not in content["cells"]["1"]
    assert content["cells"]["512"][HOOKS]["bytes"] > 400_000
    assert f"{content['cells']['64'][HOOKS]['times']:.2f}×" in printed
    assert _run("cost", "--read", out, "--figure", tmp_path / "f.svg").startswith("Cost")
    assert "<svg" in (tmp_path / "f.svg").read_text()


@pytest.mark.parametrize("name", paper.EXPERIMENTS)
def test_page_shows_the_results_of_record(name: str) -> None:
    path = RESULTS / f"paper_{name}.json"
    page = (DOCS / "paper.md").read_text(encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert markdown(paper.EXPERIMENTS[name].tables(content)) in page
    assert f"](images/paper_{name}.png)" in page
    assert (DOCS / "images" / f"paper_{name}.png").is_file()
