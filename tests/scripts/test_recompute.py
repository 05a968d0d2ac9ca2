"""scripts/recompute.py on a study of every kind of mask and start that it knows, sound and damaged one way each."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunetune.sparsity.mask import Mask
from tests.support.cli_runs import prunetune

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ROOT / "src" / "prunetune" / "data" / "fashion_mini.npz"
STUDY = """
model: small
model_args: {width: 4}
data: fashion-mini
data_args: {train_limit: 128}
recipe: {epochs: 1, batch_size: 64}
learning_rates: [0.1]
rewind: 1/2
seeds: 1
sparsities: [0.5]
masks:
  - {kind: one_shot, criterion: random, name: random}
  - {kind: one_shot, allocation: global, name: global}
  - {kind: one_shot, allocation: erk, name: erk}
  - {kind: one_shot, pattern: 2:4, name: groups}
  - {kind: one_shot, criterion: snip, allocation: global, probe: 20, name: snip}
  - {kind: gradual, epochs: 2, initial: 0.2, name: gradual}
arms: [ticket, rewind, finetune, shuffle, sign_reinit, random_mask, {kind: mixed, alpha: 0.3}]
"""


MEASURED = """
model: small
model_args: {width: 4}
data: fashion-mini
data_args: {train_limit: 128}
recipe: {epochs: 1, batch_size: 64}
learning_rates: [0.1]
seeds: 1
sparsities: [0.5, 0.8]
masks: [iterative]
arms: [ticket, finetune, shuffle]
measure: [movement, barriers, curvature, masks]
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_of(STUDY, tmp_path_factory.mktemp("recompute"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_of(MEASURED, tmp_path_factory.mktemp("measured"))


def study_of(spec: str, folder: Path) -> Path:
    """A folder with a study's results and its store."""
    (folder / "study.yaml").write_text(spec)
    done = prunetune("audit", "study.yaml", "--store", "store", "--out", "out", "--jobs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def recompute(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """The script, in this process: torch is imported already."""

    def call(folder: Path) -> None:
        arguments = [str(part) for part in ("recompute.py", folder / "out", folder / "store", DATA)]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / "scripts" / "recompute.py"), run_name="__main__")

    return call


def test_every_kind_is_recomputed_and_what_is_not_is_named(
    audited: Path, recompute: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """One dense training, six masks with seven arms; 1 random, 1 global, 1 erk, 1 of groups, 3 of the gradual chain.

    Random masks of the control: one for each rule that fixes counts, uniform (of `random` and `gradual`), erk, groups,
    and one for each mask whose counts follow from scores, global and snip.
    """
    recompute(audited)
    equal, skipped = capsys.readouterr().out.splitlines()
    for figure in ("43 starts", "12 masks", "42 mask digests", "2 densities of gradual pruning", "43 accuracies"):
        assert figure in equal
    assert skipped == "not recomputed: 1 with criterion snip"


def test_movement_barriers_and_masks_are_recomputed_and_curvature_is_named(
    measured: Path, recompute: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Movement of the dense run and of six arms; lines from θT to six, ticket to finetune twice, one between levels."""
    recompute(measured)
    equal, skipped = capsys.readouterr().out.splitlines()
    assert "7 rows of movement" in equal
    assert "9 rows of barriers" in equal
    assert "1 rows of masks" in equal
    assert skipped == "not recomputed: 7 with quantity curvature"


class Stored:
    """A copy of the store and the results, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials = json.loads((folder / "out" / "results.json").read_text())["trials"]

    def step(self, key: str) -> dict[str, Any]:
        return json.loads(self.file(key, "step.json").read_text())

    def file(self, key: str, name: str) -> Path:
        return self.folder / "store" / "steps" / key[:2] / key / name

    def training(self, arm: str, mask: str) -> str:
        return next(trial["key"] for trial in self.trials if (trial["arm"], trial["mask"]) == (arm, mask))

    def mask(self, arm: str, mask: str) -> str:
        return self.step(self.training(arm, mask))["mask"]

    def change(self, key: str, put: Callable[[dict[str, Any]], None]) -> None:
        step = self.step(key)
        put(step)
        self.file(key, "step.json").write_text(json.dumps(step))


def swap(stored: Stored, key: str, across: bool = False) -> str:
    """Exchange a kept and a pruned weight, of one layer or of two."""
    path = stored.file(key, "mask.safetensors")
    mask = dict(Mask.load(path))
    last, middle = mask["11.weight" if across else "6.weight"].view(-1), mask["6.weight"].view(-1)
    kept, pruned = last.nonzero()[0], (~middle).nonzero()[0]
    last[kept], middle[pruned] = False, True
    save_file(mask, path)
    return f"masks: .* {key}"


def denser(stored: Stored) -> str:
    """The first update of the gradual chain at another density, by too little to keep another number of weights."""
    within = stored.step(stored.mask("ticket", "gradual"))["within"]
    stored.change(within, lambda step: step.update(density=step["density"] + 1e-9))
    return f"densities of gradual pruning: .* {within}"


def another_draw(stored: Stored) -> str:
    key = stored.training("shuffle", "erk")
    stored.change(key, lambda step: step["start"]["transform"].update(seed=step["start"]["transform"]["seed"] + 1))
    return f"starts: .* {key}"


def own_signs(stored: Stored) -> str:
    key = stored.training("sign_reinit", "groups")
    stored.change(key, lambda step: step["start"]["transform"]["second"].update(step=step["start"]["step"]))
    return f"starts: .* {key}"


def another_alpha(stored: Stored) -> str:
    key = stored.training("mixed(0.3)", "global")
    stored.change(key, lambda step: step["start"]["transform"].update(arguments='{"alpha": 0.31}'))
    return f"starts: .* {key}"


def end_for_moment(stored: Stored) -> str:
    key = stored.training("rewind", "global")
    stored.change(key, lambda step: step["start"].update(at=None))
    return f"starts: .* {key}"


def one_weight(stored: Stored) -> str:
    """Revived weights, the smallest there are: no accuracy and no R_p sees them."""
    key = stored.training("finetune", "random")
    path = stored.file(key, "state.safetensors")
    state, mask = load_file(path), Mask.load(stored.file(stored.mask("finetune", "random"), "mask.safetensors"))
    name = sorted(mask)[0]
    state[name][~mask[name]] = torch.finfo().tiny
    save_file(state, path)
    return f"pruned weights that are zero: .* {key}"


def another_figure(stored: Stored, kind: str, of: str, figure: str) -> str:
    """A row of results.json that is off by little."""
    path = stored.folder / "out" / "results.json"
    results = json.loads(path.read_text())
    row = next(row for row in results["quantities"] if (row["kind"], row["of"]) == (kind, of))
    row["values"][figure] += 1e-9
    path.write_text(json.dumps(results))
    return f"rows of {kind}: .*{figure}.*"


def a_moved_weight(stored: Stored) -> str:
    """A kept weight of a final, by too little for its accuracy."""
    key = stored.training("shuffle", "iterative")
    path = stored.file(key, "state.safetensors")
    state, mask = load_file(path), Mask.load(stored.file(stored.mask("shuffle", "iterative"), "mask.safetensors"))
    name = sorted(mask)[0]
    state[name][tuple(mask[name].nonzero()[0])] *= 1 + 1e-5
    save_file(state, path)
    return "rows of movement: .*shuffle_0/shuffle_T.*"


def another_line(stored: Stored) -> str:
    """The stored loss half way between two levels of pruning, higher than it was."""
    first, second = sorted(
        (trial for trial in stored.trials if trial["arm"] == "ticket"), key=lambda trial: trial["sparsity"]
    )
    for path in stored.folder.glob("store/steps/*/*/step.json"):
        step = json.loads(path.read_text())
        ends = [step.get(end, {}).get("step") for end in ("first", "second")] if "points" in step else []
        if ends == [first["key"], second["key"]]:
            metrics = json.loads((path.parent / "metrics.json").read_text())
            metrics["test_loss"][5] += 1000
            (path.parent / "metrics.json").write_text(json.dumps(metrics))
            return "rows of barriers: .*previous ticket_T/ticket_T.*"
    raise AssertionError("no line between the levels is stored")


MEASURED_DAMAGE: dict[str, Callable[[Stored], str]] = {
    "a cosine": lambda stored: another_figure(stored, "movement", "theta_0/theta_T", "cosine"),
    "sign flips": lambda stored: another_figure(stored, "movement", "ticket_0/ticket_T", "sign_flips"),
    "a weight's way": a_moved_weight,
    "a loss barrier": lambda stored: another_figure(stored, "barriers", "theta_T/shuffle_T", "loss_barrier"),
    "an accuracy barrier": lambda stored: another_figure(stored, "barriers", "ticket_T/finetune_T", "accuracy_barrier"),
    "a point of a line": another_line,
}
DAMAGE: dict[str, Callable[[Stored], str]] = {
    **{
        f"{mask} mask of {arm}": lambda stored, arm=arm, mask=mask: swap(stored, stored.mask(arm, mask))
        for arm, mask in [
            ("ticket", "random"),
            ("ticket", "global"),
            ("ticket", "erk"),
            ("ticket", "groups"),
            ("ticket", "gradual"),
            ("random_mask", "groups"),
        ]
    },
    "counts of erk": lambda stored: swap(stored, stored.mask("ticket", "erk"), across=True),
    "counts of a mask like another": lambda stored: swap(stored, stored.mask("random_mask", "snip"), across=True),
    "a mask inside the chain": lambda stored: swap(stored, stored.step(stored.mask("ticket", "gradual"))["within"]),
    "the cubic": denser,
    "shuffle": another_draw,
    "sign_reinit": own_signs,
    "mixed": another_alpha,
    "rewind": end_for_moment,
    "a pruned weight": one_weight,
}


@pytest.mark.parametrize("kind", [*DAMAGE, *MEASURED_DAMAGE])
def test_each_kind_of_damage_is_caught(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, recompute: Callable[[Path], None]
) -> None:
    study = request.getfixturevalue("measured" if kind in MEASURED_DAMAGE else "audited")
    for part in ("out", "store"):
        shutil.copytree(study / part, tmp_path / part)
    expected = (DAMAGE | MEASURED_DAMAGE)[kind](Stored(tmp_path))
    with pytest.raises(SystemExit, match=rf"^{expected}$"):
        recompute(tmp_path)
