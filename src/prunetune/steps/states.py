"""What exists at one seed and learning rate before any mask does: θ0, θ0', θk, θT, and how the study trains."""

from dataclasses import dataclass

from prunetune.core.references import Ref
from prunetune.core.seeding import derive
from prunetune.errors import ConfigError
from prunetune.steps.steps import Prune, Train, Weights
from prunetune.training.admm import Penalty
from prunetune.training.recipe import Recipe


@dataclass(frozen=True)
class Trainer:
    """The part of a training that all trainings of a seed share, the dense run too: data, their order, the devices."""

    data: Ref
    seed: int
    device: str
    devices: int

    def train(self, recipe: Recipe, start: Weights, mask: Prune | None = None, penalty: Penalty | None = None) -> Train:
        """The step that trains `start` under `mask` (None: dense) by `recipe`."""
        order, augment = derive(self.seed, "order"), derive(self.seed, "augment")
        devices = self.devices if self.devices > 1 else None
        return Train(start, mask, recipe, self.data, order, augment, penalty, self.device, devices)


@dataclass(frozen=True)
class DenseStates:
    """The states that masks are found from and arms start from, at one seed and one learning rate."""

    initial: Weights | None  # θ0; None when the trained state is the user's and no theta_0 came with it
    theta_0_prime: Weights  # the independent second draw
    theta_k: Weights | None  # None when the trained state is the user's and no theta_k came with it
    theta_t: Weights  # θT, the dense run's final state
    recipe: Recipe
    trainer: Trainer

    @property
    def theta_0(self) -> Weights:
        """θ0, for whoever cannot do without it; ConfigError where the user gave none."""
        if self.initial is None:
            raise ConfigError(
                "pretrained.theta_0: missing, and a mask or an arm of the study goes back to the initial weights; give "
                "their file, or only masks that start from trained weights (one_shot, gradual, admm) and arm finetune"
            )
        return self.initial

    def train(self, start: Weights, mask: Prune) -> Train:
        """The sparse training (start ⊙ mask)_T by the study's recipe."""
        return self.trainer.train(self.recipe, start, mask)
