"""A search within a budget: what is asked, which chains compete, and which candidates are tried. Nothing is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.api import Prepared
from prunetune.compression import budget_search
from prunetune.compression.budget_plan import Search, plan_search
from prunetune.execution.events import Event
from prunetune.models import draw, identify
from prunetune.spec.compression import LADDER, CompressionRequest, chain_specs
from prunetune.spec.compression_budget import Budget, Target, amount, read_budget
from prunetune.steps.quantities import MeasureSensitivity
from prunetune.steps.steps import Prune
from tests.support.refusals import refused

SMALL: dict[str, Any] = {"model": "small", "data": "fashion-mini", "epochs": 1}


@pytest.mark.parametrize(
    ("quantity", "text", "limit"),
    [
        ("speedup", "2", 2.0),
        ("latency", "5ms", 0.005),
        ("latency", "1.5 s", 1.5),
        ("latency", "80us", 80e-6),
        ("macs", "0.5", 0.5),
        ("params", "1", 1.0),
        ("size", "1MB", 1e6),
        ("size", "30kB", 3e4),
        ("size", "2KiB", 2048.0),
    ],
)
def test_a_target_is_read_with_its_unit(quantity: Any, text: str, limit: float) -> None:
    found = read_budget(0.5, {quantity: text})
    assert found is not None
    assert found.target is not None
    assert (found.max_drop, found.target.quantity, found.target.limit) == (0.5, quantity, pytest.approx(limit))


def test_amounts_are_written_as_they_are_asked_for() -> None:
    written = [amount("latency", 0.005), amount("latency", 2e-5), amount("size", 1.5e6), amount("size", 12.0)]
    assert written == ["5ms", "20us", "1.5MB", "12B"]
    assert Target("speedup", 2.0).text == "--speedup 2"


def test_without_a_drop_there_is_no_budget() -> None:
    assert read_budget(None, {"speedup": None}) is None


WRONG: list[tuple[float | None, dict[Any, str], str, tuple[str, ...]]] = [
    (-1.0, {}, "--max-drop", ("-1",)),
    (float("nan"), {}, "--max-drop", ("nan",)),
    (float("inf"), {}, "--max-drop", ("inf",)),
    (None, {"speedup": "2"}, "--speedup", ("--max-drop",)),
    (0.5, {"speedup": "2", "macs": "0.5"}, "--speedup", ("--macs", "one")),
    (0.5, {"latency": "5"}, "--latency", ("'5'", "unit", "ms", "5ms")),
    (0.5, {"latency": "5 hours"}, "--latency", ("hours", "ms")),
    (0.5, {"latency": "ms"}, "--latency", ("'ms'",)),
    (0.5, {"latency": "0ms"}, "--latency", ("above",)),
    (0.5, {"size": "1"}, "--size", ("unit", "MB")),
    (0.5, {"size": "1.2.3MB"}, "--size", ("1.2.3MB",)),
    (0.5, {"size": "1e400B"}, "--size", ("1e400B", "larger")),
    (0.5, {"size": "1e308GB"}, "--size", ("1e308GB", "larger")),
    (0.5, {"speedup": "1e400"}, "--speedup", ("1e400", "larger")),
    (0.5, {"speedup": "0.5"}, "--speedup", ("1",)),
    (0.5, {"speedup": "2x"}, "--speedup", ("2x",)),
    (0.5, {"macs": "1.5"}, "--macs", ("1.5", "share")),
    (0.5, {"params": "0"}, "--params", ("0", "share")),
]


@pytest.mark.parametrize(("drop", "asked", "field", "mentions"), WRONG, ids=[f"{w[2]} {w[3][0]}" for w in WRONG])
def test_what_is_no_budget_is_refused(
    drop: float | None, asked: dict[Any, str], field: str, mentions: tuple[str, ...]
) -> None:
    with refused(field, *mentions):
        read_budget(drop, asked)


def labels(*overrides: str, source: Any = None, **asked: Any) -> list[str]:
    given = asked if source is not None else SMALL | asked
    return [spec.masks[0].label for spec in chain_specs(source, overrides, CompressionRequest(**given))]


def test_patterns_and_allocations_compete_for_every_mask_algorithm() -> None:
    by_kind = ["{}-global", "{}-sensitivity", "{}-channel", "{}-sensitivity-channel"]
    assert labels() == [name.format("one_shot") for name in by_kind]
    assert labels(mask="one_shot,gradual") == [name.format(k) for k in ("one_shot", "gradual") for name in by_kind]
    assert labels(mask="admm", pattern="unstructured,2:4") == ["admm-global", "admm-2:4"]
    assert labels("masks=[iterative]", source="quick", learning_rate=0.1)[0] == "iterative-global"


def test_every_mask_of_a_spec_competes_once_and_under_a_label_of_its_own() -> None:
    source = {"model": "small", "data": "fashion-mini", "learning_rates": [0.1], "seeds": 2}
    of_two = source | {"masks": [{"kind": "iterative", "reset": "none"}, {"kind": "iterative", "name": "mine"}]}
    kinds = ["iterative-global", "iterative-sensitivity"]
    assert labels(source=of_two, pattern="unstructured") == [*(f"{kind}-reset=none" for kind in kinds), *kinds]
    of_one = source | {"masks": ["one_shot", {"kind": "one_shot", "pattern": "channel", "name": "mine"}]}
    assert labels(source=of_one, pattern="unstructured") == ["one_shot-global", "one_shot-sensitivity"]


def test_widths_are_rounded_where_channels_go() -> None:
    mask = {"kind": "one_shot", "pattern": "channel", "round_to": 8}
    source = {"model": "small", "data": "fashion-mini", "learning_rates": [0.1], "masks": [mask]}
    assert labels(source=source, pattern="unstructured,channel") == [
        "one_shot-global",
        "one_shot-sensitivity",
        "one_shot-channel-round_to=8",
        "one_shot-sensitivity-channel-round_to=8",
    ]


@pytest.mark.parametrize("given", [{"mask": ","}, {"mask": "one_shot,"}, {"pattern": ",channel"}])
def test_a_list_with_an_empty_entry_is_refused(given: dict[str, str]) -> None:
    ((option, text),) = given.items()
    with refused(f"--{option}", text):
        labels(**given)


def test_the_seeds_of_a_spec_count_and_a_sparsity_that_a_pattern_does_not_have_is_refused() -> None:
    spec = {"model": "small", "data": "fashion-mini", "data_args": {"validation": 0.1}, "learning_rates": [0.1]}
    assert all(one.seeds == 2 for one in chain_specs(spec | {"seeds": 2}, (), CompressionRequest()))
    assert all(one.seeds == 5 for one in chain_specs(spec, (), CompressionRequest()))
    with refused("--sparsity", "0.9", "2:4", "0.5"):
        chain_specs(spec, (), CompressionRequest(pattern="2:4", sparsities=(0.9,)))


def test_every_chain_is_a_ladder_with_seeds_and_held_out_data() -> None:
    found = chain_specs(None, [], CompressionRequest(**SMALL, pattern="channel,1:4"))
    assert [spec.sparsities for spec in found] == [LADDER, LADDER, (0.75,)]
    assert {(spec.seeds, spec.data_args["validation"]) for spec in found} == {(5, 0.1)}
    asked = CompressionRequest(**SMALL, sparsities=(0.9, 0.5), seeds=3)
    (spec, *_) = chain_specs(None, ["data_args.validation=0.2"], asked)
    assert (spec.sparsities, spec.seeds, spec.data_args) == ((0.5, 0.9), 3, {"validation": 0.2})
    (spec, *_) = chain_specs("quick", [], CompressionRequest(learning_rate=0.1))
    assert (spec.sparsities, spec.seeds) == ((0.5, 0.8), 5)


def test_one_seed_and_no_held_out_data_are_refused(tmp_path: Path) -> None:
    for seeds, field in ((1, "--seeds"), (None, "seeds")):
        with refused(field, 1, 2):
            chain_specs(None, ["seeds=1"], CompressionRequest(**SMALL, seeds=seeds))
    with refused("data_args.validation", 0, "0.1"):
        asked = CompressionRequest(**SMALL, pattern="unstructured")
        plan_search(None, ["data_args.validation=0"], asked, Budget(1.0), store=tmp_path)


def planned(tmp_path: Path, budget: Budget, *overrides: str, **asked: Any) -> Search:
    return plan_search(None, overrides, CompressionRequest(**SMALL | asked), budget, store=tmp_path / "store")


def test_the_most_that_it_can_cost_is_planned(tmp_path: Path) -> None:
    """Per seed a dense training and one for every chain and sparsity; scores of each, and of a layer alone once."""
    search = planned(tmp_path, Budget(1.0), pattern="unstructured", sparsities=(0.5, 0.8), seeds=3)
    assert search.level == pytest.approx(0.025)
    assert (search.prepared.remaining.trainings_left, search.left_out) == (3 * (1 + 2 * 2), ())
    kinds = [type(step).__name__ for step in search.prepared.plan.steps]
    assert (kinds.count("MeasureBlocks"), kinds.count("MeasureSensitivity")) == (15, 3)
    by_losses = {step.losses for step in search.prepared.plan.steps if isinstance(step, Prune)}
    assert sum(isinstance(step, MeasureSensitivity) for step in by_losses) == 3


def test_a_chain_that_cannot_reach_the_target_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    search = planned(tmp_path, Budget(1.0, Target("macs", 0.5)), sparsities=(0.5,))
    assert [chain.spec.masks[0].label for chain in search.chains] == [
        "one_shot-channel",
        "one_shot-sensitivity-channel",
    ]
    assert [line.partition(":")[0] for line in search.left_out] == ["one_shot-global", "one_shot-sensitivity"]
    assert all("comes to 1; --macs 0.5 was asked for" in line for line in search.left_out)
    nearly = planned(tmp_path, Budget(1.0, Target("params", 0.001)), sparsities=(0.5,))
    assert [chain.spec.masks[0].label for chain in nearly.chains] == ["one_shot-sensitivity-channel"]  # not known yet
    nothing = planned(tmp_path, Budget(1.0, Target("params", 0.001)), pattern="unstructured")
    assert (nothing.chains, len(nothing.left_out), nothing.prepared.remaining.left) == ((), 2, ())


def test_widths_are_rounded_where_a_chain_is_judged_before_training(tmp_path: Path) -> None:
    """The widths of `small` are 8, 16 and 32: in steps of 64 no channel goes, and no multiply-accumulate either."""
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    fields = {"model": "small", "data": "fashion-mini", "data_args": {"validation": 0.1}, "learning_rates": [0.1]}
    mask = {"kind": "one_shot", "pattern": "channel", "allocation": "uniform", "round_to": 64}
    source = fields | {"masks": [mask], "recipe": {"epochs": 1}, "seeds": 2}
    asked = CompressionRequest(pattern="channel", sparsities=(0.5,))
    search = plan_search(source, [], asked, Budget(1.0, Target("macs", 0.9)), store=tmp_path)
    assert [line.partition(": its")[0] for line in search.left_out] == ["one_shot-channel-round_to=64"]
    assert "comes to 1;" in search.left_out[0]


def test_more_than_sensitivity_measures_leaves_out_its_chain_alone(tmp_path: Path) -> None:
    search = planned(tmp_path, Budget(1.0), pattern="unstructured", sparsities=(0.97,))
    assert [chain.spec.masks[0].label for chain in search.chains] == ["one_shot-global"]
    assert len(search.left_out) == 1
    assert search.left_out[0].startswith("one_shot-sensitivity: sparsities: 0.97;")
    with refused("data", "nowhere"):  # what is wrong for all is refused all the same
        planned(tmp_path, Budget(1.0), pattern="unstructured", data="nowhere")


def test_weights_of_a_user_are_the_dense_network_of_every_seed(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    torch.save(draw(identify("small", {}, (1, 28, 28), 10), (1, 28, 28), 10, seed=5).state_dict(), weights)
    search = planned(tmp_path, Budget(1.0), pattern="unstructured", sparsities=(0.5,), weights=weights, seeds=4)
    assert search.prepared.remaining.trainings_left == 4 * 2
    assert len({trial.step for trial in search.prepared.plan.trials if trial.arm == "dense"}) == 1


@contextmanager
def silent(part: Prepared) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


def scored(whole: float) -> dict[str, Any]:
    return {"whole": whole, "left_out": [whole] * 50}


def tried(
    monkeypatch: pytest.MonkeyPatch, search: Search, drops: dict[tuple[str, float], Any]
) -> list[tuple[str, str]]:
    """The candidates of a search in which the drops by seed are planted, a text where there are none."""

    def planted(chain: Prepared, sparsity: float, part: str) -> Any:
        found = drops[chain.spec.masks[0].label, sparsity]
        return found if isinstance(found, str) else [(scored(90.0), scored(90.0 - drop)) for drop in found]

    monkeypatch.setattr(budget_search, "scores_of", planted)
    monkeypatch.setattr(budget_search._Tried, "_do", lambda self, chains, wanted, part: None)
    run = budget_search._Tried(search, None, silent, lambda line: None)
    run.run()
    return [(one.label, one.answer) for _, one in run.candidates]


def test_a_chain_ends_at_its_first_candidate_that_is_not_shown_to_be_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = planned(tmp_path, Budget(0.5), pattern="unstructured", sparsities=(0.5, 0.8, 0.9), seeds=4)
    near, far, wide = (0.1, 0.12, 0.08, 0.11), (0.7, 0.72, 0.69, 0.71), (0.1, 3.0, -2.9, 0.2)
    one, two = "one_shot-global", "one_shot-sensitivity"
    drops = {(one, 0.5): near, (one, 0.8): far, (two, 0.5): near, (two, 0.8): near, (two, 0.9): wide}
    assert tried(monkeypatch, search, drops) == [
        (f"{one} 50 %", "within"),
        (f"{two} 50 %", "within"),
        (f"{one} 80 %", "not shown"),
        (f"{two} 80 %", "within"),
        (f"{two} 90 %", "not shown"),
    ]


def test_a_network_that_diverged_is_not_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = planned(tmp_path, Budget(50.0), pattern="unstructured", sparsities=(0.5, 0.8), seeds=3)
    drops = {(name, 0.5): "its network of seed 1 diverged" for name in ("one_shot-global", "one_shot-sensitivity")}
    assert {answer for _, answer in tried(monkeypatch, search, drops)} == {"not shown"}
