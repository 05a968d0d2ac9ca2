"""Mappings of parts that a callable returns: what they may hold, how they are identified and cut, what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from prunetune.data import facts, identify, load_examples
from prunetune.data.parts import from_mapping
from tests.support.refusals import refused

HERE = __name__
X = torch.arange(60.0).reshape(20, 3)
Y = torch.arange(20) % 4


def nested(scale: float = 1.0, version: str | None = None) -> dict[str, Any]:
    """Two inputs, of which one is a list of two, and two targets."""
    inputs = {"a": scale * X, "b": [X.double(), np.arange(20, dtype=np.int32)]}
    parts = dict.fromkeys(("train", "test"), (inputs, (Y, X[:, 0])))
    return parts | ({"version": version} if version else {})


def classes() -> dict[str, Any]:
    return {"train": (X, Y), "test": (X[:8], Y[:8])}


def named() -> dict[str, Any]:
    return {
        part: {"x": X[:count], "y": X[:count], "labels": Y[:count]}
        for part, count in (("train", 20), ("test", 20), ("validation", 2))
    }


def numbers() -> dict[str, Any]:
    return {"train": (X, X[:, 0]), "test": (X, X[:, 0])}


def test_a_nest_of_tensors_and_arrays_keeps_its_form() -> None:
    data = load_examples(identify(f"{HERE}:nested"))
    inputs, targets = data.train.gather(torch.tensor([3, 1]))
    assert torch.equal(inputs["a"], X[[3, 1]])
    assert (inputs["b"][0].dtype, inputs["b"][1].tolist()) == (torch.float32, [3, 1])
    assert (targets[0].tolist(), targets[1].tolist()) == ([3, 1], [9.0, 3.0])
    assert data.input_shape == (3,)


def test_targets_may_stand_under_labels_and_held_out_examples_may_be_brought() -> None:
    data = load_examples(identify(f"{HERE}:named"))
    assert [len(part) for part in (data.train, data.test, data.validation)] == [20, 20, 2]
    assert sorted(data.train.gather(torch.tensor([0])).inputs) == ["x", "y"]


def test_the_content_is_the_identity() -> None:
    first, again = identify(f"{HERE}:nested"), identify(f"{HERE}:nested")
    assert first == again
    assert first.digest != identify(f"{HERE}:nested", {"scale": 2.0}).digest


def test_a_declared_version_is_the_identity_in_place_of_the_content() -> None:
    digests = {from_mapping(nested(scale, version), "x")[1] for scale, version in ((1, "v1"), (2, "v1"))}
    assert len(digests) == 1
    assert from_mapping(nested(1, "v2"), "x")[1] not in digests
    assert "v1" in from_mapping(nested(1, "v1"), "x")[0].note


def test_what_is_limited_shows_every_class_and_what_is_held_out_is_left_out() -> None:
    data = load_examples(identify(f"{HERE}:classes", {"train_limit": 8, "validation": 0.25}))
    rows = [part.gather(torch.arange(len(part))) for part in (data.train, data.validation)]
    assert [len(part.targets) for part in rows] == [6, 2]
    whole = torch.cat([part.targets for part in rows])
    assert sorted(whole.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    places = torch.cat([part.inputs[:, 0] / 3 for part in rows]).long()
    assert len(set(places.tolist())) == 8
    assert torch.equal(Y[places], whole)


def test_numbers_are_limited_and_held_out_too_by_the_same_draw_every_time() -> None:
    arguments = {"train_limit": 10, "validation": 0.2}
    first, again = (load_examples(identify(f"{HERE}:numbers", arguments)) for _ in range(2))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [8, 2, 20]
    assert torch.equal(first.train.gather(torch.arange(8)).inputs, again.train.gather(torch.arange(8)).inputs)
    assert not facts(identify(f"{HERE}:numbers", arguments)).images


class Rowless(Dataset[Any]):
    def __init__(self, length: Any) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Any:
        raise IndexError(i)


PAIR = (X, Y)
REFUSED: list[tuple[dict[str, Any], list[Any]]] = [
    ({"train": PAIR}, ["test"]),
    ({"train": PAIR, "test": PAIR, "tset": PAIR}, ["tset", "test"]),
    ({"train": PAIR, "test": (X, Y[:3])}, ["3", "20"]),
    ({"train": PAIR, "test": (X[:0], Y[:0])}, ["0 examples"]),
    ({"train": PAIR, "test": {"x": X}}, ["labels"]),
    ({"train": PAIR, "test": ({"x": X}, Y)}, ["test", "another nest"]),
    ({"train": PAIR, "test": (X / 0, Y)}, ["finite"]),
    ({"train": PAIR, "test": ("text", Y)}, ["str"]),
    ({"train": PAIR, "test": (1.0, Y)}, ["float"]),
    ({"train": PAIR, "test": iter([PAIR])}, ["list_iterator"]),
    ({"train": PAIR, "test": Rowless(-1)}, ["test", "no length"]),
    ({"train": PAIR, "test": Rowless("x")}, ["test", "no length"]),
    ({"train": PAIR, "test": Rowless(0)}, ["test", "no example"]),
    ({"train": PAIR, "test": PAIR, "collate": 3}, ["collate", 3]),
    ({"train": PAIR, "test": PAIR, "version": 3}, ["version", 3]),
    ({"train": PAIR, "test": PAIR, "outputs": 0}, ["outputs", 0]),
    ({"train": PAIR, "test": PAIR, "workers": -1}, ["workers", -1]),
]


@pytest.mark.parametrize(("found", "mentions"), REFUSED)
def test_what_is_not_as_it_must_be_is_refused_in_one_line(found: dict[str, Any], mentions: list[Any]) -> None:
    with refused("data", *mentions):
        from_mapping(found, "parts")
