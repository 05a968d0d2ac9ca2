"""The classic bugs of lottery-ticket code, planted one by one: each is caught, and the clean version passes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunetune.errors import InvariantError
from prunetune.execution import inputs, invariants
from prunetune.execution import run_step as execution
from prunetune.execution.run_step import execute
from prunetune.sparsity.criteria import Criterion
from prunetune.sparsity.mask import Mask
from prunetune.steps.steps import Train, Transform, Weights
from prunetune.steps.transforms import TRANSFORMS
from prunetune.store.store import Store
from prunetune.training import loop
from prunetune.training.distributed import SINGLE, World
from prunetune.training.recipe import TrainingTime
from tests.support.toy_study import (
    ONE_EPOCH,
    OUTPUTS,
    SHAPE,
    dense,
    init,
    net,
    prune,
    shuffled,
    sparse,
)

START, OTHER = init(0), init(1)
DENSE = dense(START)
MASK = prune(DENSE)
TICKET = sparse(Weights(START), MASK)


def again(store: Store, step: Any, points=()) -> None:
    """Run a step whose parents are stored, as if it were not stored itself."""
    if store.has(step.key):
        store.quarantine(step.key)
    execute(step, store, points)


def test_the_clean_steps_pass(finished: Store) -> None:
    for step in (START, DENSE, MASK, TICKET, sparse(shuffled(START), MASK)):
        again(finished, step, [ONE_EPOCH] if step is DENSE else ())


@pytest.mark.parametrize(
    ("model", "line"), [("unseeded_net", "the same seed differ"), ("constant_net", "different seeds are the same")]
)
def test_unseeded_initialisers(store: Store, model: str, line: str) -> None:
    step = init(0, model)
    with pytest.raises(InvariantError, match=f"^Init {step.key[:12]}: initialiser seeded: two draws by {line}"):
        execute(step, store)
    assert not store.has(step.key)


def test_momentum_that_revives_pruned_weights(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is applied once and held by nothing."""

    def apply_once(model: torch.nn.Module, mask: Mask, optimizer: object, gradients: bool) -> None:
        model.load_state_dict(mask.apply(model.state_dict()))

    monkeypatch.setattr(loop, "apply_mask", apply_once)
    with pytest.raises(InvariantError, match=r"zeros stay zero: \d+ pruned positions were found non-zero"):
        again(finished, TICKET)
    assert not finished.has(TICKET.key)


def test_a_mask_that_is_applied_at_the_end_only(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense training and a last multiplication: the final state is sparse, what came before is not."""
    _change_trained(monkeypatch, lambda trained, model: replace(trained, revived=5))
    with pytest.raises(InvariantError, match="zeros stay zero: 5 pruned positions"):
        again(finished, TICKET)


def test_sparse_arms_that_are_dense(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch looks at the wrong tensors and sees nothing: the final state still tells."""

    def dense_after_all(trained: loop.Trained, model: torch.nn.Module) -> loop.Trained:
        return replace(trained, state={name: tensor + 1 for name, tensor in trained.state.items()})

    _change_trained(monkeypatch, dense_after_all)
    with pytest.raises(InvariantError, match="zeros stay zero: 168 pruned positions are not zero in the final state"):
        again(finished, TICKET)


def test_ranks_that_drift_apart(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the loop notices it is shown in test_ranks.py."""
    train = execution.train

    def drifted(model: torch.nn.Module, *args: Any, **kwargs: Any) -> loop.Trained:
        return replace(train(model, *args, **{**kwargs, "ranks": SINGLE, "checkpoints": None}), diverged_ranks=1)

    monkeypatch.setattr(execution, "train", drifted)
    with pytest.raises(InvariantError, match="ranks agree: 1 ranks have other weights than the first"):
        execute(replace(DENSE, devices=2), finished, ranks=World(0, 2))


@pytest.mark.parametrize("density", [None, 0.98, 0.3])
def test_a_density_that_is_not_the_masks(finished: Store, monkeypatch: pytest.MonkeyPatch, density: float) -> None:
    _change_trained(monkeypatch, lambda trained, model: replace(trained, density=density))
    with pytest.raises(InvariantError, match=f"density: density {density} after the last step"):
        again(finished, TICKET)


def test_callbacks_that_never_reset_the_weights(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network trains from what it was built with, and not from the stored start."""
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state, strict=True: None)
    with pytest.raises(InvariantError, match=f"^Train {TICKET.key[:12]}: start as stored: "):
        again(finished, TICKET)


def test_a_start_with_one_other_bit(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.nn.Module.load_state_dict

    def inexact(self: torch.nn.Module, state: dict[str, torch.Tensor], strict: bool = True) -> object:
        bits = state["0.bias"].view(torch.int32).clone()
        bits[0] ^= 1
        return load(self, {**state, "0.bias": bits.view(torch.float32)}, strict)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", inexact)
    with pytest.raises(InvariantError, match="start as stored"):
        again(finished, TICKET)


def test_aliased_rewinds(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """theta_k is a view of the live network, and has become theta_T when it is written."""
    _change_trained(monkeypatch, lambda trained, model: replace(trained, snapshots={ONE_EPOCH: model.state_dict()}))
    with pytest.raises(InvariantError, match="snapshots are copies: a kept state shares memory with the live network"):
        again(finished, DENSE, [ONE_EPOCH])


def test_rewinds_that_are_copied_too_late(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mistake behind a copy at the end: no memory is shared any more, and theta_k is theta_T."""

    def late(trained: loop.Trained, model: torch.nn.Module) -> loop.Trained:
        return replace(trained, snapshots={ONE_EPOCH: {n: t.clone() for n, t in model.state_dict().items()}})

    _change_trained(monkeypatch, late)
    with pytest.raises(InvariantError, match="the state at 1ep is the final one, though the training went on"):
        again(finished, DENSE, [ONE_EPOCH])


def test_a_rewind_to_the_start_that_is_not_the_start(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = TrainingTime(0, "ep")
    again(finished, DENSE, [zero])

    def other(trained: loop.Trained, model: torch.nn.Module) -> loop.Trained:
        return replace(trained, snapshots={zero: {n: t + 1 for n, t in trained.snapshots[zero].items()}})

    _change_trained(monkeypatch, other)
    with pytest.raises(InvariantError, match="the state at 0ep is not the start"):
        again(finished, DENSE, [zero])


def test_a_snapshot_that_was_never_taken(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _change_trained(monkeypatch, lambda trained, model: replace(trained, snapshots={}))
    with pytest.raises(InvariantError, match="no state was kept at 1ep"):
        again(finished, DENSE, [ONE_EPOCH])


def test_shuffles_of_a_copy(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permuted values are dropped and the training starts from the unshuffled ones."""
    monkeypatch.setitem(TRANSFORMS._items, "shuffle", lambda state, mask, generator: dict(state))
    step = sparse(shuffled(START), MASK)
    with pytest.raises(InvariantError, match=f"^Train {step.key[:12]}: shuffle permutes: '3.weight' is not permuted"):
        again(finished, step)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda state, mask: {
            n: t[torch.randperm(len(t))] if n in mask else t for n, t in state.items()
        },  # pruned ones too
        lambda state, mask: {n: t.clone().normal_() if n in mask else t for n, t in state.items()},  # a fresh draw
        lambda state, mask: {n: t.flatten().flip(0).view(t.shape) for n, t in state.items()},  # beyond the mask
    ],
)
def test_shuffles_that_change_more_than_the_order(
    finished: Store, monkeypatch: pytest.MonkeyPatch, wrong: Callable
) -> None:
    def transform(state: dict, mask: Mask, generator: torch.Generator) -> dict:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return wrong(state, mask)

    monkeypatch.setitem(TRANSFORMS._items, "shuffle", transform)
    with pytest.raises(InvariantError, match=r"shuffle permutes: '.*' holds other values than before the shuffle"):
        again(finished, sparse(shuffled(START), MASK))


def test_masks_from_a_diverged_run(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is lost on the way, and the weights are not numbers any more."""
    state = finished.state(DENSE.key)
    state["3.weight"][0, 0, 0, 0] = torch.nan
    monkeypatch.setattr(inputs.Inputs, "state", lambda self, weights: state)
    with pytest.raises(
        InvariantError, match=f"^Prune {MASK.key[:12]}: source finite: '3.weight' holds weights that are not"
    ):
        again(finished, MASK)


def test_masks_that_keep_too_many(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_more(*args: Any, **kwargs: Any) -> Mask:
        tensors = {name: kept.clone() for name, kept in choose(*args, **kwargs).items()}
        tensors["6.weight"].view(-1)[tensors["6.weight"].flatten().int().argmin()] = True
        return Mask(tensors)

    choose = execution.choose
    monkeypatch.setattr(execution, "choose", one_more)
    with pytest.raises(InvariantError, match=r"mask counts: '6\.weight' keeps 97 of 192 weights; 96 were asked for"):
        again(finished, MASK)


def test_groups_that_keep_too_many(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many weights of each layer as 2:4 keeps, but in any place. Groups run through a convolution's channels."""
    step = replace(MASK, pattern="2:4")
    again(finished, step)
    kept = finished.mask(step.key)
    assert (kept["3.weight"].sum(1) == 2).all()
    assert (kept["6.weight"].reshape(-1, 4).sum(1) == 2).all()
    choose = execution.choose
    monkeypatch.setattr(
        execution,
        "choose",
        lambda *args, **kwargs: choose(*args, **kwargs | {"pattern": "unstructured"}),
    )
    with pytest.raises(InvariantError, match=r"mask counts: '3\.weight': \d+ groups of 4 inputs do not keep 2"):
        again(finished, step)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (lambda again, first: dict(again), "'0.weight' is not the second draw with the signs of theta_0"),
        (lambda again, first: dict(first), "'0.bias' is changed"),
        (
            lambda again, first: {n: first[n] if t.dim() >= 2 else t for n, t in again.items()},
            "'0.weight' is not the second draw with the signs of theta_0",
        ),
    ],
)
def test_signs_that_are_not_taken_over(
    finished: Store, monkeypatch: pytest.MonkeyPatch, wrong: Callable, line: str
) -> None:
    step = sparse(Weights(OTHER, None, Transform("sign_reinit", second=Weights(START))), MASK)
    if not finished.has(OTHER.key):
        execute(OTHER, finished)
    again(finished, step)
    found = {record.partition("/")[0] for record in finished.manifest(step.key)["inputs"]}
    assert found == {OTHER.key, START.key, MASK.key}
    monkeypatch.setitem(TRANSFORMS._items, "sign_reinit", lambda state, mask, generator, first: wrong(state, first))
    with pytest.raises(InvariantError, match=f"^Train {step.key[:12]}: signs kept: {line}"):
        again(finished, step)


MIXED = sparse(Weights(OTHER, None, Transform.of("mixed", second=Weights(START), alpha=0.5)), MASK)


def matrices_alone(own: dict[str, Tensor], other: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Random biases are left out, with those of theta_0': at alpha near 1 that is no ticket."""
    return {n: TRANSFORMS_MIXED(own, {}, None, other, alpha=alpha)[n] if t.dim() > 1 else t for n, t in own.items()}


def constants_too(own: dict[str, Tensor], other: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Unit scales become alpha + sqrt(1 - alpha^2)."""
    right = TRANSFORMS_MIXED(own, {}, None, other, alpha=alpha)
    return {n: right[n] * 1.366 if n == "1.weight" else right[n] for n in own}


TRANSFORMS_MIXED = TRANSFORMS["mixed"]
BAD_MIXES: dict[str, tuple[Callable[..., dict[str, Tensor]], str]] = {
    "alpha is ignored": (lambda own, other, alpha: dict(own), "'0.bias' is not 0.5 parts of theta_0"),
    "another alpha": (
        lambda own, other, alpha: TRANSFORMS_MIXED(own, {}, None, other, alpha=alpha + 1e-3),
        "'0.bias' is not 0.5 parts of theta_0 and the rest of theta_0'",
    ),
    "shares that sum to one": (
        lambda own, other, alpha: {n: t + (alpha * (other[n] - t)).to(t.dtype) for n, t in own.items()},
        "'0.bias' is not 0.5 parts of theta_0",
    ),
    "biases are left out": (matrices_alone, "'0.bias' is not 0.5 parts of theta_0"),
    "constants are mixed": (constants_too, "'1.weight' is changed where both draws agree"),
}


@pytest.mark.parametrize("bug", BAD_MIXES)
def test_mixes_of_the_wrong_things(finished: Store, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    wrong, line = BAD_MIXES[bug]
    if not finished.has(OTHER.key):
        execute(OTHER, finished)
    again(finished, MIXED)
    assert "mixed as asked" in finished.metrics(MIXED.key)["invariants"]
    monkeypatch.setitem(
        TRANSFORMS._items, "mixed", lambda state, mask, generator, first, alpha: wrong(state, first, alpha)
    )
    with pytest.raises(InvariantError, match=f"^Train {MIXED.key[:12]}: mixed as asked: {line}"):
        again(finished, MIXED)


def test_rounds_that_forget_the_round_before(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    second = prune(TICKET, 0.25, MASK)
    again(finished, second)
    inside = finished.mask(MASK.key)
    assert all(not (kept & ~inside[name]).any() for name, kept in finished.mask(second.key).items())

    def forgetful(weights: dict[str, Tensor], density: float, criterion: Criterion, **kwargs: Any) -> Mask:
        drawn = {n: torch.rand_like(w) for n, w in weights.items()}
        kwargs["parent_mask"] = None
        return choose(drawn, density, criterion, **kwargs)

    choose = execution.choose
    monkeypatch.setattr(execution, "choose", forgetful)
    with pytest.raises(InvariantError, match=r"mask nested: \d+ weights are kept that the previous mask prunes"):
        again(finished, second)


def test_tied_weights_start_masked_under_every_name() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.two.weight = self.one.weight

    model, kept = Tied(), torch.eye(3, dtype=torch.bool)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = invariants.masked(state, Mask({"one.weight": kept}), model)
    for name in ("one.weight", "two.weight"):
        assert torch.equal(found[name], state[name] * kept)
    assert torch.equal(found["two.bias"], state["two.bias"])


def test_zeroing_is_no_multiplication() -> None:
    state = {"6.weight": torch.full((OUTPUTS, 64), torch.nan)}
    kept = torch.zeros(OUTPUTS, 64, dtype=torch.bool)
    assert not invariants.masked(state, Mask({"6.weight": kept}), net(SHAPE, OUTPUTS))["6.weight"].any()


def _change_trained(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[loop.Trained, torch.nn.Module], loop.Trained]
) -> None:
    """Plant a bug in what the training loop hands back."""
    train = execution.train

    def changed(model: torch.nn.Module, *args: Any, **kwargs: Any) -> loop.Trained:
        return change(train(model, *args, **kwargs), model)

    monkeypatch.setattr(execution, "train", changed)


def test_every_rule_of_a_step_is_planted_here() -> None:
    """A rule that is added needs its bug above; this list is the reminder."""
    assert set(invariants.RULES) == {
        "initialiser seeded",
        "start as stored",
        "zeros stay zero",
        "density",
        "snapshots are copies",
        "ranks agree",
        "source finite",
        "mask nested",
        "mask counts",
        "shuffle permutes",
        "signs kept",
        "mixed as asked",
        "ends are twins",  # this one's and the next one's in test_connecting.py
        "zeros on the line",
    }
    assert isinstance(TICKET, Train)
