"""The ADMM penalty that moves a dense training towards an exactly sparse network (docs/explanation/admm.md)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.core.references import KEYED_WHERE_SET
from prunetune.errors import ConfigError
from prunetune.sparsity.criteria import Magnitude
from prunetune.sparsity.prune import choose
from prunetune.sparsity.scope import Scope, prunable

RHO_LEVELS = 4  # values that rho takes over a training, unless rho_every is given
RHO_TIMES_RATE = 3e-4  # the default rho times the learning rate (docs/explanation/admm.md)
UPDATES = 12  # of Z and U over a training, unless update_every is given


@dataclass(frozen=True)
class Penalty:
    """Settings of the penalty (rho/2)·Σ_l ‖W_l − Z_l + U_l‖² of Zhang et al. 2018 (arXiv 1804.03294).

    `density` is the kept share of the original number of weights of `scope`. `update_every` is the time between two
    updates of Z and U, and `rho_every` the time after which rho is multiplied by `rho_growth`, both in epochs,
    fractions allowed; None stands for a twelfth and for a quarter of the training. `pattern` says which positions Z may
    keep together: a name of PATTERNS such as `2:4`, None for `unstructured`.

    W follows Z in about (1 − momentum) / (rate · rho) steps: how fast is a matter of the product of rate and rho.
    Above rho = 2 (1 + momentum) / rate the penalty's own descent is unstable.
    """

    density: float
    scope: Scope = Scope()  # noqa: RUF009 - frozen
    allocation: str = "uniform"
    rho: float = 0.1
    rho_growth: float = 3.0
    rho_every: float | None = None
    update_every: float | None = None
    pattern: str | None = field(default=None, metadata=KEYED_WHERE_SET)

    def __post_init__(self) -> None:
        for name in ("rho", "rho_growth", "rho_every", "update_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: {value} is not possible; it must be a number above 0")


class Admm:
    """The penalty at work on the weights W of a model: the target Z, the scaled dual U, and the residuals.

    All tensors lie on the weights' device. Z starts as the projection of W, U as 0 (Zhang et al., section 3).
    """

    def __init__(self, model: nn.Module, penalty: Penalty, steps_per_epoch: int, epochs: int) -> None:
        parameters = dict(model.named_parameters())
        self._penalty = penalty
        self._weights = {name: parameters[name] for name in prunable(model, penalty.scope)}
        self._dual = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in self._weights.items()}
        self._rho = penalty.rho
        self._rho_period = (penalty.rho_every or epochs / RHO_LEVELS) * steps_per_epoch
        self._update_period = (penalty.update_every or epochs / UPDATES) * steps_per_epoch
        self._steps = 0
        self._residuals: list[Tensor] = []
        self._project({name: weight.detach() for name, weight in self._weights.items()})

    def add_gradient(self) -> None:
        """Add the penalty's gradient, rho (W − Z + U), to those that the loss has left."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - self._target[name] + self._dual[name], alpha=self._rho)

    def after_step(self) -> bool:
        """Count an optimizer step, and update Z, U and rho when they are due; whether they were."""
        self._steps += 1
        updates, rises = self._due(self._update_period), self._due(self._rho_period)
        if updates:
            self._update()
        if rises:
            self._raise_rho()
        return updates or rises

    @property
    def residuals(self) -> tuple[float, ...]:
        """The primal residual ‖W − Z‖ / ‖W‖ over all penalised layers, at the start and after every update of Z."""
        return tuple(float(residual) for residual in self._residuals)

    def state_dict(self) -> dict[str, Any]:
        """All that changes over a training."""
        return {
            "target": self._target,
            "dual": self._dual,
            "rho": self._rho,
            "steps": self._steps,
            "residuals": self._residuals,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where another penalty on the same weights had stopped."""
        devices = {name: weight.device for name, weight in self._weights.items()}
        self._target = {name: state["target"][name].to(device) for name, device in devices.items()}
        self._dual = {name: state["dual"][name].to(device) for name, device in devices.items()}
        self._rho, self._steps = state["rho"], state["steps"]
        self._residuals = [residual.to(next(iter(devices.values()))) for residual in state["residuals"]]

    def _due(self, period: float) -> bool:
        """Whether the latest step completed a period; the last one completes n periods also when n is rounded."""
        now, before = ((steps + 1e-6) // period for steps in (self._steps, self._steps - 1))
        return now > before

    def _update(self) -> None:
        """Z <- projection of W + U; U <- U + W − Z. Left out where that is not finite: the training is lost anyway."""
        sums = {name: weight.detach() + self._dual[name] for name, weight in self._weights.items()}
        if all(bool(tensor.isfinite().all()) for tensor in sums.values()):
            self._project(sums)
            self._dual = {name: tensor - self._target[name] for name, tensor in sums.items()}

    def _project(self, sums: Mapping[str, Tensor]) -> None:
        """Z <- the closest tensors to `sums` (W + U) that density and pattern allow; log the residual.

        A tensor V and the one that keeps only a support of V are Σ v² over the rest apart, so that the closest keeps
        the largest magnitudes: of a layer, or under N:M the N largest of every group of M.
        """
        rule = self._penalty
        kept = choose(
            sums, rule.density, Magnitude(), allocation=rule.allocation, pattern=rule.pattern or "unstructured"
        )
        self._target = {name: tensor.masked_fill(~kept[name].to(tensor.device), 0) for name, tensor in sums.items()}
        weights = {name: weight.detach() for name, weight in self._weights.items()}
        gaps = [weight - self._target[name] for name, weight in weights.items()]
        self._residuals.append(_norm(gaps) / _norm(weights.values()))

    def _raise_rho(self) -> None:
        """rho <- rho · growth. U is the dual over rho, so it shrinks by as much (Boyd et al. 2011, section 3.4.1)."""
        self._rho *= self._penalty.rho_growth
        for dual in self._dual.values():
            dual.div_(self._penalty.rho_growth)


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([tensor.norm() for tensor in tensors]).norm()
