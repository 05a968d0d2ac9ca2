"""Networks with unstructured zeros, sparse where that is measured to be faster, against dense: one CPU thread."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.findings import Findings, Table
from benchmarks.material import SHAPE, Setting
from benchmarks.rounds import Options
from prunetune.deploy.sparse_layers import SparseLayers, to_sparse_layers
from prunetune.sparsity.prune import compute_mask

ROUNDS = 20
MODELS = ("small", "resnet20", "mobilenetv2", "vgg16")
LAYERS, TOKENS = 2, 32  # of BERT-base, which has twelve
SPARSITIES, BATCHES = (0.9, 0.98), (1, 16)
HEADER = ("network", "zeros", "batch", "layers sparse", "times as fast", "95 % interval", "largest error")


def run(options: Options) -> Findings:
    """A row for every network, sparsity and batch. Weights are as drawn, on which the time does not depend."""
    rounds = max(options.rounds, 6)  # fewer have no interval
    rows = tuple(
        (
            name,
            f"{100 * sparsity:.0f} %",
            f"{batch}",
            *_cells(to_sparse_layers(network, mask, inputs(batch), rounds=rounds)),
        )
        for name, network, inputs in _networks(options.quick)
        for sparsity in (SPARSITIES[-1:] if options.quick else SPARSITIES)
        for mask in (compute_mask(network, sparsity, allocation="uniform"),)
        for batch in (BATCHES[:1] if options.quick else BATCHES)
    )
    notes = (f"Rounds: {rounds}", "Dense, without a ratio: no layer alone was surely faster")
    return Findings(tables=(Table("Sparse layers", HEADER, rows),), notes=notes)


def _networks(quick: bool) -> Iterator[tuple[str, nn.Module, Callable[[int], Tensor]]]:
    for name in MODELS[:1] if quick else MODELS:
        yield name, Setting(name).network(), lambda batch: torch.randn(batch, *SHAPE)
    if not quick:
        from transformers import BertConfig, BertModel

        bert = BertModel(BertConfig(num_hidden_layers=LAYERS))
        yield f"BERT-base, {LAYERS} layers", bert, lambda batch: torch.randint(0, 30000, (batch, TOKENS))


def _cells(found: SparseLayers) -> tuple[str, ...]:
    """Of a network that is dense because the whole was not faster too, the ratio that was measured is shown."""
    layers = f"{len(found.converted)} of {len(found.converted) + len(found.left)}"
    if found.whole is None:
        return layers, "dense", "", ""
    interval = f"{found.whole.low:.2f} to {found.whole.high:.2f}"
    return layers, f"{found.whole.ratio:.2f}", interval, f"{found.max_error:.1e}" if found.converted else "dense"
