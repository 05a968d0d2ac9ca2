"""What is sparse in a model and what is not, each with the reason: the table that leaves no layer out."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from prunetune.sparsity.holding import by_first_name, held_mask, is_held
from prunetune.sparsity.mask import Mask
from prunetune.sparsity.scope import Scope, ScopeRow, survey


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: the class of its module, elements, those not zero, whether it is held, why it is not pruned.

    `reason` is empty for a parameter that the mask names. `revived` counts weights that it prunes and are not zero.
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
        return "\n".join([*_table([header, *body, masked, total]), *self.problems])


def sparsity_report(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None = None,
    scope: Scope = Scope(),  # noqa: B008 - frozen
) -> SparsityReport:
    """Every parameter of `model` with its density and, where it is not pruned, the reason. Changes nothing.

    `mask`: what should be pruned, by default what is held. `problems` has a line for each way in which a sparse model
    is not what it seems: no mask, a model or a weight that is not held, weights that came back to life, and weights in
    `scope` that no mask names. RequestError for a mask that does not fit the model, and as `survey` raises it.
    """
    held = held_mask(model) if is_held(model) else {}
    wanted = by_first_name(model, mask if isinstance(mask, Mask) else Mask(mask)) if mask is not None else held
    tensors = dict(model.named_parameters(remove_duplicate=False))
    surveyed = survey(model, scope)
    rows = tuple(_row(model, line, tensors[line.name], wanted, held) for line in surveyed)
    once = [row for row in rows if row.name in dict(model.named_parameters())]
    named = [row for row in once if row.name in wanted]
    open_ = [line.name for line in surveyed if line.prunable and line.name not in wanted]
    return SparsityReport(
        rows,
        sum(row.total for row in once),
        sum(row.nonzero for row in once),
        sum(row.total for row in named),
        sum(row.nonzero for row in named),
        tuple(_problems(named, open_)),
    )


def _row(
    model: nn.Module, line: ScopeRow, tensor: Tensor, wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]
) -> ParameterRow:
    name = line.name
    kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
    reason = "" if name in wanted else "in scope, but no mask names it" if line.prunable else line.reason
    keep = wanted.get(name)
    revived = 0 if keep is None else int(tensor[~keep.to(tensor.device)].count_nonzero())
    is_held_so = name in held and (keep is None or bool((held[name] <= keep).all()))
    return ParameterRow(name, kind, tensor.numel(), int(tensor.count_nonzero()), is_held_so, reason, revived)


def _problems(named: list[ParameterRow], in_scope: list[str]) -> list[str]:
    lines = [f"! {row.name}: {row.revived:,} pruned weights are not zero" for row in named if row.revived]
    loose = [row.name for row in named if not row.held]
    if not named:
        lines.append("! no mask: nothing is pruned or held; call hold(model, mask)")
    elif len(loose) == len(named):
        lines.append("! the model is not held: an optimizer's next step may revive weights; call hold(model, mask)")
    else:
        lines += [f"! {name}: not held by this mask; call hold(model, mask)" for name in loose]

    if named:
        lines += [f"! {name}: in scope, but no mask names it" for name in in_scope]
    return lines


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
