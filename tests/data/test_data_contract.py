"""Every data set that can be had here keeps the same promises."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prunetune.data import DATA, facts, identify, load
from tests.support import data_makers as make
from tests.support.refusals import refused

CALLABLE = """
import torch
def floats(count=30):
    g = torch.Generator().manual_seed(3)
    train, test = (torch.randn(n, 2, 5, 6, generator=g) for n in (count, 9))
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
    "fashion_mnist, raw folder": lambda folder: ("fashion_mnist", {"root": str(make.write_idx(folder, 40))}),
    "fashion_mnist, gz folder": lambda folder: (
        "fashion_mnist",
        {"root": str(make.write_idx(folder, 40, zipped=True))},
    ),
    "cifar10": lambda folder: ("cifar10", {"root": str(make.write_cifar10(folder))}),
    "cifar100": lambda folder: ("cifar100", {"root": str(make.write_cifar100(folder, 400))}),
    "imagefolder": lambda folder: (f"imagefolder:{make.write_images(folder)}", {}),
    "imagefolder, scaled": lambda folder: ("imagefolder", {"root": str(make.write_images(folder)), "size": 5}),
    "callable": _callable,
    "hf": _hub,
}
LIMITS = {"fashion-mini": 100, "fashion_mnist": 30, "cifar10": 50, "cifar100": 300}  # 10 for the others
IN_OFFICIAL_ORDER = set(LIMITS)


def limit(named: Named) -> int:
    """Fewer than all training images, and enough for a few of every class."""
    return LIMITS.get(named[0], 10)


@pytest.fixture(params=SETS)
def named(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    monkeypatch.syspath_prepend(str(tmp_path))
    return SETS[request.param](tmp_path)


def test_every_registered_set_is_here():
    others = {"csv", "folder"}  # not images with a class each: test_data_table.py, test_data_folder.py
    assert {name.split(",")[0] for name in SETS} >= set(DATA) - others


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
    few = limit(named)
    for cuts in ({}, {"train_limit": few}, {"train_limit": few + 1, "validation": 0.1}):
        ref = identify(named[0], {**named[1], **cuts})
        data = load(ref)
        counts = len(data.train_labels), len(data.validation_labels), len(data.test_labels)
        assert tuple(facts(ref)) == (data.input_shape, data.outputs, *counts, True)


def test_train_limit_takes_the_first_images_of_an_official_order_and_draws_from_others(named: Named):
    few = limit(named)
    whole, part = load(identify(*named)), load(identify(named[0], {**named[1], "train_limit": few}))
    rows = [image.numpy().tobytes() for image in whole.train_images]
    taken = [rows.index(image.numpy().tobytes()) for image in part.train_images]
    assert len(taken) == few
    assert taken == sorted(set(taken))
    assert (taken == list(range(few))) == (named[0] in IN_OFFICIAL_ORDER)
    assert torch.equal(part.train_labels, whole.train_labels[taken])
    assert set(part.train_labels.tolist()) == set(whole.train_labels.tolist())
    assert torch.equal(part.test_images, whole.test_images)
    assert torch.equal(part.test_labels, whole.test_labels)


def test_the_key_of_the_first_images_is_not_that_of_a_draw(named: Named):
    kept = identify(named[0], {**named[1], "train_limit": limit(named)}).kwargs["train_limit"]
    assert kept == (limit(named) if named[0] in IN_OFFICIAL_ORDER else {"stratified": limit(named)})


def test_validation_is_a_disjoint_cover_in_order(named: Named):
    few, held_out = limit(named), limit(named) // 10
    limited = load(identify(named[0], {**named[1], "train_limit": few}))
    held = load(identify(named[0], {**named[1], "train_limit": few, "validation": 0.1}))
    assert (len(held.train_labels), len(held.validation_labels)) == (few - held_out, held_out)
    rows = [image.numpy().tobytes() for image in limited.train_images]
    trained = [rows.index(image.numpy().tobytes()) for image in held.train_images]
    validated = [rows.index(image.numpy().tobytes()) for image in held.validation_images]
    assert sorted(trained + validated) == list(range(few))
    assert trained == sorted(trained)
    assert validated == sorted(validated)
    assert torch.equal(held.train_labels, limited.train_labels[trained])
    assert torch.equal(held.validation_labels, limited.train_labels[validated])


@pytest.mark.parametrize("limited", [False, True])
def test_mean_and_std_are_those_of_the_images_trained_on(named: Named, limited: bool):
    cuts = {"train_limit": limit(named), "validation": 0.1} if limited else {}
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
    assert identify(name, {**arguments, "train_limit": limit(named)}) != identify(name, arguments)
    assert "root" not in identify(name, arguments).kwargs


def test_a_set_is_read_once_per_process(named: Named):
    assert load(identify(*named)) is load(identify(*named))


def test_more_training_images_than_there_are(named: Named):
    with refused("data_args.train_limit", "70001", "set"):
        identify(named[0], {**named[1], "train_limit": 70001})


def test_unknown_argument_names_the_nearest(named: Named):
    with refused("data_args", "trian_limit", "train_limit"):
        identify(named[0], {**named[1], "trian_limit": 10})
