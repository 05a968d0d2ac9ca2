"""How sharp a minimum is: the largest eigenvalue and the trace of the loss's Hessian, by Hessian-vector products."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.data.examples import Nest, first_tensor
from prunetune.errors import ConfigError
from prunetune.sparsity.forward_pass import call

Batch = tuple[Nest, Any]
"""Inputs, and the targets that the loss takes."""
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curvature:
    """Of the Hessian of the mean loss over a fixed set of examples, with respect to `n` weights.

    `largest` is the algebraically largest eigenvalue after `iterations` of Lanczos; `residual` bounds how far the
    nearest eigenvalue is from it: ‖Hv − λv‖ for the unit vector v found. `trace` is Hutchinson's mean over `probes`
    vectors of ±1, and `trace_error` its standard error (NaN for one probe).
    """

    n: int
    largest: float
    residual: float
    iterations: int
    trace: float
    trace_error: float
    probes: int


def curvature(
    model: nn.Module,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor],
    names: Sequence[str],
    mask: Mapping[str, Tensor] | None = None,
    *,
    iterations: int = 20,
    probes: int = 10,
    seed: int = 0,
) -> Curvature:
    """The curvature of `model` at its weights `names`, in evaluation mode, over `batches` of inputs and targets.

    `loss` is a batch's mean, and counts by the batch's size. With a `mask` only directions within its kept weights
    count: the Hessian is that of the sparse network. `seed` draws the vectors, on the CPU. The model is left as it was.
    Lanczos with full reorthogonalisation (Golub & Van Loan, ch. 10); Hutchinson 1990.

    ConfigError where the loss has no second derivative with respect to a weight, as of ReLU's outputs alone it has.
    """
    parameters = {name: dict(model.named_parameters(remove_duplicate=False))[name] for name in names}
    kept = _kept(parameters, mask)
    generator = torch.Generator().manual_seed(seed)
    training, model_requires = model.training, {n: p.requires_grad for n, p in parameters.items()}
    model.eval()
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        product = _product(model, batches, loss, list(parameters.values()), kept)
        largest, residual, used = lanczos(product, _unit(kept, generator), iterations)
        samples = [float(v.dot(product(v))) for v in (_signs(kept, generator) for _ in range(probes))]
    finally:
        model.train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(model_requires[name])
    mean = math.fsum(samples) / probes
    spread = math.fsum((sample - mean) ** 2 for sample in samples)
    error = math.sqrt(spread / (probes - 1) / probes) if probes > 1 else math.nan
    return Curvature(int(kept.sum()), largest, residual, used, mean, error, probes)


def lanczos(product: Product, start: Tensor, iterations: int) -> tuple[float, float, int]:
    """The largest eigenvalue of a symmetric matrix given by its `product`, its residual, and the iterations taken.

    `start` is a unit vector, shape (n,), in double precision. It ends early where the vectors span an invariant space.
    """
    basis, diagonal, beside = [start], [], []
    for _ in range(min(iterations, start.numel())):
        vector = product(basis[-1])
        diagonal.append(float(vector.dot(basis[-1])))
        for _ in range(2):  # twice is enough (Giraud et al. 2005): what rounding leaves of earlier vectors goes too
            span = torch.stack(basis)
            vector = vector - span.T @ (span @ vector)
        length = float(vector.norm())
        beside.append(length)
        if length < 1e-10 * max(1.0, abs(diagonal[0])):
            break
        basis.append(vector / length)
    size = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, value in enumerate(beside[: size - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = value
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), abs(beside[size - 1] * float(vectors[-1, -1])), size


def _product(
    model: nn.Module,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor],
    parameters: list[nn.Parameter],
    kept: Tensor,
) -> Product:
    """v -> Hv over the kept weights, in double precision on the CPU; the passes are in the model's own precision."""
    count = sum(len(first_tensor(inputs)) for inputs, _ in batches)
    shapes = [(parameter.shape, parameter.numel()) for parameter in parameters]

    def product(vector: Tensor) -> Tensor:
        parts = vector.split([size for _, size in shapes])
        directions = [
            part.to(parameter.device, parameter.dtype).view(shape)
            for part, parameter, (shape, _) in zip(parts, parameters, shapes, strict=True)
        ]
        total = torch.zeros_like(vector)
        for inputs, targets in batches:
            mean = loss(call(model, inputs), targets) * (len(first_tensor(inputs)) / count)
            gradients = torch.autograd.grad(mean, parameters, create_graph=True)
            along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
            if not isinstance(along, Tensor) or not along.requires_grad:
                raise ConfigError("curvature: the loss has no second derivative with respect to the weights")
            second = torch.autograd.grad(along, parameters, allow_unused=True, materialize_grads=True)
            total += torch.cat([part.detach().double().cpu().flatten() for part in second])
        return total * kept

    return product


def _kept(parameters: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor] | None) -> Tensor:
    """1 for every weight that counts and 0 for a pruned one, of all parameters one after the other, in double."""
    parts = [
        mask[name].flatten().double().cpu() if mask is not None and name in mask else torch.ones(p.numel()).double()
        for name, p in parameters.items()
    ]
    return torch.cat(parts)


def _unit(kept: Tensor, generator: torch.Generator) -> Tensor:
    vector = torch.randn(len(kept), generator=generator, dtype=torch.float64) * kept
    return vector / vector.norm()


def _signs(kept: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(0, 2, (len(kept),), generator=generator).double() - 1) * kept
