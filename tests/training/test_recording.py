"""The recorded step, with a recorder that does on a CPU what a CUDA graph does: the same bytes as without."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunetune.training import loop
from prunetune.training.batches import BatchIndices
from prunetune.training.cuda_graphs import WARM_UP, GraphedStep, Work
from prunetune.training.recipe import Schedule
from tests.support.train_makers import Killed, Shelf
from tests.training.test_resume import EPOCHS, KINDS, require_equal
from tests.training.test_resume import run as run_kind

STEPS_OF_16, STEPS_OF_2 = 3 * EPOCHS, EPOCHS  # 50 images in batches of 16


class Tape:
    """Records by keeping the work: a replay does it again on the same tensors, and recording does not do it."""

    def __init__(self, why_not: str | None = None, fails: bool = False) -> None:
        self.why_not = why_not
        self.fails = fails
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, work: Work) -> str | None:
        self.rehearsed += 1
        work()
        return self.why_not

    def record(self, work: Work) -> Work:
        self.recorded += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand much more")

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rates that float32 holds exactly, as a tensor of them does."""
    for kind, settings in KINDS.items():
        recipe = settings.get("recipe", KINDS["nesterov"]["recipe"])
        rate = 2.0**-9 if recipe.optimizer != "sgd" else 2.0**-4
        schedule = Schedule("step", (1.5,), gamma=0.5)
        recipe = replace(recipe, learning_rate=rate, schedule=schedule, nesterov=kind == "nesterov")
        monkeypatch.setitem(KINDS, kind, {**settings, "recipe": recipe})


@pytest.fixture
def on_tape(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tape], Tape]:
    def use(tape: Tape) -> Tape:
        monkeypatch.setattr(loop, "recorder_for", lambda device, ranks: tape)
        return tape

    return use


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_leave_the_same_bytes(kind: str, on_tape: Callable[[Tape], Tape]) -> None:
    plain, _ = run_kind(kind)
    tape = on_tape(Tape())
    replayed, _ = run_kind(kind)
    require_equal(plain, replayed)
    assert (tape.rehearsed, tape.replayed) == (2, STEPS_OF_16 + STEPS_OF_2 - 2 * WARM_UP)
    if kind != "admm":
        assert tape.recorded == 2  # once for each size


@pytest.mark.usefixtures("exact")
def test_what_admm_replaces_is_recorded_anew(on_tape: Callable[[Tape], Tape]) -> None:
    """Of 16 steps 3, 6, 9, 12, 15 update Z and U, and 5, 10, 15 raise rho; the small batches are 4, 8, 12, 16.

    Recorded are steps 5, 6, 7, 10, 11, 13 (after an update or a raise, or first) and 16, the fourth small one.
    """
    tape = on_tape(Tape())
    run_kind("admm")
    assert tape.recorded == 7


@pytest.mark.usefixtures("exact")
def test_a_replayed_training_is_resumed_to_the_same_bytes(on_tape: Callable[[Tape], Tape]) -> None:
    plain, _ = run_kind("masked adam")
    tape = on_tape(Tape())
    shelf = Shelf(die_after=2)
    with pytest.raises(Killed):
        run_kind("masked adam", shelf)
    resumed, _ = run_kind("masked adam", shelf)
    require_equal(plain, resumed)
    assert tape.replayed == 2 * (2 * 3 - WARM_UP)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("tape", "why"),
    [
        (Tape(why_not="the host waits for the device in every step"), "the host waits for the device in every step"),
        (Tape(fails=True), "operation not permitted when stream is capturing"),
    ],
)
def test_a_step_that_cannot_be_recorded_runs_as_it_is(tape: Tape, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = run_kind("masked")
    notices: list[str] = []

    class Listening(GraphedStep):
        def __init__(self, step: Callable[[BatchIndices], None], recorder: Any, tell: Callable[[str], None]) -> None:
            super().__init__(step, recorder, notices.append)

    monkeypatch.setattr(loop, "recorder_for", lambda device, ranks: tape)
    monkeypatch.setattr(loop, "GraphedStep", Listening)
    eager, _ = run_kind("masked")
    require_equal(plain, eager)
    assert tape.replayed == 0
    assert notices == [f"runs step by step, without a CUDA graph: {why}"]


def test_a_replay_reads_the_pick_from_where_it_was_recorded() -> None:
    seen: list[tuple[list[int], int]] = []

    def step(pick: BatchIndices) -> None:
        seen.append((pick.indices.tolist(), pick.indices.data_ptr()))

    recorded = GraphedStep(step, Tape(), lambda notice: pytest.fail(notice))
    picks: list[Tensor] = [torch.tensor([i, i + 1]) for i in range(WARM_UP + 3)]
    for indices in picks:
        recorded(BatchIndices(indices, ()))
    assert [indices for indices, _ in seen] == [[i, i + 1] for i in range(WARM_UP + 3)]
    assert len({place for _, place in seen[WARM_UP:]}) == 1
    assert seen[WARM_UP][1] not in {place.data_ptr() for place in picks}
