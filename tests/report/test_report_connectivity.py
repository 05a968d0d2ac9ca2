"""Lines between sibling runs on the page: panels and table against figures worked by hand, and files without them."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prunetune.report.figures.connectivity import connectivity_figures, connectivity_table
from prunetune.report.figures.style import standalone
from prunetune.report.results_files import read_results
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Connectivity, Results
from tests.support.planted import ARMS, SPARSITIES, planted, stored

ALPHAS = tuple(i / 10 for i in range(11))


def row(
    arm: str, mask: str | None, rate: float, sparsity: float, seed: int, height: float, floor: float = 0.4
) -> Connectivity:
    """A parabola of this height over `floor`; accuracy falls by twenty points where loss rises by one."""
    hump = [4 * height * a * (1 - a) for a in ALPHAS]
    losses, right = tuple(floor + h for h in hump), tuple(90 - 20 * h for h in hump)
    return Connectivity(arm, rate, mask, sparsity, seed, ALPHAS, losses, right, max(hump), 20 * max(hump))


def rows(masks: Sequence[str] = ("iterative",), seeds: int = 3) -> list[Connectivity]:
    """Barriers rise with the rate and fall with sparsity; every arm of `planted` has its own."""
    found = []
    for rate in (0.01, 0.1):
        for seed in range(seeds):
            found.append(row("dense", None, rate, 0.0, seed, 15 * rate + 0.1 * seed, 0.45))
            for mask in masks:
                for i, sparsity in enumerate(SPARSITIES):
                    for j, arm in enumerate(ARMS):
                        height = rate * (10 - 2 * i) / (1 + j) + 0.05 * seed
                        found.append(row(arm, mask, rate, sparsity, seed, height, 0.5 + 0.05 * j))
    return found


def without_lines(masks: Sequence[str] = ("iterative", "admm")) -> Results:
    return planted(masks=masks, seeds=2, rates=(0.1,))


def with_lines(masks: Sequence[str] = ("iterative", "admm")) -> Results:
    return dataclasses.replace(without_lines(masks), connectivity=tuple(rows(masks)))


def test_a_panel_for_every_rate_and_mask_shows_the_highest_sparsity():
    drawn = connectivity_figures(rows(("iterative", "admm")))
    assert [d.name for d in drawn] == [
        f"connectivity-{rate}-{m}" for m in ("admm", "iterative") for rate in (0.01, 0.1)
    ]
    assert len({d.figure.axes[0].get_ylim() for d in drawn}) == 1
    axes = drawn[3].figure.axes[0]
    curves = {str(curve.get_label()): curve for curve in axes.lines}
    assert list(curves) == ["dense", *ARMS]
    for j, arm in enumerate(ARMS):
        places, heights = (np.asarray(part, float) for part in curves[arm].get_data())
        assert list(places) == list(ALPHAS)
        mean = 0.1 * (10 - 2 * 3) / (1 + j) + 0.05  # of seeds 0, 1, 2 at the fourth sparsity
        slow = [4 * mean * a * (1 - a) for a in ALPHAS]
        assert list(heights) == pytest.approx(slow)
    band = np.asarray(axes.collections[0].get_paths()[0].vertices, float)
    middle = [y for x, y in band.tolist() if x == 0.5]
    assert (min(middle), max(middle)) == pytest.approx((1.5, 1.7))  # dense, its seeds 0 and 2
    assert "dense: at most 1.600 at α = 0.5." in drawn[3].description
    svg = standalone(drawn[3].figure, *drawn[3][:1], drawn[3].title, drawn[3].description)
    assert "93.75 % sparsity" in svg


def test_a_slope_between_the_ends_is_no_barrier_and_noise_no_mountain():
    sloped = tuple(0.4 + 0.2 * a + 0.001 * (a == 0.5) for a in ALPHAS)
    (drawn,) = connectivity_figures([dataclasses.replace(row("ticket", "admm", 0.1, 0.5, 0, 0.0), test_loss=sloped)])
    axes = drawn.figure.axes[0]
    heights = [float(y) for y in np.asarray(axes.lines[0].get_ydata())]
    assert heights == pytest.approx([0.001 * (a == 0.5) for a in ALPHAS], abs=1e-12)
    assert axes.get_ylim()[1] == pytest.approx(0.106)


def test_a_study_of_dense_networks_alone_has_a_panel_for_every_rate():
    drawn = connectivity_figures([row("dense", None, rate, 0.0, 0, 0.1) for rate in (0.1, 0.01)])
    assert [(d.name, d.title) for d in drawn] == [
        (f"connectivity-{rate}", f"Learning rate {rate}, dense") for rate in (0.01, 0.1)
    ]


def test_a_line_that_is_not_finite_is_in_no_mean():
    broken = dataclasses.replace(
        row("ticket", "iterative", 0.1, 0.5, 1, 0.3), test_loss=(math.nan,) * 11, loss_barrier=math.nan
    )
    good = row("ticket", "iterative", 0.1, 0.5, 0, 0.3)
    (drawn,) = connectivity_figures([good, broken])
    shown = [float(y) for y in np.asarray(drawn.figure.axes[0].lines[0].get_ydata())]
    assert shown == pytest.approx([loss - 0.4 for loss in good.test_loss])
    assert connectivity_figures([broken]) == []
    assert connectivity_table([good, broken]).rows[0][4:7] == ("1", "0.400", "0.300")
    assert connectivity_table([broken]).rows[0][4:] == ("0", "–", "–", "–", "–", "–")


def test_a_table_has_the_mean_barriers_and_their_seeds():
    found = connectivity_table(rows())
    titles = [column.title for column in found.columns]
    assert titles[:5] == ["Rate", "Masks", "Sparsity", "Arm", "n"]
    assert len(found.rows) == 2 * (1 + 4 * 4)
    cells = {line[:4]: line[4:] for line in found.rows}
    assert cells["0.1", "–", "0 %", "dense"] == ("3", "0.450", "1.600", "1.500 to 1.700", "32.00", "30.00 to 34.00")
    assert cells["0.1", "iterative", "50 %", "reinit"] == (
        "3",
        "0.550",
        "0.550",
        "0.500 to 0.600",
        "11.00",
        "10.00 to 12.00",
    )


def test_section_figure_and_table_are_there_only_when_asked(tmp_path: Path):
    for results, there in ((with_lines(), True), (without_lines(), False)):
        report = write_report(results, tmp_path / str(there))
        page = report.page.read_text(encoding="utf-8")
        assert ("Linear mode connectivity" in page) == there
        assert ('id="table-connectivity"' in page) == there
        assert ('id="connectivity"' in page) == there
        figures = {path.stem for path in (tmp_path / str(there) / "figures").glob("connectivity-*.svg")}
        assert len(figures) == (4 if there else 0)
        assert all(f'id="figure-{name}"' in page for name in figures)


def test_rows_are_in_the_file_sorted_and_read_back_equal(tmp_path: Path):
    results = with_lines(("iterative",))
    shuffled = dataclasses.replace(results, connectivity=tuple(reversed(results.connectivity)))
    broken = dataclasses.replace(results.connectivity[0], loss_barrier=math.inf, seed=99)
    for out, given in (("a", results), ("b", shuffled)):
        write_report(dataclasses.replace(given, connectivity=(*given.connectivity, broken)), tmp_path / out)
    first, second = ((tmp_path / out / "results.json").read_bytes() for out in ("a", "b"))
    assert first == second
    found = json.loads(first)["connectivity"]
    order = [(r["learning_rate"], r["mask"] or "", r["sparsity"], r["arm"], r["seed"]) for r in found]
    assert order == sorted(order)
    assert list(found[0]) == [
        *("arm", "learning_rate", "mask", "sparsity", "seed", "alpha", "test_loss", "test_accuracy"),
        *("loss_barrier", "accuracy_barrier", "score", "score_barrier"),
    ]
    assert [r["loss_barrier"] for r in found if r["seed"] == 99] == [None]
    again = read_results(tmp_path / "a" / "results.json").connectivity
    assert [r for r in again if r.seed != 99] == sorted(
        results.connectivity, key=lambda r: (r.learning_rate, r.mask or "", r.sparsity, r.arm, r.seed)
    )
    page = (tmp_path / "a" / "report.html").read_bytes()
    render_again(tmp_path / "a")
    assert (tmp_path / "a" / "report.html").read_bytes() == page


def test_a_file_of_before_reads_without_lines(tmp_path: Path):
    path = stored(without_lines(("iterative",)), tmp_path) / "results.json"
    content = json.loads(path.read_text())
    assert content.pop("connectivity") == []
    path.write_text(json.dumps(content))
    assert read_results(path).connectivity == ()
    render_again(tmp_path)
