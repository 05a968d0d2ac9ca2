"""From the store to rows: each field against the files, missing rows with their reason, the rules between trainings."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.execution.run_step import execute
from prunetune.plan.compile import Plan, plan
from prunetune.plan.measurements import PlannedTrial
from prunetune.report.write_report import write_report
from prunetune.results.collect import collect
from prunetune.results.cross_checks import compare
from prunetune.results.stored import read_stored
from prunetune.rows import Invariant, Results
from prunetune.sparsity.mask import Mask
from prunetune.spec.load import load_spec
from prunetune.steps import graph
from prunetune.steps.steps import Prune, Train, Transform, Weights
from prunetune.store.layout import Manifest
from prunetune.store.store import Store
from tests.support.toy_study import ONE_EPOCH

STUDY: dict[str, Any] = {
    "name": "toy",
    "model": "tests.support.toy_study:net",
    "data": "tests.support.toy_study:images",
    "recipe": {"epochs": 2, "batch_size": 16, "schedule": {"kind": "constant"}},
    "learning_rates": [0.05, 0.1],
    "masks": ["iterative"],
    "sparsities": [0.5, 0.75],
    "arms": ["ticket", "reinit", "rewind", "finetune", "shuffle", "sign_reinit", "random_mask"],
    "rewind": "1ep",
    "seeds": 1,
}


def run(planned: Plan, store: Store) -> None:
    for step in planned.steps:
        execute(step, store, planned.snapshots.get(step.key, frozenset()))


@pytest.fixture(scope="module")
def study() -> Plan:
    return plan(load_spec(STUDY))


@pytest.fixture(scope="module")
def done(study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("collected") / "store")
    store.prepare()
    run(study, store)
    return store


@pytest.fixture(scope="module")
def results(study: Plan, done: Store) -> Results:
    return collect(study, done, cached={study.trials[0].step.key}, failures={})


def test_a_row_for_every_trial_with_what_its_files_say(study: Plan, done: Store, results: Results) -> None:
    assert len(results.trials) == len(study.trials) == 2 * (1 + 2 * 7)
    assert results.missing == ()
    for row in results.trials:
        folder = done.root / "steps" / row.key[:2] / row.key
        measured = json.loads((folder / "metrics.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in ("epochs", "steps", "test_accuracy", "test_loss", "diverged", "density", "start_digest"):
            assert getattr(row, name) == measured[name]
        assert row.mask_digest == measured["mask_digest"]
        assert row.seconds == manifest["seconds"] > 0
        assert row.cached == (row.key == study.trials[0].step.key)
        assert row.density == (1.0 if row.arm == "dense" else pytest.approx(1 - row.sparsity))
    assert [row.arm for row in results.trials[:4]] == ["dense", "finetune", "random_mask", "reinit"]
    assert list(results.trials) == sorted(
        results.trials, key=lambda row: (row.learning_rate, row.mask or "", row.sparsity, row.arm, row.seed)
    )


def test_correlations_are_those_measured(study: Plan, done: Store, results: Results) -> None:
    assert len(results.correlations) == len(study.correlations)
    for planned in study.correlations:
        row = next(
            row
            for row in results.correlations
            if (row.pair, row.learning_rate, row.mask, row.sparsity, row.seed, row.p)
            == (planned.pair, planned.learning_rate, planned.mask, planned.sparsity, planned.seed, planned.p)
        )
        found = {m["p"]: m for m in done.metrics(planned.step.key)["correlations"]}[planned.p]
        assert (row.value, row.expected) == (found["value"], found["expected"])


def test_layers_show_what_is_kept(results: Results) -> None:
    layers = {layer.name: layer for layer in results.layers}
    assert layers.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "6.weight", "6.bias"}
    assert layers["3.weight"].kept == {"iterative @ 0.5": 0.5, "iterative @ 0.75": 0.25}
    assert not layers["0.weight"].prunable
    assert layers["0.weight"].kept == {}


def test_the_environment_is_told_and_a_mixture_flagged(
    study: Plan, done: Store, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert results.environment["torch"] == torch.__version__
    assert results.environment["threads_per_training"] == 1
    assert results.environment["devices"] == ["cpu"]
    assert results.environment["mixed"] == []
    manifest = Store.manifest

    def elsewhere(self: Store, key: str) -> Manifest:
        found = manifest(self, key)
        if key == study.steps[3].key:
            found["environment"] |= {"cpu": "Another 9000", "precision": "bf16"}
        return found

    monkeypatch.setattr(Store, "manifest", elsewhere)
    (line,) = collect(study, done, (), {}).environment["mixed"]
    assert line.startswith("cpu: ")
    assert "Another 9000" in line


def test_every_rule_was_checked_and_none_broken(study: Plan, results: Results) -> None:
    counts = {rule.name: rule.checked for rule in results.invariants}
    assert all(rule.breaches == () for rule in results.invariants)
    assert all(rule.meaning for rule in results.invariants)
    trained = {step for step in study.steps if isinstance(step, Train)}
    sparse = {step for step in trained if step.mask}
    assert counts["start as stored"] == len(trained)
    assert counts["zeros stay zero"] == counts["density"] == len(sparse)
    assert counts["shuffle permutes"] == 4
    assert counts["mask nested"] == 2  # the second round at each rate
    assert counts["mask counts"] == counts["masks come from sound runs"] == 4 + 2  # random masks serve both rates
    assert counts["signs kept"] == 4
    assert counts["arms share layer counts"] == 4 * 6  # random_mask and five arms against the first
    assert counts["initialiser seeded"] == 2
    assert counts["arms share their mask"] == 4 * 5  # four cells, six arms with that mask, against the first
    assert counts["arms share data order"] == counts["arms share steps"] == 2 * 14
    assert counts["ticket starts at theta 0"] == counts["reinit does not"] == 4
    assert counts["rewind starts at theta k"] == counts["finetune starts at theta t"] == 4


def breaches(planned: Plan, store: Store, name: str) -> tuple[str, ...]:
    found: dict[str, Invariant] = {rule.name: rule for rule in compare(planned, read_stored(planned, store), store)}
    others = [rule for rule in found.values() if rule.breaches and rule.name != name]
    assert others == []
    return found[name].breaches


def swapped(planned: Plan, arm: str, start: Callable[[PlannedTrial], Weights], store: Store) -> Plan:
    """The study with the bug that `arm` starts from something else, run to its end."""

    def swap(trial: PlannedTrial) -> PlannedTrial:
        if trial.arm != arm or trial.sparsity == 0.75 or trial.learning_rate == 0.1:
            return trial
        assert isinstance(trial.step, Train)
        return replace(trial, step=replace(trial.step, start=start(trial)))

    trials = tuple(map(swap, planned.trials))
    changed = replace(planned, trials=trials, steps=graph.closure([*planned.steps, *(trial.step for trial in trials)]))
    for trial in changed.trials:
        if not store.has(trial.step.key):
            execute(trial.step, store)
    return changed


def _dense(planned: Plan, trial: PlannedTrial) -> Train:
    found = next(t.step for t in planned.trials if t.arm == "dense" and t.learning_rate == trial.learning_rate)
    assert isinstance(found, Train)
    return found


def test_a_ticket_that_starts_elsewhere(study: Plan, done: Store) -> None:
    changed = swapped(study, "ticket", lambda trial: Weights(_dense(study, trial), ONE_EPOCH), done)
    (line,) = breaches(changed, done, "ticket starts at theta 0")
    assert line == "ticket under iterative at sparsity 0.5, learning rate 0.05, seed 0: did not start from theta_0"


def test_a_reinit_that_is_the_ticket(study: Plan, done: Store) -> None:
    changed = swapped(study, "reinit", lambda trial: _dense(study, trial).start, done)
    (line,) = breaches(changed, done, "reinit does not")
    assert "'3.weight' starts as in theta_0" in line


def test_a_finetune_that_is_a_rewind(study: Plan, done: Store) -> None:
    changed = swapped(study, "finetune", lambda trial: Weights(_dense(study, trial), ONE_EPOCH), done)
    (line,) = breaches(changed, done, "finetune starts at theta t")
    assert "did not start from the dense run's final state" in line


def test_a_finetune_of_another_dense_run(study: Plan, done: Store) -> None:
    """theta_T at the other learning rate: plausible, and wrong."""
    other = next(t.step for t in study.trials if t.arm == "dense" and t.learning_rate == 0.1)
    assert isinstance(other, Train)
    changed = swapped(study, "finetune", lambda trial: Weights(other), done)
    assert len(breaches(changed, done, "finetune starts at theta t")) == 1


@pytest.mark.parametrize("at", [None, "end"])
def test_a_rewind_that_does_not_rewind(study: Plan, done: Store, at: str | None) -> None:
    def start(trial: PlannedTrial) -> Weights:
        dense = _dense(study, trial)
        return Weights(dense) if at else Weights(dense.start.step, None, Transform("shuffle", 3))

    changed = swapped(study, "rewind", start, done)
    assert len(breaches(changed, done, "rewind starts at theta k")) == 1


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("mask_digest", "arms share their mask"),
        ("data_order_digest", "arms share data order"),
        ("steps", "arms share steps"),
    ],
)
def test_arms_that_do_not_share(
    study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch, metric: str, name: str
) -> None:
    victim = next(trial for trial in study.trials if trial.arm == "rewind")
    _tamper(monkeypatch, victim.step.key, {metric: "another"})
    (line,) = breaches(study, done, name)
    assert line.startswith("rewind under iterative at sparsity 0.5, learning rate 0.05, seed 0: ")


def test_a_random_mask_of_other_counts(study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = next(trial for trial in study.trials if trial.arm == "random_mask")
    assert isinstance(victim.step, Train)
    assert victim.step.mask is not None
    key, mask = victim.step.mask.key, Store.mask
    kept = dict(mask(done, key))
    kept["6.weight"] = kept["6.weight"].roll(1)  # the same counts elsewhere are another draw
    monkeypatch.setattr(Store, "mask", lambda self, asked, *more: Mask(kept) if asked == key else mask(self, asked))
    assert comparison(study, done, "arms share layer counts") == ()
    kept["6.weight"][0] = True
    lines = comparison(study, done, "arms share layer counts")
    assert lines[0].startswith(
        "random_mask under iterative at sparsity 0.5, learning rate 0.05, seed 0: its mask keeps"
    )
    assert len(lines) == 2  # at both rates


def comparison(planned: Plan, store: Store, name: str) -> tuple[str, ...]:
    return next(rule.breaches for rule in compare(planned, read_stored(planned, store), store) if rule.name == name)


def test_controls_are_told_to_the_report(results: Results) -> None:
    assert results.controls == ("shuffle", "sign_reinit", "random_mask")


def test_other_ways_to_a_mask_keep_every_rule(tmp_path: Path) -> None:
    masks = [
        {"kind": "gradual", "updates": 2, "allocation": "erk"},
        {"kind": "one_shot", "allocation": "global"},
        {"kind": "one_shot", "pattern": "2:4"},
    ]
    arms = ["ticket", "random_mask"]
    planned = plan(load_spec(STUDY | {"masks": masks, "sparsities": [0.5], "arms": arms, "learning_rates": [0.05]}))
    store = Store(tmp_path / "store")
    store.prepare()
    run(planned, store)
    found = collect(planned, store, (), {})
    assert all(rule.breaches == () for rule in found.invariants)
    assert len(found.trials) == 1 + 3 * 2
    digests = {(row.mask, row.arm): row.mask_digest for row in found.trials if row.mask}
    assert len(set(digests.values())) == 6
    shares = {layer.name: layer.kept for layer in found.layers}
    assert shares["3.weight"]["one_shot-2:4 @ 0.5"] == shares["6.weight"]["one_shot-2:4 @ 0.5"] == 0.5
    # erk: sums 4 + 4 + 3 + 3 and 3 + 64; 168 of 336 weights, so eps = 168/81: 29.04 and 138.96
    assert shares["3.weight"]["gradual-erk-updates=2 @ 0.5"] == 29 / 144
    assert shares["6.weight"]["gradual-erk-updates=2 @ 0.5"] == 139 / 192


def test_diverged_trainings_need_not_share_steps(study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = next(trial for trial in study.trials if trial.arm == "rewind")
    _tamper(monkeypatch, victim.step.key, {"steps": 3, "data_order_digest": "x", "diverged": True})
    assert breaches(study, done, "arms share steps") == ()


def test_a_mask_from_a_diverged_run(study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = next(step for step in study.steps if isinstance(step, Prune))
    _tamper(monkeypatch, mask.source.step.key, {"diverged": True})
    (line,) = breaches(study, done, "masks come from sound runs")
    assert line.startswith(f"Prune {mask.key[:12]}: diverged source: ")


def _tamper(monkeypatch: pytest.MonkeyPatch, key: str, change: dict[str, Any]) -> None:
    metrics = Store.metrics
    monkeypatch.setattr(
        Store, "metrics", lambda self, asked, *more: metrics(self, asked) | (change if asked == key else {})
    )


def test_results_do_not_hang_on_the_order_in_which_steps_were_planned(
    study: Plan, done: Store, results: Results
) -> None:
    listed = graph.closure(row.step for row in (*study.trials, *study.correlations))
    assert set(listed) == set(study.steps)
    assert listed != study.steps
    assert collect(replace(study, steps=listed), done, {study.trials[0].step.key}, {}) == results


def test_a_finished_study_is_read_with_one_look_a_step(
    study: Plan, done: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, manifest = Counter[str](), Store.manifest
    monkeypatch.setattr(Store, "manifest", lambda self, key: looks.update([key]) or manifest(self, key))
    collect(study, done, (), {})
    assert looks == Counter(step.key for step in study.steps)


def test_a_study_that_is_not_stored_is_looked_up_once_a_step_and_not_once_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 40 rounds of iterative pruning have 2^40 paths from the last to the first."""
    many = {"sparsities": {"per_round": 0.05, "rounds": 40}, "arms": ["ticket"], "learning_rates": [0.05]}
    planned, looks, manifest = plan(load_spec(STUDY | many)), Counter[str](), Store.manifest
    monkeypatch.setattr(Store, "manifest", lambda self, key: looks.update([key]) or manifest(self, key))
    found = collect(planned, Store(tmp_path), (), {})
    assert len(found.missing) == len(planned.trials) == 41
    assert looks == Counter(step.key for step in planned.steps)  # one look a step


def test_missing_rows_say_why(tmp_path: Path) -> None:
    """A rate at which everything diverges, a failure, and steps that were never reached."""
    planned = plan(load_spec(STUDY | {"learning_rates": [0.05, 1e20], "arms": ["ticket", "reinit", "finetune"]}))
    store = Store(tmp_path / "store")
    store.prepare()
    failing = next(t for t in planned.trials if t.arm == "reinit" and t.sparsity == 0.5)
    for step in planned.steps:
        is_later = isinstance(step, Train) and step.mask is not None and step.mask.density == 0.25
        if step != failing.step and not is_later and _diverged_parents(step, store) == []:
            execute(step, store, planned.snapshots.get(step.key, frozenset()))
    found = collect(planned, store, (), {failing.step.key: "Train abc: zeros stay zero: 3 pruned positions"})
    reasons = {(m.arm, m.learning_rate, m.sparsity): (m.why, m.failed) for m in found.missing}
    assert reasons.pop(("reinit", 0.05, 0.5)) == ("failed: Train abc: zeros stay zero: 3 pruned positions", True)
    dense = next(t.step for t in planned.trials if t.arm == "dense" and t.learning_rate == 1e20)
    diverged = (f"diverged source: Train {dense.key[:12]} at learning rate 1e+20", False)
    for (_, rate, _), why in reasons.items():
        assert why == (diverged if rate == 1e20 else ("not run", True))
    assert len(reasons) == 6 + 3
    assert [row.diverged for row in found.trials if row.learning_rate == 1e20] == [True]
    rule = next(rule for rule in found.invariants if rule.name == "zeros stay zero")
    assert rule.breaches == ("Train abc: zeros stay zero: 3 pruned positions",)


def _diverged_parents(step: Any, store: Store) -> list[Any]:
    missing = [parent for parent in step.parents if not store.has(parent.key)]
    trained = [parent for parent in step.parents if isinstance(parent, Train) and parent not in missing]
    return missing + [parent for parent in trained if store.metrics(parent.key)["diverged"]]


def test_recomputing_the_plans_cells_needs_no_torch_state(results: Results) -> None:
    """What goes to results.json is plain JSON values."""
    from dataclasses import asdict

    json.dumps(asdict(results), allow_nan=False)


def test_the_residuals_of_every_admm_mask(tmp_path: Path) -> None:
    masks = ["one_shot", {"kind": "admm", "learning_rate": 0.1}]
    planned = plan(load_spec(STUDY | {"masks": masks, "arms": ["ticket", "random_mask"], "learning_rates": [0.05]}))
    store = Store(tmp_path / "store")
    store.prepare()
    run(planned, store)
    found = collect(planned, store, (), {}).residuals
    assert [(row.learning_rate, row.mask, row.sparsity, row.seed) for row in found] == [
        (0.05, "admm@0.1", 0.5, 0), (0.05, "admm@0.1", 0.75, 0)
    ]  # fmt: skip
    for row in found:
        [step] = [
            s for s in planned.steps if isinstance(s, Train) and s.penalty and s.penalty.density == 1 - row.sparsity
        ]
        kept = json.loads((store.root / "steps" / step.key[:2] / step.key / "metrics.json").read_text())
        assert list(row.values) == kept["residuals"]
        assert len(row.values) > 1


def test_an_overlap_that_a_layer_is_too_sparse_for_is_left_out_and_said(tmp_path: Path) -> None:
    """ERK leaves the toy's large layers too few weights for R_.2 of sparse and dense."""
    changes = {"masks": [{"kind": "one_shot", "allocation": "erk"}], "sparsities": [0.75], "arms": ["finetune"]}
    planned = plan(load_spec(STUDY | changes | {"learning_rates": [0.05]}))
    store = Store(tmp_path / "store")
    store.prepare()
    run(planned, store)
    found = collect(planned, store, (), {})
    kept = {layer.name: layer.kept for layer in found.layers if layer.prunable}
    assert min(share for shares in kept.values() for share in shares.values()) < 0.2
    assert {row.pair for row in found.correlations} == {"theta_0/theta_T"}
    notes = [note for note in found.notes if "not defined" in note]
    assert [note.split(",")[0] for note in notes] == ["R_p of finetune_T/theta_0", "R_p of finetune_T/theta_T"]
    assert all("p: 0.2 is too large for '3.weight'" in note for note in notes)
    assert write_report(found, tmp_path / "out").page.exists()


def test_held_out_accuracies_are_those_stored_and_the_page_says_what_they_are_for(
    results: Results, tmp_path: Path
) -> None:
    changes = {"data_args": {"validation": 0.25}, "arms": ["ticket"], "learning_rates": [0.05], "sparsities": [0.5]}
    planned = plan(load_spec(STUDY | changes))
    store = Store(tmp_path / "store")
    store.prepare()
    run(planned, store)
    found = collect(planned, store, (), {})
    for row in found.trials:
        kept = json.loads((store.root / "steps" / row.key[:2] / row.key / "metrics.json").read_text())
        assert row.validation_accuracy == kept["validation_accuracy"]
        assert row.validation_accuracy is not None
    assert [note for note in found.notes if "chosen on 16 held-out training examples" in note]
    assert {row.validation_accuracy for row in results.trials} == {None}
    assert not [note for note in results.notes if "held-out" in note]
