"""The pattern `channel`: which parameters belong to a channel, which channels go, and that held ones stay away."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from prunetune.errors import ConfigError
from prunetune.execution.invariants import mask_counts
from prunetune.sparsity.channel_blocks import Block, Rows
from prunetune.sparsity.channel_coupling import ChannelGroup, channel_groups
from prunetune.sparsity.criteria import CRITERIA, Magnitude
from prunetune.sparsity.enforce import apply_mask
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.model_state import digest_tensors
from prunetune.sparsity.patterns import channel_scores, kept_channels
from prunetune.sparsity.prune import choose, compute_mask
from prunetune.sparsity.scope import Scope, prunable
from tests.support.channel_nets import EXACT, IMAGES, WHOLE, block, chain, end, randomised
from tests.support.refusals import refused

pytest.importorskip("torch_pruning", reason="needs the extra prunetune[channels]")

ONE = torch.zeros(1, 1, 6, 6)


def by_hand(model: nn.Module, density: float) -> tuple[list[int], list[int]]:
    """The channels that stay of the first and the second convolution of `chain`, weight by weight."""
    first, second, last = (model.get_parameter(f"{i}.weight").tolist() for i in (0, 3, 5))

    def size(nested: Any) -> float:
        return abs(nested) if isinstance(nested, float) else sum(map(size, nested))

    readers = [sum(size(second[o][c]) for o in range(6)) for c in range(4)]
    worth_first = [size(first[c]) / size(first) + readers[c] / size(second) for c in range(4)]
    pixels = [sum(size(last[o][4 * c + p]) for o in range(10) for p in range(4)) for c in range(6)]
    worth_second = [size(second[c]) / size(second) + pixels[c] / size(last) for c in range(6)]

    def best(worth: list[float]) -> list[int]:
        few = max(1, round(density * len(worth)))
        return sorted(sorted(range(len(worth)), key=lambda c: -worth[c])[:few])

    return best(worth_first), best(worth_second)


def mask_by_hand(first: list[int], second: list[int]) -> dict[str, Tensor]:
    """The mask of `chain` that keeps these channels."""
    one, two = torch.zeros(4, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    one[first], two[second] = True, True
    return {
        "0.weight": one[:, None, None, None].expand(4, 1, 3, 3),
        "0.bias": one,
        "1.weight": one,
        "1.bias": one,
        "3.weight": (two[:, None] & one)[:, :, None, None].expand(6, 4, 3, 3),
        "3.bias": two,
        "5.weight": two.repeat_interleave(4).expand(10, 24),
    }


@pytest.mark.parametrize("density", [0.9, 0.7, 0.5, 0.25, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_of_a_chain_against_one_made_weight_by_weight(density: float, seed: int) -> None:
    model = randomised(chain(), seed)
    mask = compute_mask(model, 1 - density, pattern="channel", example_inputs=ONE)
    assert mask == Mask(mask_by_hand(*by_hand(model, density)))


def test_ties_go_to_the_lower_channel() -> None:
    model = chain()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    assert compute_mask(model, 0.5, pattern="channel", example_inputs=ONE) == Mask(mask_by_hand([0, 1], [0, 1, 2]))


def test_a_layer_of_zeros_has_no_say() -> None:
    model = randomised(chain())
    nn.init.zeros_(model.get_parameter("3.weight"))
    first = model.get_parameter("0.weight").abs().sum((1, 2, 3))
    kept = compute_mask(model, 0.5, pattern="channel", example_inputs=ONE)["0.bias"]
    assert kept.nonzero().flatten().tolist() == sorted(first.topk(2).indices.tolist())


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_criterion_gives_the_counts_and_changes_nothing(criterion: str) -> None:
    model = randomised(chain())
    model[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    before, modes = digest_tensors(model.state_dict()), [module.training for module in model.modules()]
    batches = [(torch.randn(8, *ONE.shape[1:]), torch.arange(8))]
    mask = compute_mask(model, 0.5, criterion, pattern="channel", batches=batches, example_inputs=ONE)
    assert [int(mask[name].sum()) for name in ("0.bias", "1.weight", "3.bias")] == [2, 2, 3]
    assert digest_tensors(model.state_dict()) == before
    assert [module.training for module in model.modules()] == modes
    assert not model[0].weight.requires_grad  # type: ignore[index, union-attr]
    assert mask_counts(step(0.5), mask, channel_groups(model, ONE))


def step(density: float) -> Any:
    """As much of a Prune step as the rule on counts reads."""

    class Step:
        key = "0" * 64
        label = "Prune 000000000000"
        pattern = "channel"
        round_to = None

    Step.density = density  # type: ignore[attr-defined]
    return Step()


@pytest.mark.parametrize("name", EXACT)
def test_every_group_loses_its_share_and_the_output_nothing(name: str) -> None:
    make, shape = EXACT[name]
    model, inputs = randomised(make()), torch.zeros(1, *shape)
    groups = channel_groups(model, inputs)
    mask = compute_mask(model, 0.4, pattern="channel", example_inputs=inputs)
    assert mask_counts(step(0.6), mask, groups) == "mask counts"
    assert set(prunable(model)) <= set(mask)
    ends = [group.layer for group in groups if group.whole]
    assert {group.whole for group in groups if group.whole} == {"it reaches the output"}
    for layer in ends:
        kept = mask[f"{layer}.weight"]
        assert kept.any(1).all()  # every output is there
        assert f"{layer}.bias" not in mask
    assert not mask[f"{ends[-1]}.weight"].all()  # and its inputs are fewer


@pytest.mark.parametrize("name", EXACT)
def test_every_output_of_every_layer_is_in_one_group(name: str) -> None:
    make, shape = EXACT[name]
    model = make()
    seen: dict[str, list[int]] = {}
    for group in channel_groups(model, torch.zeros(1, *shape)):
        for piece in group.pieces:
            if piece.parameter in outputs_of(model) and piece.dim == outputs_of(model)[piece.parameter]:
                seen.setdefault(piece.parameter, []).extend(piece.places.tolist())
        if group.whole:
            seen[f"{group.layer}.weight"] = list(group.outputs)
    sizes = {parameter: model.get_parameter(parameter).shape[dim] for parameter, dim in outputs_of(model).items()}
    assert {parameter: sorted(places) for parameter, places in seen.items()} == {
        parameter: list(range(size)) for parameter, size in sizes.items()
    }


def outputs_of(model: nn.Module) -> dict[str, int]:
    """The weights of convolutions and linear layers, and which of their dimensions are the outputs."""
    return {
        f"{name}.weight": int(isinstance(module, nn.ConvTranspose2d))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_told_apart_is_kept_whole_with_the_reason(name: str) -> None:
    make, reasons = WHOLE[name]
    model = make()
    groups = channel_groups(model, torch.zeros(1, *IMAGES))
    found = {group.layer: group.whole for group in groups if group.whole}
    assert found.pop(groups[-1].layer) == "it reaches the output"
    assert found == reasons
    assert not any(group.pieces for group in groups if group.whole)


def test_the_scope_keeps_a_layer_whole_and_all_that_is_coupled_with_it() -> None:
    model = randomised(chain())
    scope = Scope(exclude=("3.weight",))
    reason = "'3.weight' is excluded by '3.weight'"
    found = {group.layer: group.whole for group in channel_groups(model, ONE, scope)}
    assert found == {"0": reason, "3": reason, "5": "it reaches the output"}
    with refused("pattern", "channel", "'0'", "3.weight", "excluded"):
        compute_mask(model, 0.5, pattern="channel", scope=scope, example_inputs=ONE)
    mask = compute_mask(model, 0.5, pattern="channel", scope=Scope(exclude=("0.bias",)), example_inputs=ONE)
    first, second = by_hand(model, 0.5)
    expected = mask_by_hand([0, 1, 2, 3], second)
    assert set(mask) == {"3.weight", "3.bias", "5.weight"}
    assert all(torch.equal(kept, expected[name]) for name, kept in mask.items())
    assert len(first) == 2


def test_branches_that_are_concatenated_keep_a_share_each() -> None:
    model, inputs = randomised(EXACT["overlapping_sums"][0]()), torch.zeros(1, *IMAGES)
    nn.init.zeros_(model.get_parameter("d.0.weight"))  # all of d is worth less than all of b
    mask = compute_mask(model, 0.8, pattern="channel", example_inputs=inputs)
    kept = {name: int(mask[f"{name}.0.bias"].sum()) for name in "abcde"}
    assert kept == {"a": 1, "b": 1, "c": 2, "d": 1, "e": 2}


def rounds(model: nn.Module, densities: list[float]) -> list[Mask]:
    """Masks each within the one before, with other weights in each round."""
    groups = channel_groups(model, ONE)
    masks: list[Mask] = []
    for seed, density in enumerate(densities):
        randomised(model, seed)
        weights = {name: model.get_parameter(name).detach() for name in ("0.weight", "3.weight", "5.weight")}
        parent = masks[-1] if masks else None
        masks.append(choose(weights, density, Magnitude(), pattern="channel", parent_mask=parent, groups=groups))
    return masks


def test_what_went_in_one_round_stays_away_in_the_next() -> None:
    first, second, third = rounds(chain(), [0.75, 0.5, 0.2])
    assert [int(mask["1.bias"].sum()) for mask in (first, second, third)] == [3, 2, 1]
    for mask, before in ((second, first), (third, second)):
        assert all(not (kept & ~before[name]).any() for name, kept in mask.items())


def test_within_a_mask_only_what_survives_counts() -> None:
    """Dead weights are large here: were they counted, other channels would be kept."""
    model = randomised(chain())
    within = Mask(mask_by_hand([0, 1, 2, 3], [0, 1, 2]))
    weights = {name: model.get_parameter(name).detach().clone() for name in ("0.weight", "3.weight", "5.weight")}
    weights["3.weight"][3:, 0] = 1000.0
    mask = choose(weights, 0.5, Magnitude(), pattern="channel", parent_mask=within, groups=channel_groups(model, ONE))
    clean = {name: weight.masked_fill(~within[name], 0) for name, weight in weights.items()}
    expected = choose(clean, 0.5, Magnitude(), pattern="channel", groups=channel_groups(model, ONE))
    assert mask["0.bias"].equal(expected["0.bias"])
    assert mask["3.bias"].tolist() == [True] * 3 + [False] * 3


def test_more_channels_than_survive_cannot_be_kept() -> None:
    model = randomised(chain())
    weights = {name: model.get_parameter(name).detach() for name in ("0.weight", "3.weight", "5.weight")}
    within = Mask(mask_by_hand([0], [0, 1, 2]))
    with refused("density", "'0'", "2", "1", "survive"):
        choose(weights, 0.5, Magnitude(), pattern="channel", parent_mask=within, groups=channel_groups(model, ONE))


@pytest.mark.parametrize(
    ("channels", "density", "kept"), [(4, 0.5, 2), (5, 0.5, 2), (7, 0.5, 4), (10, 0.01, 1), (3, 1.0, 3), (1, 0.1, 1)]
)
def test_counts(channels: int, density: float, kept: int) -> None:
    assert kept_channels(ChannelGroup("a", tuple(range(channels)), (), None), density) == kept


@pytest.mark.parametrize(
    ("channels", "width", "density", "kept"),
    [
        (32, 1, 0.5, 16),
        (32, 1, 0.3, 8),  # of 9.6
        (32, 1, 0.375, 16),  # of 12: of two the larger
        (32, 1, 0.01, 8),
        (20, 1, 0.9, 16),  # the most of 20
        (7, 1, 0.5, 7),  # not as wide as one multiple
        (4, 64, 0.5, 2),  # of heads that are wide enough
        (8, 4, 0.4, 4),  # of heads of four: pairs
        (6, 12, 0.5, 4),
    ],
)
def test_counts_are_rounded_so_that_widths_are_multiples_of_eight(
    channels: int, width: int, density: float, kept: int
) -> None:
    block = Block("m", channels, (Rows("m.a.weight", 0, width),), None)
    assert kept_channels(ChannelGroup("m.a", tuple(range(channels)), (), None, block), density, 8) == kept


def test_a_width_that_is_rounded_stays_a_multiple_in_every_round() -> None:
    model, inputs = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)), torch.randn(2, 6)
    mask = compute_mask(model, 0.3, pattern="channel", example_inputs=inputs, round_to=8)
    assert int(mask["0.weight"].any(1).sum()) == 32  # of 28
    apply_mask(model, mask)
    further = compute_mask(model, 0.7, pattern="channel", example_inputs=inputs, round_to=8)
    assert int(further["0.weight"].any(1).sum()) == 16  # of 12
    assert not (further["0.weight"] & ~mask["0.weight"]).any()


@pytest.mark.parametrize(("value", "pattern"), [(0, "channel"), (True, "channel"), (8.0, "channel"), (8, "2:4")])
def test_what_round_to_cannot_be(value: Any, pattern: str) -> None:
    with refused("round_to", str(value)):
        compute_mask(nn.Linear(8, 8), 0.5, pattern=pattern, round_to=value)


def test_scores_are_shares_of_each_layer() -> None:
    """Two layers of other scales count alike; a negative score counts against a channel."""
    (first, *_) = channel_groups(chain(), ONE)
    scores = {"0.weight": torch.zeros(4, 1, 3, 3), "3.weight": torch.zeros(6, 4, 3, 3)}
    scores["0.weight"][:, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores["3.weight"][0, :, 0, 0] = torch.tensor([400.0, -100.0, 0.0, 0.0])
    assert channel_scores(first, scores).tolist() == pytest.approx([0.1 + 0.8, 0.2 - 0.2, 0.3, 0.4])


def test_the_rule_on_counts_finds_what_is_wrong() -> None:
    model = randomised(chain())
    groups = channel_groups(model, ONE)
    good = mask_by_hand([0, 2], [1, 3, 5])

    def found(name: str, change: Callable[[Tensor], object], density: float = 0.5) -> str:
        kept = {key: tensor.clone() for key, tensor in good.items()}
        change(kept[name])
        return broken(step(density), Mask(kept), groups)

    assert mask_counts(step(0.5), Mask(good), groups) == "mask counts"
    assert "'0' keeps 2 of 4 channels; 1 were asked for" in broken(step(0.25), Mask(good), groups)
    assert "'1.bias' keeps other channels than '0'" in found("1.bias", lambda kept: kept[0].logical_not_())
    assert "'5.weight' keeps other channels" in found("5.weight", lambda kept: kept[:, 4].zero_())
    assert "'3.weight' has holes" in found("3.weight", lambda kept: kept[1, 0, 0].zero_())


def broken(of: Any, mask: Mask, groups: tuple[ChannelGroup, ...]) -> str:
    from prunetune.errors import InvariantError

    with pytest.raises(InvariantError) as caught:
        mask_counts(of, mask, groups)
    return str(caught.value)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_held_channels_stay_away_in_training(optimizer: str) -> None:
    model = randomised(chain()).train()
    mask = compute_mask(model, 0.5, pattern="channel", example_inputs=ONE)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    steps: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        if optimizer == "sgd"
        else torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    )
    apply_mask(model, mask, steps)
    for _ in range(5):
        steps.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 1, 6, 6)), torch.arange(16) % 10).backward()
        steps.step()
        for name, kept in mask.items():
            assert not model.get_parameter(name)[~kept].any()
    for name, parameter in model.named_parameters():
        kept = mask[name] if name in mask else torch.ones_like(parameter, dtype=torch.bool)
        if name not in ("0.bias",):  # batch norm takes a bias before it out again
            assert (parameter[kept] != start[name][kept]).all()
    assert (model.get_buffer("1.running_mean") != 0).any()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    return model


class NoGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).detach()


REFUSED: dict[str, tuple[Callable[[], Mask], str]] = {
    "no inputs": (
        lambda: compute_mask(chain(), 0.5, pattern="channel"),
        "pattern: 'channel' needs to see the model run; give example_inputs",
    ),
    "inputs of another shape": (
        lambda: compute_mask(chain(), 0.5, pattern="channel", example_inputs=torch.zeros(1, 2, 6, 6)),
        "example_inputs: the model does not take them: ",
    ),
    "another allocation": (
        lambda: compute_mask(chain(), 0.5, allocation="global", pattern="channel", example_inputs=ONE),
        "allocation: 'global' has no say under pattern 'channel'; it must be 'uniform'",
    ),
    "tied weights": (
        lambda: compute_mask(tied(), 0.5, pattern="channel", example_inputs=torch.zeros(1, 6)),
        "pattern: 'channel' finds no channel in this model that could go ('0': '0.weight' is tied to '2.weight'; ",
    ),
    "outputs without gradients": (
        lambda: compute_mask(NoGradient(), 0.5, pattern="channel", example_inputs=torch.zeros(1, 6)),
        "model: none of its outputs depends on its parameters by operations that autograd records",
    ),
    "one layer alone": (
        lambda: compute_mask(nn.Linear(6, 4), 0.5, pattern="channel", example_inputs=torch.zeros(1, 6)),
        "pattern: 'channel' finds no channel in this model that could go ('': it reaches the output)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    ask, line = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        ask()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with refused("pattern", "prunetune[channels]"):
        channel_groups(chain(), ONE)


def test_a_computed_weight_is_kept_whole() -> None:
    model = nn.Sequential(block(3, 6), block(6, 6), end(6))
    torch.nn.utils.parametrizations.weight_norm(model[1][0])  # type: ignore[index]
    (first, second, last) = channel_groups(model, torch.zeros(1, *IMAGES))
    assert {first.whole, second.whole} == {"'1.0.weight' is computed, not a parameter"}
    assert last.whole == "it reaches the output"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated")  # torch's own, at its first compile
def test_a_compiled_network_is_refused_by_what_it_is() -> None:
    model = chain()
    with refused("model", "compiled", "model._orig_mod"):
        compute_mask(cast(nn.Module, torch.compile(model, backend="eager")), 0.5, pattern="channel", example_inputs=ONE)
    assert compute_mask(model, 0.5, pattern="channel", example_inputs=ONE).sparsity > 0
