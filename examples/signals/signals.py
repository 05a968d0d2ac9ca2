"""Signals made here: noisy waves of four forms, of any frequency and phase, and a network of 1-D convolutions."""

import math

import torch
from torch import Tensor, nn

FORMS = {
    "sine": torch.sin,
    "square": lambda angle: torch.sin(angle).sign(),
    "sawtooth": lambda angle: (angle / math.pi).remainder(2) - 1,
    "triangle": lambda angle: (angle / math.pi).remainder(2).sub(1).abs().mul(2).sub(1),
}
LENGTH = 96  # samples of a signal


def data(train: int = 1200, test: int = 400):
    """Each signal has as many periods as chance will: two to six."""
    signals, forms = made(train + test)
    return {"train": (signals[:train], forms[:train]), "test": (signals[train:], forms[train:])}


def made(count: int) -> tuple[Tensor, Tensor]:
    """Signals of shape (count, 1, LENGTH), and which form each has, int64 of shape (count,)."""
    draw = torch.Generator().manual_seed(0)  # the same signals at every call: a study must find what it saw before
    forms = torch.randint(len(FORMS), (count,), generator=draw)
    periods, phase = 2 + 4 * torch.rand(count, 1, generator=draw), torch.rand(count, 1, generator=draw)
    angles = 2 * math.pi * (periods * torch.linspace(0, 1, LENGTH) + phase)
    waves = torch.stack([form(angles) for form in FORMS.values()])[forms, torch.arange(count)]
    return (waves + 0.5 * torch.randn(waves.shape, generator=draw)).unsqueeze(1), forms


def network(outputs: int, width: int = 16):
    """Three convolutions over time, then the mean over it: a signal of another length goes through too."""
    return nn.Sequential(
        nn.Conv1d(1, width, 7, stride=2, padding=3),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Conv1d(width, 2 * width, 5, stride=2, padding=2),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.Conv1d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2 * width, outputs),
    )
