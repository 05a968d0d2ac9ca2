"""Advice from a model, a pair of checkpoints and a finished audit: never more certain than what it rests on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import prunetune as pt
from prunetune.advice import NO_ACCURACY, Advice, AdviceLine, recommend
from prunetune.api import Audit
from prunetune.report.write_report import write_report
from prunetune.rows import Layer, Results
from tests.support.planted import planted, stored
from tests.support.refusals import refused

ROOT = Path(__file__).parents[1]
State = Mapping[str, Tensor]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(144, 50), nn.Linear(50, 10)
    )


def moved(state: State, share: float, seed: int = 1) -> dict[str, Tensor]:
    """Every weight replaced with probability `share` by one that was drawn like it."""
    generator = torch.Generator().manual_seed(seed)
    fresh = network(seed=99).state_dict()
    return {
        name: torch.where(torch.rand(tensor.shape, generator=generator) < share, fresh[name], tensor)
        for name, tensor in state.items()
    }


def line(advice: Advice, words: str) -> AdviceLine:
    [found] = [line for line in advice.lines if words in line.claim]
    return found


def test_it_is_public() -> None:
    assert pt.recommend is recommend


# --- the model alone


def test_a_model_alone_is_counted_and_names_no_start() -> None:
    advice = recommend(network(), sparsity=0.8)
    kept = {layer.name: (layer.kept, layer.total) for layer in advice.layers}
    assert kept == {"2.weight": (230, 1152), "4.weight": (1440, 7200), "5.weight": (100, 500)}
    mask = pt.compute_mask(network(), 0.8)
    assert {name: (int(bits.sum()), bits.numel()) for name, bits in mask.items()} == kept
    [only] = advice.lines
    assert "1770 of 8852 prunable weights remain, the fewest in '5.weight': 100 of 500" in only.claim
    assert only.strength == "exact"
    assert advice.start is None
    assert "names no start" in str(advice)


def test_layers_with_fewer_weights_than_outputs_are_named() -> None:
    few = line(recommend(network(), sparsity=0.99), "Too few")
    assert "2 of 3 layers" in few.claim
    assert few.evidence.endswith("'2.weight' keeps 12 for 16; '5.weight' keeps 5 for 10")  # and 72 for 50 are enough


def test_a_scope_is_kept_to() -> None:
    advice = recommend(network(), scope=pt.Scope(exclude=("4.*",)))
    assert [layer.name for layer in advice.layers] == ["2.weight", "5.weight"]


# --- a pair


def test_an_independent_pair_cannot_be_told_from_chance() -> None:
    advice = recommend(initial=network(0), trained=network(5))
    sign = line(advice, "sufficient pre-training")
    assert "cannot be told from chance" in sign.claim
    assert (sign.strength, advice.start) == ("weak", "finetune")
    assert line(advice, "layers more").claim.startswith("In 0 of 4 layers")


def test_a_pair_that_moved_in_part_is_above_chance_in_every_layer() -> None:
    model = network()
    advice = recommend(model, initial=moved(model.state_dict(), 0.5))
    sign = line(advice, "insufficient pre-training")
    assert NO_ACCURACY in sign.evidence
    assert (sign.strength, advice.start) == ("weak", None)
    assert line(advice, "layers more").claim.startswith("In 3 of 3 layers")
    observed = advice.correlations[0.2]
    assert (
        observed.value
        == pt.correlation(moved(model.state_dict(), 0.5), model, 0.2, names=list(observed.per_layer)).value
    )
    assert f"R_0.2 {observed.value:.3f} (chance {observed.expected:.3f})" in sign.evidence


def test_an_excess_that_is_certain_and_small_is_called_about_chance() -> None:
    torch.manual_seed(0)
    before = {"w": torch.randn(400, 400)}
    after = {"w": torch.where(torch.rand(400, 400) < 0.96, torch.randn(400, 400), before["w"])}
    sign = line(recommend(initial=before, trained=after), "sufficient pre-training")
    assert "R_p is about chance" in sign.claim
    assert "no accident" in sign.evidence


def test_equal_weights_are_no_training() -> None:
    advice = recommend(network(), initial=network())
    assert line(advice, "is this a pair").strength == "weak"
    assert advice.start is None


def test_below_chance_nothing_is_claimed() -> None:
    weights = torch.arange(1.0, 101.0).reshape(10, 10)
    advice = recommend(initial={"w": weights}, trained={"w": 101 - weights})
    assert "Nothing is known to follow" in advice.lines[0].claim
    assert advice.start is None


def test_the_p_that_decides_is_the_one_nearest_the_papers() -> None:
    model = network()
    advice = recommend(model, initial=moved(model.state_dict(), 0.5), p=(0.5, 0.1, 0.25))
    assert list(advice.correlations) == [0.1, 0.25, 0.5]
    assert "; R_0.25 is +" in line(advice, "insufficient").evidence


def test_files_are_read(tmp_path: Path) -> None:
    save_file(network(0).state_dict(), tmp_path / "before.safetensors")
    torch.save({"state_dict": network(5).state_dict()}, tmp_path / "after.pt")
    from_files = recommend(initial=tmp_path / "before.safetensors", trained=str(tmp_path / "after.pt"))
    assert from_files == recommend(initial=network(0), trained=network(5))


# --- an audit


def test_a_settled_audit_names_the_start_and_its_interval(tmp_path: Path) -> None:
    results = planted(arms=("ticket", "reinit", "finetune"))
    report = write_report(results, tmp_path)
    [row] = [row for row in report.recommendation if row.sparsity == 0.75]
    assert not row.tie  # what was planted
    for source in (tmp_path, tmp_path / "results.json", Audit(report, results)):
        advice = recommend(sparsity=0.75, audit=source)
        best = line(advice, "At 75 % sparsity, train")
        assert f"interval {row.low:+.2f} to {row.high:+.2f}" in best.claim
        assert (best.strength, advice.start) == ("tested", row.arm)
        verdict = line(advice, "winning ticket")
        assert "At 75 %, the ticket" in verdict.evidence
        assert "At 50 %, the ticket" not in verdict.evidence
        assert line(advice, "Pre-training").strength == "weak"  # best of those tried, and not tested for more


def test_a_tie_is_left_open(tmp_path: Path) -> None:
    results = planted()
    levels = {"rewind": 0.0, "finetune": 0.02}
    trials = tuple(
        dataclasses.replace(row, test_accuracy=90 + levels[row.arm] + 0.1 * (-1) ** (row.seed + len(row.arm)))
        if row.arm in levels
        else row
        for row in results.trials
    )
    stored(dataclasses.replace(results, trials=trials), tmp_path)
    advice = recommend(sparsity=0.75, audit=tmp_path)
    assert line(advice, "a tie").strength == "undecided"
    assert (advice.start, "left open" in str(advice).splitlines()[0]) == ("finetune", True)


def test_one_seed_is_left_open(tmp_path: Path) -> None:
    stored(planted(seeds=1), tmp_path)
    assert {line.strength for line in recommend(sparsity=0.75, audit=tmp_path).lines} == {"undecided"}


def test_a_sparsity_that_was_not_tried_is_said_to_be_unknown(tmp_path: Path) -> None:
    stored(planted(), tmp_path)
    advice = recommend(sparsity=0.8, audit=tmp_path)
    [only] = advice.lines
    assert "Nothing is known at 80 % sparsity" in only.claim
    assert (only.strength, advice.start) == ("undecided", None)
    assert recommend(sparsity=0.873, audit=tmp_path).start is not None  # 87.5 % is as good as that


def test_the_audit_counts_more_than_the_pair(tmp_path: Path) -> None:
    stored(planted(arms=("ticket", "reinit")), tmp_path)
    pair = recommend(initial=network(0), trained=network(5), sparsity=0.75)
    both = recommend(initial=network(0), trained=network(5), sparsity=0.75, audit=tmp_path)
    assert (pair.start, both.start) == ("finetune", "ticket")
    assert both.lines[: len(pair.lines)] == pair.lines


def of_this_model(results: Results) -> Results:
    rows = pt.list_parameters(network())
    layers = tuple(Layer(row.name, row.shape, row.prunable, row.reason) for row in rows)
    return dataclasses.replace(results, layers=layers)


def test_the_audit_of_another_network_is_an_analogy(tmp_path: Path) -> None:
    stored(planted(), tmp_path / "other")
    stored(of_this_model(planted()), tmp_path / "own")
    own = recommend(network(), sparsity=0.75, audit=tmp_path / "own")
    other = recommend(network(), sparsity=0.75, audit=tmp_path / "other")
    assert (own.start, other.start) == ("finetune", None)
    assert {line.strength for line in other.lines} == {"exact", "weak"}
    assert all(line.claim.startswith("Of another network: ") for line in other.lines[1:])


# --- bad requests


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ("recommend", "evidence")),
        ({"trained": {}}, ("initial", "missing")),
        ({"initial": {}}, ("trained", "missing")),
        ({"model": network(), "sparsity": 1.0}, ("sparsity", "1.0", "share")),
        ({"model": network(), "initial": {"0.weight": torch.ones(2, 2)}}, ("initial", "2.weight", "lacks")),
        ({"model": nn.Conv2d(1, 1, 3)}, ("scope", "prunable")),
        ({"initial": network(), "trained": network(1), "p": ()}, ("p", "empty")),
        ({"audit": "nowhere"}, ("nowhere", "found")),
    ],
)
def test_bad_requests_get_one_line(given: Mapping[str, object], says: tuple[str, ...]) -> None:
    with refused(*says) as caught:
        recommend(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_nothing_is_changed() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recommend(model, initial=network(5))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
