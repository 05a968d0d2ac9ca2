"""The ledger against hand-worked rows."""

from pathlib import Path
from typing import Any

from prunetune.plan.compile import plan
from prunetune.plan.ledger import ledger
from prunetune.rows import Spent
from prunetune.spec.load import load_spec
from tests.support.study_specs import spec

Row = tuple[float, str | None, float, str]


def table_of(**fields: Any) -> dict[Row, Spent]:
    rows = ledger(plan(load_spec(spec(**fields))))
    table = {(row.learning_rate, row.mask, row.sparsity, row.arm): row for row in rows}
    assert len(table) == len(rows)
    assert list(rows) == sorted(rows, key=lambda row: (row.learning_rate, row.mask or "", row.sparsity, row.arm))
    return table


def epochs(row: Spent) -> tuple[int, int, int]:
    return row.pretraining_epochs, row.mask_epochs, row.training_epochs


def test_every_row_of_three_mask_algorithms():
    table = table_of(
        masks=["one_shot", "iterative", {"kind": "admm", "epochs": 4}],
        sparsities=[0.5, 0.75],
        learning_rates=[0.1],
        arms=["ticket", "finetune"],
        seeds=3,
    )
    expected: dict[Row, tuple[int, int, int]] = {(0.1, None, 0.0, "dense"): (0, 0, 18)}
    for arm in ("ticket", "finetune"):
        for sparsity in (0.5, 0.75):
            expected[0.1, "one_shot", sparsity, arm] = (18, 0, 18)
            expected[0.1, "admm-epochs=4", sparsity, arm] = (18, 12, 18)
        expected[0.1, "iterative", 0.5, arm] = (18, 0, 18)
        expected[0.1, "iterative", 0.75, arm] = (18, 18, 18)
    assert {row: epochs(spent) for row, spent in table.items()} == expected


def test_the_notes_say_what_is_shared():
    table = table_of(masks=["iterative", "admm"], sparsities=[0.5, 0.75, 0.9], learning_rates=[0.1], rewind="0ep")
    assert table[0.1, None, 0.0, "dense"].note == ""
    shared = "pre-training is the dense run, shared by every row at its rate"
    assert table[0.1, "iterative", 0.5, "reinit"].note == shared
    rounds = "mask finding is the trainings of ticket at 0.5, ticket at 0.75"
    assert table[0.1, "iterative", 0.9, "reinit"].note == f"{shared}; {rounds}"
    admm = "mask finding is shared by the arms under this mask"
    assert table[0.1, "admm", 0.9, "reinit"].note == f"{shared}; {admm}"
    assert table[0.1, "iterative", 0.5, "rewind"].note.endswith("the same training as ticket (iterative)")


def test_a_crossed_mask_needs_two_dense_runs_where_the_arm_starts_from_one():
    table = table_of(masks=[{"kind": "iterative", "learning_rate": 0.01}], sparsities=[0.5, 0.75], learning_rates=[0.1])
    assert epochs(table[0.1, "iterative@0.01", 0.75, "ticket"]) == (6, 6, 6)
    assert epochs(table[0.1, "iterative@0.01", 0.75, "finetune"]) == (12, 6, 6)


def test_an_imported_pair_costs_nothing(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    table = table_of(
        pretrained={"theta_0": str(tmp_path / "a"), "theta_T": str(tmp_path / "b")},
        arms=["finetune"],
        sparsities=[0.5],
        learning_rates=[0.1],
    )
    assert {row[3]: epochs(spent) for row, spent in table.items()} == {"dense": (0, 0, 0), "finetune": (0, 0, 6)}
    assert {spent.note for spent in table.values()} == {"the pre-trained pair is imported"}


def test_a_teacher_is_paid_for_by_every_row_but_the_dense_runs():
    fields = {"masks": [{"kind": "one_shot", "criterion": "synflow"}], "sparsities": [0.5], "learning_rates": [0.1]}
    taught = {"epochs": 6, "batch_size": 64, "distill": {"weight": 0.5, "temperature": 4}}
    alone, rows = table_of(**fields, arms=["reinit"]), table_of(**fields, arms=["reinit"], recipe=taught)
    (row,) = (row for row in rows if row[3] == "reinit")
    assert epochs(alone[row]) == (0, 0, 6)  # its mask is found at the start
    assert epochs(rows[row]) == (6, 0, 6)
    assert "teacher" in rows[row].note
    assert "teacher" not in rows[0.1, None, 0.0, "dense"].note + alone[row].note
