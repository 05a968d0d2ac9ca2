"""A training cut in two at an epoch's end has the very bytes of one that was not, whatever kind it is."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.training.admm import Penalty
from prunetune.training.loop import EpochEnd, Trained, train
from prunetune.training.recipe import Distill, Schedule, TrainingTime
from tests.support.train_makers import RECIPE, Killed, Shelf, dataset, half_mask, network

EPOCHS = 4
PLAIN = replace(RECIPE, epochs=EPOCHS)
MOMENTS = [TrainingTime(0, "it"), TrainingTime(1.0, "ep"), TrainingTime(7, "it"), TrainingTime(3.0, "ep")]


def dropping() -> nn.Module:
    """The network with dropout, which draws from the global generator, and a buffer that no state dict holds."""
    model = network()
    model.insert(5, nn.Dropout(0.3))
    model[1].register_buffer("passes", torch.zeros(()), persistent=False)
    model[1].register_forward_pre_hook(_count)
    return model


def _count(module: nn.Module, args: object) -> None:
    passes = module.passes
    assert isinstance(passes, torch.Tensor)
    passes.add_(1)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine, warm-up, augmented": {
        "recipe": replace(PLAIN, schedule=Schedule("cosine", warmup=1.5), augment=("crop", "flip"))
    },
    "nesterov": {"recipe": replace(PLAIN, nesterov=True)},
    "adam": {"recipe": replace(PLAIN, optimizer="adam", learning_rate=0.002)},
    "adamw": {"recipe": replace(PLAIN, optimizer="adamw", learning_rate=0.002)},
    "bf16": {"recipe": replace(PLAIN, precision="bf16")},
    "masked": {"mask": True},
    "masked adam": {"mask": True, "recipe": replace(PLAIN, optimizer="adam", learning_rate=0.002)},
    "admm": {"penalty": Penalty(0.5, rho=0.5, update_every=0.75, rho_every=1.25)},
    "dropout": {"model": dropping},
    "in parts, smoothed, taught": {
        "model": dropping,
        "teacher": True,
        "recipe": replace(PLAIN, accumulate=3, label_smoothing=0.1, distill=Distill(0.5, 2.0)),
    },
}


def run(kind: str, shelf: Shelf | None = None, seen: list[int] | None = None) -> tuple[Trained, nn.Module]:
    settings = KINDS[kind]
    model = settings.get("model", network)()

    def note(end: EpochEnd) -> None:
        if seen is not None:
            seen.append(end.epoch)

    trained = train(
        model,
        dataset(held_out=8),
        settings.get("recipe", PLAIN),
        order_seed=3,
        augment_seed=4,
        mask=half_mask(model) if "mask" in settings else None,
        penalty=settings.get("penalty"),
        teacher=network(1) if "teacher" in settings else None,
        snapshots=MOMENTS,
        on_epoch=note,
        checkpoints=shelf,
    )
    return trained, model


def require_equal(one: Trained, two: Trained) -> None:
    """Bit for bit, the order of names and everything measured; only the seconds are free."""
    assert list(one.state) == list(two.state)
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    assert one.snapshots.keys() == two.snapshots.keys() == set(MOMENTS)
    for point, state in one.snapshots.items():
        assert list(state) == list(two.snapshots[point])
        assert all(torch.equal(state[name], two.snapshots[point][name]) for name in state)
    free = {"state": {}, "snapshots": {}, "seconds": 0.0}
    assert vars(replace(one, **free)) == vars(replace(two, **free))


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_to_the_same_bytes(kind: str, after: int) -> None:
    whole, model = run(kind)
    shelf, seen = Shelf(die_after=after), []
    with pytest.raises(Killed):
        run(kind, shelf, seen)
    resumed, again = run(kind, shelf, seen)
    assert seen == [1, 2, 3, 4]  # every epoch once
    require_equal(whole, resumed)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, dict(again.named_buffers())[name])


def test_killed_after_every_epoch() -> None:
    shelf = Shelf(die_after=1)
    for _ in range(EPOCHS - 1):
        shelf.offered = 0
        with pytest.raises(Killed):
            run("admm", shelf)
    require_equal(run("admm")[0], run("admm", shelf)[0])


def test_being_looked_at_changes_nothing_and_the_last_epoch_is_not_offered() -> None:
    shelf = Shelf()
    require_equal(run("masked")[0], run("masked", shelf)[0])
    assert shelf.offered == EPOCHS - 1


def test_a_revived_weight_is_not_forgotten() -> None:
    """What the watch over the zeros saw before the end of the first part must be told by the second."""
    shelf = Shelf(die_after=2)
    with pytest.raises(Killed):
        run("masked", shelf)
    saved = dict(shelf.load() or {})
    saved["watch"][0][0, 0, 0, :3] = 1
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    shelf.content = buffer.getvalue()
    assert run("masked", shelf)[0].revived == 3


def test_a_moment_that_was_passed_by_makes_it_start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, seen = Shelf(die_after=2), []
    with pytest.raises(Killed):
        run("plain", shelf)
    monkeypatch.setattr(f"{__name__}.MOMENTS", [*MOMENTS, TrainingTime(2, "it")])
    resumed, _ = run("plain", shelf, seen)
    assert seen == [1, 2, 3, 4]
    require_equal(run("plain")[0], resumed)


def test_a_later_moment_that_is_new_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, seen = Shelf(die_after=2), []
    with pytest.raises(Killed):
        run("plain", shelf)
    monkeypatch.setattr(f"{__name__}.MOMENTS", [*MOMENTS, TrainingTime(3.5, "ep")])
    resumed, _ = run("plain", shelf, seen)
    assert seen == [3, 4]
    require_equal(run("plain")[0], resumed)


def test_seconds_count_both_parts() -> None:
    shelf = Shelf(die_after=2)
    with pytest.raises(Killed):
        run("plain", shelf)
    saved = dict(shelf.load() or {})
    buffer = io.BytesIO()
    torch.save(saved | {"seconds": 1000.0}, buffer)
    shelf.content = buffer.getvalue()
    assert run("plain", shelf)[0].seconds > 1000
