"""Largest eigenvalue and trace against the exact Hessian of a tiny network, formed by torch entry by entry."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from prunetune.training.curvature import curvature, lanczos

NAMES = ["0.weight", "2.weight"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(10, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(10) % 3
    return [(images[:7], labels[:7]), (images[7:], labels[7:])]


def exact(mask: dict[str, Tensor] | None = None) -> Tensor:
    """The Hessian of the mean loss over all ten examples, rows and columns of pruned weights left out."""
    model = network()
    shapes = {name: dict(model.named_parameters())[name].shape for name in NAMES}
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def mean(flat: Tensor) -> Tensor:
        parts = dict(zip(NAMES, flat.split([shape.numel() for shape in shapes.values()]), strict=True))
        state = {name: part.view(shapes[name]) for name, part in parts.items()}
        return nn.functional.cross_entropy(functional_call(model, state, (images,)), labels)

    flat = torch.cat([dict(model.named_parameters())[name].detach().flatten() for name in NAMES])
    matrix = hessian(mean, flat)
    assert isinstance(matrix, Tensor)
    if mask is None:
        return matrix
    kept = torch.cat([mask[name].flatten() for name in NAMES])
    return matrix[kept][:, kept]


def halved() -> dict[str, Tensor]:
    return {name: torch.arange(p.numel()).view_as(p) % 2 == 0 for name, p in network().named_parameters()}


@pytest.mark.parametrize("masked", [False, True])
def test_like_the_exact_hessian(masked: bool) -> None:
    mask = halved() if masked else None
    matrix = exact(mask)
    found = curvature(network(), batches(), nn.functional.cross_entropy, NAMES, mask, iterations=40, probes=200)
    assert found.n == len(matrix)
    assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-8)
    assert found.residual < 1e-8
    assert abs(found.trace - float(matrix.trace())) < 4 * found.trace_error
    assert 0 < found.trace_error < abs(float(matrix.trace()))


def test_the_error_of_the_trace_is_that_of_hutchinsons_estimator() -> None:
    """Var(vᵀHv) = 2 Σ_{i≠j} H_ij² for signs v (Avron & Toledo 2011)."""
    matrix = exact()
    variance = 2 * float((matrix**2).sum() - (matrix.diagonal() ** 2).sum())
    found = curvature(network(), batches(), nn.functional.cross_entropy, NAMES, probes=400)
    assert found.trace_error == pytest.approx(math.sqrt(variance / 400), rel=0.15)


def test_the_model_is_left_as_it_was_and_two_runs_agree() -> None:
    model = network().train()
    next(model.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = (curvature(model, batches(), nn.functional.cross_entropy, NAMES) for _ in range(2))
    assert first == again
    assert first != curvature(model, batches(), nn.functional.cross_entropy, NAMES, seed=1)
    assert model.training
    assert not next(model.parameters()).requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_lanczos_of_a_diagonal_matrix() -> None:
    values = torch.tensor([-9.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    start = torch.full((4,), 0.5, dtype=torch.float64)
    largest, residual, used = lanczos(lambda vector: values * vector, start, 20)
    assert largest == pytest.approx(5)
    assert residual < 1e-9
    assert used == 4
    early, error, two = lanczos(lambda vector: values * vector, start, 2)
    assert two == 2
    assert min(abs(early - value) for value in values.tolist()) <= error + 1e-12  # what a residual promises
    largest, residual, used = lanczos(lambda vector: 3 * vector, start, 20)
    assert (largest, used) == (pytest.approx(3), 1)
    assert residual < 1e-9
