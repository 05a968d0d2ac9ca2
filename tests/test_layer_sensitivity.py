"""`prunetune sensitivity` and `pt.sensitivity`: what is trained, numbers by hand, files, and what is refused."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import prunetune as pt
from prunetune.api import plan_study
from prunetune.data import identify, load
from prunetune.errors import ConfigError
from prunetune.execution.measure_quantities import free_groups
from prunetune.execution.run_step import execute
from prunetune.layer_sensitivity import LayerLoss, Sensitivity, plan_sensitivity
from prunetune.report.quantity_tables import in_order
from prunetune.sparsity.scope import Scope
from prunetune.spec.compression import CompressionRequest
from prunetune.steps.steps import Train
from prunetune.store.store import Store
from tests.support.channel_nets import dense_residual
from tests.support.cli_runs import prunetune
from tests.support.toy_study import OUTPUTS, SHAPE, net

ROOT = Path(__file__).parents[1]
VALIDATION = 0.5
SPEC: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "data_args": {"validation": VALIDATION},
    "recipe": {"epochs": 2, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05],
    "masks": ["iterative"],
    "sparsities": [0.5, 0.8],
    "arms": ["ticket", "rewind", "finetune"],
    "rewind": "1ep",
    "seeds": 2,
    "measure": ["movement"],
}
ASKED = (0.25, 0.5, 0.75)
FASHION = {**SPEC, "model": "small", "data": "fashion-mini"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity") / "store"


@pytest.fixture(scope="module")
def found(store: Path) -> Sensitivity:
    return pt.sensitivity(SPEC, store=store, sparsities=ASKED, jobs=1)


@pytest.fixture(scope="module")
def by_group(store: Path, found: Sensitivity) -> Sensitivity:
    pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
    return pt.sensitivity(SPEC, store=store, sparsities=ASKED, pattern="channel", jobs=1)


def dense_states(store: Path) -> dict[int, dict[str, Tensor]]:
    trials = plan_study(SPEC, store=store, device="cpu").plan.trials
    return {t.seed: dict(Store(store).state(t.step.key)) for t in trials if t.arm == "dense"}


def score(state: dict[str, Tensor]) -> float:
    """Percent of the held-out examples that the network, by itself, gets right."""
    data = load(identify(SPEC["data"], SPEC["data_args"]))
    pixels = data.train_images.double() / 255
    network = net(SHAPE, OUTPUTS)
    network.load_state_dict(state)
    network.eval()
    images = (data.validation_images / 255 - pixels.mean().float()) / pixels.std(correction=0).float()
    with torch.no_grad():
        return 100 * float((network(images).argmax(1) == data.validation_labels).double().mean())


# --- what is trained ----------------------------------------------------------------------------------------------


def test_only_dense_runs_are_trained_and_measured(store: Path, found: Sensitivity) -> None:
    assert found.failures == ()
    kinds = Counter(type(step).__name__ for step in plan_sensitivity(SPEC, store=store, device="cpu").plan.steps)
    assert kinds == {"Init": 2, "Train": 2, "MeasureSensitivity": 2}
    trainings = [entry for entry in Store(store).ls() if entry.kind == "Train"]
    assert len(trainings) == 2
    assert {entry.study for entry in Store(store).ls()} == {plan_study(SPEC, store=store).spec.name}


def test_an_audit_of_the_spec_finds_the_dense_runs_with_their_moments(store: Path, found: Sensitivity) -> None:
    audit = plan_study(SPEC, store=store, device="cpu")
    dense = {trial.step.key for trial in audit.plan.trials if trial.arm == "dense"}
    assert audit.plan.snapshots.keys() >= dense
    assert dense <= audit.cached


def test_a_dense_run_that_is_stored_without_moments_is_taken_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    plan = plan_study(SPEC, store=tmp_path / "store", device="cpu").plan
    (dense,) = (trial.step for trial in plan.trials if (trial.arm, trial.seed) == ("dense", 0))
    assert isinstance(dense, Train)
    for step in (*dense.parents, dense):
        execute(step, store)
    assert dense.key not in plan.remaining(store).cached
    remaining = plan_sensitivity(SPEC, store=tmp_path / "store", device="cpu").remaining
    assert (remaining.trainings_cached, remaining.trainings_left) == (1, 1)


# --- the numbers --------------------------------------------------------------------------------------------------


def test_a_layer_pruned_alone_by_hand(store: Path, found: Sensitivity) -> None:
    states = dense_states(store)
    sizes = {name: tensor.numel() for name, tensor in states[0].items()}
    lost = {(row.layer, row.sparsity): row for row in found.rows}
    assert list(lost) == [(layer, s) for layer in ("3.weight", "6.weight") for s in ASKED]
    for (layer, sparsity), row in lost.items():
        losses = []
        for state in states.values():
            pruned = state[layer].clone()
            gone = pruned.numel() - round((1 - sparsity) * pruned.numel())
            pruned.view(-1)[pruned.abs().flatten().argsort()[:gone]] = 0
            losses.append(score(state) - score({**state, layer: pruned}))
        assert row._replace(lost=None) == LayerLoss(0.05, layer, sizes[layer], sparsity, None, 2)
        assert row.lost == pytest.approx(sum(losses) / 2)
    assert found.dense == {0.05: pytest.approx(sum(map(score, states.values())) / 2)}
    assert found.images == 32


def test_a_group_of_channels_pruned_alone_by_hand(store: Path, by_group: Sensitivity) -> None:
    """A channel goes with its filter, bias and batch norm, and with what the next layer reads of it."""
    states = dense_states(store)

    def without(state: dict[str, Tensor], layer: str, count: int) -> dict[str, Tensor]:
        after = {"0": "3.weight", "3": "6.weight"}[layer]
        out, into = state[f"{layer}.weight"].double().abs(), state[after].double().abs()
        into = into.reshape(len(into), 4, -1)
        worth = out.flatten(1).sum(1) / out.sum() + into.sum((0, 2)) / into.sum()
        gone = worth.argsort()[:count]
        changed = {name: tensor.clone() for name, tensor in state.items()}
        named = [f"{layer}.weight", f"{layer}.bias", *(["1.weight", "1.bias"] if layer == "0" else [])]
        for name in named:
            changed[name][gone] = 0
        changed[after].view(len(into), 4, -1)[:, gone] = 0
        return changed

    lost = {(row.layer, row.sparsity): row for row in by_group.rows}
    assert list(lost) == [(layer, s) for layer in ("0", "3") for s in ASKED]
    for (layer, sparsity), row in lost.items():
        losses = [score(state) - score(without(state, layer, round(4 * sparsity))) for state in states.values()]
        assert row._replace(lost=None) == LayerLoss(0.05, layer, 4, sparsity, None, 2)
        assert row.lost == pytest.approx(sum(losses) / 2)
    assert len({row.lost for row in by_group.rows}) > 2


def test_groups_of_one_layer_have_names_of_their_own() -> None:
    pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")
    groups = free_groups(dense_residual(), Scope(), torch.zeros(1, 3, 8, 8))
    assert [name.partition("[")[0] for name in groups] == ["c.0", "c.0", "d.0"]
    ranges = {name: group.outputs for name, group in groups.items() if "[" in name}
    assert all(name == f"c.0[{min(outputs)}:{max(outputs) + 1}]" for name, outputs in ranges.items())
    assert len(ranges) == 2


def test_layers_stand_in_the_order_of_the_model() -> None:
    parameters = ["2.weight", "10.conv.weight", "10.conv.bias", "3.weight"]
    layers = ["2.weight", "10.conv.weight", "3.weight"]
    groups = ["2", "10.conv[0:4]", "10.conv[4:8]", "3"]
    assert in_order(sorted(layers), parameters) == layers
    assert in_order(sorted(groups), parameters) == groups


def test_the_table_marks_the_layer_that_loses_most(found: Sensitivity) -> None:
    lines = str(found).splitlines()
    assert lines[0] == f"Dense network, learning rate 0.05: {found.dense[0.05]:.2f} % on 32 held-out examples, n = 2."
    rows = {line.split()[4]: line.split()[5:] for line in lines[-2:]}
    lost = {(row.layer, row.sparsity): row.lost or 0.0 for row in found.rows}
    for i, sparsity in enumerate(ASKED):
        most = max(lost[layer, sparsity] for layer in rows)
        for layer, cells in rows.items():
            written = f"{lost[layer, sparsity]:.2f}".replace("-", "−")
            assert cells[i] == ("*" if lost[layer, sparsity] == most > 0 else "") + written
    assert found._repr_html_().count("<tr>") == 3


def test_weights_of_ones_own(tmp_path: Path) -> None:
    """No training, one network, whatever rates and seeds the spec has."""
    torch.manual_seed(3)
    state = net(SHAPE, OUTPUTS).state_dict()
    save_file(state, tmp_path / "trained.safetensors")
    spec = {**SPEC, "learning_rates": [0.05, 0.1]}
    mine = pt.sensitivity(spec, weights=tmp_path / "trained.safetensors", store=tmp_path / "store", sparsities=[0.5])
    assert [entry.kind for entry in Store(tmp_path / "store").ls() if entry.kind == "Train"] == []
    assert list(mine.dense.values()) == [pytest.approx(score(state))]
    assert {row.n for row in mine.rows} == {1}


# --- the command --------------------------------------------------------------------------------------------------


def test_the_verb_writes_json_and_a_figure_and_trains_nothing_twice(
    store: Path, found: Sensitivity, tmp_path: Path
) -> None:
    spec = tmp_path / "toy.yaml"
    spec.write_text(json.dumps(SPEC))
    asked = ["sensitivity", spec, "--store", store, "--sparsity", "0.25,0.5", "--sparsity", "0.75", "--device", "cpu"]
    done = prunetune(*asked, "--json", "--out", tmp_path / "out", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "0 trainings (0 epochs) to run, 2 cached" in done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert [LayerLoss(**row) for row in content["rows"]] == list(found.rows)
    assert (content["pattern"], content["sparsities"], content["images"]) == ("unstructured", list(ASKED), 32)
    for run in content["runs"]:
        assert run["layers"].keys() == {"3.weight", "6.weight"}
        assert run["layers"]["3.weight"].keys() == {"0.25", "0.5", "0.75"}
    figure = (tmp_path / "out" / "sensitivity.svg").read_text()
    assert "Sensitivity at learning rate 0.05" in figure
    again = prunetune(*asked, "--out", tmp_path / "out", cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"{found}\n"


def test_nothing_held_out_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps(FASHION))
    asked = ["sensitivity", "toy.yaml", "--store", "store", "--set", "data_args.validation=0"]
    done = prunetune(*asked, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"prunetune: data_args\.validation: 0; .* such as 0\.1\n", done.stderr)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"overrides": ["data_args.validation=0"]}, "data_args.validation: 0; sensitivity is measured on held-out"),
        ({"sparsities": [1.5]}, "sparsity: 1.5 is not a share of a layer's weights; it must lie in (0, 1)"),
        ({"pattern": "chanel"}, "pattern: unknown 'chanel'; did you mean 'channel'?"),
        ({"model": "small"}, "--model: a spec is given too"),
        ({"weights_key": "ema"}, "--weights-key: 'ema', and no file"),
        ({"weights": "trained.pt", "seeds": 2}, "--seeds: 2; must be 1, or left out: --weights is one network"),
        ({"weights": 3}, "weights: 3 is a int; must be a path"),
        ({"overrides": "seeds=1"}, "overrides: 'seeds=1' is a str; must be a list of texts"),
        ({"sparsities": 0.5}, "sparsities: 0.5 is a float; must be a list of shares"),
        ({"sparsities": None}, "sparsities: None; must be a list of shares"),
        ({"out": "others"}, "sensitivity.json' is not a file that prunetune wrote"),
    ],
)
def test_what_is_refused(more: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("others").mkdir()
    Path("others/sensitivity.json").write_text("{}")
    with pytest.raises(ConfigError, match=re.escape(line)):
        pt.sensitivity(FASHION, store="store", **more)
    assert not Path("store").exists()


def test_without_a_spec_a_model_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--model: missing"):
        plan_sensitivity()
    with pytest.raises(ConfigError, match="--data: missing"):
        plan_sensitivity(asked=CompressionRequest(model="small"))
