"""The network that the page of `prune` leads with: the fastest, or else smallest, of those within the margin of dense.

Within the margin is one whose mean drop from the dense network, over the seeds of both, is at most `verdict.margin`. It
is judged by held-out data where there are any. Otherwise the test data choose it, and their own score of it flatters.
Either way it may have been chosen for lucky seeds, so that a bound over seeds is shared among all it was chosen from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from prunetune.analysis.noninferiority import Drop
from prunetune.analysis.pairing import percent
from prunetune.core.metric import Metric
from prunetune.errors import counted
from prunetune.report.tradeoff.tradeoff_rows import NOTABLE, ModelRow, Tradeoff, faster


def best_network(found: Tradeoff) -> ModelRow | None:
    """The fastest of the networks within the margin that are faster than the dense one, else the smallest of all."""
    near = _near(found)
    quick = [one for one in near if any(map(faster, one.row.torch_timings))]
    if quick:
        return max(quick, key=lambda one: _gain(one.row)).row
    return min(near, key=lambda one: (one.row.nonzeros, one.row.compressed_bytes)).row if near else None


def headline(found: Tradeoff) -> str:
    """What the best network costs and wins, in a few words; or that there is none within the margin."""
    compared, best = _compared(found), best_network(found)
    if not compared:
        return "No pruned network: see what is left out"
    where = _within(found, compared[0])
    if best is None:
        least = min(compared, key=lambda one: one.drop)
        return f"None {where}: {least.row.label} sparse loses least, {_change(found.metric, least)}"
    return f"Best {where}: {best.label} sparse, {_change(found.metric, _of(best, compared))}, {_won(found, best)}"


def best_text(found: Tradeoff) -> list[str]:
    """Why it is this network, and how sure that is; nothing where there is none to choose from."""
    compared, near, best = _compared(found), _near(found), best_network(found)
    if not compared:
        return []
    tried, where = counted(len(compared), "network"), _within(found, compared[0])
    if best is None:
        return [f"None of {tried} is {where}, so that none is called best."]
    one, speed = _of(best, compared), any(map(faster, best.torch_timings))
    if len(compared) == 1:
        return [f"Best is {best.label}, which is {where}; no other was tried.", _sureness(found, one, 1)]
    rank = f"the {'fastest' if speed else 'smallest'} of {len(near)}" if len(near) > 1 else f"the only one of {tried}"
    chosen = f"Best is {best.label}, {rank} {where}{'' if speed or len(near) == 1 else ', as none of them is faster'}"
    if one.by_held_out:
        held = found.metric.text_difference(-found.metric.oriented(one.judged))
        source = f"held-out examples chose it ({held} there), so that the choice of test examples does not flatter it"
    else:
        source = f"the test examples chose it, so that its score there, one of {len(compared)} looked at, flatters it"
    return [f"{chosen}; {source}.", _sureness(found, one, len(compared))]


@dataclass(frozen=True)
class _Compared:
    """A pruned network beside the dense one: its drops on the test data by seed, above 0 where it is worse."""

    row: ModelRow
    drops: tuple[float, ...]
    judged: float  # the mean drop that it is chosen by
    by_held_out: bool

    @property
    def drop(self) -> float:
        """The mean over seeds."""
        return fmean(self.drops)


def _compared(found: Tradeoff) -> list[_Compared]:
    """The pruned networks that have a seed in common with the dense one."""
    dense, rows = found.dense, []
    if dense is None:
        return []
    held_out = all(len(row.held_out) == len(row.seeds) for row in found.rows)
    for row in found.pruned:
        drops = _drops(found.metric, dense, row, row.scores, dense.scores)
        if drops:
            other = _drops(found.metric, dense, row, row.held_out, dense.held_out) if held_out else drops
            rows.append(_Compared(row, drops, round(fmean(other), 9), held_out))
    return rows


def _near(found: Tradeoff) -> list[_Compared]:
    return [one for one in _compared(found) if one.judged <= found.margin]


def _of(row: ModelRow, compared: Sequence[_Compared]) -> _Compared:
    return next(one for one in compared if one.row is row)


def _within(found: Tradeoff, one: _Compared) -> str:
    """`within 0.5 points of dense`, and on which data, where that are not the test data."""
    held_out = " on held-out examples" if one.by_held_out else ""
    return f"within {found.metric.amount(found.margin)} of dense{held_out}"


def _drops(
    metric: Metric, dense: ModelRow, row: ModelRow, own: Sequence[float], of_dense: Sequence[float]
) -> tuple[float, ...]:
    known = dict(zip(dense.seeds, of_dense, strict=True))
    pairs = zip(row.seeds, own, strict=True)
    return tuple(round(metric.oriented(known[seed] - score), 9) for seed, score in pairs if seed in known)


def _gain(row: ModelRow) -> float:
    """How many times as fast it is, at the batch size where that is most, by the median."""
    return max(timing.speedup for timing in row.torch_timings if faster(timing))


def _change(metric: Metric, one: _Compared) -> str:
    """`−0.43 points (one seed)`: on the test data."""
    of_metric = "" if metric.is_accuracy else f" of {metric.axis}"
    on_test = " on test examples" if one.by_held_out else ""
    seeds = f"mean of {len(one.drops)} seeds" if len(one.drops) > 1 else "one seed"
    return f"{metric.text_difference(-metric.oriented(one.drop))}{of_metric}{on_test} ({seeds})"


def _won(found: Tradeoff, row: ModelRow) -> str:
    dense = found.rows[0]
    packed = dense.compressed_bytes / row.compressed_bytes
    size = f"{packed:.1f}x smaller compressed" if packed >= NOTABLE else "no smaller"
    plain, sparse = (
        max((timing.speedup_low for timing in timings if faster(timing)), default=0.0)
        for timings in (row.timings, row.sparse_timings)
    )
    if not (plain or sparse):
        return f"{size}, not shown to be faster here"
    return f"{size}, at least {max(plain, sparse):.2f}x faster here{' with sparse layers' if sparse > plain else ''}"


def _sureness(found: Tradeoff, one: _Compared, tried: int) -> str:
    """What the seeds say of the test score's drop, with the level shared among those that it was chosen from."""
    metric, alpha = found.metric, found.alpha
    if len(one.drops) == 1:
        return (
            "One seed has no interval, so that another may well lose more: --seeds repeats it, and --max-drop "
            "searches with a guarantee."
        )
    high = Drop.of(one.drops, alpha / tried).high
    if high is None:
        return "All seeds lose the same, so that there is no interval."
    shared = "" if tried == 1 else f" for whichever of the {tried} was chosen"
    worst = metric.text_difference(-metric.oriented(high))
    within = "" if high <= found.margin else ", which is not within the margin"
    mean = "its mean difference from dense, over seeds,"
    return f"With confidence {percent(1 - alpha)}{shared} {mean} is no worse than {worst}{within}."
