"""Parameters, non-zeros and MACs: published figures, hand-worked tables, and torch's own count of operations."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from prunetune.core.references import Ref
from prunetune.deploy.sizes import LayerCount, count
from prunetune.models import build
from prunetune.sparsity.enforce import apply_mask
from prunetune.sparsity.prune import compute_mask
from tests.support.refusals import refused

CIFAR = (3, 32, 32)


def registered(name: str, **arguments: float) -> nn.Module:
    return build(Ref.of(name, arguments), CIFAR, 10)


def images(batch: int = 2, shape: tuple[int, ...] = CIFAR) -> Tensor:
    return torch.linspace(-1, 1, batch * torch.Size(shape).numel()).reshape(batch, *shape)


def torch_macs(model: nn.Module, *inputs: Tensor) -> float:
    """Half the operations that torch counts below the modules, where kernels are called; per example."""
    # It does not know the CPU's fused attention, and counts 0 for it: so attention is computed by single products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(*inputs)
    return counter.get_total_flops() / 2 / len(inputs[0])


def test_resnet20_as_published() -> None:
    """40.81M multiply-adds and 0.27M parameters in the table of chenyaofo/pytorch-cifar-models, whose shortcuts are
    1x1 convolutions; ours have no parameters (He et al. 2015, option A).
    """
    found = count(registered("resnet20"), images())
    stem, stage_1 = 27 * 16 * 32**2, 6 * 9 * 16**2 * 32**2
    later_stages = [(9 * c * 2 * c + 5 * 9 * (2 * c) ** 2) * side**2 for c, side in ((16, 16), (32, 8))]
    assert found.macs == found.effective_macs == stem + stage_1 + sum(later_stages) + 640 == 40_551_040
    shortcuts = 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert round((found.macs + shortcuts) / 1e6, 2) == 40.81
    assert round(found.parameters / 1e6, 2) == 0.27


def test_vgg11_as_published() -> None:
    """153.29M multiply-adds in the same table, for a network with two linear layers of 512 units before the last."""
    found = count(registered("vgg11"), images())
    sides = [32, 16, 8, 8, 4, 4, 2, 2]
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = sum(9 * i * o * side**2 for (i, o), side in zip(pairwise(channels), sides, strict=True))
    assert found.macs == convolutions + 5120 == 152_769_536
    assert round((found.macs + 2 * 512**2) / 1e6, 2) == 153.29
    assert found.parameters == 9_231_114


def test_mobilenetv2_by_its_table() -> None:
    """Sandler et al. 2018, table 2, at CIFAR's sides; 87.98M without the 1x1 shortcuts in the table cited above."""
    macs, shortcuts, inputs, side = 27 * 32 * 32**2, 0, 32, 32
    for expansion, outputs, blocks, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(blocks):
            stride = first if block == 0 else 1
            wide = expansion * inputs
            macs += inputs * wide * side**2
            side //= stride
            macs += (9 * wide + wide * outputs) * side**2
            shortcuts += inputs * outputs * side**2 if stride == 1 and inputs != outputs else 0
            inputs = outputs
    macs += 320 * 1280 * side**2 + 12_800
    model = registered("mobilenetv2")
    found = count(model, images())
    expanding_by_1 = 32 * 32 * 32**2  # ours has the 1x1 expansion by 1 of the first block; the table's has none
    assert found.macs == macs + shortcuts == 91_154_944
    assert round((macs - expanding_by_1) / 1e6, 2) == 87.98
    assert found.parameters == 2_296_922


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "mobilenetv2", "conv4", "lenet_300_100"])
def test_registered_models_agree_with_torch(name: str) -> None:
    model = registered(name).eval()
    assert count(model, images()).macs == torch_macs(model, images())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 11)),
        (nn.Conv2d(4, 6, (3, 1), dilation=2, bias=False), (4, 9, 11)),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 9, 11)),
        (nn.Conv2d(4, 8, 3, groups=4, padding="same", padding_mode="circular"), (4, 9, 11)),
        (nn.Conv3d(2, 3, 2), (2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 7)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 7)),
        (nn.Linear(5, 7), (5,)),
        (nn.Linear(5, 7), (3, 4, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_single_layers_agree_with_torch(layer: nn.Module, shape: tuple[int, ...], batch: int) -> None:
    found = count(layer, images(batch, shape))
    assert found.macs == torch_macs(layer, images(batch, shape)) > 0


def test_a_convolution_by_hand() -> None:
    """12 -> 8 channels in 4 groups, 3x3, stride 2 on 9x9: 4x4 positions, 3·8·9 = 216 weights, 216·16 MACs."""
    layer = nn.Conv2d(12, 8, 3, stride=2, groups=4)
    found = count(nn.Sequential(layer), images(5, (12, 9, 9)))
    assert found.layers == (LayerCount("0.weight", "Conv2d", 216, 216, 3456, 3456),)
    assert (found.parameters, found.nonzeros) == (224, 224)


def test_effective_macs_follow_each_layer_s_own_density() -> None:
    """Linear 4 -> 2 with 6 of 8 weights, used on 3 positions, then 2 -> 5 with 1 of 10."""
    first, second = nn.Linear(4, 2), nn.Linear(2, 5, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3]]))
        first.bias.copy_(torch.tensor([0.0, 1]))
        second.weight.zero_()[3, 1] = 1
    found = count(nn.Sequential(first, second), images(7, (3, 4)))
    assert found.layers == (
        LayerCount("0.weight", "Linear", 8, 6, 24, 18),
        LayerCount("1.weight", "Linear", 10, 1, 30, 3),
    )
    assert (found.macs, found.effective_macs, found.parameters, found.nonzeros) == (54, 21, 20, 8)


def test_a_pruned_network_s_effective_macs_are_those_of_its_kept_weights() -> None:
    model = registered("resnet20")
    mask = compute_mask(model, 0.8, allocation="global")
    apply_mask(model, mask)
    found = count(model, images())
    per_weight = {layer.name: layer.macs // layer.total for layer in found.layers}
    expected = sum(int(kept.sum()) * per_weight[name] for name, kept in mask.items())
    dense = sum(layer.macs for layer in found.layers if layer.name not in mask)
    assert dense == 27 * 16 * 32**2  # of the first convolution, which alone is not pruned
    assert found.effective_macs == expected + dense
    assert found.macs == 40_551_040
    assert {layer.name: layer.nonzero for layer in found.layers if layer.name in mask} == {
        name: int(kept.sum()) for name, kept in mask.items()
    }


class Tied(nn.Module):
    """An embedding whose weight is the decoder's, a linear layer used twice, and a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.twice = nn.Linear(4, 4, bias=False)
        self.unused = nn.Linear(3, 2, bias=False)
        self.decoder = nn.Linear(4, 10, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.twice(self.twice(self.embedding(tokens))))


def test_tied_weights_count_once_and_each_use_costs() -> None:
    found = count(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert found.parameters == 40 + 16 + 6
    assert {layer.name: (layer.kind, layer.total, layer.macs) for layer in found.layers} == {
        "embedding.weight": ("Embedding", 40, 0),
        "twice.weight": ("Linear", 16, 2 * 3 * 16),
        "unused.weight": ("Linear", 6, 0),
        "decoder.weight": ("Linear", 40, 3 * 40),
    }
    assert found.macs == 96 + 120


class Calls(nn.Module):
    """A module that is called with whatever arguments stand here."""

    def __init__(self, inner: nn.Module, **more: Any) -> None:
        super().__init__()
        self.inner = inner
        self.more = more

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs, **self.more)[0]


@pytest.mark.parametrize(
    "attention",
    [
        nn.MultiheadAttention(8, 2, batch_first=True),
        nn.MultiheadAttention(8, 2, batch_first=True, bias=False, kdim=6, vdim=5),
    ],
    ids=["one width", "three widths"],
)
def test_attention_agrees_with_torch(attention: nn.MultiheadAttention) -> None:
    model = Calls(attention, need_weights=False).eval()
    query, key, value = (images(3, shape) for shape in ((5, 8), (7, attention.kdim), (7, attention.vdim)))
    found = count(model, (query, key, value))
    assert found.macs == torch_macs(model, query, key, value)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["inner.attention"] == LayerCount("inner.attention", "MultiheadAttention", 0, 0, 560, 560)
    assert by_name["inner.out_proj.weight"].macs == 5 * 64


def test_a_transformer_layer_in_evaluation_counts_as_in_training() -> None:
    """In evaluation torch takes a fused path that calls none of the layer's modules."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = images(2, (5, 8))
    assert count(layer.eval(), x).macs == torch_macs(layer.train(), x) == 5 * (4 * 64 + 2 * 128) + 2 * 25 * 8
    assert torch.backends.mha.get_fastpath_enabled()


class Padded(nn.Module):
    """A transformer that is told that the second half of every sequence is padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(x.shape[:2]) >= x.shape[1] // 2
        return self.encoder(x, src_key_padding_mask=padding)


def test_padding_is_computed_with_as_in_training() -> None:
    assert count(Padded(), images(2, (6, 8))).macs == 2 * (6 * (4 * 64 + 2 * 128) + 2 * 36 * 8)


class SequenceFirst(nn.Module):
    """Takes examples first, and has attention that wants them second."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.inner(x, x, x)[0]


def test_attention_with_the_sequence_first() -> None:
    assert count(SequenceFirst(), images(3, (5, 8))).macs == 5 * 4 * 64 + 2 * 25 * 8


def test_recurrent_layers_by_hand() -> None:
    """Bidirectional, 2 layers, 4 gates of 5: (3 + 5)·20 + (10 + 5)·20 weights per direction, at each of 7 steps."""
    assert count(nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True), images(2, (7, 3))).macs == 7 * 2 * (160 + 300)
    assert count(nn.GRUCell(3, 5), images(2, (3,))).macs == (3 + 5) * 15


class Packed(nn.Module):
    """Two sequences of 2 and 1 steps, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNN(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(pack_sequence([x[0, :2], x[1, :1]]))[1]


def test_of_a_packed_sequence_the_real_steps_count() -> None:
    """3 steps of 12 + 16 weights for two examples."""
    assert count(Packed(), images(2, (5, 3))).macs == 3 * 28 // 2


def test_weights_as_torch_prunes_them_count_as_masked() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    torch_prune.l1_unstructured(model[0], "weight", 0.75)
    found = count(model, images(2, (4,)))
    assert {layer.name: (layer.nonzero, layer.effective_macs) for layer in found.layers} == {
        "0.weight": (4, 4),
        "1.weight": (16, 16),
    }
    assert (found.parameters, found.nonzeros) == (40, 4 + 4 + 20)


class Named(nn.Module):
    """Attention that is called by names, in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.inner(value=value, key=key, query=query)[0]


def test_named_arguments_are_told_apart() -> None:
    inputs = (images(2, (3, 8)), images(2, (7, 6)), images(2, (7, 5)))
    assert count(Named(), inputs).macs == 3 * 64 + 7 * 8 * (6 + 5) + 2 * 3 * 7 * 8 + 3 * 64


def test_inputs_by_name() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    query, key = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    by_name = count(attention, {"query": query, "key": key, "value": key})
    assert by_name == count(attention, (query, key, key))
    assert by_name.macs > 0


def test_the_model_is_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, images(2, (3, 8, 8)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError):
        count(model, images(2, (5, 8, 8)))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("inputs", [(), torch.tensor(1.0), torch.zeros(0, 4), ("x",)])
def test_inputs_without_a_batch_are_refused(inputs: Any) -> None:
    with refused("example_inputs", "tensor"):
        count(nn.Linear(4, 2), inputs)
