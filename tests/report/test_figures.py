import dataclasses
import itertools
import math
import re
import statistics
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prunetune.analysis.pairing import Evidence
from prunetune.analysis.verdict import Rule, judge
from prunetune.report.figures.accuracy import Drawing, accuracy_figure, arm_roles, drawings
from prunetune.report.figures.plot_primitives import panel
from prunetune.report.figures.style import COLOURS, inline, standalone
from prunetune.report.write_report import write_report
from prunetune.rows import Results
from tests.support.pages import Page
from tests.support.planted import ARMS, HOSTILE, SPARSITIES, planted, scarred

BOUNDS_WIDTH = 2.2  # of a line that shows bounds
SVG = "{http://www.w3.org/2000/svg}"


def draw(results: Results) -> dict[str, Drawing]:
    verdicts = judge(results.trials, Rule(), correlations=results.correlations, missing=results.missing)
    return {drawing.name: drawing for drawing in drawings(results, verdicts, Rule())}


def panel_of(study: Results) -> Figure:
    """All arms of a study at rate 0.1 under iterative masks."""
    return accuracy_figure(Evidence(study.trials), 0.1, "iterative", (0, 100), arm_roles(MANY)).figure


def svg_of(drawing: Drawing) -> str:
    return standalone(drawing.figure, drawing.name, drawing.title, drawing.description)


@pytest.fixture(scope="module")
def results() -> Results:
    return scarred(planted(masks=("iterative", "admm")))


@pytest.fixture(scope="module")
def drawn(results) -> dict[str, Drawing]:
    return draw(results)


@pytest.fixture(scope="module")
def files(drawn) -> dict[str, str]:
    """Every figure as it stands in its file."""
    return {name: svg_of(drawing) for name, drawing in drawn.items()}


def heights(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def accuracies(results: Results, arm: str, rate: float, mask: str | None, sparsity: float) -> list[float]:
    place = (arm, rate, mask, sparsity)
    rows = [t for t in results.trials if (t.arm, t.learning_rate, t.mask, t.sparsity) == place and not t.diverged]
    return [row.test_accuracy for row in rows if row.test_accuracy is not None]


def test_every_picture_of_the_paper_is_there(drawn):
    per_cell = [f"{kind}-{rate}-{mask}" for kind in ("difference", "accuracy", "overlap-sparse", "overlap-dense")
                for rate in ("0.01", "0.1") for mask in ("iterative", "admm")]  # fmt: skip
    masks = [f"masks-{arm}-{rate}" for arm in ("finetune", "ticket") for rate in ("0.01", "0.1")]
    assert set(drawn) == {*per_cell, *masks, "pretraining"}


def test_a_study_without_a_ticket_has_no_empty_picture_of_a_verdict():
    assert not [name for name in draw(planted(arms=("finetune",))) if name.startswith("difference")]
    alone = planted(arms=("ticket", "finetune"))  # no reinit: the difference to the dense network is still there
    assert [name for name in draw(alone) if name.startswith("difference")] == ["difference-0.01-iterative",
                                                                              "difference-0.1-iterative"]  # fmt: skip


def test_mask_algorithms_are_compared_only_when_there_are_several():
    assert not [name for name in draw(planted(seeds=2)) if name.startswith("masks")]


def test_accuracy_lines_are_the_means_of_the_seeds_that_did_not_diverge(results, drawn):
    axes = drawn["accuracy-0.01-iterative"].figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["dense", *ARMS]
    for arm in ARMS:
        places, means = lines[arm].get_data()
        assert list(places) == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=0.2)  # 50, 75, 87.5, 93.75 %: halved densities
        expected = [statistics.mean(accuracies(results, arm, 0.01, "iterative", s)) for s in SPARSITIES]
        assert list(means) == pytest.approx(expected, abs=1e-9)
    assert len(accuracies(results, "reinit", 0.01, "iterative", 0.9375)) == 4  # one diverged and is not in the mean
    dense = statistics.mean(accuracies(results, "dense", 0.01, None, 0.0))
    assert heights(lines["dense"]) == pytest.approx([dense, dense])


def test_thin_bars_go_from_the_lowest_to_the_highest_seed_at_their_markers(results, drawn):
    axes = drawn["accuracy-0.1-admm"].figure.axes[0]
    bars = axes.collections
    assert len(bars) == len(ARMS)
    for arm, bar, line in zip(ARMS, bars, axes.lines[1:], strict=True):
        for segment, x, sparsity in zip(bar.get_segments(), line.get_xdata(), SPARSITIES, strict=True):
            values = accuracies(results, arm, 0.1, "admm", sparsity)
            assert segment.tolist() == pytest.approx(np.array([[x, min(values)], [x, max(values)]]))


def test_equal_means_stand_side_by_side_near_their_sparsity(drawn):
    """In points of the page: markers apart by a part of their size, and all of them nearer to their sparsity's tick."""
    figure = drawn["accuracy-0.01-iterative"].figure
    (axes,) = figure.axes
    ticks = axes.get_xticks()
    width = 72 * figure.get_figwidth() * axes.get_position().width
    point = (axes.get_xlim()[1] - axes.get_xlim()[0]) / width
    for at, tick in enumerate(ticks):
        places = sorted(float(np.asarray(line.get_xdata())[at]) for line in axes.lines[1:])
        assert statistics.mean(places) == pytest.approx(tick)
        assert all(right - left > 2 * point for left, right in itertools.pairwise(places))
        assert all(abs(place - tick) < min(abs(place - other) for other in ticks if other != tick) for place in places)


def test_lines_are_named_at_their_ends_without_a_collision(drawn):
    for name in ("accuracy-0.1-admm", "masks-ticket-0.1"):
        figure = drawn[name].figure
        (axes,) = figure.axes
        assert figure.legends == []
        figure.draw_without_rendering()
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        lines = {line.get_label(): line for line in axes.lines}
        assert boxes.keys() == lines.keys()
        assert all(axes.bbox.x1 < box.x0 < box.x1 <= figure.bbox.x1 for box in boxes.values())
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes.values(), 2))
        ends = {label: heights(line)[-1] for label, line in lines.items()}
        assert sorted(ends, key=lambda label: ends[label]) == sorted(boxes, key=lambda label: boxes[label].y0)


def test_accuracy_panels_share_their_range_and_name_their_sparsities(drawn):
    panels = [drawing.figure.axes[0] for name, drawing in drawn.items() if drawing.group in ("accuracy", "masks")]
    assert len({axes.get_ylim() for axes in panels}) == 1
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["50", "75", "87.5", "93.75"]


def test_sparsity_names_that_have_no_room_are_left_out_but_never_the_highest():
    study = planted(seeds=1, arms=("ticket",), rates=(0.1,))
    trial = next(row for row in study.trials if row.arm == "ticket")
    close = [0.5, 0.51, 0.52, 0.9, 0.9001]
    trials = tuple(dataclasses.replace(trial, sparsity=s) for s in close)
    axes = panel_of(dataclasses.replace(study, trials=trials)).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["52", "90.01"]
    assert len(heights(axes.lines[0])) == 5


def test_overlap_of_the_dense_runs_stands_beside_chance(results, drawn):
    axes = drawn["pretraining"].figure.axes[0]
    assert [container.get_label() for container in axes.containers] == ["rate 0.01", "rate 0.1"]
    for container, rate in zip(axes.containers, (0.01, 0.1), strict=True):
        heights = [bar.get_height() for bar in container]
        rows = [row for row in results.correlations if row.pair == "theta_0/theta_T" and row.learning_rate == rate]
        means = [statistics.mean(r.value for r in rows if r.p == p) for p in (0.1, 0.2, 0.3, 0.4, 0.5)]
        assert heights == pytest.approx(means)
    chance = next(marks for marks in axes.collections if marks.get_label() == "chance")
    assert [segment[0][1] for segment in chance.get_segments()] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    for group, segment in enumerate(chance.get_segments()):  # across all bars of its group and no other's
        assert group - 0.5 < segment[0][0] < group < segment[1][0] < group + 0.5


@pytest.mark.parametrize(
    ("kind", "pairs", "sparsities"),
    [
        ("sparse", ["ticket_0/finetune_T", "reinit_0/finetune_T"], SPARSITIES),
        ("dense", ["finetune_T/theta_0", "finetune_T/theta_T"], (0.5, 0.75)),  # where p < 1 - sparsity
    ],
)
def test_overlap_of_sparse_networks(results, drawn, kind, pairs, sparsities):
    axes = drawn[f"overlap-{kind}-0.1-admm"].figure.axes[0]
    assert len(axes.containers) == len(pairs)
    for container, pair in zip(axes.containers, pairs, strict=True):
        rows = [r for r in results.correlations if (r.pair, r.learning_rate, r.mask) == (pair, 0.1, "admm")]
        means = [statistics.mean(r.value for r in rows if r.sparsity == s) for s in sparsities]
        assert [bar.get_height() for bar in container] == pytest.approx(means)
    assert [text.get_text() for text in axes.get_xticklabels()] == [f"{100 * s:g}" for s in sparsities]


def test_an_arm_has_one_colour_in_all_panels_and_no_mask_algorithm_has_it(results, drawn):
    """`lone` is trained at one sparsity of one rate only, which shifts no other arm's colour."""
    lone = dataclasses.replace(next(row for row in results.trials if row.arm == "ticket"), arm="a_lone_arm")
    other = [dataclasses.replace(row, arm="zeta") for row in results.trials if row.arm == "reinit"]
    figures = draw(dataclasses.replace(results, trials=(*results.trials, lone, *other)))
    seen: dict[str, set[str]] = {}
    for drawing in figures.values():
        if drawing.group in ("accuracy", "masks"):
            for line in drawing.figure.axes[0].lines:
                seen.setdefault(str(line.get_label()), set()).add(str(line.get_color()))
    assert seen.keys() == {"dense", *ARMS, "zeta", "a_lone_arm", "admm", "iterative"}
    assert all(len(colours) == 1 for colours in seen.values())
    assert len(set.union(*seen.values())) == len(seen)


def test_panels_of_the_verdict_share_their_range(drawn):
    panels = [drawing.figure.axes[0] for drawing in drawn.values() if drawing.group == "difference"]
    assert len(panels) == 4
    assert len({axes.get_ylim() for axes in panels}) == 1
    low, high = panels[0].get_ylim()
    for axes in panels:
        assert all(low <= y <= high for line in axes.lines for y in heights(line))


def test_where_one_lead_is_huge_the_margin_can_still_be_seen(results):
    """At 93.75 % one ticket leads by fifty points: small differences keep their room, in all panels alike."""
    trials = tuple(
        dataclasses.replace(row, test_accuracy=(row.test_accuracy or 0) - 50)
        if (row.arm, row.learning_rate, row.mask, row.sparsity) == ("reinit", 0.01, "admm", 0.9375)
        else row
        for row in results.trials
    )
    panels = [d.figure for d in draw(dataclasses.replace(results, trials=trials)).values() if d.group == "difference"]
    for figure in panels:
        (axes,) = figure.axes
        assert figure.texts[1].get_text().endswith("; log beyond ±1")
        places = {y: float(axes.transData.transform((1.0, y))[1]) for y in (-1.0, -0.5, 0.0, 0.5, 1.0, 55.0)}
        height = axes.bbox.height
        assert places[0.5] - places[0.0] == pytest.approx(places[0.0] - places[-0.5])
        assert places[0.5] - places[0.0] == pytest.approx(places[1.0] - places[0.5])
        assert places[0.5] - places[0.0] > 0.06 * height
        assert places[55.0] < axes.bbox.y1
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert labels == sorted(labels, key=lambda label: float(label.replace("−", "-")))
        assert {"−1", "0", "1", "50"} <= set(labels)


@pytest.mark.parametrize("arms", [1, 4, 16])
def test_no_marker_lies_beyond_the_axes(arms):
    figure = panel_of(planted(seeds=1, arms=MANY[:arms], rates=(0.1,)))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    size = 5.5 / 2 * (high - low) / (72 * figure.get_figwidth() * axes.get_position().width)
    for line in axes.lines[1:]:
        places = np.asarray(line.get_xdata())
        assert low + size < places.min() <= places.max() < high - size


def test_a_figure_of_nothing_but_chance_is_a_sentence_on_the_page_and_no_file(results, tmp_path):
    flat = tuple(
        dataclasses.replace(row, value=row.expected + 0.0124) if (row.mask, row.learning_rate) == ("admm", 0.1) else row
        for row in results.correlations
    )
    page = write_report(dataclasses.replace(results, correlations=flat), tmp_path).page
    files = {path.stem for path in (tmp_path / "figures").glob("overlap-*")}
    assert files == {f"overlap-{kind}-{at}" for kind in ("sparse", "dense") for at in ("0.01-admm", "0.01-iterative",
                                                                                       "0.1-iterative")}  # fmt: skip
    text = Page(page.read_text(encoding="utf-8")).text
    for kind in ("sparse", "dense"):
        said = f"Learning rate 0.1, admm masks: Rp, sparse and {kind}, is about chance, every mean within 0.013 of it."
        assert said in text


def test_mask_algorithms_together(results, drawn):
    lines = {line.get_label(): line for line in drawn["masks-finetune-0.1"].figure.axes[0].lines}
    assert list(lines) == ["dense", "admm", "iterative"]
    for mask in ("admm", "iterative"):
        expected = [statistics.mean(accuracies(results, "finetune", 0.1, mask, s)) for s in SPARSITIES]
        assert heights(lines[mask]) == pytest.approx(expected)


def test_the_picture_of_the_verdict(results):
    rule = Rule(margin=0.7, gap=0.4)
    verdicts = judge(results.trials, rule, missing=results.missing)
    drawing = next(d for d in drawings(results, verdicts, rule) if d.name == "difference-0.01-iterative")
    lines = drawing.figure.axes[0].lines
    by_label = {str(line.get_label()): line for line in lines}
    for baseline, label in (("dense", "ticket − dense"), ("reinit", "ticket − reinit")):
        assert heights(by_label[label]) == pytest.approx(paired_means(results, baseline))
    assert heights(by_label["−margin (0.7)"]) == [-0.7, -0.7]
    assert heights(by_label["gap (0.4), for the mean"]) == [0.4, 0.4]
    bars = [tuple(heights(line)) for line in lines if line.get_linewidth() == BOUNDS_WIDTH]
    tests = next(v for v in verdicts if (v.learning_rate, v.mask) == (0.01, "iterative")).tests
    assert bars == [(t.dense.low, t.dense.high) for t in tests] + [(t.reinit.low, t.reinit.high) for t in tests]
    shown = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert shown == [test.answer for test in tests]


def paired_means(results: Results, baseline: str) -> list[float]:
    """Mean of ticket - baseline over the seeds that both have, at rate 0.01 and iterative masks, the slow way."""
    means = []
    for sparsity in SPARSITIES:
        place = (0.0, None) if baseline == "dense" else (sparsity, "iterative")
        ticket, other = {}, {}
        for row in results.trials:
            if row.learning_rate == 0.01 and not row.diverged:
                if row.arm == "ticket" and (row.sparsity, row.mask) == (sparsity, "iterative"):
                    ticket[row.seed] = row.test_accuracy
                if row.arm == baseline and (row.sparsity, row.mask) == place:
                    other[row.seed] = row.test_accuracy
        means.append(statistics.mean(ticket[seed] - other[seed] for seed in ticket.keys() & other.keys()))
    return means


def test_one_seed_has_points_without_bounds():
    drawing = draw(planted(seeds=1))["difference-0.1-iterative"]
    assert "no bounds" in drawing.description
    assert not [line for line in drawing.figure.axes[0].lines if line.get_linewidth() == BOUNDS_WIDTH]


def test_svg_files_are_xml_with_text_that_is_text(drawn, files):
    for name, drawing in drawn.items():
        text = files[name]
        root = ET.fromstring(text)
        words = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
        _, labels = drawing.figure.axes[0].get_legend_handles_labels()
        assert set(labels) <= set(words), drawing.name
        assert root.find(f"{SVG}title") is not None
        assert (root.findtext(f"{SVG}desc") or "") == drawing.description
        assert root.get("role") == "img"
        assert "metadata" not in text
        assert not re.search(r'href="(?!#)', text)
        named = {element.get("id") for element in root.iter() if element.get("id")}
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= named
        assert set((root.get("aria-labelledby") or "").split()) <= named


def test_equal_results_give_equal_bytes():
    first, second = (draw(planted(seeds=2, rates=(0.1,))) for _ in range(2))
    assert list(first) == list(second)
    for name, drawing in first.items():
        assert svg_of(drawing) == svg_of(second[name]) == svg_of(drawing)


def test_ids_differ_between_figures(files):
    ids = [i for file in files.values() for i in re.findall(r' id="([^"]+)"', inline(file))]
    assert len(ids) == len(set(ids)) > 100


def test_inside_a_page_colours_are_the_themes_and_paper_is_the_pages(files):
    for file in files.values():
        page = inline(file)
        assert f"fill: {COLOURS['paper'][0]}" in file
        assert not re.search("#[0-9a-f]{6}(?![0-9a-f-])", page.lower())
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", page)) <= set(COLOURS)
        assert "http" not in page
        assert not re.search(r"<svg[^>]* (width|height)=", page)
        assert "viewBox" in page
        assert '-paper"' not in page
        assert '-paper"' in file


def test_subscripts_are_lowered_by_moving_them():
    page = inline(svg_of(draw(planted(seeds=1))["pretraining"]))
    title = next(text for text in re.findall("<text.*?</text>", page, re.DOTALL) if "dense runs" in text)
    assert "".join(ET.fromstring(title).itertext()) == "Rp(θ0, θT) of the dense runs"
    moves = [float(dy) for dy in re.findall(r'dy="(-?[\d.]+)em"', title)]
    sizes = [0.75 if "75%" in span else 1.0 for span in re.findall("<tspan[^>]*>", title)]
    assert math.isclose(sum(move * size for move, size in zip(moves, sizes, strict=True)), 0.0, abs_tol=1e-9)


def test_names_are_never_markup_nor_mathematics():
    name = f"$x_1$ {HOSTILE} & --"
    drawn = draw(planted(masks=(name,), seeds=1))
    drawing = next(d for d in drawn.values() if d.group == "accuracy")
    assert re.fullmatch(r"[\w.-]+", drawing.name)
    text = svg_of(drawing)
    assert "<script" not in text
    assert f"Learning rate 0.01, {name} masks" in [
        "".join(e.itertext()) for e in ET.fromstring(text).iter(f"{SVG}text")
    ]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_marks_and_texts_stand_out_from_the_paper_in_both_themes(theme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    paper = COLOURS["paper"][theme]
    marks_only = ("rate", "level", "length", "overlap", "above", "below")  # names of the others are set in their colour
    for role in COLOURS.keys() - {"paper", "rule"}:
        least = 3.0 if role.startswith(marks_only) else 4.5
        assert contrast(COLOURS[role][theme], paper) >= least, role


def test_the_users_matplotlib_settings_stay_theirs():
    before = dict(mpl.rcParams)
    draw(planted(seeds=1))
    assert dict(mpl.rcParams) == before


def test_an_arm_that_is_not_in_the_study_has_no_panel():
    without = planted(masks=("iterative", "admm"), seeds=2, arms=("ticket", "reinit"))
    names = [name for name in draw(without) if name.startswith("masks-")]
    assert names == ["masks-ticket-0.01", "masks-ticket-0.1"]


def test_nothing_to_show_shows_nothing():
    assert drawings(Results({}, {}, (), (), (), (), (), (), ()), (), Rule()) == ()


MANY = ("ticket", "reinit", "rewind", "finetune", "finetune_chain", "finetune_short(1,0.001)", "scratch_long",
        "dense_small", "shuffle", "sign_reinit", "random_mask", "permuted_mask", "mixed(0.25)", "mixed(0.5)",
        "mixed(0.75)", "mixed(0.1)")  # fmt: skip


@pytest.mark.parametrize("arms", [8, 12, 16])
def test_the_legend_of_many_arms_lies_within_the_figure_and_below_the_axes(arms):
    study = planted(seeds=1, arms=MANY[:arms], rates=(0.1,))
    figure = panel_of(study)
    (drawn,), (axes,) = figure.legends, figure.axes
    figure.draw_without_rendering()
    assert {text.get_text() for text in drawn.get_texts()} == {"dense", *MANY[:arms]}
    whole, below = figure.bbox, axes.get_tightbbox()
    assert below is not None
    for text in drawn.get_texts():
        extent = text.get_window_extent()
        assert whole.x0 <= extent.x0 < extent.x1 <= whole.x1
        assert whole.y0 <= extent.y0 < extent.y1 <= below.y0
    boxes = [text.get_window_extent() for text in drawn.get_texts()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_longer_legend_takes_nothing_from_what_is_above_it():
    """In inches from the upper edge, axes and titles are where they are in a panel whose legend needs no room."""

    def places(arms: int) -> list[float]:
        study = planted(seeds=1, arms=MANY[:arms], rates=(0.1,))
        figure = panel_of(study)
        figure.draw_without_rendering()
        boxes = [figure.axes[0].get_window_extent(), *(text.get_window_extent() for text in figure.texts)]
        edges = [edge for box in boxes for edge in (box.y0, box.y1)]
        return [(figure.bbox.y1 - edge) / figure.dpi for edge in edges]

    few, many = places(8), places(16)
    assert many == pytest.approx(few, abs=1e-6)


@pytest.mark.parametrize(("words", "size"), [(3, 9.5), (40, None)])
def test_a_line_below_the_title_that_would_be_cut_is_made_smaller(words: int, size: float | None) -> None:
    figure, _ = panel("Title", " ".join(["metric"] * words))
    title, below = figure.texts
    assert below.get_window_extent().x1 < figure.bbox.x1
    assert title.get_fontsize() == 12
    long = panel("A mask algorithm with settings " * 4, "")[0].texts[0]
    assert long.get_window_extent().x1 < figure.bbox.x1
    assert float(long.get_fontsize()) < 12
    assert below.get_fontsize() == size if size else float(below.get_fontsize()) < 9.5
