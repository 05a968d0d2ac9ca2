"""Data read example by example: the same bytes as data in memory, however many workers read, and after a kill."""

import os
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from prunetune.core.references import Ref
from prunetune.core.seeding import order_digest
from prunetune.data import ExampleSets, TensorExamples
from prunetune.data.parts import from_mapping
from prunetune.data.streamed import StreamedExamples
from prunetune.training.distributed import World
from prunetune.training.loop import Trained, train
from prunetune.training.recipe import Recipe, Schedule
from tests.support.refusals import refused
from tests.support.task_makers import Sentences, digits, mlp, padded, sentences
from tests.support.train_makers import Killed, Shelf

RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=0.05, schedule=Schedule("constant"))
X, Y = (torch.from_numpy(part[:200]) for part in digits()["train"])


class Rows(Dataset[tuple[Tensor, int]]):
    """The digits one by one, their classes as plain numbers; `drawn` adds noise from all three global generators."""

    def __init__(self, drawn: bool = False) -> None:
        self.drawn = drawn

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        noise = torch.rand(()) + random.random() + float(np.random.rand()) if self.drawn else 0.0
        return X[i] + noise, int(Y[i])


def sets(part: Any, **others: Any) -> ExampleSets:
    return from_mapping({"train": part, "test": (X[:40], Y[:40]), **others}, "rows")[0]


def run(data: ExampleSets, shelf: Shelf | None = None, recipe: Recipe = RECIPE) -> Trained:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp((64,), 10)
    return train(model, data, recipe, order_seed=3, augment_seed=4, checkpoints=shelf)


def require_equal(one: Trained, two: Trained) -> None:
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    assert one.data_order_digest == two.data_order_digest == order_digest(3, 3, len(X))
    assert (one.test, one.train_loss) == (two.test, two.train_loss)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_read_one_by_one_train_like_the_tensor_of_them(workers: int) -> None:
    streamed = sets(Rows(), workers=workers)
    assert not streamed.train.resident
    require_equal(run(streamed), run(sets((X, Y))))


def test_what_a_data_set_draws_does_not_depend_on_workers_and_is_new_in_every_epoch() -> None:
    alone, shared = run(sets(Rows(drawn=True), workers=0)), run(sets(Rows(drawn=True), workers=2))
    require_equal(alone, shared)
    assert not torch.equal(alone.state["0.weight"], run(sets((X, Y))).state["0.weight"])
    examples = sets(Rows(drawn=True)).train
    parts = [torch.tensor([3, 5])]
    first, again, other = (examples.reader(parts, seed)(parts[0]).inputs for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_generator_of_the_callers_is_touched() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    sets(Rows(drawn=True)).train.gather(torch.arange(9))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert str(before[2]) == str(np.random.get_state())


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_goes_on_to_the_same_bytes(after: int) -> None:
    data, shelf = sets(Rows(drawn=True), workers=0), Shelf(die_after=after)
    with pytest.raises(Killed):
        run(data, shelf)
    require_equal(run(data, shelf), run(data))


def test_batches_come_in_the_order_of_the_places_whoever_reads_them() -> None:
    parts = torch.randperm(200, generator=torch.Generator().manual_seed(0)).split(7)
    gather = StreamedExamples("rows", Rows(), torch.arange(200), None, 2).reader(parts, 0)
    for part in parts:
        inputs, targets = gather(part)
        assert torch.equal(inputs, X[part])
        assert torch.equal(targets, Y[part])


def test_a_subset_keeps_its_places() -> None:
    few = sets(Rows()).train.subset(torch.tensor([9, 4, 7])).subset(torch.tensor([2, 0]))
    assert torch.equal(few.gather(torch.tensor([0, 1])).targets, Y[[7, 9]])


def test_a_collate_function_makes_the_batch() -> None:
    train_part = from_mapping(sentences(), "sentences")[0].train
    inputs, targets = train_part.gather(torch.arange(5))
    longest = max(len(Sentences(100, 1).words[i]) for i in range(5))
    assert inputs["input_ids"].shape == targets.shape == (5, longest)
    for i, words in enumerate(Sentences(100, 1).words[:5]):
        assert inputs["input_ids"][i].tolist() == words.tolist() + [0] * (longest - len(words))
        above = [int(b > a) for a, b in zip(words.tolist(), words.tolist()[1:], strict=False)]
        assert targets[i].tolist() == [0, *above] + [-100] * (longest - len(words))


def test_a_loader_is_its_data_set_and_collate_function() -> None:
    loader = DataLoader(Sentences(100, 1), batch_size=4, shuffle=True, collate_fn=padded)
    by_loader, digest = from_mapping({"train": loader, "test": loader}, "sentences")
    plain, same = from_mapping({"train": Sentences(100, 1), "test": Sentences(100, 1), "collate": padded}, "sentences")
    assert digest == same
    assert len(by_loader.train) == len(plain.train) == 100


def test_a_tensor_data_set_lies_in_memory() -> None:
    assert isinstance(sets(TensorDataset(X, Y)).train, TensorExamples)


def test_lists_of_numbers_are_tensors_as_libraries_of_texts_have_them() -> None:
    class Texts:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"input_ids": [i, i + 1, i + 2], "weight": float(i), "labels": i % 2}

    inputs, targets = from_mapping({"train": Texts(), "test": Texts()}, "texts")[0].train.gather(torch.tensor([4, 1]))
    assert inputs["input_ids"].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert (inputs["weight"].dtype, targets.tolist()) == (torch.float32, [0, 1])


class Broken(Rows):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == 150:
            raise OSError("no such page")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_fails_is_one_line(workers: int) -> None:
    with refused("data", "OSError", "no such page"):
        sets(Broken(), workers=workers)


class Ending(Rows):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == 150:
            os._exit(3)
        return super().__getitem__(i)


@pytest.mark.parametrize(("rows", "mentions"), [(Broken(), ["OSError"]), (Ending(), ["ahead", "ended"])])
def test_a_worker_that_fails_or_ends_is_one_line_without_its_traceback(rows: Rows, mentions: list[str]) -> None:
    data = sets(rows, workers=1, version="1", outputs=10)
    with refused("data", *mentions) as caught:
        run(data)
    assert "Traceback" not in str(caught.value)


def test_ranks_do_not_share_what_is_read_example_by_example() -> None:
    with refused("devices", 2):
        train(mlp((64,), 10), sets(Rows()), RECIPE, order_seed=0, augment_seed=0, ranks=World(0, 2))


def test_augmentation_is_for_images() -> None:
    with refused("recipe.augment", "flip"):
        run(sets((X, Y)), recipe=replace(RECIPE, augment=("flip",)))
    masks = torch.zeros(8, 4, 4, dtype=torch.int64)
    images = sets((torch.zeros(8, 1, 4, 4), masks), test=(torch.zeros(8, 1, 4, 4), masks))
    with refused("recipe.augment", "flip"):
        run(images, recipe=replace(RECIPE, augment=("flip",), task=Ref.of("segmentation")))
