"""Signs of life, one for every batch that is trained on or scored; and what is said where memory is short."""

import io

import pytest
import torch
from torch import Tensor, nn

from prunetune.data import TensorExamples
from prunetune.execution.executors import worker
from prunetune.execution.executors.protocol import receive
from prunetune.training import batches
from prunetune.training.evaluate import evaluate
from prunetune.training.numerics import enough_memory
from tests.support.refusals import refused
from tests.support.train_makers import RECIPE, dataset, network, run

NO_MORE = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes."
)


def test_every_batch_is_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    signs: list[None] = []
    monkeypatch.setattr(batches, "_LISTENERS", [lambda: signs.append(None)])
    run(data=dataset(held_out=7))
    assert len(signs) == RECIPE.epochs * 4 + 2  # both parts are scored in one batch
    evaluate(network(), TensorExamples(torch.zeros(1001, 1, 8, 8), torch.zeros(1001).long()), dataset(), RECIPE, "cpu")
    assert len(signs) == RECIPE.epochs * 4 + 2 + 3


def test_one_sign_a_second_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, now = io.BytesIO(), iter([10.0, 10.0, 10.5, 11.1, 11.1, 11.9])
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(now))
    sign = worker._signs(pipe)  # type: ignore[arg-type]
    for _ in range(4):
        sign()
    pipe.seek(0)
    assert [receive(pipe) for _ in range(3)] == [b"", b"", None]  # type: ignore[arg-type]


class Hungry(nn.Module):
    """Has no room for batches of more than so many images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.body, self.most = network(), most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise RuntimeError(NO_MORE)
        return self.body(images)


def test_who_needs_the_memory_is_named() -> None:
    with refused("recipe.batch_size", "16", "memory"):
        run(Hungry(15))
    with refused("evaluation", "500", "7", "memory"):
        run(Hungry(16))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of"),
        RuntimeError(NO_MORE),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_each_way_to_say_it(error: Exception) -> None:
    with refused("", "much") as caught:  # noqa: SIM117
        with enough_memory("much", "take less"):
            raise error
    assert ("(20.00 MiB at once)" in str(caught.value)) == isinstance(error, torch.OutOfMemoryError)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2$"), enough_memory("much", "take less"):
        raise RuntimeError("mat1 and mat2")
