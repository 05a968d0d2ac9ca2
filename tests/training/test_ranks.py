"""Two processes on a share of every batch each: the weights of one process, whose loop here is slow and obvious."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunetune.core.seeding import epoch_order, order_digest
from prunetune.sparsity.model_state import digest_tensors
from prunetune.training.distributed import Share, World
from prunetune.training.loop import Trained
from prunetune.training.recipe import TrainingTime
from tests.support.rank_cases import CASES, RANKS, run
from tests.support.refusals import refused
from tests.support.train_makers import COUNT, PRUNABLE, RECIPE, dataset, half_mask, network

pytestmark = pytest.mark.cluster

Found = dict[str, Trained]
ALIKE = [case for case in CASES if case not in ("batch norm", "dropout")]  # what micro-batches do not change


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two ranks has of all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, "-m", "tests.support.rank_cases", str(folder / "rendezvous"), str(folder)]
    here = {"PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1"}
    loopback = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    ranks = [subprocess.Popen(program, env=os.environ | here | loopback | {"RANK": str(rank)}) for rank in range(RANKS)]
    assert [rank.wait() for rank in ranks] == [0] * RANKS
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]  # our own, just written


@pytest.mark.parametrize("case", ALIKE)
def test_the_weights_of_one_process(found: list[Found], case: str) -> None:
    together, alone = found[0][case], run(case)
    for name, tensor in alone.state.items():
        torch.testing.assert_close(together.state[name], tensor, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(
            together.snapshots[TrainingTime(1.0, "ep")][name],
            alone.snapshots[TrainingTime(1.0, "ep")][name],
            rtol=2e-4,
            atol=2e-5,
        )
    assert together.train_loss == pytest.approx(alone.train_loss, rel=1e-4)
    assert together.residuals == pytest.approx(alone.residuals, rel=1e-4)
    assert (together.steps, together.start_digest) == (alone.steps, alone.start_digest)
    assert (together.density, together.revived, together.diverged_ranks) == (alone.density, 0, 0)


def test_the_images_of_one_process_in_their_order(found: list[Found]) -> None:
    for case in CASES:
        for of_rank in found:
            assert of_rank[case].data_order_digest == order_digest(3, of_rank[case].epochs, COUNT)


def test_every_rank_has_the_same_weights_and_exact_zeros(found: list[Found]) -> None:
    mask = half_mask(network())
    for case, settings in CASES.items():
        first, second = (of_rank[case] for of_rank in found)
        weights = [name for name in first.state if "running" not in name]
        assert all(torch.equal(first.state[name], second.state[name]) for name in weights)
        for name in PRUNABLE if "mask" in settings else ():
            assert not first.state[name][~mask[name]].any()
            assert first.state[name][mask[name]].all()


def test_a_rank_with_other_weights_is_counted(found: list[Found]) -> None:
    assert [of_rank["strayed"].diverged_ranks for of_rank in found] == [1, 1]


def test_batch_norm_is_that_of_micro_batches(found: list[Found]) -> None:
    expected = halves()
    together = found[0]["batch norm"]
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(together.state[name], tensor, rtol=2e-4, atol=2e-5)
    whole = run("batch norm")
    assert not torch.allclose(whole.state["6.weight"], expected.state_dict()["6.weight"], rtol=1e-2, atol=1e-3)


def halves() -> nn.Module:
    """The case with batch norm: every batch in two halves, a forward pass and a gradient each, their average one step.

    Running statistics are those of the first halves.
    """
    model, data = network(), dataset()
    normalise, mask = data.preparation(torch.device("cpu")), half_mask(model)
    parameters = dict(model.named_parameters())
    velocity = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for name, kept in mask.items():
        parameters[name].data[~kept] = 0
    model.train()
    for epoch in range(RECIPE.epochs):
        for batch in epoch_order(3, epoch, COUNT).split(RECIPE.batch_size):
            gradients = []
            for half, network_of_half in zip(batch.chunk(2), (model, copy.deepcopy(model)), strict=True):
                loss = F.cross_entropy(network_of_half(normalise(data.train_images[half])), data.train_labels[half])
                gradients.append(torch.autograd.grad(loss, list(network_of_half.parameters())))
            for name, first, second in zip(parameters, *gradients, strict=True):
                parameter = parameters[name].data
                velocity[name] = 0.9 * velocity[name] + (first + second) / 2 + RECIPE.weight_decay * parameter
                parameter -= RECIPE.learning_rate * velocity[name]
                if name in mask:
                    parameter[~mask[name]] = 0
    return model


def test_dropout_differs_between_ranks_and_goes_on_after_an_interruption(found: list[Found]) -> None:
    whole, cut = found[0]["dropout"], found[0]["interrupted"]
    assert digest_tensors(dict(whole.state)) == digest_tensors(dict(cut.state))
    assert whole.train_loss == cut.train_loss
    assert cut.data_order_digest == whole.data_order_digest
    assert digest_tensors(dict(whole.state)) != digest_tensors(dict(run("dropout").state))


def test_shares_by_hand() -> None:
    first, second, third = (World(rank, 3).shares(10, 7) for rank in range(3))
    assert first == [Share(0, 2, 2 / 7), Share(7, 8, 1 / 3)]
    assert second == [Share(2, 4, 2 / 7), Share(8, 9, 1 / 3)]
    assert third == [Share(4, 7, 3 / 7), Share(9, 10, 1 / 3)]
    assert World().shares(10, 7) == [Share(0, 7, 1.0), Share(7, 10, 1.0)]


def test_a_batch_that_cannot_be_shared() -> None:
    with refused("devices", "3", "2", "50", "choose"):
        World(0, 3).shares(50, 16)
