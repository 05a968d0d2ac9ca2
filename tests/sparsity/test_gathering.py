"""Criteria that look at gradients: each against a slow computation of its own, and what scoring leaves alone."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunetune as pt
from prunetune.sparsity.criteria import CRITERIA, Criterion, Evidence, Grasp, Snip, SynFlow, Taylor
from prunetune.sparsity.gradients import gather
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.prune import choose, compute_mask
from tests.support.refusals import refused

DRIVEN = [name for name in CRITERIA if CRITERIA[name].needs > {"weight"}]
STEP = 1e-5
NAMES = ("3.weight", "6.weight")
Batch = tuple[Tensor, Tensor]


def network(seed: int = 0) -> nn.Sequential:
    """Smooth, so that finite differences are exact to second order; two prunable layers of 36 and 24 weights."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 3)).double()


def examples() -> list[Batch]:
    """Batches of different sizes, so that it matters that a batch counts by its size."""
    generator = torch.Generator().manual_seed(1)
    sizes = (5, 3, 2)
    return [(torch.randn(n, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3) for n in sizes]


def loss_at(model: nn.Module, batches: list[Batch], temperature: float = 1.0) -> Tensor:
    """The mean loss over all examples, one by one batch, in training mode."""
    model.train()
    total = sum(len(targets) for _, targets in batches)
    losses = [F.cross_entropy(model(inputs) / temperature, targets) * len(targets) for inputs, targets in batches]
    return torch.stack(losses).sum() / total


def gradient(model: nn.Module, batches: list[Batch], temperature: float = 1.0) -> dict[str, Tensor]:
    copy = deepcopy(model)
    loss_at(copy, batches, temperature).backward()
    return {name: copy.get_parameter(name).grad for name in NAMES}  # type: ignore[misc]


def scores(model: nn.Module, criterion: Criterion, batches: list[Batch]) -> dict[str, Tensor]:
    found = gather(model, NAMES, criterion, batches)
    return {name: criterion.score(Evidence(model.get_parameter(name).detach(), **found[name])) for name in NAMES}  # type: ignore[arg-type]


def moved(model: nn.Module, name: str, i: int, factor: float) -> nn.Module:
    """A copy with one weight multiplied by a factor: SNIP's c."""
    copy = deepcopy(model)
    copy.get_parameter(name).data.view(-1)[i] *= factor
    return copy


def test_snip_is_the_derivative_by_a_factor_on_each_weight() -> None:
    model, batches = network(), examples()
    found = scores(model, Snip(), batches)
    for name in NAMES:
        for i in range(found[name].numel()):
            up, down = (loss_at(moved(model, name, i, 1 + h), batches).item() for h in (STEP, -STEP))
            assert float(found[name].view(-1)[i]) == pytest.approx(abs(up - down) / (2 * STEP), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasps_product_is_the_change_of_the_gradient_along_itself(temperature: float) -> None:
    model, batches = network(), examples()
    found = gather(model, NAMES, Grasp(temperature), batches)
    at_rest = gradient(model, batches, temperature)
    length = sum(float(g.square().sum()) for g in at_rest.values()) ** 0.5
    ends = []
    for h in (STEP, -STEP):
        copy = deepcopy(model)
        for name in NAMES:
            copy.get_parameter(name).data.add_(at_rest[name], alpha=h / length)
        ends.append(gradient(copy, batches, temperature))
    for name in NAMES:
        expected = (ends[0][name] - ends[1][name]) * (length / (2 * STEP))
        torch.testing.assert_close(
            found[name]["hessian_grad"], expected, rtol=1e-5, atol=float(expected.abs().max()) * 1e-6
        )


def test_grasp_removes_what_lets_the_gradient_grow() -> None:
    """The sign: weights whose shrinking raises ‖g‖² most are pruned first (Wang et al. 2020, section 4.1)."""
    model, batches, criterion = network(), examples(), Grasp(temperature=1.0)

    def flow(shrunk: nn.Module) -> float:
        return sum(float(g.square().sum()) for g in gradient(shrunk, batches).values())

    grows = {}
    for name in NAMES:
        size = model.get_parameter(name).numel()
        ends = [[flow(moved(model, name, i, 1 - h)) for h in (STEP, -STEP)] for i in range(size)]
        grows[name] = torch.tensor([(less - more) / (2 * STEP) for less, more in ends], dtype=torch.float64)
    found = scores(model, criterion, batches)
    for name in NAMES:
        torch.testing.assert_close(-2 * found[name].flatten(), grows[name], rtol=1e-4, atol=1e-7)
    mask = compute_mask(model, 0.5, criterion, batches=batches)
    for name in NAMES:
        kept = mask[name].flatten()
        assert grows[name][kept].max() < grows[name][~kept].min()
        assert (grows[name] > 0).any()
        assert (grows[name] < 0).any()


def test_taylor_averages_the_squares_of_every_batch() -> None:
    model, batches = network(), examples()
    found = scores(model, Taylor(), batches)
    expected = {name: torch.zeros_like(model.get_parameter(name)) for name in NAMES}
    for batch in batches:
        for name, grad in gradient(model, [batch]).items():
            expected[name] += (model.get_parameter(name).detach() * grad) ** 2 / 3
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name].detach())
    one_batch = scores(model, Taylor(), batches[:1])
    torch.testing.assert_close(one_batch["6.weight"], scores(model, Snip(), batches[:1])["6.weight"] ** 2)


def linear(*matrices: list[list[float]]) -> nn.Sequential:
    layers = [nn.Linear(len(rows[0]), len(rows), bias=False) for rows in matrices]
    for layer, rows in zip(layers, matrices, strict=True):
        layer.weight.data.copy_(torch.tensor(rows))
    return nn.Sequential(*layers)


def flows(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    names = [row.name for row in pt.list_parameters(model) if row.prunable]
    found = gather(model, names, SynFlow(), [(torch.zeros(1, *shape), torch.zeros(1))])
    return {name: SynFlow().score(Evidence(model.get_parameter(name).detach(), **found[name])) for name in names}  # type: ignore[arg-type]


def test_synflow_of_two_linear_layers_worked_by_hand() -> None:
    """Paths: the hidden unit 0 leads out by |2| + |-1| = 3, the unit 1 by 4; into them come |1| + |-5| and |3| + 0."""
    found = flows(linear([[1.0, -5.0], [3.0, 0.0]], [[2.0, 0.0], [-1.0, 4.0]]), (2,))
    assert found["0.weight"].tolist() == [[3.0, 15.0], [12.0, 0.0]]
    assert found["1.weight"].tolist() == [[12.0, 0.0], [6.0, 12.0]]


def test_synflow_is_conserved_from_layer_to_layer() -> None:
    """Tanaka et al. 2020, theorems 1 and 2: every layer's scores sum to R, every unit's incoming to its outgoing."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 3, 3, bias=False), nn.Conv2d(3, 4, 3, padding=1, bias=False)
    pooled = nn.Conv2d(1, 2, 1, bias=False), first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)
    model = nn.Sequential(*pooled, nn.Flatten(), nn.Linear(16, 5, bias=False))
    found = flows(model, (1, 6, 6))
    with torch.no_grad():
        positive = deepcopy(model).double()
        for parameter in positive.parameters():
            parameter.abs_()
        total = float(positive(torch.ones(1, 1, 6, 6, dtype=torch.float64)).sum())
    assert len(found) == 3
    for layer in found.values():
        assert float(layer.sum()) == pytest.approx(total, rel=1e-12)
    into, out_of = found["1.weight"].sum((1, 2, 3)), found["3.weight"].sum((0, 2, 3))
    torch.testing.assert_close(into, out_of, rtol=1e-12, atol=0)


def test_synflow_takes_batch_norm_as_the_papers_code_does() -> None:
    """Evaluation mode, and the absolute value of all state: h -> |γ| (h - |μ|) / sqrt(σ² + eps) + |β|."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    first, norm, last = model
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(last, nn.Linear)
    w1, w2 = first.weight.detach().double().abs(), last.weight.detach().double().abs()
    for tensor, values in [
        (norm.weight.data, [-2.0, 0.5, 1.0]),
        (norm.bias.data, [0.1, -0.3, 0.0]),
        (norm.running_mean, [-0.2, 0.1, 0.0]),
        (norm.running_var, [4.0, 1.0, 0.25]),
    ]:
        assert tensor is not None
        tensor.copy_(torch.tensor(values))
    scale = torch.tensor([2.0, 0.5, 1.0]).double() / (torch.tensor([4.0, 1.0, 0.25]).double() + norm.eps).sqrt()
    hidden = w1.sum(1) + first.bias.detach().double().abs()
    normed = scale * (hidden - torch.tensor([0.2, 0.1, 0.0]).double()) + torch.tensor([0.1, 0.3, 0.0]).double()
    found = flows(model, (2,))
    torch.testing.assert_close(found["2.weight"], w2 * normed, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found["0.weight"], w1 * (scale * w2.sum(0))[:, None], rtol=1e-6, atol=1e-7)


def chain(matrices: list[Tensor], layer: int) -> Tensor:
    """∂R/∂W of a linear chain: what leads out of the layer's units times what comes into them."""
    into, out_of = torch.ones(matrices[0].shape[1]).double(), torch.ones(len(matrices[-1])).double()
    for matrix in matrices[:layer]:
        into = matrix @ into
    for matrix in reversed(matrices[layer + 1 :]):
        out_of = out_of @ matrix
    return out_of[:, None] * into


@pytest.mark.parametrize("rounds", [1, 2, 100])
def test_synflow_scores_again_under_the_mask_of_every_round(rounds: int) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(4)))
    mask = compute_mask(model, 0.9, SynFlow(rounds), "global", batches=[(torch.zeros(1, 6), torch.zeros(1))])
    matrices = [layer.weight.detach().double().abs() for layer in model if isinstance(layer, nn.Linear)]
    kept = torch.ones(4, 6, 6, dtype=torch.bool)
    for done in range(1, rounds + 1):
        pruned = [matrix * alive for matrix, alive in zip(matrices, kept, strict=True)]
        score = torch.stack([pruned[i] * chain(pruned, i) for i in range(4)]).masked_fill(~kept, -1)
        best = score.flatten().argsort(descending=True, stable=True)[: round(144 * 0.1 ** (done / rounds))]
        kept = torch.zeros(144, dtype=torch.bool).index_fill(0, best, True).view(4, 6, 6)
    for i, (name, bits) in enumerate(mask.items()):
        assert torch.equal(bits, kept[i]), name
    assert mask.kept == round(14.4)


def test_many_rounds_keep_every_layer_alive_where_one_does_not() -> None:
    """Tanaka et al. 2020, theorem 3 and figure 1: layer collapse."""
    torch.manual_seed(0)
    widths = [16, 128, 16, 128, 16, 10]
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    shape = [(torch.zeros(1, 16), torch.zeros(1))]
    many, once = (compute_mask(model, 0.995, SynFlow(n), "global", batches=shape) for n in (100, 1))
    assert all(bits.any() for bits in many.values())
    assert not all(bits.any() for bits in once.values())


def test_rounds_go_on_from_the_mask_within() -> None:
    """Odd layers, whose own share is less than the mean of `within`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 5, bias=False))
    names, weights = ("0.weight", "1.weight"), {n: p.detach() for n, p in model.named_parameters()}
    shape = [(torch.zeros(1, 1), torch.zeros(1))]

    def gather_evidence(criterion: Criterion, mask: Mask | None):
        return gather(model, names, criterion, shape, mask=mask)

    half = choose(weights, 0.5, SynFlow(10), gather_evidence=gather_evidence)
    third = choose(weights, 0.34, SynFlow(10), parent_mask=half, gather_evidence=gather_evidence)
    assert (half.kept, third.kept) == (2 + 8, 1 + 5)
    assert all(not (third[name] & ~half[name]).any() for name in names)


class Restless(nn.Module):
    """All that scoring could disturb: batch norm, dropout, a frozen layer, one in evaluation mode, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Conv2d(4, 4, 3).requires_grad_(False)
        self.quiet = nn.BatchNorm2d(4).eval()
        self.last = nn.Linear(16, 3)
        self.unused = nn.Linear(4, 4)
        self.register_buffer("switch", torch.tensor([True, False]))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.first(images)).relu())
        return self.last(self.quiet(self.frozen(hidden)).relu().flatten(1))


def shown() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(6, 1, 6, 6, generator=generator), torch.arange(6) % 3) for _ in range(2)]


@pytest.mark.parametrize("name", DRIVEN)
class TestScoring:
    def test_leaves_the_network_and_the_generators_alone(self, name: str) -> None:
        model = Restless()
        model.last.bias.grad = torch.ones(3)
        state = digest_tensors(model.state_dict())
        modes = [module.training for module in model.modules()]
        asks = [parameter.requires_grad for parameter in model.parameters()]
        batches = shown()
        pixels, random = digest_tensors({"x": batches[0][0]}), torch.get_rng_state()
        with torch.no_grad():
            compute_mask(model, 0.5, name, "global", batches=batches)
            assert not torch.is_grad_enabled()
        assert digest_tensors(model.state_dict()) == state
        assert [module.training for module in model.modules()] == modes
        assert [parameter.requires_grad for parameter in model.parameters()] == asks
        assert torch.equal(torch.get_rng_state(), random)
        assert digest_tensors({"x": batches[0][0]}) == pixels
        grads = {n for n, parameter in model.named_parameters() if parameter.grad is not None}
        assert grads == {"last.bias"}
        assert torch.equal(model.last.bias.grad, torch.ones(3))

    def test_comes_out_the_same_again_whatever_was_drawn_before(self, name: str) -> None:
        model = Restless()
        masks = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            masks.append(compute_mask(model, 0.5, name, "global", batches=shown()))
        assert masks[0] == masks[1]

    def test_takes_a_loader_and_an_iterator_that_lasts_once(self, name: str) -> None:
        def once() -> Iterator[Batch]:
            yield from shown()

        model, (first, second) = Restless(), shown()
        loader = DataLoader(TensorDataset(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])), 6)
        expected = compute_mask(model, 0.5, name, batches=shown())
        assert compute_mask(model, 0.5, name, batches=once()) == expected
        assert compute_mask(model, 0.5, name, batches=loader) == expected

    def test_sees_the_network_pruned_by_the_mask(self, name: str) -> None:
        model = network()
        mask = compute_mask(model, 0.5)
        zeroed = deepcopy(model)
        zeroed.load_state_dict(mask.apply(model.state_dict()))
        criterion = CRITERIA[name]()
        under, of_zeroed, whole = (
            gather(model, NAMES, criterion, examples(), mask=mask),
            gather(zeroed, NAMES, criterion, examples()),
            gather(model, NAMES, criterion, examples()),
        )
        (need,) = criterion.needs - {"weight"}
        for layer in NAMES:
            assert torch.equal(under[layer][need], of_zeroed[layer][need])
            assert not torch.equal(under[layer][need], whole[layer][need])

    def test_finds_nothing_in_a_layer_that_is_not_used(self, name: str) -> None:
        found = gather(Restless(), ("frozen.weight", "unused.weight"), CRITERIA[name](), shown())
        (need,) = CRITERIA[name].needs - {"weight"}
        assert not found["unused.weight"][need].any()
        assert found["frozen.weight"][need].any()

    def test_works_on_a_network_that_is_held(self, name: str) -> None:
        model = network()
        mask = compute_mask(model, 0.5)
        pt.apply_mask(model, mask)
        state = digest_tensors(model.state_dict())
        assert compute_mask(model, 0.75, name, batches=examples()).kept == 9 + 6
        assert digest_tensors(model.state_dict()) == state
        assert pt.get_mask(model) == mask

    def test_asks_for_batches(self, name: str) -> None:
        with refused("criterion", "batches", "hand"):
            compute_mask(network(), 0.5, name)
        with refused("batches", "targets"):
            compute_mask(network(), 0.5, name, batches=[])


def test_dropout_draws_by_the_seed() -> None:
    found = [gather(Restless(), ("last.weight",), Snip(), shown(), seed=seed) for seed in (0, 1)]
    assert not torch.equal(found[0]["last.weight"]["grad"], found[1]["last.weight"]["grad"])


def test_the_loss_is_the_callers() -> None:
    model, batches = linear([[2.0, 3.0]]), [(torch.tensor([[1.0, 10.0]]), torch.tensor([[0.0]]))]

    def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum() / 2

    found = gather(model, ("0.weight",), Snip(), batches, half_square)["0.weight"]["grad"]
    assert found.tolist() == [[32.0, 320.0]]
    with refused("loss", "(1, 1)", "scalar"):
        gather(model, ("0.weight",), Snip(), batches, lambda outputs, targets: outputs - targets)


def test_a_gradient_that_is_constant_has_no_hessian() -> None:
    model, batches = linear([[2.0, 3.0]]), [(torch.tensor([[1.0, 10.0]]), torch.tensor([[0.0]]))]
    found = gather(model, ("0.weight",), Grasp(), batches, lambda outputs, targets: outputs.sum())
    assert found["0.weight"]["hessian_grad"].tolist() == [[0.0, 0.0]]


def test_a_need_that_nothing_gathers_is_named() -> None:
    @dataclass(frozen=True)
    class Curious:
        needs: ClassVar[frozenset[str]] = frozenset({"weight", "activation"})

        def score(self, evidence: Evidence) -> Tensor:
            return evidence.weight

    with refused("criterion", "activation"):
        compute_mask(network(), 0.5, Curious(), batches=examples())
