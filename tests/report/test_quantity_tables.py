"""The tables of what `measure` asks for, against rows whose means are worked by hand."""

from prunetune.report.quantity_tables import quantity_tables
from prunetune.rows import Quantity


def moved(of: str, mask: str | None, seed: int, flips: float) -> Quantity:
    values: dict[str, float | None] = {"n": 100, "sign_flips": flips, "distance": 0.25, "cosine": 0.5}
    return Quantity("movement", of, 0.1, mask, 0.5 if mask else 0.0, seed, values)


def test_movement_is_of_trainings_by_their_names() -> None:
    rows = [moved("theta_0/theta_T", None, seed, flips) for seed, flips in enumerate((0.02, 0.04))]
    rows += [moved("finetune_short(1,0.001)_0/finetune_short(1,0.001)_T", "iterative", 0, 0.5)]
    table = quantity_tables(rows, [])["movement"]
    assert table.rows == (
        ("0.1", "–", "–", "dense", "2", "3.00 %", "2.00 % to 4.00 %", "0.250", "0.500"),
        ("0.1", "iterative", "50 %", "finetune_short(1,0.001)", "1", "50.00 %", "50.00 % to 50.00 %", "0.250", "0.500"),
    )


def test_pairs_and_finals_keep_their_own_names() -> None:
    line: dict[str, float | None] = {"loss_barrier": 0.125, "accuracy_barrier": 1.5}
    sharp: dict[str, float | None] = {"n": 9, "largest": 3.1, "residual": 2e-10, "trace": 112.4, "trace_error": 4.0}
    rows = [
        Quantity("barriers", "previous ticket_T/ticket_T", 0.1, "iterative", 0.8, 0, line),
        Quantity("curvature", "ticket_T", 0.1, "iterative", 0.8, 0, sharp),
    ]
    found = quantity_tables(rows, [])
    assert found["barriers"].rows[0][3:] == ("previous ticket_T/ticket_T", "1", "0.125", "0.125 to 0.125", "1.50")
    assert found["curvature"].rows[0][3:] == ("ticket_T", "1", "3.10", "3.10 to 3.10", "2e-10", "112", "4.0")


def test_masks_from_level_to_level() -> None:
    values: list[dict[str, float | None]] = [{"n": 10, "jaccard": jaccard, "expected": 0.25} for jaccard in (0.4, 0.6)]
    rows = [Quantity("masks", "previous mask/mask", 0.1, "admm", 0.8, i, own) for i, own in enumerate(values)]
    (row,) = quantity_tables(rows, [])["masks"].rows
    assert row[4:] == ("2", "0.500", "0.400 to 0.600", "0.250")


def test_no_title_takes_more_than_two_lines_of_a_narrow_column() -> None:
    """On a narrow screen every word is a line of a number's title, beside columns that may be one line high."""
    rows = [moved("theta_0/theta_T", None, 0, 0.5)]
    titles = [column.title for column in quantity_tables(rows, [])["movement"].columns if column.kind == "number"]
    assert "Lowest to highest" in titles  # as wide as two numbers
    assert all(len(title.split()) <= 2 for title in titles if title != "Lowest to highest")
