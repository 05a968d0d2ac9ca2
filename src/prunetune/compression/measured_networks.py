"""The networks that `prune` trained, taken from the store and measured: counts, sizes, densities, times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prunetune.analysis.pairing import percent
from prunetune.api import Prepared
from prunetune.data import TrainingData
from prunetune.data.examples import Nest, first_tensor, mapped
from prunetune.deploy.channel_surgery import shrink
from prunetune.deploy.latency import latencies, speedup
from prunetune.deploy.sizes import count, file_sizes
from prunetune.deploy.sparse_layers import SparseLayers, to_sparse_layers
from prunetune.deploy.summary import KEPT, ParameterRow, sparsity_report
from prunetune.errors import ConfigError, one_line
from prunetune.models import build
from prunetune.report.tradeoff.tradeoff_rows import ModelRow, ParameterDensity, Timing
from prunetune.rows import Trial
from prunetune.sparsity.channel_coupling import channel_groups
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.scope import Scope
from prunetune.spec.mask_fields import MaskSpec
from prunetune.steps.steps import Train

BATCHES = (1, 64)  # examples at a time, of the measured times


@dataclass(frozen=True)
class Network:
    """A network as it is measured and shipped, with what is known of its trainings."""

    trials: tuple[Trial, ...]  # one a seed, each with a score; the network is that of the first
    whole: nn.Module  # with its zeros, in the shapes of the user's model
    mask: Mask | None
    shipped: nn.Module  # `whole`, or the smaller network without its zero channels
    sparse: SparseLayers | None = None  # `whole` with layers that run sparse, where its times are to be of that

    @property
    def trial(self) -> Trial:
        """The training that it comes from."""
        return self.trials[0]

    @property
    def timed(self) -> nn.Module:
        """What is called when its times are taken."""
        return self.sparse.model if self.sparse else self.shipped


def inputs_of(data: TrainingData) -> Nest:
    """As many test examples as the largest batch, as a network takes them; repeated where there are fewer."""
    shown = data.test.gather(torch.arange(max(BATCHES)) % len(data.test)).inputs
    return data.preparation(torch.device("cpu"))(shown)


def few_of(inputs: Nest, count: int = 2) -> Nest:
    """The first of them."""
    return mapped(inputs, lambda tensor: tensor[:count])


def network_of(prepared: Prepared, trials: Sequence[Trial], images: Nest, failures: list[str]) -> Network:
    """The network of the first seed, from the store, with the scores of all.

    One whose channels cannot be taken out after all ships whole, with a line in `failures`.
    """
    plan, trials = prepared.plan, tuple(sorted(trials, key=lambda trial: trial.seed))
    trial = trials[0]
    step = next(planned.step for planned in plan.trials if planned.step.key == trial.key)
    whole = build(plan.model, plan.input_shape, plan.outputs)
    whole.load_state_dict(prepared.store.state(trial.key))
    whole.eval()
    mask = prepared.store.mask(step.mask.key) if isinstance(step, Train) and step.mask else None
    removes = plan.spec.masks[0].pattern == CHANNEL
    shipped = whole
    if mask and removes:
        try:
            shipped = shrink(whole, mask, few_of(images))
        except Exception as error:  # surgery on a network of somebody's
            failures.append(failure_line(f"{percent(trial.sparsity)}: its channels stay in", error))
    return Network(trials, whole, mask, shipped)


def timings_of(networks: Sequence[Network], images: Nest) -> list[tuple[Timing, ...]]:
    """The times of all networks, where the images lie, each against the first's (the dense one's)."""
    found = timed([network.timed.to(first_tensor(images).device) for network in networks], images)
    for network in networks:
        network.shipped.cpu()
    return found


def runs_sparse(mask: MaskSpec, device: str) -> bool:
    """Whether layers of a network with such a mask can be tried sparse: zeros one by one, on a CPU with the kernels."""
    return mask.pattern != CHANNEL and device == "cpu" and torch.backends.mkl.is_available()


def sparse_form(network: nn.Module, images: Nest) -> SparseLayers | None:
    """The network with the layers sparse that are faster so for one example; None where that makes it no faster."""
    found = to_sparse_layers(network, None, few_of(images, 1))
    return found if found.converted else None


def timed(modules: Sequence[nn.Module], images: Nest) -> list[tuple[Timing, ...]]:
    """The times of modules at every batch size, measured in turns, each against the first's."""
    named = {str(i): module for i, module in enumerate(modules)}
    by_batch = {batch: latencies(named, few_of(images, batch)) for batch in BATCHES} if named else {}
    return [
        tuple(
            Timing(batch, own.median, own.low, own.high, own.rounds, *speedup(times["0"], own))
            for batch, times in by_batch.items()
            for own in [times[name]]
        )
        for name in named
    ]


def row_of(
    prepared: Prepared,
    network: Network,
    timings: tuple[Timing, ...],
    images: Nest,
) -> ModelRow:
    """What a network comes to, without files."""
    trial, counts = network.trial, count(network.shipped, few_of(images))
    sizes = file_sizes(network.shipped.state_dict())
    scores = tuple(trial.score for trial in network.trials if trial.score is not None)
    held_out = tuple(t.validation_score for t in network.trials if t.validation_score is not None)
    return ModelRow(
        sparsity=trial.sparsity,
        density=trial.density,
        seed=trial.seed,
        seeds=tuple(trial.seed for trial in network.trials),
        accuracies=scores if prepared.plan.spec.metric.is_accuracy else None,
        scores=scores,
        held_out=held_out if len(held_out) == len(scores) else (),
        parameters=counts.parameters,
        nonzeros=counts.nonzeros,
        macs=counts.macs,
        effective_macs=round(counts.effective_macs),
        raw_bytes=sizes.raw,
        compressed_bytes=sizes.compressed,
        shrunk=network.shipped is not network.whole,
        timings=timings,
        layers=_densities(prepared, network, few_of(images)),
        files=(),
        sparse_layers=network.sparse.converted if network.sparse else (),
    )


def _densities(prepared: Prepared, network: Network, inputs: Nest) -> tuple[ParameterDensity, ...]:
    """Every parameter of the user's model; of the dense network, none has a reason: nothing was to be pruned."""
    spec = prepared.plan.spec
    scope = Scope(spec.scope.include, spec.scope.exclude)
    rows = sparsity_report(network.whole, network.mask, scope).rows
    by_channel = network.mask and spec.masks[0].pattern == CHANNEL
    whole = _whole_layers(network.whole, inputs, scope) if by_channel else {}
    return tuple(
        ParameterDensity(r.name, r.kind, r.total, r.nonzero, _reason(r, whole) if network.mask else "") for r in rows
    )


def _whole_layers(model: nn.Module, inputs: Nest, scope: Scope) -> dict[str, str]:
    """Why layers keep all their channels, by name."""
    groups = channel_groups(model, inputs, scope)
    return {group.layer: f"its channels stay: {group.whole}" for group in groups if group.whole}


def _reason(row: ParameterRow, whole: Mapping[str, str]) -> str:
    """Why a parameter is not pruned; where the mask keeps all of it since its layer's channels must stay, that."""
    return whole.get(row.name.rpartition(".")[0], row.reason) if row.reason == KEPT else row.reason


def failure_line(what: str, error: Exception) -> str:
    """A line of what failed; of an error that is not ours its kind too."""
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return f"{what}: {kind}{one_line(str(error))}"
