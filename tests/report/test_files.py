import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.core.metric import ACCURACY
from prunetune.errors import ConfigError
from prunetune.report.answer import answers
from prunetune.report.results_files import canonical, csv_text, read_results, results_text, write_text
from prunetune.report.write_report import render_again, write_report
from prunetune.rows import Correlation, Results, Trial
from tests.support.planted import planted, scarred, stored
from tests.support.refusals import refused

TRIAL_COLUMNS = (
    "key,arm,mask,learning_rate,sparsity,density,seed,epochs,steps,test_accuracy,test_loss,diverged,cached,seconds,"
    "start_digest,mask_digest,data_order_digest,validation_accuracy,score,validation_score"
)
DENSE = Trial("k1", "dense", None, 0.1, 0.0, 1.0, 0, 6, 942, 85.2, 0.1 + 0.2, False, True, 2.5, "s1", None, "o1")
LOST = Trial(
    "k2",
    'a "b", c',
    "one_shot",
    0.01,
    0.9375,
    0.0625,
    1,
    2,
    314,
    None,
    float("nan"),
    True,
    False,
    1e-07,
    "s2",
    "m2",
    "o1",
    84.5,
)


def test_trials_csv_to_the_letter():
    assert csv_text([DENSE, LOST], Trial) == (
        f"{TRIAL_COLUMNS}\n"
        "k1,dense,,0.1,0.0,1.0,0,6,942,85.2,0.30000000000000004,false,true,2.5,s1,,o1,,85.2,\n"
        'k2,"a ""b"", c",one_shot,0.01,0.9375,0.0625,1,2,314,,,true,false,1e-07,s2,m2,o1,84.5,,84.5\n'
    )


def test_correlations_csv_to_the_letter():
    rows = [Correlation("theta_0/theta_T", 0.1, None, 0.0, 3, 0.2, 1 / 3, 0.2)]
    assert csv_text(rows, Correlation) == (
        "pair,learning_rate,mask,sparsity,seed,p,value,expected\n"
        "theta_0/theta_T,0.1,,0.0,3,0.2,0.3333333333333333,0.2\n"
    )


def test_results_json_has_the_contract_and_is_strict(tmp_path):
    results = scarred(planted())
    odd = dataclasses.replace(results.trials[0], test_loss=float("inf"), seconds=float("nan"))
    write_report(dataclasses.replace(results, trials=(odd, *results.trials[1:])), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    contract = {
        "schema_version",
        "study",
        "environment",
        "trials",
        "correlations",
        "verdicts",
        "recommendation",
        "budget",
    }
    contract |= {"layers", "invariants", "missing", "notes", "controls", "comparisons", "paper", "pretraining"}
    contract |= {"standings", "choices"}
    views = {"residuals", "connectivity", "along_training", "overlap_by_layer", "mask_overlap", "recipes"}
    assert contract | views == set(found)
    assert ",".join(found["trials"][0]) == TRIAL_COLUMNS
    assert list(found["verdicts"][0]) == [
        "learning_rate", "mask", "winning_property", "sparsity", "pretraining", "reasons", "seeds_needed",
        "exceeds_dense", "corrected_for",
    ]  # fmt: skip
    assert list(found["recommendation"][0]) == [
        "sparsity", "learning_rate", "arm", "mask", "accuracy", "runner_up", "difference", "low", "high", "tie",
        "candidates", "chosen_on", "score",
    ]  # fmt: skip
    same = next(row for row in found["trials"] if row["key"] == odd.key)
    assert same["test_loss"] is None
    assert same["seconds"] is None
    assert len(found["comparisons"]) == 2 * 2 * 4  # both halves, two rates, four sparsities
    assert found["schema_version"] == 2
    checks = [(row["learning_rate"], row["check"], row["answer"]) for row in found["pretraining"]]
    assert checks == [
        (0.01, "not worse than the best rate tried", "no"),
        (0.01, "converged", "not asked"),
        (0.01, "forgotten", "no"),
        (0.1, "not worse than the best rate tried", "yes"),
        (0.1, "converged", "not asked"),
        (0.1, "forgotten", "no"),
    ]
    assert list(found["pretraining"][0]) == ["learning_rate", "check", "answer", "n", "mean", "low", "high", "limit"]


def test_what_is_written_reads_back_equal(tmp_path):
    results = scarred(planted(masks=("iterative", "admm"), seeds=3, rates=(0.1,)))
    write_report(results, tmp_path)
    again = read_results(tmp_path / "results.json")
    assert again == canonical(results)
    assert sorted(again.trials, key=lambda row: row.key) == sorted(results.trials, key=lambda row: row.key)
    assert again.layers == results.layers  # in the model's order
    assert again.missing == results.missing


figures_can_hold = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))


@given(st.floats(allow_nan=False, allow_infinity=False), figures_can_hold, st.integers())
def test_floats_texts_and_integers_lose_nothing(value, text, whole):
    row = dataclasses.replace(DENSE, test_loss=value, arm=text, seed=whole)
    results = Results({text: value}, {}, (row,), (), (), (), (), (), ())
    again = canonical(results)
    assert again.trials == (row,)
    assert again.study == {text: value} | ACCURACY.described()


def test_a_name_loses_what_no_figure_can_hold():
    row = dataclasses.replace(DENSE, arm="a\x00\x1b\ud800\uffff\tb")
    assert canonical(Results({}, {}, (row,), (), (), (), (), (), ())).trials[0].arm == "a\ufffd\ufffd\ufffd\ufffd\tb"


def test_rows_are_sorted_whatever_their_order(tmp_path):
    results = planted(masks=("iterative", "admm"), seeds=2)
    mixed = [list(rows) for rows in (results.trials, results.correlations, results.budget)]
    for rows in mixed:
        random.Random(3).shuffle(rows)
    shuffled = dataclasses.replace(
        results, trials=tuple(mixed[0]), correlations=tuple(mixed[1]), budget=tuple(mixed[2])
    )
    assert results_text(shuffled, answers(shuffled)) == results_text(results, answers(results))
    write_report(shuffled, tmp_path)
    rows = [line.split(",") for line in (tmp_path / "trials.csv").read_text().splitlines()[1:]]
    places = [(float(row[3]), row[2], float(row[4]), row[1], int(row[6])) for row in rows]
    assert places == sorted(places)
    assert len(places) == len(results.trials)


def _results_only(folder: Path) -> Path:
    return stored(planted(seeds=2), folder) / "results.json"


def _damage(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: found.update(schema_version=3), "schema_version is 3; this prunetune reads 1 and 2"),
        (lambda found: found.pop("schema_version"), "schema_version is null"),
        (lambda found: found.update(schema_version=True), "schema_version is true"),
        (lambda found: found.pop("trials"), "trials is missing"),
        (lambda found: found["trials"][3].pop("seed"), "trials[3].seed is missing"),
        (lambda found: found["trials"][3].update(seed="two"), "trials[3].seed is a text; it must be an integer"),
        (lambda found: found["trials"][3].update(seed=1.5), "trials[3].seed is a number; it must be an integer"),
        (
            lambda found: found["trials"][3].update(diverged=0),
            "trials[3].diverged is a number; it must be true or false",
        ),
        (
            lambda found: found["trials"][0].update(test_accuracy="85"),
            "trials[0].test_accuracy is a text; it must be a number",
        ),
        (lambda found: found["trials"][0].update(arm=None), "trials[0].arm is a null; it must be a text"),
        (lambda found: found.update(correlations={}), "correlations is a object; it must be a list"),
        (
            lambda found: found["layers"][2]["kept"].update(x="all"),
            "layers[2].kept['x'] is a text; it must be a number",
        ),
        (lambda found: found["trials"].append(None), "] is a null; it must be an object"),
    ],
)
def test_a_damaged_field_is_named_in_one_line(tmp_path, change, named):
    path = _damage(_results_only(tmp_path), change)
    with pytest.raises(ConfigError) as caught:
        render_again(tmp_path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_results(tmp_path):
    with refused(str(tmp_path / "results.json"), "found"):
        render_again(tmp_path)
    path = tmp_path / "results.json"
    for content in (b"", b"\xff\xfe\x00", b'{"schema_version": 1, "study": NaN}', b"[" * 100_000):
        path.write_bytes(content)
        with refused(str(path), "JSON", "truncated"):
            read_results(path)
    path.write_text("[]")
    with refused(str(path), "object"):
        read_results(path)
    with refused(str(tmp_path), "read"):
        read_results(tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    path = _results_only(tmp_path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with refused(str(path), "truncated or damaged"):
            read_results(path)


def test_unknown_fields_are_passed_over(tmp_path):
    path = _damage(_results_only(tmp_path), lambda found: found["trials"][0].update(later=1))
    assert read_results(path) == canonical(planted(seeds=2))


def test_a_write_that_fails_leaves_nothing_and_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    with refused("out", "write"):
        write_report(planted(seeds=2, rates=(0.1,)), tmp_path / "file" / "out")
    (tmp_path / "results.json").mkdir()
    with refused("out", "results.json", "write"):
        write_text(tmp_path / "results.json", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "results.json"]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_rendering_again_from_results_json_alone_gives_the_same_bytes(tmp_path):
    results = scarred(planted(masks=("iterative", "one_shot"), seeds=3, rates=(0.1,)))
    first = write_report(results, tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "results.json").write_bytes((tmp_path / "first" / "results.json").read_bytes())
    second = render_again(tmp_path / "second")
    files = _bytes(tmp_path / "first")
    assert _bytes(tmp_path / "second") == files
    assert {"results.json", "trials.csv", "correlations.csv", "report.html", "figures/pretraining.svg"} <= set(files)
    assert (second.verdicts, second.recommendation, second.text) == (first.verdicts, first.recommendation, first.text)
    assert second.page == tmp_path / "second" / "report.html"
    assert not any(path.endswith(".part") for path in files)


def test_rendering_again_judges_again_by_the_rule_that_stands_in_the_study(tmp_path):
    written = write_report(planted(), tmp_path)
    before = {v.learning_rate: v.winning_property for v in written.verdicts}

    def tamper(found):
        found["study"]["verdict"]["margin"] = 20.0  # anything matches the dense network
        for verdict in found["verdicts"]:
            verdict["winning_property"] = "fails"

    _damage(tmp_path / "results.json", tamper)
    after = {v.learning_rate: v.winning_property for v in render_again(tmp_path).verdicts}
    assert after == {0.01: "holds", 0.1: "holds"}
    assert before != after
    written = json.loads((tmp_path / "results.json").read_text())["verdicts"]
    assert [verdict["winning_property"] for verdict in written] == ["holds", "holds"]


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    write_report(planted(masks=("iterative", "admm"), seeds=2, rates=(0.1,)), tmp_path)
    before = {path.name for path in (tmp_path / "figures").iterdir()}
    write_report(planted(seeds=2, rates=(0.1,)), tmp_path)
    after = {path.name for path in (tmp_path / "figures").iterdir()}
    assert after < before
    assert not [name for name in after if "admm" in name or "masks" in name]
