"""What is prunable by default, what patterns change, and the reasons that the layer table gives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunetune.sparsity.correlation import correlation
from prunetune.sparsity.enforce import apply_mask
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope, ScopeRow, list_parameters, prunable
from tests.support.refusals import refused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, bias=False)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 7)
        self.copy = nn.Linear(4, 7, bias=False)
        self.copy.weight = self.head.weight
        self.scale = nn.Parameter(nn.Linear(1, 1).bias.detach())


def test_the_whole_table_of_a_small_network() -> None:
    linear, elsewhere = "linear weight", "parameter of {}, neither convolution nor linear layer"
    assert list_parameters(Net()) == (
        ScopeRow("scale", (1,), False, elsewhere.format("Net")),
        ScopeRow("embed.weight", (7, 4), False, "embedding"),
        ScopeRow("conv1.weight", (4, 1, 3, 3), False, "first convolution"),
        ScopeRow("conv1.bias", (4,), False, "bias"),
        ScopeRow("norm.weight", (4,), False, "normalisation"),
        ScopeRow("norm.bias", (4,), False, "normalisation"),
        ScopeRow("conv2.weight", (4, 4, 3, 3), True, "convolution weight"),
        ScopeRow("attention.in_proj_weight", (12, 4), True, "attention projection"),
        ScopeRow("attention.in_proj_bias", (12,), False, "bias"),
        ScopeRow("attention.out_proj.weight", (4, 4), True, linear),
        ScopeRow("attention.out_proj.bias", (4,), False, "bias"),
        ScopeRow("head.weight", (7, 4), True, linear),
        ScopeRow("head.bias", (7,), False, "bias"),
        ScopeRow("copy.weight", (7, 4), False, "tied to 'head.weight'"),
    )
    assert prunable(Net()) == (
        "conv2.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    )


@pytest.mark.parametrize(
    "layer",
    [nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.Linear(1, 1), nn.Bilinear(1, 1, 1)],
)
def test_kinds_of_layers(layer: nn.Module) -> None:
    expected = () if isinstance(layer, nn.Bilinear) else ("1.weight",)
    assert prunable(nn.Sequential(nn.Conv2d(1, 1, 1), layer)) == expected


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)])
def test_no_normalisation_is_prunable(norm: nn.Module) -> None:
    assert {row.reason for row in list_parameters(nn.Sequential(norm))} == {"normalisation"}


def test_without_convolution_every_linear_weight_is_prunable() -> None:
    assert prunable(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ("0.weight", "1.weight")


def test_patterns_add_and_remove() -> None:
    scope = Scope(include=("conv1.weight",), exclude=("head.*", "*bias"))
    assert prunable(Net(), scope) == (
        "conv1.weight",
        "conv2.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    )
    reasons = {row.name: row.reason for row in list_parameters(Net(), scope)}
    assert reasons["conv1.weight"] == "included by 'conv1.weight'"
    assert reasons["head.weight"] == "excluded by 'head.*'"
    assert reasons["conv2.weight"] == "convolution weight"


def test_a_tied_weight_matches_under_any_of_its_names_and_counts_once() -> None:
    assert "head.weight" not in prunable(Net(), Scope(exclude=("copy.weight",)))
    assert prunable(Net(), Scope(include=("copy.weight",))).count("head.weight") == 1


@pytest.mark.parametrize("embedding_first", [True, False])
def test_an_embedding_tied_to_a_linear_layer_stays_whole(embedding_first: bool) -> None:
    layers = [nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)]
    layers[1].weight = layers[0].weight
    model = nn.Sequential(*(layers if embedding_first else reversed(layers)))
    assert prunable(model) == ()
    assert prunable(model, Scope(include=("0.weight",))) == ("0.weight",)


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_without_a_match_is_refused(field: str) -> None:
    with refused(f"scope.{field}", "haed.*", "matches"):
        list_parameters(Net(), Scope(**{field: ("haed.*",)}))
    with refused(f"scope.{field}", "parameters"):
        list_parameters(nn.ReLU(), Scope(**{field: ("*",)}))


def test_a_lazy_module_is_refused() -> None:
    with refused("model", "0.weight", "yet"):
        list_parameters(nn.Sequential(nn.LazyLinear(3)))


def test_one_weight_of_two_modules_that_share_a_module_has_one_row_per_name() -> None:
    shared = nn.Linear(2, 2, bias=False)
    rows = list_parameters(nn.Sequential(shared, nn.ReLU(), shared))
    assert [(row.name, row.prunable) for row in rows] == [("0.weight", True), ("2.weight", False)]


def test_projections_of_other_widths_are_prunable() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False)
    assert prunable(attention) == ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")


def test_the_linear_layer_of_gpt2_is_prunable() -> None:
    pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")
    from transformers.pytorch_utils import Conv1D

    rows = {row.name: (row.prunable, row.reason) for row in list_parameters(Conv1D(3, 4))}
    assert rows == {"weight": (True, "linear weight, inputs first"), "bias": (False, "bias")}


def test_neighbours_in_the_linear_layer_of_gpt2_are_no_inputs_of_one_output() -> None:
    pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(nn.Linear(8, 8), Conv1D(8, 8), Conv1D(4, 8))
    with refused("pattern", "2:4", "1.weight", "2.weight", "scope.exclude"):
        compute_mask(model, 0.5, pattern="2:4")
    assert list(compute_mask(model, 0.5, pattern="2:4", scope=Scope(exclude=("1.*", "2.*")))) == ["0.weight"]


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 4, 5))


ON_REQUEST: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "recurrent": (lambda: nn.LSTM(3, 4), "weight_hh_l0", "recurrent weight", "*weight_hh_l0"),
    "cell": (lambda: nn.GRUCell(3, 4), "weight_ih", "recurrent weight", "*weight_ih"),
    "experts": (Experts, "gate_up_proj", "weights of several experts", "*gate_up_proj"),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        "parametrizations.weight.original1",
        "direction of a weight norm",
        "*original1",
    ),
}


@pytest.mark.parametrize("name", ON_REQUEST)
def test_what_is_pruned_on_request_says_how(name: str) -> None:
    make, parameter, what, pattern = ON_REQUEST[name]
    model = make()
    rows = {row.name: row for row in list_parameters(model)}
    assert not rows[parameter].prunable
    assert rows[parameter].reason == f"{what}; scope.include '{pattern}' prunes it"
    assert parameter in prunable(model, Scope(include=(pattern,)))
    with refused("scope", "scope.include", "prunable") as caught:
        compute_mask(model, 0.5)
    wanted = str(caught.value).split("'")[-2]
    mask = compute_mask(model, 0.5, scope=Scope(include=(wanted,)))
    assert 0.4 < mask.density < 0.6


class Reader(nn.Module):
    """Of tokens: an embedding, a recurrent layer, and what reads its last step."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6, padding_idx=0)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_embeddings_and_recurrent_weights_that_are_asked_for_are_pruned_held_and_correlated(
    kind: Callable[..., nn.Module],
) -> None:
    torch.manual_seed(0)
    model, ids = Reader(kind), torch.randint(0, 9, (4, 7))
    scope = Scope(include=("embed.weight", "rnn.weight_*"))
    mask = compute_mask(model, 0.5, scope=scope)
    recurrent = {name for name, _ in model.named_parameters() if name.startswith("rnn.weight_")}
    assert set(mask) == {"embed.weight", "head.weight"} | recurrent
    assert len(recurrent) == 8  # two layers, two directions, of inputs and of states
    for name, kept in mask.items():
        weight = model.get_parameter(name).detach().abs()
        assert int(kept.sum()) == round(0.5 * kept.numel())
        if name != "embed.weight":  # whose padding is zeros already
            assert weight[kept].min() >= weight[~kept].max()
    assert not mask["embed.weight"][0].any()
    before = {name: tensor.clone() for name, tensor in mask.apply(model.state_dict()).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    apply_mask(model, mask, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids), ids[:, 0] % 3).backward()
        optimizer.step()
    assert all((model.get_parameter(name)[~kept] == 0).all() for name, kept in mask.items())
    found = correlation(before, model, 0.3, mask)
    assert set(found.per_layer) == set(mask)
    assert 0.3 < found.value <= 1
