"""R_p along the training, R_p by layer, and mask overlap, as a report shows them: figures, tables, the page."""

import dataclasses
import html
import itertools
import json
import random
import re
import statistics

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from prunetune.report.answer import answers
from prunetune.report.figures.accuracy import Drawing
from prunetune.report.figures.layers import (
    STRONGEST,
    agreement_figures,
    agreement_table,
    layer_figures,
    shortened,
    spread,
)
from prunetune.report.figures.style import COLOURS, inline, standalone
from prunetune.report.figures.training import trajectory_figures, trajectory_table
from prunetune.report.results_files import read_results, results_text
from prunetune.report.write_report import Report, write_report
from prunetune.rows import LayerOverlap, MaskOverlap, Results
from tests.support.pages import Page, browse, needs_browser
from tests.support.planted import HOSTILE, planted
from tests.support.planted_views import LAYERS, viewed

VIEWS = ("along_training", "overlap_by_layer", "mask_overlap")


@pytest.fixture(scope="module")
def results() -> Results:
    return viewed()


SMALL = {"masks": ("iterative", "one_shot"), "seeds": 2, "rates": (0.1,)}  # drawing takes its time


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    layers = [f"encoder.stages.{i}.a_long_name_of_a_convolution.weight" for i in range(12)]
    made = viewed(**SMALL, layers=layers, sparsities=[i / 16 for i in range(4, 14)])
    return write_report(made, tmp_path_factory.mktemp("views"))


def figures_of(report: Report) -> set[str]:
    return {path.stem for path in (report.page.parent / "figures").glob("*.svg")}


def test_absent_data_have_no_figure_no_table_and_no_section(report, tmp_path):
    assert trajectory_figures(()) == layer_figures(()) == agreement_figures(()) == []
    plain = write_report(planted(**SMALL), tmp_path)
    added = figures_of(report) - figures_of(plain)
    places = [f"{kind}-0.1-{mask}" for kind in ("layers", "agreement") for mask in SMALL["masks"]]
    assert added == {"along", "layers-dense", *places}
    words, less = (Page(made.page.read_text(encoding="utf-8")) for made in (report, plain))
    for heading in ("Along the training", "Layer by layer", "Mask overlap"):
        assert heading in words.text
        assert heading not in less.text
    assert {"table-along", "table-agreement"} <= {table.get("id") for table in words.all("table")}
    assert not {"table-along", "table-agreement"} & {table.get("id") for table in less.all("table")}


def test_a_file_of_before_reads_as_one_without_them(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results_text(results, answers(results)))
    assert read_results(path).mask_overlap == results.mask_overlap
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in VIEWS}
    path.write_text(json.dumps(old))
    assert all(getattr(read_results(path), name) == () for name in VIEWS)


def test_rows_are_sorted_whatever_their_order(results):
    mixed = {name: list(getattr(results, name)) for name in VIEWS}
    for rows in mixed.values():
        random.Random(3).shuffle(rows)
    shuffled = dataclasses.replace(results, **{name: tuple(rows) for name, rows in mixed.items()})
    assert shuffled != results
    assert results_text(shuffled, answers(shuffled)) == results_text(results, answers(results))
    written = json.loads(results_text(shuffled, answers(shuffled)))["overlap_by_layer"]
    assert [row["layer"] for row in written[:3]] == list(LAYERS)


def test_lines_along_the_training_are_the_means_of_the_seeds(results):
    (drawing,) = trajectory_figures(results.along_training)
    axes = drawing.figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["rate 0.01", "rate 0.1", "chance"]
    for rate, band in zip((0.01, 0.1), axes.collections, strict=True):
        epochs, means = (np.asarray(data).tolist() for data in lines[f"rate {rate:g}"].get_data())
        assert epochs == [1.5, 3.0, 4.5, 6.0]
        seeds = [[r.value for r in results.along_training if (r.learning_rate, r.epoch) == (rate, e)] for e in epochs]
        assert all(len(values) == 3 for values in seeds)
        assert means == pytest.approx([statistics.mean(values) for values in seeds])
        edges = {(round(x, 6), round(y, 6)) for x, y in np.asarray(band.get_paths()[0].vertices)}
        assert {(e, round(f(v), 6)) for e, v in zip(epochs, seeds, strict=True) for f in (min, max)} <= edges
    assert np.asarray(lines["chance"].get_ydata()).tolist() == pytest.approx([0.2, 0.2])
    table = trajectory_table(results.along_training)
    assert len(table.rows) == 2 * 4
    assert all(row[3] == "3" for row in table.rows)


def cells(drawing: Drawing) -> dict[tuple[int, int], tuple[str, float, str]]:
    """(row, column) -> the number, and the opacity and the colour under it."""
    axes = drawing.figure.axes[0]
    texts = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    found = {}
    for patch in axes.patches:
        assert isinstance(patch, Rectangle)
        place = round(patch.get_y() + patch.get_height() / 2), round(patch.get_x() + patch.get_width() / 2)
        found[place] = (texts[place], float(patch.get_alpha() or 0.0), to_hex(patch.get_facecolor()))
    return found


def test_a_heat_map_shows_the_excess_of_every_layer(results):
    drawn = {drawing.name: drawing for drawing in layer_figures(results.overlap_by_layer)}
    assert len(drawn) == 1 + 2 * 3
    drawing = drawn["layers-0.1-admm"]
    axes = drawing.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["features.3", "features.6", "head"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "75", "87.5", "93.8"]
    shown = cells(drawing)
    assert len(shown) == 3 * 4
    for (y, x), (text, alpha, paint) in shown.items():
        place = ("ticket_0/finetune_T", 0.1, "admm", (0.5, 0.75, 0.875, 0.9375)[x], LAYERS[y])
        (row,) = (
            r for r in results.overlap_by_layer if (r.pair, r.learning_rate, r.mask, r.sparsity, r.layer) == place
        )
        excess = row.value - row.expected
        assert float(text.replace("−", "-")) == pytest.approx(excess, abs=0.0051)
        assert alpha == pytest.approx(STRONGEST * abs(excess) / 0.8)
        assert paint == COLOURS["above" if excess > 0 else "below"][0]
    dense = cells(drawn["layers-dense"])
    assert len(dense) == 3 * 2


def test_a_cell_without_a_value_is_empty():
    rows = [
        LayerOverlap("theta_0/theta_T", 0.1, None, 0.0, 0.2, "a", 1, 0.5, 0.2),
        LayerOverlap("theta_0/theta_T", 0.2, None, 0.0, 0.2, "b", 1, 0.1, 0.2),
    ]
    (drawing,) = layer_figures(rows)
    assert {place: cell[0] for place, cell in cells(drawing).items()} == {(0, 0): "+.30", (1, 1): "−.10"}
    assert sorted(text.get_text() for text in drawing.figure.axes[0].texts) == ["+.30", "–", "–", "−.10"]


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("role", ["ticket", "reinit"])
def test_numbers_can_be_read_on_the_strongest_cell(theme, role):
    paper, paint, ink = (np.array(to_rgb(COLOURS[name][theme])) for name in ("paper", role, "ink"))
    lights = sorted(luminance(tuple(c)) for c in (STRONGEST * paint + (1 - STRONGEST) * paper, ink))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def test_a_heat_map_in_a_page_follows_its_theme(results):
    drawing = layer_figures(results.overlap_by_layer)[0]
    text = inline(standalone(drawing.figure, drawing.name, drawing.title, drawing.description))
    assert re.search(r"fill: var\(--above\); opacity: 0\.\d+", text)
    assert not re.search(r"#[0-9a-f]{6}", text)


def test_a_long_network_is_cut_and_the_panel_says_so():
    layers = [f"{i // 6}.residual.{i % 6}.weight" for i in range(60)]
    made = viewed(layers=layers, sparsities=[i / 16 for i in range(2, 15)], masks=("iterative",), rates=(0.1,))
    dense, sparse = layer_figures(made.overlap_by_layer)
    axes = sparse.figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 40
    assert (names[0], names[-1]) == ("0.residual.0", "9.residual.5")
    assert len(axes.get_xticklabels()) == 10
    notes = [text.get_text() for text in sparse.figure.texts]
    assert any("40 of 60 layers; 10 of 13 columns" in note for note in notes)
    assert any("40 of 60 layers" in text.get_text() for text in dense.figure.texts)
    renderer = FigureCanvasAgg(sparse.figure).get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    widths = [text.get_window_extent(renderer) for text in axes.texts]
    columns = sorted({round(box.x0 + box.width / 2) for box in widths})
    assert max(box.width for box in widths) <= min(np.diff(columns)) + 1


@pytest.mark.parametrize(("count", "most"), [(3, 5), (5, 5), (6, 5), (60, 40), (1000, 40)])
def test_a_choice_is_spread_over_all(count, most):
    found = spread(range(count), most)
    assert len(found) == min(count, most)
    assert (found[0], found[-1]) == (0, count - 1)
    gaps = np.diff(found)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_names_are_shortened_in_their_middle():
    assert shortened("head.weight") == "head"
    assert shortened("a" * 24 + ".weight") == "a" * 24
    long = shortened("encoder.layers.17.self_attention.projection.weight")
    assert len(long) == 24
    assert long == "encoder.lay…n.projection"


def test_a_panel_holds_every_pair_of_an_algorithm(results):
    drawn = {drawing.name: drawing for drawing in agreement_figures(results.mask_overlap)}
    axes = drawn["agreement-0.01-one_shot"].figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["admm, same seed", "iterative, same seed", "its other seeds", "chance"]
    for label, pair in (("admm, same seed", {"admm", "one_shot"}), ("its other seeds", {"one_shot"})):
        rows = [r for r in results.mask_overlap if {r.first, r.second} == pair and r.learning_rate == 0.01]
        rows.sort(key=lambda row: row.sparsity)
        assert list(np.asarray(lines[label].get_ydata())) == pytest.approx([100 * row.value for row in rows])
    assert list(np.asarray(lines["chance"].get_ydata())) == pytest.approx([100 / 3, 100 / 7, 100 / 15, 100 / 31])


def test_every_pair_of_algorithms_has_a_row_in_the_table():
    row = MaskOverlap(0.1, 0.5, "admm", f"{HOSTILE}", True, 5, 0.75, 0.5, 1.0, 1 / 3)
    assert agreement_table([row]).rows == (
        ("0.1", "50 %", "admm", HOSTILE, "same", "5", "0.750", "0.333", "0.500 to 1.000"),
    )


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [320, 1280])
def test_no_width_needs_scrolling_sideways(report, width, tmp_path):
    unfolded = report.page.read_text(encoding="utf-8").replace("<details>", "<details open>")
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><iframe style="width:{width}px;height:800px;border:0" srcdoc="{html.escape(unfolded)}">'
        "</iframe><script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "document.body.textContent = 'measured ' + page.documentElement.scrollWidth + ' of ' + page.body.clientWidth"
        " + ' with ' + page.querySelectorAll('#agreement svg').length; }</script>",
        encoding="utf-8",
    )
    found = re.search(rb"measured (\d+) of (\d+) with (\d+)", browse(tmp_path, wrapper, "--dump-dom"))
    assert found is not None
    scroll, client, drawings = map(int, found.groups())
    assert drawings == 2
    assert width - 20 <= client <= width
    assert scroll <= client
