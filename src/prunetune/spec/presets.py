"""Specs that come with prunetune, by name: the paper's experiments, its thesis, and the files of the folder presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The paper's experiments (Liu et al. 2021): one row for each figure or table, one preset for each network and data set
# in it. 150 epochs, the rate divided by 10 after 80 and 120, batches of 128, crop and flip, five repetitions, 15 % of
# the remaining weights a round, k = 10. Moments are fractions of the training, so `--set epochs=15` moves them along.
# All figures have the same recipe, seeds and rounds, so that whatever two of them have in common is one step.
#
# The networks of a figure are those that the paper names for it; of Figure A13 it says CIFAR-100, and the three
# networks there are a choice. Chosen too, where the paper is silent: the weight decay; twelve rounds (86 %); one-shot
# masks in the figures of sparse R_p, because they reach .3, .5 and .7 exactly, as rounds of 15 % do not.

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
_BY_MASK = Experiment("finetune, ticket, reinit by mask", [0.1], _ALL_MASKS, ["finetune", "ticket", "reinit"], _ROUNDS)
_TOGETHER = Experiment("the mask algorithms together", [0.1], _ALL_MASKS, ["finetune", "ticket"], _ROUNDS)
_TABLE = Experiment("R_.2 of sparse and dense at 50 %", [0.1], ["admm"], ["finetune"], [0.5])
_REWIND = Experiment("finetune, rewind, ticket", [0.1], ["admm"], ["finetune", "rewind", "ticket"], _ROUNDS)

_FIGURES: dict[str, tuple[Experiment, tuple[Network, ...]]] = {
    "fig2": (_WINNING, (_R10,)),
    "fig4": (_DENSE, (_R10,)),
    "fig5": (_FINETUNE, (_R10,)),  # its panels a and b
    "fig5cd": (_SPARSE, (_R10,)),  # its panels c and d
    "fig6": (_BY_MASK, (_R10,)),
    "fig7": (_TOGETHER, (_R10,)),
    "a1": (_WINNING, (_M10, _M100, _R100, _V100)),
    "a2": (_DENSE, (_V10, _V100, _M10, _M100)),
    "a3": (_FINETUNE, (_M10, _M100)),
    "a4": (_SPARSE, (_R100,)),
    "a5": (_SPARSE, (_V10, _V100)),
    "a6": (_SPARSE, (_M10, _M100)),
    "a7": (_BY_MASK, (_M10,)),
    "a8": (_BY_MASK, (_M100,)),
    "a9": (_BY_MASK, (_R100,)),
    "a10": (_BY_MASK, (_V100,)),
    "a11": (_TOGETHER, (_M10, _M100)),
    "a12": (_TOGETHER, (_R100, _V100)),
    "a13": (_REWIND, (_R100, _M100, _V100)),
    "table-a1": (_TABLE, (_R100, _M100, _V100, _M10, _V10)),
}
_CHOSEN = frozenset({"a13"})  # whose data the paper names, and not its networks


@dataclass(frozen=True)
class Figure:
    """One network of one of the paper's figures or tables."""

    name: str  # `fig2`, as in the preset's name
    experiment: Experiment
    network: Network

    def fields(self, preset: str) -> dict[str, Any]:
        """The spec; every call gives a mapping of its own."""
        return self.experiment.fields(preset, self.network)

    @property
    def summary(self) -> str:
        """What the study is, in a line."""
        known = " (the paper names CIFAR-100 only)" if self.name in _CHOSEN else ""
        return f"{self.network.title}: {self.experiment.shows}{known}"


PAPER: Mapping[str, Figure] = {
    f"paper/{name}-{network.slug}": Figure(name, experiment, network)
    for name, (experiment, networks) in _FIGURES.items()
    for network in networks
}


# The paper's thesis: how much of θ0 a training leaves, set by its weight decay and by its length apart. Under SGD with
# momentum μ, rates η_t and weight decay λ, what is left of θ0 itself after a training is e^(−κ), with
# κ = Σ_t η_t λ / (1 − μ). A preset's name gives its epochs and its κ at the higher of the two rates, rounded; at the
# lower rate κ is a tenth of it. Along one length κ goes by weight decay alone; at one weight decay (5.7e-3: 1 epoch and
# .5, 4 and 2, 12 and 6) by length alone. `thesis/mixed-…` start between θ0 and a fresh draw, at three correlations,
# under the same masks as their namesakes.

_THESIS_ARMS = ["ticket", "reinit", "finetune", "random_mask", "sign_reinit"]
_MIXED_ARMS = ["ticket", "reinit", *({"kind": "mixed", "alpha": alpha} for alpha in (0.25, 0.5, 0.75))]


@dataclass(frozen=True)
class Regime:
    """A length, and a weight decay that gives κ at rate 0.1."""

    epochs: int
    kappa: float
    weight_decay: float
    mixed: bool = False  # whether it starts between θ0 and θ0', where only the first sparsities are asked for

    @property
    def slug(self) -> str:
        """`4ep-kappa2`, the end of a preset's name."""
        return f"{'mixed-' * self.mixed}{self.epochs}ep-kappa{self.kappa:g}"

    def fields(self, name: str) -> dict[str, Any]:
        """The spec; every call gives a mapping of its own."""
        arms = [dict(arm) if isinstance(arm, dict) else arm for arm in (_MIXED_ARMS if self.mixed else _THESIS_ARMS)]
        return {
            "name": name.replace("/", "-"),
            "model": "small",
            "data": "fashion-mini",
            "recipe": {"epochs": self.epochs, "batch_size": 64, "weight_decay": self.weight_decay, "augment": []},
            "learning_rates": [0.01, 0.1],
            "masks": ["iterative"],
            "sparsities": [0.5, 0.8] if self.mixed else [0.5, 0.8, 0.9375],
            "arms": arms,
            "seeds": 5,
        }

    @property
    def summary(self) -> str:
        """What the study is, in a line."""
        length = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        shows = "starts between theta_0 and a fresh draw" if self.mixed else "arms and controls against sparsity"
        return f"Small network, Fashion-MNIST, {length}, kappa {self.kappa:g} at rate 0.1: {shows}"


_REGIMES = (
    Regime(1, 0.5, 5.7e-3),
    Regime(4, 0.05, 1.4e-4),
    Regime(4, 0.5, 1.4e-3),
    Regime(4, 2, 5.7e-3),
    Regime(4, 6, 1.7e-2),
    Regime(12, 0.05, 4.7e-5),
    Regime(12, 0.5, 4.7e-4),
    Regime(12, 2, 1.9e-3),
    Regime(12, 6, 5.7e-3),
    Regime(4, 0.05, 1.4e-4, mixed=True),
    Regime(4, 2, 5.7e-3, mixed=True),
    Regime(4, 6, 1.7e-2, mixed=True),
)
THESIS: Mapping[str, Regime] = {f"thesis/{regime.slug}": regime for regime in _REGIMES}


STUDIES: Mapping[str, Figure | Regime] = {**PAPER, **THESIS}
GROUPS: Mapping[str, tuple[str, ...]] = {
    # those that keep θk first: run after the others they would train their dense runs again, to get at that state
    "paper/all": tuple(sorted(PAPER, key=lambda name: "rewind" not in PAPER[name].experiment.arms)),
    **{
        f"paper/{figure}": tuple(f"paper/{figure}-{network.slug}" for network in networks)
        for figure, (_, networks) in _FIGURES.items()
    },
    "thesis/all": tuple(THESIS),
}
FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """The presets' names, as `prunetune audit NAME` takes them: the files, then `STUDIES` in its order."""
    return (*_files(), *STUDIES)


def members(name: str) -> tuple[str, ...]:
    """The presets that a group stands for (`paper/all`, `paper/fig6`, `thesis/all`); nothing for any other name."""
    return GROUPS.get(name, ())


def fields(name: str) -> dict[str, Any] | None:
    """The spec of a preset of `STUDIES`, before anything in it is checked; None for any other name."""
    return STUDIES[name].fields(name) if name in STUDIES else None


def path(name: str) -> Path:
    """The file of a preset that has one."""
    return FOLDER / f"{name}.yaml"


def summaries() -> dict[str, str]:
    """What each preset is, in a line, by name."""
    files = {name: path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name in _files()}
    return files | {name: study.summary for name, study in STUDIES.items()}


def _files() -> tuple[str, ...]:
    return tuple(sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml")))
