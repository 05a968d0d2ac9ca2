"""Evidence beyond the weights: what gradients say of them, gathered on a copy of the network."""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, autograd, nn
from torch.utils import _pytree as pytree

from prunetune.errors import ConfigError, one_line
from prunetune.sparsity.criteria import Criterion, temperature_of
from prunetune.sparsity.forward_pass import ExampleInputs
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import copied

Batches = Iterable[tuple[ExampleInputs, Any]]
"""(inputs, targets), the first dimension of each tensor counting examples."""

Loss = Callable[[Any, Any], Tensor]
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

    ConfigError when `needs` names what is not known here, and when batches or the loss are not as they must be.
    """
    wanted = sorted(criterion.needs - {"weight"})
    if strange := [need for need in wanted if need not in _GATHERED]:
        raise ConfigError(f"criterion: {type(criterion).__name__} needs {', '.join(strange)}; nothing gathers that")
    with torch.inference_mode(False):  # what is made here takes gradients, whoever calls
        shown = _pairs(batches)
    if wanted and not sum(_examples(inputs) for inputs, _ in shown):
        raise ConfigError("batches: hold no example; give (inputs, targets) pairs")
    scene = _Scene(model, tuple(names), shown, loss, temperature_of(criterion), mask, seed)
    device = scene.device
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
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
    batches: Sequence[tuple[ExampleInputs, Any]]
    loss: Loss
    temperature: float
    mask: Mask | None
    seed: int

    @property
    def device(self) -> torch.device:
        return self.model.get_parameter(self.names[0]).device

    def copy(self) -> tuple[nn.Module, list[Tensor]]:
        """The network pruned by the mask, and its parameters `names`, as a copy."""
        model = copied(self.model)
        parameters: list[Tensor] = [model.get_parameter(name).requires_grad_() for name in self.names]
        pruned: Mapping[str, Tensor] = self.mask if self.mask is not None else {}
        for name, kept in pruned.items():
            weight = model.get_parameter(name)
            weight.data.masked_fill_(~kept.to(weight.device), 0)
        return model, parameters

    def losses(self, model: nn.Module) -> Iterator[tuple[float, Tensor]]:
        """Of every batch its share of all examples, and its mean loss. Random numbers are the same in each pass."""
        model.train()
        torch.default_generator.manual_seed(self.seed)
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).manual_seed(self.seed)
        total = sum(_examples(inputs) for inputs, _ in self.batches)
        for inputs, targets in self.batches:
            outputs = self.tempered(_called(model, self.on_device(inputs)))
            with _one_line("loss: it"):
                loss = self.loss(outputs, self.on_device(targets))
            yield _examples(inputs) / total, _scalar(loss)

    def on_device(self, value: Any) -> Any:
        """The same with its tensors on the network's device."""
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), value)

    def tempered(self, outputs: Any) -> Any:
        """Logits by the criterion's temperature."""
        if self.temperature == 1:
            return outputs
        if not isinstance(outputs, Tensor):
            raise ConfigError(
                f"criterion: it divides the logits by {self.temperature:g}, and the network gives a "
                f"{type(outputs).__name__}; let it give logits alone, or set temperature=1"
            )
        return outputs / self.temperature


def _scalar(loss: object) -> Tensor:
    if isinstance(loss, Tensor) and not loss.dim():
        return loss
    what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise ConfigError(f"loss: gives {what}; it must give a scalar, the batch's mean")


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
    if odd := [t.dtype for t in pytree.tree_leaves(inputs) if not t.is_floating_point()]:
        kind = str(odd[0]).removeprefix("torch.")
        raise ConfigError(f"criterion: it feeds ones of an input's shape, and inputs are {kind}; they must be floating")

    def one_example_of_ones(tensor: Tensor) -> Tensor:
        return torch.ones(1, *tensor.shape[1:], dtype=torch.float64, device=scene.device)

    ones = pytree.tree_map(one_example_of_ones, inputs)
    leaves = [leaf for leaf in pytree.tree_leaves(_called(model, ones)) if isinstance(leaf, Tensor)]
    summed = [leaf.sum() for leaf in leaves if leaf.is_floating_point()]
    if not summed:
        raise ConfigError("model: gives no floating tensor, whose sum the criterion is about")
    return _gradients(torch.stack(summed).sum(), parameters)


_GATHERED: Mapping[str, Callable[[_Scene], list[Tensor]]] = {
    "grad": _grad,
    "grad_square": _grad_square,
    "hessian_grad": _hessian_grad,
    "flow": _flow,
}


def _pairs(batches: Batches) -> tuple[tuple[ExampleInputs, Any], ...]:
    """The batches as they are to be shown; a pair of two tensors alone is one batch."""
    if isinstance(batches, tuple | list) and len(batches) == 2 and all(isinstance(part, Tensor) for part in batches):
        return (_pair(tuple(batches)),)
    return tuple(_pair(batch) for batch in batches)


def _pair(batch: Any) -> tuple[ExampleInputs, Any]:
    parts = tuple(cast(Sequence[Any], batch)) if isinstance(batch, tuple | list) else ()
    if len(parts) != 2:
        what = f"{len(parts)} things" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise ConfigError(
            f"batches: one is {what}; each must be a pair (inputs, targets), where inputs may be a tensor, a tuple, or "
            "a dict of keyword arguments"
        )
    inputs, targets = pytree.tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, parts)
    leaves = pytree.tree_leaves(inputs)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves):
        raise ConfigError("batches: inputs must be a tensor, a tuple or a dict of tensors of shape (batch, ...)")
    return inputs, targets


def _examples(inputs: ExampleInputs) -> int:
    return len(pytree.tree_leaves(inputs)[0])


def _called(model: nn.Module, inputs: ExampleInputs) -> Any:
    with _one_line("batches: the network cannot take them: it"):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(inputs) if isinstance(inputs, Tensor) else model(*inputs)


@contextmanager
def _one_line(what: str) -> Generator[None, None, None]:
    """ConfigError in the place of what somebody's network or loss raises, but for lack of memory."""
    try:
        yield
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConfigError(f"{what} raised {type(error).__name__}: {one_line(error, 300)}") from error


def _mean_gradient(scene: _Scene, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor]:
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for share, loss in scene.losses(model):
        for sum_, gradient in zip(total, _gradients(loss, parameters), strict=True):
            sum_ += share * gradient
    return total


def _gradients(value: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """∂value/∂parameter for each; zero for a parameter that the value does not depend on."""
    return list(autograd.grad(value, parameters, create_graph=create_graph, materialize_grads=True))
