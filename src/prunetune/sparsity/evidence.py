"""Evidence beyond the weights: what gradients say of them, gathered on a copy of the network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, autograd, nn

from prunetune.errors import RequestError
from prunetune.sparsity.criteria import Criterion, temperature_of
from prunetune.sparsity.mask import Mask

Batches = Iterable[tuple[Tensor, Tensor]]
"""(inputs, targets), the first dimension counting examples."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) to the mean loss of the batch, a scalar."""

Gathered = Mapping[str, Mapping[str, Tensor]]
"""Layer -> field of Evidence -> tensor of the layer's shape, on the CPU."""


def gather(
    model: nn.Module,
    names: Sequence[str],
    criterion: Criterion,
    batches: Batches,
    loss: Loss = F.cross_entropy,
    mask: Mask | None = None,
    seed: int = 0,
) -> Gathered:
    """What `criterion` needs of the parameters `names` beyond their values, the network pruned by `mask`.

    - `grad`: the gradient of the mean loss over all examples of `batches`.
    - `grad_square`: the mean over the batches of the squared gradient of each.
    - `hessian_grad`: the Hessian of that mean loss, with regard to all of `names` together, times `grad`.
    - `flow`: the gradient of R, the sum of the outputs for one input of ones, of the network with the absolute values
      of all its state in double precision and in evaluation mode (Tanaka et al. 2020, and their code). Of the
      batches only the shape of an input counts.

    Gradients are taken in training mode: batch norm uses the batch's own moments, and dropout draws by `seed`, the same
    in every pass. All is done on a copy: parameters, buffers, modes and generators stay as they are. `batches` are held
    in memory; a few hundred examples are enough.

    RequestError when `needs` names what is not known here, and when batches or the loss are not as they must be.
    """
    wanted = sorted(criterion.needs - {"weight"})
    if strange := [need for need in wanted if need not in _GATHERED]:
        raise RequestError(f"criterion: {type(criterion).__name__} needs {', '.join(strange)}; nothing gathers that")
    shown = tuple((inputs, targets) for inputs, targets in batches)
    if wanted and not sum(len(inputs) for inputs, _ in shown):
        raise RequestError("batches: hold no example; give (inputs, targets) pairs")
    scene = _Scene(model, tuple(names), shown, loss, temperature_of(criterion), mask, seed)
    device = scene.device
    with torch.enable_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        found = {need: _GATHERED[need](scene) for need in wanted}
    return {
        name: {need: tensors[i].detach().cpu() for need, tensors in found.items()} for i, name in enumerate(scene.names)
    }


def reads_images(criterion: Criterion | type[Criterion]) -> bool:
    """Whether the criterion's score depends on data, so that a study must say on which."""
    return bool(criterion.needs & {"grad", "grad_square", "hessian_grad"})


@dataclass(frozen=True)
class _Scene:
    """A network to look at, what is shown to it and what is asked of it."""

    model: nn.Module
    names: tuple[str, ...]
    batches: Sequence[tuple[Tensor, Tensor]]
    loss: Loss
    temperature: float
    mask: Mask | None
    seed: int

    @property
    def device(self) -> torch.device:
        return self.model.get_parameter(self.names[0]).device

    def copy(self) -> tuple[nn.Module, list[Tensor]]:
        """The network pruned by the mask, and its parameters `names`, as a copy."""
        model = deepcopy(self.model)
        parameters: list[Tensor] = [model.get_parameter(name).requires_grad_() for name in self.names]
        for name, kept in (self.mask or {}).items():
            weight = model.get_parameter(name)
            weight.data.masked_fill_(~kept.to(weight.device), 0)
        return model, parameters

    def losses(self, model: nn.Module) -> Iterator[tuple[float, Tensor]]:
        """Of every batch its share of all examples, and its mean loss. Random numbers are the same in each pass."""
        model.train()
        torch.default_generator.manual_seed(self.seed)
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).manual_seed(self.seed)
        total = sum(len(inputs) for inputs, _ in self.batches)
        for inputs, targets in self.batches:
            outputs = model(inputs.to(self.device))
            tempered = outputs / self.temperature if self.temperature != 1 else outputs
            loss = self.loss(tempered, targets.to(self.device))
            if loss.dim():
                raise RequestError(f"loss: gives shape {tuple(loss.shape)}; it must give a scalar, the batch's mean")
            yield len(inputs) / total, loss


def _grad(scene: _Scene) -> list[Tensor]:
    model, parameters = scene.copy()
    return _mean_gradient(scene, model, parameters)


def _grad_square(scene: _Scene) -> list[Tensor]:
    model, parameters = scene.copy()
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for _, loss in scene.losses(model):
        for sum_, gradient in zip(total, _gradients(loss, parameters), strict=True):
            sum_ += gradient.square() / len(scene.batches)
    return total


def _hessian_grad(scene: _Scene) -> list[Tensor]:
    """H g = Σ over batches of ∂(g_b · g)/∂w, g held constant (Wang et al. 2020, algorithm 2)."""
    model, parameters = scene.copy()
    constant = _mean_gradient(scene, model, parameters)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for share, loss in scene.losses(model):
        gradients = _gradients(loss, parameters, create_graph=True)
        product = torch.stack([(g * c).sum() for g, c in zip(gradients, constant, strict=True)]).sum()
        if product.requires_grad:  # the gradient of a loss that is linear in the weights is constant
            for sum_, second in zip(total, _gradients(product, parameters), strict=True):
                sum_ += share * second
    return total


def _flow(scene: _Scene) -> list[Tensor]:
    model, parameters = scene.copy()
    model.double().eval()
    with torch.no_grad():
        for tensor in filter(torch.is_floating_point, model.state_dict().values()):
            tensor.abs_()
    inputs, _ = scene.batches[0]
    ones = torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=scene.device)
    return _gradients(model(ones).sum(), parameters)


_GATHERED: Mapping[str, Callable[[_Scene], list[Tensor]]] = {
    "grad": _grad,
    "grad_square": _grad_square,
    "hessian_grad": _hessian_grad,
    "flow": _flow,
}


def _mean_gradient(scene: _Scene, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor]:
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for share, loss in scene.losses(model):
        for sum_, gradient in zip(total, _gradients(loss, parameters), strict=True):
            sum_ += share * gradient
    return total


def _gradients(value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """∂value/∂parameter for each; zero for a parameter that the value does not depend on."""
    return list(autograd.grad(value, parameters, create_graph=create_graph, materialize_grads=True))
