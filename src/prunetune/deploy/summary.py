"""What is sparse in a model and what is not, each with the reason: the table that leaves no layer out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from prunetune.sparsity.enforce import by_first_name, get_mask, is_held
from prunetune.sparsity.mask import Mask, as_mask
from prunetune.sparsity.model_state import FLOAT8, require_values
from prunetune.sparsity.scope import Scope, ScopeRow, list_parameters
from prunetune.sparsity.torch_prune import effective_weights, masks_in

KEPT = "in scope, but the mask keeps all of it"
_UNNAMED = "in scope, but no mask names it"


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: the class of its module, elements, those not zero, whether it is held, why it is not pruned.

    `reason` is empty for a parameter that the mask prunes. `revived` counts weights that it prunes and are not zero.
    """

    name: str
    kind: str
    total: int
    nonzero: int
    held: bool
    reason: str
    revived: int = 0

    @property
    def density(self) -> float:
        """The measured share of weights that are not zero; 1 for an empty tensor."""
        return self.nonzero / self.total if self.total else 1.0


@dataclass(frozen=True)
class SparsityReport:
    """Every parameter under each of its names, sums over the parameters and over those the mask names, and `problems`.

    A tied weight has a row per name and enters the sums once. `str()` is the table.
    """

    rows: tuple[ParameterRow, ...]
    parameters: int
    nonzeros: int
    masked: int
    masked_nonzeros: int
    problems: tuple[str, ...]

    @property
    def density(self) -> float:
        """The measured share of all parameters that is not zero."""
        return self.nonzeros / self.parameters if self.parameters else 1.0

    def __str__(self) -> str:
        header = ("parameter", "kind", "weights", "non-zero", "density", "held", "not pruned because")
        body = [
            (r.name, r.kind, f"{r.total:,}", f"{r.nonzero:,}", f"{r.density:.4f}", _yes(r.held), r.reason)
            for r in self.rows
        ]
        masked = _sum("named by the mask", self.masked, self.masked_nonzeros)
        total = _sum("all parameters", self.parameters, self.nonzeros)
        return "\n".join([*_table([header, *body, masked, total]), self.coverage, *self.problems])

    @property
    def covered(self) -> float:
        """The share of all parameters that the mask names."""
        return self.masked / self.parameters if self.parameters else 0.0

    @property
    def coverage(self) -> str:
        """How much of the model the mask names, and how sparse the model is as a whole, in one line."""
        return (
            f"coverage: the mask names {self.covered:.1%} of the parameters; "
            f"all of them together are sparse by {1 - self.density:.1%}"
        )


def sparsity_report(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None = None,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> SparsityReport:
    """Every parameter of `model` with its density and, where it is not pruned, the reason. Changes nothing.

    Args:
        model: Any module.
        mask: Parameter name to bool tensor of the parameter's shape, True = kept: what should be pruned; by default
            what is held.
        scope: Which parameters are prunable; see `list_parameters`.

    Returns:
        A row for every parameter, sums, and `problems`: a line for each way in which a sparse model is not what it
        seems (no mask, a model or a weight that is not held, weights that came back to life, weights in `scope` that no
        mask names, held weights that are parameters no more, layers that have lost all their weights). `str()` is the
        table.

    Raises:
        ConfigError: For a mask that does not fit the model, and as `list_parameters` raises it.
    """
    rows_of = list_parameters(model, scope)
    require_values(dict(model.named_parameters()))
    held = _held(model)
    wanted = held if mask is None else by_first_name(model, as_mask(mask))
    weights = effective_weights(model, remove_duplicate=False)
    weights = {name: tensor.float() if tensor.dtype in FLOAT8 else tensor for name, tensor in weights.items()}
    rows = tuple(_row(model, line, weights, wanted, held) for line in rows_of)
    first_names = effective_weights(model).keys()
    once = [row for row in rows if row.name in first_names]
    named = [row for row in once if row.name in wanted]
    parameters, masked = (sum(row.total for row in some) for some in (once, named))
    return SparsityReport(
        rows=rows,
        parameters=parameters,
        nonzeros=sum(row.nonzero for row in once),
        masked=masked,
        masked_nonzeros=sum(row.nonzero for row in named),
        problems=(*_problems(rows, named), *_dead_ends(rows, wanted), *_uncovered(once, masked / max(parameters, 1))),
    )


def _held(model: nn.Module) -> Mapping[str, Tensor]:
    """What keeps zeros in `model`: `apply_mask`, and the hooks of `torch.nn.utils.prune`."""
    masks = {**(get_mask(model) if is_held(model) else {}), **masks_in(model)}
    return Mask(masks) if masks else {}


def _row(
    model: nn.Module,
    line: ScopeRow,
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
) -> ParameterRow:
    name = line.name if line.name in weights else line.name.removesuffix("_orig")
    kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
    total, nonzero = weights[name].numel(), int(weights[name].count_nonzero())
    if name not in wanted:
        reason = _UNNAMED if line.prunable else line.reason
        return ParameterRow(name, kind, total, nonzero, name in held, reason)
    keep = wanted[name]
    revived = int(weights[name][~keep.to(weights[name].device)].count_nonzero())
    reason = KEPT if keep.all() else ""
    return ParameterRow(name, kind, total, nonzero, name in held and _within(held[name], keep), reason, revived)


def _within(kept: Tensor, wider: Tensor) -> bool:
    """Whether every weight that `kept` keeps is kept by `wider` too."""
    return not (kept.to(wider.device) & ~wider).any()


def _problems(rows: tuple[ParameterRow, ...], named: list[ParameterRow]) -> list[str]:
    if not named:
        return ["! no mask: nothing is pruned or held; call apply_mask(model, mask)"]
    revived = [f"! {row.name}: pruned weights that are not zero: {row.revived:,}" for row in named if row.revived]
    unnamed = [f"! {row.name}: {_UNNAMED}" for row in rows if row.reason == _UNNAMED]
    loose = [f"! {row.name}: not held by this mask; call apply_mask(model, mask)" for row in named if not row.held]
    if len(loose) == len(named):
        loose = ["! the model is not held: an optimizer's next step may revive weights; call apply_mask(model, mask)"]
    return [*revived, *loose, *unnamed]


def _dead_ends(rows: tuple[ParameterRow, ...], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """What a mask asks for that can not be what is meant, or can not be had."""
    known = {row.name for row in rows}
    for name, keep in wanted.items():
        if name not in known:
            yield f"! {name}: held, but no parameter of the model any more"
        elif keep.dim() > 1 and not keep.any():
            yield f"! {name}: no weight of it is left, so that nothing comes through its layer"


def _uncovered(once: list[ParameterRow], covered: float) -> Iterator[str]:
    """What to do where a mask leaves out most of a model; nothing where there is no mask, which is told already."""
    left = [row for row in once if row.reason and row.reason != KEPT]
    if left and 0 < covered < 0.5:
        most = max(left, key=lambda row: row.total)
        yield (
            f"! the mask names {covered:.1%} of the parameters; the largest that it leaves out is "
            f"{most.name} ({most.total:,} weights): {most.reason}"
        )


def _sum(label: str, total: int, nonzero: int) -> tuple[str, ...]:
    return (label, "", f"{total:,}", f"{nonzero:,}", f"{nonzero / total:.4f}" if total else "–", "", "")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned text with a rule below the header and above the two sums; numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if 2 <= at <= 4 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-2], rule, *lines[-2:]]
