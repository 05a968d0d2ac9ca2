"""Advice for one model: what its sparse network should be trained from, as far as the evidence at hand can say."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, nn

from prunetune.analysis.pairing import percent, signed
from prunetune.analysis.paper.scale import off_paper, retention_text
from prunetune.analysis.pretraining import NEAR_CHANCE, USUAL_P
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import USUAL_RULE, Rule, holm
from prunetune.analysis.verdict import Verdict
from prunetune.api import Audit
from prunetune.errors import ConfigError, given
from prunetune.plan.measurements import DENSE_P
from prunetune.report.answer import answers
from prunetune.report.results_files import RESULTS, read_results
from prunetune.report.text import STARTS, lead, pretraining_text, recommendation_text, whys
from prunetune.rows import Results
from prunetune.sparsity.allocation import uniform
from prunetune.sparsity.argument_checks import as_path, as_share, require_type
from prunetune.sparsity.correlation import Independence, WeightCorrelation, correlation, independence, p_above
from prunetune.sparsity.model_files import read_state
from prunetune.sparsity.scope import Scope, prunable
from prunetune.training.recipe import RecipeSummary

Weights = nn.Module | Mapping[str, Tensor] | str | Path
Strength = Literal["exact", "weak", "undecided", "tested"]

STRENGTHS: Mapping[Strength, str] = {
    "exact": "counted, no forecast",
    "weak": "a sign only",
    "undecided": "left open",
    "tested": "tested over seeds",
}
NO_ACCURACY = (
    "it says how much of the start is left and nothing of accuracy: whether a longer training gains any, an audit with "
    "pretraining: {longer: 2} tells"
)
SAME_SPARSITY = 0.005  # rounds of iterative pruning meet 80 % as 80.3 %
NECESSARY = "R_p about chance is necessary for independent weights and not sufficient"


class AdviceLine(NamedTuple):
    """One piece of advice, what it rests on, how far that carries, and the arm that it would start from, if any."""

    claim: str
    evidence: str
    strength: Strength
    start: str | None = None


class LayerKept(NamedTuple):
    """How many of a prunable layer's weights remain at the asked sparsity, under the uniform allocation."""

    name: str
    shape: tuple[int, ...]  # outputs first
    kept: int

    @property
    def total(self) -> int:
        """The layer's weights."""
        return math.prod(self.shape)

    @property
    def starved(self) -> bool:
        """Whether fewer weights remain than there are outputs, so that some output has none at all."""
        return self.kept < self.shape[0]


@dataclass(frozen=True)
class Advice:
    """What the evidence says, cheapest first: where lines name different starts, the later one counts."""

    lines: tuple[AdviceLine, ...]
    layers: tuple[LayerKept, ...] = ()  # of the model; empty without one
    correlations: Mapping[float, WeightCorrelation] = field(
        default_factory=dict
    )  # p -> R_p(θ0, θT), layer by layer, of a pair

    @property
    def start(self) -> str | None:
        """The arm to train from by the best evidence at hand; None where no evidence names one."""
        return self._deciding.start if self._deciding else None

    @property
    def _deciding(self) -> AdviceLine | None:
        return next((line for line in reversed(self.lines) if line.start), None)

    def __str__(self) -> str:
        lines = (f"- {line.claim}\n  {STRENGTHS[line.strength]}: {line.evidence}" for line in self.lines)
        return "\n".join([_opening(self._deciding), *lines])


def _opening(deciding: AdviceLine | None) -> str:
    if deciding is None or deciding.start is None:
        return "The evidence at hand names no start for the sparse network."
    start = STARTS.get(deciding.start, "its start weights")
    return f"Train the sparse network from {start} ({deciding.start}): {STRENGTHS[deciding.strength]}."


def recommend(
    model: nn.Module | None = None,
    *,
    initial: Weights | None = None,
    trained: Weights | None = None,
    sparsity: float = 0.8,
    audit: Audit | str | Path | None = None,
    p: Sequence[float] = DENSE_P,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> Advice:
    """Advice on what to train a sparse network from, by any of three kinds of evidence, each line naming its own.

    Nothing is trained and nothing changed. `start` of the advice is what the strongest evidence names.

    Args:
        model: What of it is prunable within `scope`, and what remains of each layer at `sparsity`. Counting only.
        initial: The weights before training: a module, a state dict or a checkpoint file. R_p with `trained` is taken
            of the model's prunable layers, or without a model of all shared tensors of two or more dimensions.
        trained: The weights after training; by default the model's own.
        sparsity: The share of weights that the sparse network lacks, in (0, 1).
        audit: An Audit, or the folder or results.json of one: verdict, pre-training and recommendation at `sparsity`.
        p: The shares of weights, each in (0, 1), that R_p is taken at.
        scope: Which parameters are prunable; see `list_parameters`.

    Returns:
        Lines of advice, cheapest evidence first, with the counts of the layers and R_p by p.

    Raises:
        ConfigError: For no evidence at all, half a pair, checkpoints that do not fit the model or each other, and
            results that cannot be read.
    """
    sparsity = as_share("sparsity", sparsity, "a share of weights to prune", example=0.8)
    require_type("p", p, (list, tuple), "a list of shares of weights, such as [0.2]")
    _require_evidence(model, initial, trained, audit)
    layers = _counts(model, sparsity, scope) if model is not None else ()
    lines = [*_model_lines(model, layers, sparsity)] if model is not None else []
    correlations: dict[float, WeightCorrelation] = {}
    if initial is not None:
        names = [layer.name for layer in layers] if model is not None else None
        correlations = _correlations(initial, trained if trained is not None else model, p, names)
        lines += _pair_lines(correlations)
    if audit is not None:
        lines += _audit_lines(*_results(audit), sparsity, layers)
    return Advice(tuple(lines), layers, correlations)


def _require_evidence(
    model: nn.Module | None, initial: Weights | None, trained: Weights | None, audit: object | None
) -> None:
    if model is None and initial is None and trained is None and audit is None:
        raise ConfigError("recommend: no evidence; give a model, a pair `initial` and `trained`, or an `audit`")
    if trained is not None and initial is None:
        raise ConfigError("initial: is missing; R_p compares the trained weights with the initial ones")
    if initial is not None and trained is None and model is None:
        raise ConfigError("trained: is missing; R_p compares the initial weights with the trained ones")


def _counts(model: nn.Module, sparsity: float, scope: Scope) -> tuple[LayerKept, ...]:
    """Raises ConfigError where nothing is prunable."""
    weights = {name: model.get_parameter(name) for name in prunable(model, scope)}
    if not weights:
        raise ConfigError("scope: nothing of the model is prunable; widen it with include patterns")
    kept = uniform(weights, 1 - sparsity)
    return tuple(LayerKept(name, tuple(weight.shape), kept[name]) for name, weight in weights.items())


def _model_lines(model: nn.Module, layers: Sequence[LayerKept], sparsity: float) -> Iterator[AdviceLine]:
    everything = sum(parameter.numel() for parameter in model.parameters())
    total, kept = sum(layer.total for layer in layers), sum(layer.kept for layer in layers)
    least = min(layers, key=lambda layer: layer.kept)
    yield AdviceLine(
        f"At {percent(sparsity)} sparsity {kept} of {total} prunable weights remain, the fewest in '{least.name}': "
        f"{least.kept} of {least.total}.",
        f"the model: {len(layers)} prunable tensors hold {total} of its {everything} parameters; the same share of "
        "each is kept",
        "exact",
    )
    if starved := [layer for layer in layers if layer.starved]:
        named = "; ".join(f"'{layer.name}' keeps {layer.kept} for {layer.shape[0]}" for layer in starved)
        yield AdviceLine(
            f"Too few weights remain in {len(starved)} of {len(layers)} layers: choose a lower sparsity or leave them "
            "out of the scope.",
            f"the model: fewer weights than outputs, so that some outputs have none: {named}",
            "exact",
        )


def _correlations(
    initial: Weights, trained: Weights | None, p: Sequence[float], names: Sequence[str] | None
) -> dict[float, WeightCorrelation]:
    if not p:
        raise ConfigError("p: is empty; give at least one share of weights in (0, 1)")
    given_trained = given(trained, "_require_evidence wants a pair or a model")
    first, last = _read(initial, "initial", names), _read(given_trained, "trained", names)
    return {share: correlation(first, last, share, names=names) for share in sorted(p)}


def _read(weights: Weights, field: str, names: Sequence[str] | None) -> nn.Module | Mapping[str, Tensor]:
    require_type(field, weights, (nn.Module, Mapping, str, Path), "a module, a state dict or a checkpoint file")
    read = read_state(weights, field) if isinstance(weights, str | Path) else weights
    known = read.state_dict() if isinstance(read, nn.Module) else read
    if lacking := [name for name in names or () if name not in known]:
        raise ConfigError(f"{field}: lacks '{lacking[0]}', which is prunable in the model; is it of this model?")
    return read


def _pair_lines(correlations: Mapping[float, WeightCorrelation]) -> list[AdviceLine]:
    """The paper's sign of sufficient pre-training, read at the p nearest to the paper's, named before looking."""
    share = min(correlations, key=lambda p: abs(p - USUAL_P))
    observed = correlations[share]
    chance = independence(observed)
    sign = _sign(observed, chance)
    measured = ", ".join(f"R_{p:g} {o.value:.3f} (chance {o.expected:.3f})" for p, o in correlations.items())
    evidence = (
        f"one pair of checkpoints and no accuracy: {measured}; R_{share:g} is "
        f"{signed(observed.value - observed.expected, 3)} from chance, "
        f"{signed(chance.errors, 1)} standard deviations of independent networks; {sign.caveat}"
    )
    return [AdviceLine(sign.claim, evidence, "weak", sign.start), _layers_line(share, observed)]


class _Sign(NamedTuple):
    claim: str
    caveat: str
    start: str | None


def _sign(observed: WeightCorrelation, chance: Independence) -> _Sign:
    """What the paper reads from R_p; "about chance" is what the page of an audit calls so."""
    excess = observed.value - observed.expected
    sufficient = "The paper takes this for sufficient pre-training: {}. Then it expects no winning ticket: fine-tune."
    if observed.value == 1.0:
        claim = "The same weights are the largest before and after: is this a pair of untrained and trained weights?"
        return _Sign(claim, "by chance this does not happen", None)
    if chance.p >= USUAL_RULE.alpha:
        return _Sign(sufficient.format("R_p cannot be told from chance"), NECESSARY, "finetune")
    if abs(excess) < NEAR_CHANCE:
        caveat = f"no accident, but within {NEAR_CHANCE:g} of chance, which this tool calls about chance; {NECESSARY}"
        return _Sign(sufficient.format("R_p is about chance"), caveat, "finetune")
    if excess < 0:
        claim = "R_p lies below chance: weights that started large are seldom large now. Nothing is known to follow."
        return _Sign(claim, "the paper speaks of R_p at chance and above it", None)
    claim = "The paper takes this for insufficient pre-training: train longer or at a higher rate before asking."
    return _Sign(claim, NO_ACCURACY, None)


def _layers_line(share: float, observed: WeightCorrelation) -> AdviceLine:
    layers = {name: layer for name, layer in observed.per_layer.items() if layer.k}
    p_values = holm([p_above(layer) for layer in layers.values()])
    above = sum(value < USUAL_RULE.alpha for value in p_values)
    low, high = (choose(layers, key=lambda name: layers[name].value - layers[name].expected) for choose in (min, max))
    spread = ", ".join(
        f"'{name}' {layers[name].value:.3f} (chance {layers[name].expected:.3f})" for name in (low, high)
    )
    return AdviceLine(
        f"In {above} of {len(layers)} layers more of the largest weights stayed than chance explains.",
        f"R_{share:g} by layer, least and most over chance: {spread}; hypergeometric, with Holm's correction at "
        f"{USUAL_RULE.alpha:g}",
        "weak",
    )


def _results(audit: Audit | str | Path) -> tuple[Results, str]:
    """The results, and where they come from in words."""
    if isinstance(audit, Audit):
        return audit.results, f"the audit '{audit.results.study.get('name')}'"
    path = as_path("audit", audit, example="runs/quick")
    return read_results(path / RESULTS if path.is_dir() else path), f"the audit in '{audit}'"


def _audit_lines(results: Results, source: str, sparsity: float, layers: Sequence[LayerKept]) -> list[AdviceLine]:
    """The audit's answers at the asked sparsity; of another network they are an analogy, and name no start."""
    found = answers(results)
    rule, verdicts, recommendation = found.rule, found.verdicts, found.recommendation
    row = min(recommendation, key=lambda row: abs(row.sparsity - sparsity), default=None)
    if row is None or abs(row.sparsity - sparsity) > SAME_SPARSITY:
        return [_not_tried(recommendation, sparsity, source)]
    studied = {(layer.name, layer.shape) for layer in results.layers if layer.prunable}
    own = not layers or studied == {(layer.name, layer.shape) for layer in layers}
    below = [verdict for verdict in verdicts if (verdict.learning_rate, verdict.mask) == (row.learning_rate, row.mask)]
    lines = [line for verdict in below for line in _verdict_lines(verdict, row, rule, source)]
    lines += [_retention_line(one, source) for one in results.recipes if one.learning_rate == row.learning_rate]
    lines.append(_recommended_line(row, rule, source))
    return lines if own else [_of_another(line) for line in lines]


def _of_another(line: AdviceLine) -> AdviceLine:
    return AdviceLine(
        f"Of another network: {line.claim}", f"{line.evidence}; this model has other prunable layers", "weak"
    )


def _not_tried(recommendation: Sequence[Recommendation], sparsity: float, source: str) -> AdviceLine:
    tried = ", ".join(percent(row.sparsity) for row in recommendation) or "none"
    claim = f"Nothing is known at {percent(sparsity)} sparsity; sparsities with a result: {tried}."
    return AdviceLine(claim, source, "undecided")


def _verdict_lines(verdict: Verdict, row: Recommendation, rule: Rule, source: str) -> Iterator[AdviceLine]:
    yield AdviceLine(pretraining_text(verdict), source, _pretraining_strength(verdict))
    here = replace(verdict, tests=tuple(test for test in verdict.tests if test.sparsity == row.sparsity))
    evidence = " ".join([f"{source}.", *whys(here)])
    yield AdviceLine(lead(verdict), evidence, "undecided" if verdict.winning_property == "inconclusive" else "tested")


def _retention_line(recipe: RecipeSummary, source: str) -> AdviceLine:
    claim = f"At learning rate {recipe.learning_rate:g}, {retention_text(recipe)}."
    evidence = "; ".join(filter(None, [f"{source}: its recipe over {recipe.steps} steps", off_paper(recipe)]))
    return AdviceLine(claim, evidence, "exact")


def _pretraining_strength(verdict: Verdict) -> Strength:
    """The best of those tried need not have converged, and was not tested for it."""
    if verdict.pretraining == "inconclusive":
        return "undecided"
    return "weak" if verdict.pretraining == "best of those tried" else "tested"


def _recommended_line(row: Recommendation, rule: Rule, source: str) -> AdviceLine:
    settled = row.low is not None and not row.tie
    measured = "accuracies on its test images" if row.metric.is_accuracy else f"test {row.metric.axis}"
    evidence = f"{source}: {measured}, paired by seed; the winner was picked by its mean"
    return AdviceLine(recommendation_text([row], rule), evidence, "tested" if settled else "undecided", row.arm)
