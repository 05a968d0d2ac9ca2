"""Every architecture is pruned, held, copied, stored, asked for channels and exported, or refused in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import prunetune as pt
from tests.support.refusals import refused

pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")

from tests.support.sweep_senses import PAIRS, SOUND, VISION
from tests.support.sweep_steps import Network, check_copy, check_files, check_held, check_mask, exported, shrunk
from tests.support.sweep_text import DECODERS, ENCODER_DECODERS, ENCODERS
from tests.support.sweep_torch import BY_HAND, OWN

pytestmark = pytest.mark.timeout(60)

TEXT = {**ENCODERS, **DECODERS, **ENCODER_DECODERS}
NETWORKS: dict[str, Network] = {**TEXT, **VISION, **SOUND, **PAIRS, **BY_HAND, **OWN}

NONE = "finds no channel in this model that could go"
# The share of parameters that is left without half of the channels that are free, or why none goes.
CHANNELS: dict[str, float | str] = {
    "bert": 0.65,
    "bert-mlm": 0.70,
    "roberta": 0.86,
    "distilbert": 0.64,
    "albert": 0.85,
    "deberta-v2": 0.90,
    "electra": 0.81,
    "mobilebert": 0.84,
    "fnet": 0.96,
    "squeezebert": NONE,
    "modernbert": NONE,
    "gpt2": 0.61,
    "gpt-neox": 0.87,
    "opt": 0.66,
    "bloom": NONE,
    "llama": 0.80,
    "qwen2": 0.81,
    "qwen3-moe": NONE,
    "mixtral": NONE,
    "phi-3": NONE,
    "gemma-2": 0.77,
    "falcon": NONE,
    "mamba": NONE,
    "t5": 0.76,
    "bart": 0.61,
    "whisper": 0.81,
    "vit": 0.82,
    "beit": 0.92,
    "dinov2": 0.91,
    "swin": 0.73,
    "convnext": 0.73,
    "convnextv2": NONE,
    "resnet-hf": 0.36,
    "regnet": 0.72,
    "mobilenet-v1": 0.27,
    "efficientnet": 0.38,
    "poolformer": 0.83,
    "segformer": 0.99,
    "levit": 0.59,
    "pvt": 0.97,
    "cvt": 0.86,
    "bit": NONE,
    "vit-mae": 0.92,
    "wav2vec2": 0.88,
    "hubert": 0.87,
    "ast": 0.88,
    "vits": 0.90,
    "clip": 0.90,
    "nn.RNN": NONE,
    "nn.LSTM": NONE,
    "nn.GRU": NONE,
    "nn.Transformer": 0.83,
    "nn.MultiheadAttention": 0.78,
    "u-net": 0.26,
    "weight-norm tcn": NONE,
    "shufflenet": 0.77,
    "squeeze-excitation": 0.52,
    "densenet": 0.31,
    "autoencoder": 0.57,
    "lenet": 0.35,
    "vgg-11": 0.26,
    "resnet-8": 0.27,
    "mobilenet-v2": 0.33,
}

# Why there is no program; of all others there is one.
PROGRAMS = {"vit-mae": "it gives other outputs every time"}

ONNX = ("gpt2", "vit", "densenet", "lenet")  # it takes longer than a program


FEW = ("bert", "nn.LSTM", "lenet", "resnet-8")  # at every run; the others take minutes
SWEPT = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)


def adamw(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)


def assert_refused(call: Callable[[], object], field: str, fragment: str) -> None:
    """In one line that a terminal shows."""
    with refused(field, fragment) as caught:
        call()
    assert len(str(caught.value)) <= 300


def test_the_sweep_is_as_wide_as_it_says() -> None:
    assert len(NETWORKS) >= 60
    assert NETWORKS.keys() == CHANNELS.keys()


@pytest.mark.parametrize("name", SWEPT)
def test_half_of_each_layer_goes_and_stays_away(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    model = network.drawn()
    check_mask(model, pt.compute_mask(model, 0.5, scope=network.scope))
    optimizer = adamw if name in TEXT else sgd
    check_held(network, optimizer)
    check_copy(network, optimizer)
    check_files(network, tmp_path)


@pytest.mark.parametrize("name", SWEPT)
def test_channels_go_and_the_outputs_stay_or_one_line_says_why_not(name: str) -> None:
    network, expected = NETWORKS[name], CHANNELS[name]
    if isinstance(expected, str):
        assert_refused(lambda: shrunk(network), "pattern", expected)
    else:
        assert shrunk(network) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("name", SWEPT)
def test_a_program_of_it_gives_its_outputs_or_one_line_says_why_not(name: str, tmp_path: Path) -> None:
    network, path = NETWORKS[name], tmp_path / "m.pt2"
    if why := PROGRAMS.get(name):
        assert_refused(lambda: exported(network, path), "model", why)
    else:
        exported(network, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONNX)
def test_onnx_of_it_gives_its_outputs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra prunetune[onnx]")
    exported(NETWORKS[name], tmp_path / "m.onnx")
