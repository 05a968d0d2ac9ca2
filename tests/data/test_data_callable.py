"""`package.module:callable` and registered functions."""

from pathlib import Path

import pytest
import torch

from prunetune.data import DATA, Dataset, facts, identify, load
from tests.support.refusals import refused

MODULE = """
import itertools
import numpy as np
import torch
from prunetune.data import Dataset

calls = itertools.count()

def make(count=8, shift=0, dtype="uint8"):
    images = (np.arange(count * 12).reshape(count, 3, 2, 2) + shift).astype(dtype)
    return images, np.arange(count, dtype="int16") % 4, images[:4], np.arange(4)

def with_root(root):
    return make(shift=len(root))

def any_arguments(**options):
    return make(**options)

def dataset():
    images, labels, test, test_labels = (torch.from_numpy(part) for part in make(dtype="float32"))
    own = images[:1], labels[:1].long()
    return Dataset("mine", images, labels.long(), test, test_labels, *own, 7, (0.5,) * 3, (2.0,) * 3)

def own_figures():
    images, labels, test, test_labels = (torch.from_numpy(part) for part in make())
    own = images[:0], labels[:0].long()
    return Dataset("mine", images, labels.long(), test, test_labels, *own, 7, (0.5,) * 3, (2.0,) * 3)

def restless():
    return make(shift=next(calls))

def fails():
    raise OSError("no such\\nfile")

def returns(what):
    images, labels, test, test_labels = make()
    return {
        "three": (images, labels, test),
        "none": None,
        "lists": ([1], labels, test, test_labels),
        "flat": (images[0], labels, test, test_labels),
        "int": (images.astype("int64"), labels, test, test_labels),
        "nan": (images * np.float32("nan"), labels, test.astype("float32"), test_labels),
        "count": (images, labels[:-1], test, test_labels),
        "negative": (images, labels - 1, test, test_labels),
        "float_labels": (images, labels.astype("float32"), test, test_labels),
        "empty": (images, labels, test[:0], test_labels[:0]),
        "unlike": (images, labels, test[:, :, :1], test_labels),
        "types": (images, labels, test.astype("float32"), test_labels),
        "objects": (images.astype(object), labels, test, test_labels),
    }[what]

not_callable = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"user_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_four_arrays(module: str):
    ref = identify(f"{module}:make", {"count": 10, "train_limit": 6})
    data = load(ref)
    assert ref.name == f"{module}:make"
    assert ref.kwargs == {"count": 10, "train_limit": {"stratified": 6}}
    assert len(ref.digest) == 64
    taken = [image // 12 for image in data.train_images[:, 0, 0, 0].tolist()]
    assert data.train_images.flatten().tolist() == [12 * at + pixel for at in taken for pixel in range(12)]
    assert data.train_labels.tolist() == [at % 4 for at in taken]
    assert sorted(data.train_labels.tolist()) == [0, 0, 1, 1, 2, 3]  # of 3, 3, 2 and 2
    assert tuple(facts(ref)) == ((3, 2, 2), 4, 6, 0, 4, True)


def test_the_digest_is_the_contents(module: str):
    assert identify(f"{module}:make").digest == identify(f"{module}:make", {"count": 8}).digest
    assert identify(f"{module}:make").digest == identify(f"{module}:any_arguments", {"count": 8}).digest
    digests = {identify(f"{module}:make", {"shift": shift}).digest for shift in range(3)}
    digests.add(identify(f"{module}:make", {"dtype": "float32"}).digest)
    assert len(digests) == 4


def test_floats_are_used_as_they_are(module: str):
    data = load(identify(f"{module}:make", {"dtype": "float64"}))
    assert data.train_images.dtype == torch.float32
    assert (data.mean, data.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_data_set_keeps_its_own_figures(module: str):
    data = load(identify(f"{module}:dataset"))
    assert (data.name, data.outputs, data.mean, data.std) == ("mine", 7, (0.5,) * 3, (2.0,) * 3)
    assert len(data.validation_labels) == 1
    part = load(identify(f"{module}:own_figures", {"train_limit": 7, "validation": 0.2}))
    assert (len(part.train_labels), part.mean, part.std) == (6, (0.5,) * 3, (2.0,) * 3)
    with refused("data_args.validation", "brings"):
        identify(f"{module}:dataset", {"validation": 0.5})


def test_root_reaches_a_callable_that_takes_it_as_an_absolute_path(module: str, tmp_path: Path):
    ref = identify(f"{module}:with_root", {"root": str(tmp_path)})
    assert (ref.root, ref.kwargs) == (str(tmp_path), {})
    assert load(ref).train_images.flatten()[0] == len(str(tmp_path)) % 256


def test_a_callable_that_changes_its_mind_is_refused(module: str):
    with refused("data", "return"):
        load(identify(f"{module}:restless"))


@pytest.mark.parametrize(
    ("attribute", "arguments", "message"),
    [
        ("maek", {}, ("data", "maek", "attribute")),
        ("not_callable", {}, ("data", "not_callable", "int")),
        ("fails", {}, ("data", "OSError", "raised")),
        ("with_root", {}, ("data", "with_root", "TypeError", "raised")),
        ("make", {"coutn": 3}, ("data_args", "coutn", "count")),
        ("make", {"root": "/x"}, ("data_args", "root")),
        ("make", {"shift": {1, 2}}, ("data_args.shift", "JSON", "value")),
        ("make", {"train_limit": 9}, ("data_args.train_limit", "9", "8", "set")),
        ("returns", {"what": "three"}, ("data", "3", "train_images", "train_labels", "Dataset")),
        ("returns", {"what": "none"}, ("data", "NoneType", "Dataset")),
        ("returns", {"what": "lists"}, ("data", "train_images", "1", "array")),
        ("returns", {"what": "flat"}, ("data", "(3, 2, 2)", "count")),
        ("returns", {"what": "int"}, ("data", "int64", "uint8", "floats")),
        ("returns", {"what": "nan"}, ("data", "float32", "uint8", "finite")),
        ("returns", {"what": "count"}, ("data", "(7,)", "8", "labels")),
        ("returns", {"what": "negative"}, ("data", "-1", "2", "0", "labels")),
        ("returns", {"what": "float_labels"}, ("data", "train_labels", "torch.float32", "numbers")),
        ("returns", {"what": "empty"}, ("data", "(0, 3, 2, 2)", "test")),
        ("returns", {"what": "unlike"}, ("data", "(3, 1, 2)", "(3, 2, 2)", "uint8", "test")),
        ("returns", {"what": "types"}, ("data", "(3, 2, 2)", "float32", "uint8", "test")),
        ("returns", {"what": "objects"}, ("data", "train_images", "tensor")),
    ],
)
def test_wrong_callables(attribute: str, arguments: dict[str, object], message: tuple[str, ...], module: str):
    with refused(*message) as caught:
        load(identify(f"{module}:{attribute}", arguments))
    assert "\n" not in str(caught.value)


def test_a_missing_module():
    with refused("data", "no_such_module:x", "import"):
        identify("no_such_module:x")


def test_a_registered_function_is_a_data_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DATA, "_items", {name: DATA[name] for name in DATA})

    @DATA.register("checkers")
    def checkers(size: int = 4) -> Dataset:
        images = (torch.arange(4 * size * size) % 2 * 255).to(torch.uint8).reshape(4, 1, size, size)
        pair = (images, torch.arange(4) % 2)
        return Dataset.of("checkers", pair, pair)

    ref = identify("checkers", {"size": 2})
    assert tuple(facts(ref)) == ((1, 2, 2), 2, 4, 0, 4, True)
    assert load(ref).mean == (0.5,)
    with refused("data_args", "sizes", "size"):
        identify("checkers", {"sizes": 2})
