"""Every data set that can be had here keeps the same promises."""

from collections.abc import Callable
from pathlib import Path

import data_makers as make
import numpy as np
import pytest
import torch

from prunetune.errors import RequestError
from prunetune.train.data import DATA, facts, identify, load

CALLABLE = """
import torch
def floats(count=30):
    g = torch.Generator().manual_seed(3)
    train, test = (torch.randn(n, 2, 5, 4, generator=g) for n in (count, 9))
    return train, torch.arange(count) % 3, test, torch.arange(9) % 3
"""
Named = tuple[str, dict[str, object]]


def _callable(folder: Path) -> Named:
    (folder / "contract_floats.py").write_text(CALLABLE)
    return "contract_floats:floats", {"count": 40}


def _hub(folder: Path) -> Named:
    pytest.importorskip("datasets", reason="needs the extra prunetune[hf]")
    return "hf:somebody/shapes", {"root": str(make.write_hub(folder))}


SETS: dict[str, Callable[[Path], Named]] = {
    "fashion-mini": lambda folder: ("fashion-mini", {}),
    "fashion_mnist, raw folder": lambda folder: ("fashion_mnist", {"root": str(make.write_idx(folder))}),
    "fashion_mnist, gz folder": lambda folder: ("fashion_mnist", {"root": str(make.write_idx(folder, zipped=True))}),
    "cifar10": lambda folder: ("cifar10", {"root": str(make.write_cifar10(folder))}),
    "cifar100": lambda folder: ("cifar100", {"root": str(make.write_cifar100(folder))}),
    "imagefolder": lambda folder: (f"imagefolder:{make.write_images(folder)}", {}),
    "imagefolder, scaled": lambda folder: ("imagefolder", {"root": str(make.write_images(folder)), "size": 5}),
    "callable": _callable,
    "hf": _hub,
}


@pytest.fixture(params=SETS)
def named(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    monkeypatch.syspath_prepend(str(tmp_path))
    return SETS[request.param](tmp_path)


def test_every_registered_set_is_here():
    assert {name.split(",")[0] for name in SETS} >= set(DATA)


def test_shapes_types_and_labels(named: Named):
    data = load(identify(*named))
    for part in ("train", "test"):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        assert images.dtype == torch.uint8 or images.dtype == torch.float32
        assert images.shape == (len(labels), *data.input_shape)
        assert images.is_contiguous()
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(data.outputs))
    assert len(data.validation_labels) == 0
    assert data.validation_images.shape == (0, *data.input_shape)


def test_facts_are_those_of_the_loaded_set(named: Named):
    for cuts in ({}, {"train_limit": 10}, {"train_limit": 11, "validation": 0.3}):
        ref = identify(named[0], {**named[1], **cuts})
        data = load(ref)
        counts = len(data.train_labels), len(data.validation_labels), len(data.test_labels)
        assert tuple(facts(ref)) == (data.input_shape, data.outputs, *counts)


def test_train_limit_takes_the_first_images(named: Named):
    whole, part = load(identify(*named)), load(identify(named[0], {**named[1], "train_limit": 10}))
    assert torch.equal(part.train_images, whole.train_images[:10])
    assert torch.equal(part.train_labels, whole.train_labels[:10])
    assert torch.equal(part.test_images, whole.test_images)
    assert torch.equal(part.test_labels, whole.test_labels)


def test_validation_is_a_disjoint_cover_in_order(named: Named):
    limited = load(identify(named[0], {**named[1], "train_limit": 10}))
    held = load(identify(named[0], {**named[1], "train_limit": 10, "validation": 0.3}))
    assert (len(held.train_labels), len(held.validation_labels)) == (7, 3)
    rows = [image.numpy().tobytes() for image in limited.train_images]
    trained = [rows.index(image.numpy().tobytes()) for image in held.train_images]
    validated = [rows.index(image.numpy().tobytes()) for image in held.validation_images]
    assert sorted(trained + validated) == list(range(10))
    assert trained == sorted(trained)
    assert validated == sorted(validated)
    assert torch.equal(held.train_labels, limited.train_labels[trained])
    assert torch.equal(held.validation_labels, limited.train_labels[validated])


@pytest.mark.parametrize("cuts", [{}, {"train_limit": 10, "validation": 0.3}])
def test_mean_and_std_are_those_of_the_images_trained_on(named: Named, cuts: dict[str, float]):
    data = load(identify(named[0], {**named[1], **cuts}))
    if data.train_images.is_floating_point():
        assert (data.mean, data.std) == ((0.0,) * 2, (1.0,) * 2)
        return
    values = data.train_images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, values.std(axis=(0, 2, 3)), rtol=1e-12)


def test_identify_is_stable_and_has_one_spelling(named: Named):
    name, arguments = named
    assert identify(name, arguments) == identify(name, dict(reversed(arguments.items())))
    assert identify(name, {**arguments, "validation": 0}) == identify(name, {**arguments, "train_limit": None})
    assert identify(name, {**arguments, "train_limit": 10}) != identify(name, arguments)
    assert "root" not in identify(name, arguments).kwargs


def test_a_set_is_read_once_per_process(named: Named):
    assert load(identify(*named)) is load(identify(*named))


def test_more_training_images_than_there_are(named: Named):
    with pytest.raises(RequestError, match=r"^data_args.train_limit: 70001; the data set has \d+ training images$"):
        identify(named[0], {**named[1], "train_limit": 70001})


def test_unknown_argument_names_the_nearest(named: Named):
    with pytest.raises(RequestError, match=r"^data_args: unknown 'trian_limit'; did you mean 'train_limit'\?$"):
        identify(named[0], {**named[1], "trian_limit": 10})
