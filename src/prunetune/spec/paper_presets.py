"""The paper's experiments as studies: one row for each figure or table, one preset for each network and data set in it.

Settings (Liu et al. 2021): 150 epochs, the rate divided by 10 after 80 and
120, batches of 128, crop and flip, five repetitions, 15 % of the remaining weights a round, k = 10. Moments are
fractions of the training, so `--set epochs=15` moves them along. All figures have the same recipe, seeds and rounds,
so that whatever two of them have in common is one step.

The networks of a figure are those that the paper names for it; of Figure A13 it says CIFAR-100, and the three networks
there are a choice. Chosen too, where the paper is silent: the weight decay; twelve rounds (86 %); one-shot masks in the
figures of sparse R_p, because they reach .3, .5 and .7 exactly, as rounds of 15 % do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "paper/"
STEPS_PER_EPOCH = 391  # of the paper's 50,000 training images in batches of 128

_RECIPE = {
    "epochs": 150,
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": {"kind": "step", "milestones": ["80/150", "120/150"], "gamma": 0.1},
    "augment": ["crop", "flip"],
}
_ROUNDS = {"per_round": 0.15, "rounds": 12}
_BOTH_RATES = [0.01, 0.1]
_ALL_MASKS = ["iterative", "admm", "one_shot"]


@dataclass(frozen=True)
class Network:
    """A model on a data set."""

    model: str
    data: str
    title: str

    @property
    def slug(self) -> str:
        """`resnet20-cifar10`, the end of a preset's name."""
        return f"{self.model}-{self.data}"


_R10 = Network("resnet20", "cifar10", "ResNet-20, CIFAR-10")
_R100 = Network("resnet20", "cifar100", "ResNet-20, CIFAR-100")
_M10 = Network("mobilenetv2", "cifar10", "MobileNet-V2, CIFAR-10")
_M100 = Network("mobilenetv2", "cifar100", "MobileNet-V2, CIFAR-100")
_V10 = Network("vgg11", "cifar10", "VGG-11, CIFAR-10")
_V100 = Network("vgg11", "cifar100", "VGG-11, CIFAR-100")


@dataclass(frozen=True)
class Experiment:
    """What one kind of figure varies and measures."""

    shows: str
    rates: list[float]
    masks: list[str]
    arms: list[str]
    sparsities: Any

    def fields(self, name: str, network: Network) -> dict[str, Any]:
        """The spec of this experiment on a network; every call gives a mapping of its own."""
        return {
            "name": name.replace("/", "-"),
            "model": network.model,
            "data": network.data,
            "recipe": {**_RECIPE, "schedule": dict(_RECIPE["schedule"])},  # type: ignore[call-overload]
            "learning_rates": list(self.rates),
            "masks": list(self.masks),
            "sparsities": self.sparsities.copy(),
            "arms": list(self.arms),
            "rewind": "10/150",
            "reference_steps": STEPS_PER_EPOCH,
            "seeds": 5,
        }


_WINNING = Experiment("ticket and reinit against sparsity", _BOTH_RATES, ["iterative"], ["ticket", "reinit"], _ROUNDS)
_DENSE = Experiment(  # a study has a sparse training; the first round's is shared with the other figures
    "R_p of the dense network's start and end", _BOTH_RATES, ["iterative"], ["ticket"], _ROUNDS | {"rounds": 1}
)
_FINETUNE = Experiment("finetune against sparsity", _BOTH_RATES, ["iterative"], ["finetune"], _ROUNDS)
_SPARSE = Experiment(
    "R_.2 between sparse networks", _BOTH_RATES, ["one_shot"], ["ticket", "reinit", "finetune"], [0.3, 0.5, 0.7]
)
_MASKS = Experiment("finetune, ticket, reinit by mask", [0.1], _ALL_MASKS, ["finetune", "ticket", "reinit"], _ROUNDS)
_TOGETHER = Experiment("the mask algorithms together", [0.1], _ALL_MASKS, ["finetune", "ticket"], _ROUNDS)
_TABLE = Experiment("R_.2 of sparse and dense at 50 %", [0.1], ["admm"], ["finetune"], [0.5])
_REWIND = Experiment("finetune, rewind, ticket", [0.1], ["admm"], ["finetune", "rewind", "ticket"], _ROUNDS)

_FIGURES: dict[str, tuple[Experiment, tuple[Network, ...]]] = {
    "fig2": (_WINNING, (_R10,)),
    "fig4": (_DENSE, (_R10,)),
    "fig5": (_FINETUNE, (_R10,)),  # its panels a and b
    "fig5cd": (_SPARSE, (_R10,)),  # its panels c and d
    "fig6": (_MASKS, (_R10,)),
    "fig7": (_TOGETHER, (_R10,)),
    "a1": (_WINNING, (_M10, _M100, _R100, _V100)),
    "a2": (_DENSE, (_V10, _V100, _M10, _M100)),
    "a3": (_FINETUNE, (_M10, _M100)),
    "a4": (_SPARSE, (_R100,)),
    "a5": (_SPARSE, (_V10, _V100)),
    "a6": (_SPARSE, (_M10, _M100)),
    "a7": (_MASKS, (_M10,)),
    "a8": (_MASKS, (_M100,)),
    "a9": (_MASKS, (_R100,)),
    "a10": (_MASKS, (_V100,)),
    "a11": (_TOGETHER, (_M10, _M100)),
    "a12": (_TOGETHER, (_R100, _V100)),
    "a13": (_REWIND, (_R100, _M100, _V100)),
    "table-a1": (_TABLE, (_R100, _M100, _V100, _M10, _V10)),
}
_CHOSEN = frozenset({"a13"})  # whose data the paper names, and not its networks

STUDIES: Mapping[str, tuple[Experiment, Network]] = {
    f"{PREFIX}{figure}-{network.slug}": (experiment, network)
    for figure, (experiment, networks) in _FIGURES.items()
    for network in networks
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    # those that keep θk first: run after the others they would train their dense runs again, to get at that state
    f"{PREFIX}all": tuple(sorted(STUDIES, key=lambda name: "rewind" not in STUDIES[name][0].arms)),
    **{
        f"{PREFIX}{figure}": tuple(f"{PREFIX}{figure}-{network.slug}" for network in networks)
        for figure, (_, networks) in _FIGURES.items()
    },
}


def fields(name: str) -> dict[str, Any]:
    """The spec of a preset of `STUDIES`, before anything in it is checked."""
    experiment, network = STUDIES[name]
    return experiment.fields(name, network)


def summary(name: str) -> str:
    """What a preset of `STUDIES` is, in a line."""
    experiment, network = STUDIES[name]
    figure = name.removeprefix(PREFIX).removesuffix(f"-{network.slug}")
    return f"{network.title}: {experiment.shows}{' (the paper names CIFAR-100 only)' if figure in _CHOSEN else ''}"
