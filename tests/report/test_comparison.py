"""Several studies read together: the files, the page, the verb and its errors."""

import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from prunetune.analysis.across_studies import between, pair
from prunetune.cli.main import app
from prunetune.errors import ConfigError
from prunetune.report.comparison.comparison_figures import comparison_drawings
from prunetune.report.comparison.comparison_page import write_comparison
from prunetune.report.comparison.comparison_rows import cells_text, compare_studies, read_studies
from prunetune.rows import Quantity, RecipeSummary, Results
from tests.support.planted import HOSTILE, planted, scarred, stored
from tests.support.refusals import assert_refusal, refused
from tests.support.verdict_trials import trial

compared = functools.partial(compare_studies, resamples=60)


def shifted(results: Results, epochs: int, by: float) -> Results:
    """The same study of another length, its dense runs' R_p moved and its trainings others."""
    trials = [dataclasses.replace(row, key=f"{epochs}{row.key}", epochs=epochs) for row in results.trials]
    correlations = [
        dataclasses.replace(row, value=row.value + by) if row.pair == "theta_0/theta_T" else row
        for row in results.correlations
    ]
    return dataclasses.replace(results, trials=tuple(trials), correlations=tuple(correlations))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("studies")
    results = planted()
    for name, found in (
        ("first", results),
        ("second", shifted(results, 12, -0.2)),
        ("third", shifted(results, 24, -0.3)),
    ):
        stored(found, root / name)
    return [root / name for name in ("first", "second", "third")]


def measuring(results: Results, drift: float) -> Results:
    """The same study with movement of its dense runs and a barrier of its tickets, each by seed."""
    rows = []
    for run in results.trials:
        place = run.learning_rate, run.mask, run.sparsity, run.seed
        if run.arm == "dense":
            values: dict[str, float | None] = {
                "n": 9.0,
                "sign_flips": 0.1,
                "distance": None,
                "cosine": 0.9 - drift - 0.01 * run.seed,
            }
            rows.append(Quantity("movement", "theta_0/theta_T", *place, values))
        if run.arm == "ticket":
            barrier: dict[str, float | None] = {"loss_barrier": run.sparsity + 0.1 * run.seed, "accuracy_barrier": 0.0}
            rows.append(Quantity("barriers", "theta_T/ticket_T", *place, barrier))
            rows.append(Quantity("barriers", "ticket_T/finetune_T", *place, {"loss_barrier": 99.0}))
    return dataclasses.replace(results, quantities=tuple(rows))


@pytest.fixture(scope="module")
def measured(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three studies, the last without quantities."""
    root = tmp_path_factory.mktemp("measured")
    for name, found in (
        ("first", measuring(planted(), 0.0)),
        ("second", measuring(shifted(planted(), 12, -0.2), 0.2)),
    ):
        stored(found, root / name)
    return [root / "first", root / "second", folders[2]]


def test_quantities_join_the_regime_that_they_are_of(measured: list[Path]) -> None:
    found = compared(read_studies(measured), sparsity=0.75)
    rows = {(row.study, row.learning_rate): row for row in found.fixed}
    row = rows["second", 0.1]
    assert row.quantities.keys() == {
        "movement.sign_flips", "movement.cosine", "barriers.loss_barrier", "barriers.accuracy_barrier"
    }  # fmt: skip
    assert row.quantities["movement.cosine"] == pytest.approx({seed: 0.7 - 0.01 * seed for seed in range(5)})
    assert row.quantities["barriers.loss_barrier"] == pytest.approx({seed: 0.75 + 0.1 * seed for seed in range(5)})
    assert rows["third", 0.1].quantities == {}
    assert [(row.predictor, row.runs) for row in found.predictions][:4] == [
        ("R_p excess", 6), ("movement.sign_flips", 4), ("movement.cosine", 4), ("barriers.loss_barrier", 4)
    ]  # fmt: skip


def test_predictors_stand_in_the_terminal_the_json_and_the_page_where_they_are_measured(
    folders: list[Path], measured: list[Path], tmp_path: Path
) -> None:
    written = write_comparison(compared(read_studies(measured)), tmp_path / "with")
    content = json.loads((tmp_path / "with" / "comparison.json").read_text())
    names = [row["predictor"] for row in content["predictors"]]
    assert names[0] == "R_p excess"
    assert len(names) == 5
    page = written.page.read_text()
    for name in names[1:]:
        assert f'<th scope="row" class="text">{name}</th>' in page
        assert re.search(rf"^  {name} .* dense runs  p ", written.text, re.M)
    assert "x" not in content
    assert content["regimes"][0]["quantities"]["movement.cosine"]["0"] == pytest.approx(0.9)
    without = write_comparison(compared(read_studies(folders)), tmp_path / "without")
    assert "predictors" not in json.loads((tmp_path / "without" / "comparison.json").read_text())
    assert "table-predictors" not in without.page.read_text()


def test_the_chosen_axis_is_drawn_and_who_lacks_it_is_named(measured: list[Path], tmp_path: Path) -> None:
    found = compared(read_studies(measured), x="movement.cosine")
    written = write_comparison(found, tmp_path)
    drawn = {drawing.name: drawing for drawing in comparison_drawings(found)}
    assert drawn["regimes-ticket-reinit-movement-cosine"].description.count(" at ") == 4  # two studies, two rates
    assert (tmp_path / "figures" / "regimes-ticket-reinit-movement-cosine.svg").exists()
    assert "* movement.cosine" in written.text
    assert found.notes[-1] == "movement.cosine is not known of third: `measure: [movement]` in the spec measures it"
    assert json.loads((tmp_path / "comparison.json").read_text())["x"] == "movement.cosine"


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ("movement.cosin", r"^--x: unknown 'movement\.cosin'; did you mean 'movement\.cosine'\?$"),
        ("sharpness", r"^--x: unknown 'sharpness'; known: R_p excess, barriers\.accuracy_barrier, "),
        ("curvature.trace", r"^--x: .* not known of any of these studies: `measure: \[curvature\]` in the spec"),
    ],
)
def test_an_axis_that_there_is_not_is_one_line(measured: list[Path], x: str, words: str) -> None:
    done = CliRunner().invoke(app, ["compare", *map(str, measured), "--x", x])
    assert isinstance(done.exception, ConfigError)
    assert re.search(words, str(done.exception))


def test_an_axis_goes_with_no_table_of_cells(measured: list[Path]) -> None:
    done = CliRunner().invoke(app, ["compare", str(measured[0]), "--x", "kappa", "--held-out"])
    assert isinstance(done.exception, ConfigError)
    assert "--x: draws regimes" in str(done.exception)


def test_the_same_files_give_the_same_bytes(folders: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_comparison(compared(read_studies(folders)), tmp_path / name)
    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert {"comparison.json", "comparison.html", "regimes.csv"} <= {str(path) for path in made}
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in made)


def test_the_json_is_strict_and_holds_every_regime_by_seed(folders: list[Path], tmp_path: Path) -> None:
    write_comparison(compared(read_studies(folders)), tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=refuse)
    assert len(found["regimes"]) == 3 * 2 * 4
    assert [row["name"] for row in found["studies"]] == ["first", "second", "third"]
    row = next(r for r in found["regimes"] if (r["study"], r["learning_rate"], r["sparsity"]) == ("first", 0.1, 0.5))
    by_seed = {
        arm: {
            t.seed: t.test_accuracy for t in planted().trials if (t.arm, t.learning_rate, t.sparsity) == (arm, 0.1, 0.5)
        }
        for arm in ("ticket", "reinit")
    }
    assert row["leads"]["ticket − reinit"]["differences"] == pytest.approx(
        [(by_seed["ticket"][seed] or 0) - (by_seed["reinit"][seed] or 0) for seed in range(5)]
    )
    assert found["thesis"]["explanation"] in ("holds", "fails", "not decided")


def test_the_page_names_the_verdict_and_draws_a_point_for_every_regime(folders: list[Path], tmp_path: Path) -> None:
    found = compared(read_studies(folders), sparsity=0.75)
    written = write_comparison(found, tmp_path)
    page = written.page.read_text()
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<h1>The paper&#39;s explanation" in page
    drawn = {drawing.name: drawing for drawing in comparison_drawings(found)}
    assert drawn["regimes-ticket-reinit-excess"].description.count(" at ") == 6
    assert drawn["regimes-every-excess"].description.count(" at ") == 24
    assert re.search(r"Spearman's ρ .* at 75 % sparsity: [+−]\d\.\d\d \(95 % interval", written.text)


@pytest.mark.parametrize(("lost", "scale"), [(0.0, "linear"), (20.0, "symlog")])
def test_every_panel_whose_leads_are_many_gaps_apart_is_logarithmic(lost: float, scale: str, tmp_path: Path) -> None:
    """Those at one sparsity as those of all: one huge lead would flatten the others to a line."""
    results = planted()
    trials = [
        dataclasses.replace(row, test_accuracy=row.test_accuracy - lost, score=None)
        if (row.arm, row.learning_rate) == ("reinit", 0.1) and row.test_accuracy is not None
        else row
        for row in results.trials
    ]
    stored(dataclasses.replace(results, trials=tuple(trials)), tmp_path / "one")
    drawn = comparison_drawings(compared(read_studies([tmp_path / "one"]), sparsity=0.75))
    leads = [drawing for drawing in drawn if drawing.name.startswith(("regimes-", "phase-"))]
    assert {drawing.name for drawing in leads} >= {"regimes-ticket-reinit-excess", "regimes-every-excess"}
    assert {drawing.name: drawing.figure.axes[0].get_yscale() for drawing in leads} == {
        drawing.name: scale for drawing in leads
    }


def test_leads_are_drawn_over_kappa_with_zero_a_step_left_of_the_least(tmp_path: Path) -> None:
    """Two lengths of one study; a regime whose κ is not known has no place there."""
    for name, kappas in (("first", {0.1: 0.5, 0.01: 0.0}), ("second", {0.1: 2.0, 0.01: None})):
        results = planted() if name == "first" else shifted(planted(), 12, -0.2)
        recipes = tuple(RecipeSummary(rate, 100, kappa, None) for rate, kappa in kappas.items())
        stored(dataclasses.replace(results, recipes=recipes), tmp_path / name)
    found = compared(read_studies([tmp_path / "first", tmp_path / "second"]))
    drawn = {drawing.name: drawing for drawing in comparison_drawings(found)}
    assert {name for name in drawn if "phase" in name or "kappa" in name} == {
        "regimes-ticket-reinit-kappa",
        "regimes-ticket-dense-kappa",
        "phase-0",
        "phase-1",
    }
    said = [float(x) for x in re.findall(r"at ([0-9.]+):", drawn["regimes-ticket-reinit-kappa"].description)]
    assert sorted(said) == [0.0, 0.5, 2.0]
    axes = drawn["regimes-ticket-reinit-kappa"].figure.axes[0]
    places = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert places["0"] == pytest.approx(math.log10(0.5 / 3))
    assert places["1"] == 0
    for number, rate in enumerate((0.01, 0.1)):
        holds = [row for row in found.regimes if (row.learning_rate, row.winning) == (rate, "yes")]
        marks = [line for line in drawn[f"phase-{number}"].figure.axes[0].lines if line.get_marker() != "None"]
        filled = [line for line in marks if line.get_markerfacecolor() == line.get_color()]
        assert sum(np.size(line.get_xdata()) for line in filled) == sum(row.kappa is not None for row in holds)


def test_mixed_starts_are_drawn_from_reinit_to_the_ticket(tmp_path: Path) -> None:
    results = planted()
    more = [
        dataclasses.replace(row, arm="mixed(0.5)", key=f"mixed{row.key}")
        for row in results.trials
        if row.arm == "ticket"
    ]
    stored(dataclasses.replace(results, trials=(*results.trials, *more)), tmp_path / "one")
    drawn = {d.name: d for d in comparison_drawings(compared(read_studies([tmp_path / "one"])))}
    assert {name for name in drawn if name.startswith("mixed")} == {"mixed-0", "mixed-1"}
    points = re.findall(r"at ([0-9.]+): ([+-][0-9.]+)", drawn["mixed-0"].description)
    assert [x for x, _ in points] == ["0", "0.5", "1"]
    assert points[0][1] == "+0.00"
    assert points[1][1] == points[2][1]  # planted equal to the ticket


def test_hostile_names_are_text(tmp_path: Path) -> None:
    stored(scarred(planted()), tmp_path / "scarred")
    page = write_comparison(compared(read_studies([tmp_path / "scarred"])), tmp_path / "out").page.read_text()
    assert HOSTILE not in page


def test_the_same_trainings_in_two_studies_count_once(folders: list[Path], tmp_path: Path) -> None:
    stored(planted(), tmp_path / "again")
    found = compared(read_studies([*folders, tmp_path / "again"]))
    assert len(found.regimes) == 24
    assert found.notes == ("again: 8 regimes are the trainings of an earlier study",)


def test_an_arm_of_a_later_study_joins_the_regime_of_the_same_trainings(folders: list[Path], tmp_path: Path) -> None:
    more = planted()
    tickets = [row for row in more.trials if row.arm == "ticket"]
    mixed = [dataclasses.replace(row, arm="mixed(0.5)", key=f"{row.key[:-2]}mm") for row in tickets]
    stored(dataclasses.replace(more, trials=(*more.trials, *mixed)), tmp_path / "again")
    alone, found = (compared(read_studies(paths)) for paths in (folders, [*folders, tmp_path / "again"]))
    assert len(found.regimes) == len(alone.regimes)
    assert found.thesis == alone.thesis
    joined = [row for row in found.regimes if "mixed(0.5)" in row.arms]
    assert len(joined) == 8
    assert all(row.arms["mixed(0.5)"] == row.arms["ticket"] for row in joined)


def cells_study(root: Path, name: str, cells: dict[tuple[str, str | None], list[float]]) -> Path:
    rows = [
        trial(arm, seed, accuracy, 0.8 if mask else 0.0, 0.1, mask)
        for (arm, mask), accuracies in cells.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    rows = [dataclasses.replace(row, validation_accuracy=(row.test_accuracy or 0) - 1) for row in rows]
    lost = dataclasses.replace(trial("finetune", 3, 10.0, 0.8, 0.1, "admm"), diverged=True)  # enters no mean
    stored(dataclasses.replace(planted(), trials=(*rows, lost), correlations=()), root / name)
    return root / name


FIRST, SECOND, DENSE = [84.0, 85.0, 84.5], [83.5, 84.1, 84.4], [80.0, 80.5, 81.5]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    named = {("finetune", "admm"): FIRST, ("finetune", "one_shot"): SECOND, ("dense", None): DENSE}
    return cells_study(tmp_path, "cells", named)


@pytest.mark.parametrize(("second", "below"), [("finetune one_shot", SECOND), ("dense", DENSE)])
def test_paired_differences_of_cells_are_scipys(cells: Path, second: str, below: list[float]) -> None:
    [row] = pair(read_studies([cells]), "finetune admm", second)
    expected = stats.ttest_rel(FIRST, below).confidence_interval(0.95)
    assert (row.mean, row.low, row.high) == pytest.approx(
        (sum(FIRST) / 3 - sum(below) / 3, expected.low, expected.high)
    )
    assert (row.learning_rate, row.sparsity, row.n) == (0.1, 0.8, 3)


def test_two_studies_are_paired_by_cell_and_seed(cells: Path, tmp_path: Path) -> None:
    other = cells_study(tmp_path, "other", {("finetune", "admm"): SECOND[:2], ("ticket", "admm"): [9.0]})
    one, two = read_studies([cells, other])
    [row] = between(one, two)
    expected = stats.ttest_rel(FIRST[:2], SECOND[:2]).confidence_interval(0.95)
    assert (row.mean, row.low, row.high) == pytest.approx((0.7, expected.low, expected.high))
    assert (row.of, row.n) == ("finetune admm", 2)
    [across] = pair([one, two], "cells: finetune admm", "other: finetune admm")
    assert across.mean == pytest.approx(row.mean)


def test_held_out_means(cells: Path) -> None:
    lines = cells_text(read_studies([cells]), None, False, True).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0.1", "0", "dense", "79.67", "(79.00", "to", "80.50,", "n", "=", "3)"],
        ["0.1", "0.8", "finetune", "admm", "83.50", "(83.00", "to", "84.00,", "n", "=", "3)"],
        ["0.1", "0.8", "finetune", "one_shot", "83.00", "(82.50", "to", "83.40,", "n", "=", "3)"],
    ]


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["--pair", "finetune admm", "ticket admm"], ("--pair", "ticket admm", "dense", "finetune admm")),
        (["--pair", "x: dense", "dense"], ("--pair", "'x'", "cells")),
        (["--between"], ("--between", "1")),
        (["--pair", "dense", "dense", "--between"], ("--pair", "--between")),
        ([], ("RUN", "cells", "ticket", "reinit", "R_p")),
    ],
)
def test_a_wrong_request_is_one_line(cells: Path, options: list[str], mentions: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["compare", str(cells), *options])
    assert isinstance(done.exception, ConfigError)
    assert_refusal(done.exception, *mentions)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    for run, words in ((tmp_path / "x.json", "object"), (tmp_path / "y", "found")):
        with refused(str(run), words):
            read_studies([run])


@pytest.mark.parametrize(
    ("given", "words"),
    [({"mask": "admm"}, ("--mask", "admm", "iterative")), ({"sparsity": 0.6}, ("--sparsity", "0.6", "0.5", "0.75"))],
)
def test_a_mask_or_sparsity_that_is_not_there_is_named(
    folders: list[Path], given: dict[str, object], words: tuple[str, ...]
) -> None:
    with refused(*words):
        compared(read_studies(folders[:1]), **given)  # type: ignore[arg-type]


def test_the_verb_writes_and_says_where(folders: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(folders[0] / "results.json"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Verdict: whether the paper's explanation holds is undecided here." in done.stdout
    assert (tmp_path / "comparison.html").exists()


def test_only_a_comparisons_own_files_are_replaced(folders: list[Path], tmp_path: Path) -> None:
    found = compared(read_studies(folders))
    write_comparison(found, tmp_path / "own")
    write_comparison(found, tmp_path / "own")
    for name in ("comparison.json", "regimes.csv", "comparison.html"):
        theirs = tmp_path / name / name
        theirs.parent.mkdir()
        theirs.write_text("my thesis\n")
        with refused("out", theirs):
            write_comparison(found, theirs.parent)
        assert theirs.read_text() == "my thesis\n"


def test_the_folder_of_a_group_stands_for_its_studies(folders: list[Path], tmp_path: Path) -> None:
    for name in ("b", "a"):
        stored(planted(), tmp_path / "group" / name)
    assert [study.name for study in read_studies([tmp_path / "group"])] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with refused(str(tmp_path / "empty" / "results.json")):
        read_studies([tmp_path / "empty"])
