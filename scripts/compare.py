"""Any two arms or mask algorithms of a study, or two studies, paired by seed: what the report does not pair.

    python scripts/compare.py STUDY/results.json "finetune admm" "finetune one_shot"
    python scripts/compare.py STUDY/results.json --against OTHER/results.json
    python scripts/compare.py STUDY/results.json --held-out
    python scripts/compare.py STUDY/results.json --residuals

The first form prints, for every learning rate and sparsity that both have, the mean difference of test accuracy in
points with its two-sided 95 % interval (paired t, n - 1 degrees of freedom). The second prints the same for every arm
and mask algorithm that two studies have in common, the first less the other: studies that differ in one field, such as
`precision`. The third prints the mean accuracy on held-out training images of every arm and mask algorithm: the table
to choose settings by. The fourth prints ADMM's residual ‖W − Z‖ / ‖W‖ at the start and after the last update, as means
over seeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Cell = tuple[str, float, float]  # "arm mask", learning rate, sparsity


def by_cell(trials: list[dict[str, Any]], figure: str) -> dict[Cell, dict[int, float]]:
    """A figure of every training that did not diverge, by cell and seed."""
    found: dict[Cell, dict[int, float]] = defaultdict(dict)
    for trial in trials:
        if trial.get(figure) is not None and not trial["diverged"]:
            name = f"{trial['arm']} {trial['mask'] or ''}".strip()
            found[name, trial["learning_rate"], trial["sparsity"]][trial["seed"]] = trial[figure]
    return found


def differences(cells: dict[Cell, dict[int, float]], first: str, second: str) -> list[str]:
    """A line for every rate and sparsity; the dense network stands beside every sparsity."""
    lines = []
    for name, rate, sparsity in sorted(cells):
        below = cells.get((second, rate, 0.0 if second == "dense" else sparsity))
        if name != first or below is None:
            continue
        lines.append(f"{rate:<6g} {sparsity:<8g} {paired(cells[name, rate, sparsity], below)}")
    return lines


def between(cells: dict[Cell, dict[int, float]], others: dict[Cell, dict[int, float]]) -> list[str]:
    """A line for every cell that two studies have in common."""
    return [
        f"{rate:<6g} {sparsity:<8g} {name:<28} {paired(cells[name, rate, sparsity], others[name, rate, sparsity])}"
        for name, rate, sparsity in sorted(cells.keys() & others.keys(), key=lambda cell: (cell[1:], cell[0]))
    ]


def paired(above: dict[int, float], below: dict[int, float]) -> str:
    """The mean difference over the seeds that both have, with its interval."""
    gaps = np.array([above[seed] - below[seed] for seed in sorted(above.keys() & below.keys())])
    low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps)) if len(gaps) > 1 else (np.nan,) * 2
    return f"{gaps.mean():+.2f} [{low:+.2f}, {high:+.2f}]  n = {len(gaps)}"


def means(cells: dict[Cell, dict[int, float]]) -> list[str]:
    """A line for every cell: mean, lowest and highest over seeds."""
    return [
        f"{rate:<6g} {sparsity:<8g} {name:<28} {np.mean(list(seeds.values())):.2f} "
        f"({min(seeds.values()):.2f} to {max(seeds.values()):.2f}, n = {len(seeds)})"
        for (name, rate, sparsity), seeds in sorted(cells.items(), key=lambda item: (item[0][1:], item[0][0]))
    ]


def residuals(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every mask found under the ADMM penalty."""
    found: dict[Cell, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        found[row["mask"], row["learning_rate"], row["sparsity"]].append((row["values"][0], row["values"][-1]))
    return [
        f"{rate:<6g} {sparsity:<8g} {mask:<28} {np.mean(ends, axis=0)[0]:.3f} to {np.mean(ends, axis=0)[1]:.4f}"
        for (mask, rate, sparsity), ends in sorted(found.items(), key=lambda item: (item[0][1:], item[0][0]))
    ]


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("cells", nargs="*", help="two of them, each 'arm mask' (or 'dense')")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--against", type=Path, metavar="RESULTS")
    only.add_argument("--held-out", action="store_true")
    only.add_argument("--residuals", action="store_true")
    given = parser.parse_args()
    alone = given.against is not None or given.held_out or given.residuals
    if bool(given.cells) == alone or len(given.cells) not in (0, 2):
        parser.error("give two cells, or one of --against, --held-out and --residuals alone")
    results = json.loads(given.results.read_text())
    if given.residuals:
        lines = residuals(results["residuals"])
    else:
        cells = by_cell(results["trials"], "validation_accuracy" if given.held_out else "test_accuracy")
        names = sorted({name for name, _, _ in cells})
        for cell in given.cells:
            if cell not in names:
                parser.error(f"{cell!r} is not in the study; there are: {', '.join(names) or 'none'}")
        if given.against is not None:
            lines = between(cells, by_cell(json.loads(given.against.read_text())["trials"], "test_accuracy"))
        else:
            lines = means(cells) if given.held_out else differences(cells, *given.cells)
    print("\n".join(["rate   sparsity", *lines]))


if __name__ == "__main__":
    main()
