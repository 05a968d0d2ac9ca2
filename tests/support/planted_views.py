"""Planted results with the further views: R_p along the training and by layer, and how far masks agree."""

import dataclasses
import itertools
import random
from collections.abc import Sequence

from prunetune.rows import Layer, LayerOverlap, MaskOverlap, MomentOverlap, Results
from tests.support.planted import OVERLAP, SPARSITIES, planted

LAYERS = ("features.3.weight", "features.6.weight", "head.weight")
P = 0.2


def viewed(
    masks: Sequence[str] = ("iterative", "one_shot", "admm"),
    seeds: int = 3,
    layers: Sequence[str] = LAYERS,
    sparsities: Sequence[float] = SPARSITIES,
    rates: Sequence[float] = (0.01, 0.1),
) -> Results:
    """A study's results with rows of all three; equal arguments give equal results."""
    draw = random.Random(11)
    results = planted(masks, seeds, rates=rates)
    if layers is not LAYERS:
        results = dataclasses.replace(results, layers=tuple(Layer(name, (8, 8), True, "linear") for name in layers))
    return dataclasses.replace(
        results,
        along_training=tuple(_along(rates, seeds, draw)),
        overlap_by_layer=tuple(_by_layer(rates, masks, layers, sparsities, seeds, draw)),
        mask_overlap=tuple(_agreements(rates, masks, sparsities, seeds, draw)),
    )


def _along(rates: Sequence[float], seeds: int, draw: random.Random) -> list[MomentOverlap]:
    return [
        MomentOverlap(rate, seed, epoch, P, P + (1 - P) * OVERLAP[rate] ** (epoch / 6) + draw.gauss(0, 0.01), P)
        for rate in rates
        for seed in range(seeds)
        for epoch in (1.5, 3.0, 4.5, 6.0)
    ]


def _by_layer(
    rates: Sequence[float],
    masks: Sequence[str],
    layers: Sequence[str],
    sparsities: Sequence[float],
    seeds: int,
    draw: random.Random,
) -> list[LayerOverlap]:
    places = [("theta_0/theta_T", rate, None, 0.0) for rate in rates]
    places += [("ticket_0/finetune_T", *place) for place in itertools.product(rates, masks, sparsities)]
    return [
        LayerOverlap(*place, P, layer, seeds, P + draw.uniform(-0.05, 0.8 * OVERLAP[place[1]]), P - 0.001)
        for place in places
        for layer in layers
    ]


def _agreements(
    rates: Sequence[float], masks: Sequence[str], sparsities: Sequence[float], seeds: int, draw: random.Random
) -> list[MaskOverlap]:
    rows = []
    for rate, sparsity in itertools.product(rates, sparsities):
        chance = (1 - sparsity) / (1 + sparsity)  # d / (2 - d)
        for first, second in itertools.combinations_with_replacement(sorted(masks), 2):
            same = first != second
            value = chance + (1 - chance) * (0.5 * same + draw.uniform(0, 0.1))
            n = seeds if same else seeds * (seeds - 1) // 2
            if n:
                row = MaskOverlap(rate, sparsity, first, second, same, n, value, value - 0.02, value + 0.02, chance)
                rows.append(row)
    return rows
