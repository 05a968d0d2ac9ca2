"""Data sets: registered names, image folders, and callables of the user's with examples of any kind."""

from prunetune.data.cifar import CIFAR10, CIFAR100, Cifar
from prunetune.data.dataset import DATA, Dataset, ExampleSets, Facts, Source, TrainingData
from prunetune.data.examples import Batch, Examples, TensorExamples
from prunetune.data.fashion import FashionMini, FashionMNIST
from prunetune.data.folder import Folder
from prunetune.data.huggingface import HuggingFace
from prunetune.data.imagefolder import ImageFolder
from prunetune.data.resolve import facts, identify, load, load_examples
from prunetune.data.table import Table

DATA.register("fashion-mini")(FashionMini())
DATA.register("fashion_mnist")(FashionMNIST())
DATA.register("cifar10")(Cifar(CIFAR10))
DATA.register("cifar100")(Cifar(CIFAR100))
DATA.register("hf")(HuggingFace())
DATA.register("csv")(Table())
DATA.register("imagefolder")(ImageFolder())
DATA.register("folder")(Folder())

__all__ = [
    "DATA", "Batch", "Dataset", "ExampleSets", "Examples", "Facts", "Source", "TensorExamples", "TrainingData",
    "facts", "identify", "load", "load_examples",
]  # fmt: skip
