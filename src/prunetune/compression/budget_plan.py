"""A search within a budget before it runs: the chains that compete, which of them can reach the target, and the most
that it can cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from prunetune.analysis.noninferiority import chain_level
from prunetune.analysis.pairing import percent
from prunetune.api import Prepared, plan_with_weights, preflight
from prunetune.compression.exported_files import (
    BEST,
    DENSE_STEM,
    all_formats,
    listed_files,
    model_paths,
    require_formats,
    require_forms,
)
from prunetune.compression.measured_networks import few_of, inputs_of, runs_sparse, sparse_form
from prunetune.data import facts, load_examples
from prunetune.data.examples import Nest, mapped
from prunetune.deploy.bitmask import pack
from prunetune.deploy.channel_surgery import shrink
from prunetune.deploy.export import settled
from prunetune.deploy.latency import latencies, speedup
from prunetune.deploy.sizes import count
from prunetune.errors import ConfigError
from prunetune.models import draw
from prunetune.plan.compile import Plan, joined
from prunetune.plan.measurements import PlannedTrial
from prunetune.report.run_folders import RUNS
from prunetune.report.tradeoff.budget_rows import BUDGET, reaches
from prunetune.report.tradeoff.tradeoff_rows import SPARSE
from prunetune.report.write_report import PAGE
from prunetune.sparsity.allocation import SENSITIVITY
from prunetune.sparsity.patterns import CHANNEL
from prunetune.sparsity.prune import compute_mask
from prunetune.sparsity.scope import Scope
from prunetune.spec.compression import CompressionRequest, chain_specs
from prunetune.spec.compression_budget import Budget, Target, amount
from prunetune.spec.load import SpecSource
from prunetune.spec.study import Spec
from prunetune.steps.quantities import MeasureBlocks
from prunetune.steps.steps import Weights

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class Search:
    """A search that is planned and compared with a store: `prepared` is all that it can come to."""

    budget: Budget
    chains: tuple[Prepared, ...]
    prepared: Prepared
    left_out: tuple[str, ...]  # what does not compete, and why

    @property
    def spec(self) -> Spec:
        """That of the first chain: all have model, data, recipe, rate and seeds in common."""
        return self.prepared.spec

    def runs_sparse(self, chain: Prepared) -> bool:
        """Whether a time is asked for, and layers of this chain's networks can be tried sparse."""
        target = self.budget.target
        return bool(target and target.of_time) and runs_sparse(chain.spec.masks[0], chain.device)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for beside the spec, as `budget.json` says it."""
        target = self.budget.target
        return {
            "max_drop": self.budget.max_drop,
            "quantity": target.quantity if target else None,
            "limit": target.limit if target else None,
        }

    @property
    def level(self) -> float:
        """The error rate of each chain."""
        return chain_level(self.spec.verdict.alpha, max(1, len(self.chains)))


def plan_search(
    source: SpecSource,
    overrides: Sequence[str],
    asked: CompressionRequest,
    budget: Budget,
    *,
    store: str | Path | None = None,
    device: str = "auto",
) -> Search:
    """Compile every chain. Trains nothing; networks are drawn and measured to see which chains can reach the target.

    ConfigError for anything that is wrong, no held-out data included. A pattern that nobody asked for and that the
    model does not have is left out, and so is the allocation by sensitivity above the sparsities that it measures.
    """
    planned: list[Prepared] = []
    left_out: list[str] = []
    for spec in chain_specs(source, overrides, asked):
        try:
            planned.append(plan_with_weights(spec, asked.weights, asked.weights_key, store=store, device=device))
        except ConfigError as error:
            unasked = asked.pattern is None and spec.masks[0].pattern == CHANNEL
            if not unasked and spec.masks[0].allocation != SENSITIVITY:  # which is always tried beside another
                raise
            left_out.append(f"{spec.masks[0].label}: {error}")
    first = planned[0]
    if not facts(first.plan.data).validation:
        what = "the search is decided on held-out data: hold out a share of the training data, such as 0.1"
        raise ConfigError(f"data_args.validation: 0; {what}")
    chains, unreached = _able(planned, budget.target)
    trials = list(dict.fromkeys(trial for chain in chains for trial in chain.plan.trials))
    plans = [chain.plan for chain in chains] or [first.plan]
    plan = joined(plans, trials, [blocks_of(trial, "validation") for trial in trials])
    return Search(budget, tuple(chains), narrowed_to(first, plan), (*left_out, *unreached))


def preflight_search(search: Search, formats: Sequence[str] = (), out: str | Path | None = None) -> Path:
    """The report's folder (None: runs/NAME-budget), once nothing of somebody else's lies in the place of its files.

    ConfigError for a format that there is not, that lacks its library, or that the task's networks have no form of.
    """
    require_formats(formats)
    require_forms(search.prepared, formats)
    files = (BUDGET, PAGE, *model_paths([BEST], written_formats(search, formats), DENSE_STEM))
    default = RUNS / f"{search.spec.name}-budget"
    return preflight(search.prepared, out, files, listed_files, default=default, asked=search.asked)


def blocks_of(trial: PlannedTrial, part: Part) -> MeasureBlocks:
    """What a trial's network scores on a part of the data, and what the choice of its examples does to that."""
    step = trial.step
    return MeasureBlocks(Weights(step), part, step.data, step.recipe, device=step.device)


def narrowed_to(prepared: Prepared, plan: Plan) -> Prepared:
    """A part of what is prepared, compared with the store as it is now."""
    remaining = plan.remaining(prepared.store)
    return replace(prepared, plan=plan, max_plan=plan, remaining=remaining, cached=remaining.cached)


def _able(planned: Sequence[Prepared], target: Target | None) -> tuple[list[Prepared], list[str]]:
    """The chains whose sparsest network, drawn and pruned by magnitude, can reach the target; why others cannot.

    No training is needed to know that: sizes and times hang on shapes and zeros, not on values. Which channels go by
    sensitivity only training tells: such a chain always competes. Which layers have the zeros training tells too; the
    times of layers that run sparse are an estimate from the drawn network's.
    """
    if target is None:
        return list(planned), []
    first = planned[0]
    plan, inputs = first.plan, inputs_of(load_examples(first.plan.data))
    dense = draw(plan.model, plan.input_shape, plan.outputs, seed=0)
    sparse = {prepared.spec.masks[0].label: _drawn(prepared, inputs) for prepared in planned}
    device = plan.trials[0].step.device
    shipped = {"": dense} | {name: small for name, (small, _) in sparse.items()}
    timed = shipped | _sparse_forms(planned, target, shipped, inputs, device)
    times = latencies({name: net.to(device) for name, net in timed.items()}, on_device(device, few_of(inputs, 1)))
    counts = {name: count(net.cpu(), few_of(inputs)) for name, net in shipped.items()}
    able, reasons = [], []
    for prepared in planned:
        mask = prepared.spec.masks[0]
        name = mask.label
        best = {
            "speedup": speedup(times[""], times[name]).high,
            "latency": times[name].low,
            "macs": counts[name].macs / counts[""].macs if counts[""].macs else 1.0,
            "size": float(sparse[name][1]),
            "params": counts[name].nonzeros / counts[""].parameters,
        }[target.quantity]
        if reaches(target, best) or (mask.pattern == CHANNEL and mask.allocation == SENSITIVITY):
            able.append(prepared)
        else:
            most = percent(prepared.spec.sparsities[-1])
            comes_to = amount(target.quantity, best)
            reasons.append(f"{name}: its sparsest network, at {most}, comes to {comes_to}; {target.text} was asked for")
    return able, reasons


def _sparse_forms(
    planned: Sequence[Prepared], target: Target, shipped: Mapping[str, nn.Module], inputs: Nest, device: str
) -> dict[str, nn.Module]:
    """By the chain's label, a network with layers that run sparse: where a time is asked for, and that is faster."""
    masks = [prepared.spec.masks[0] for prepared in planned] if target.of_time else []
    found = {mask.label: sparse_form(shipped[mask.label], inputs) for mask in masks if runs_sparse(mask, device)}
    return {label: form.model for label, form in found.items() if form}


def _drawn(prepared: Prepared, inputs: Nest) -> tuple[nn.Module, int]:
    """A fresh network at the chain's highest sparsity as it would ship, and the bytes of its bitmask file."""
    plan, spec = prepared.plan, prepared.spec
    model, pattern = draw(plan.model, plan.input_shape, plan.outputs, seed=0), spec.masks[0].pattern
    scope, round_to = Scope(spec.scope.include, spec.scope.exclude), spec.masks[0].round_to
    examples = few_of(inputs) if pattern == CHANNEL else None
    mask = compute_mask(
        model, spec.sparsities[-1], pattern=pattern, scope=scope, example_inputs=examples, round_to=round_to
    )
    whole = settled(model, mask)
    size = len(pack(whole.state_dict()))
    return (shrink(whole, mask, few_of(inputs)) if pattern == CHANNEL else whole), size


def on_device(device: str, inputs: Nest) -> Nest:
    """The inputs on a device."""
    return mapped(inputs, lambda tensor: tensor.to(device))


def written_formats(search: Search, formats: Sequence[str]) -> tuple[str, ...]:
    """Those that are asked for, and the one that a target in bytes or in time is met by."""
    target = search.budget.target
    counted = ("bitmask",) if target and target.quantity == "size" else ()
    timed = (SPARSE,) if any(map(search.runs_sparse, search.chains)) else ()
    return all_formats((*formats, *counted, *timed))
