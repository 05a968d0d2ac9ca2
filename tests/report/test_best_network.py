"""Which network the page of `prune` leads with, and what it says of how sure that is: from planted rows."""

from dataclasses import replace
from statistics import fmean

import pytest
from scipy import stats

from prunetune.report.tradeoff.best_network import best_network, best_text, headline
from prunetune.report.tradeoff.tradeoff_figures import tradeoff_drawings
from prunetune.report.tradeoff.tradeoff_rows import ModelFile, ModelRow, Tradeoff
from tests.report.test_tradeoff import row, timing

LEVEL = timing(1, 1.0, 0.99, 1.01)
ERROR = {"metric": "MAE", "unit": "kg", "difference_unit": "kg", "higher_is_better": False}


def tradeoff(*rows: ModelRow, **study: object) -> Tradeoff:
    return Tradeoff("n", "m", "d", "one_shot", "unstructured", 0.1, 3, rows, (), {"model": "m", **study}, {})


def network(sparsity: float, *scores: float, speed: float = 1.0, held_out: tuple[float, ...] = ()) -> ModelRow:
    times = timing(64, speed, speed - 0.02, speed + 0.02)
    return replace(row(sparsity, scores, round(1000 * (1 - sparsity)), LEVEL, times), held_out=held_out)


def chosen(*rows: ModelRow, **study: object) -> float | None:
    best = best_network(tradeoff(*rows, **study))
    return None if best is None else best.sparsity


DENSE = network(0.0, 90.0)


def test_the_smallest_within_the_margin_where_none_is_faster() -> None:
    assert chosen(DENSE, network(0.5, 90.2), network(0.8, 89.5), network(0.9, 89.4)) == 0.8  # 0.5 is within, 0.6 not
    assert chosen(DENSE, network(0.5, 90.2), network(0.8, 89.5), verdict={"margin": 0.4}) == 0.5
    assert chosen(DENSE, network(0.5, 89.4)) is None
    assert chosen(DENSE) is None
    assert chosen(network(0.5, 90.0)) is None  # its dense network diverged


def test_the_fastest_of_those_that_are_faster() -> None:
    rows = (
        network(0.5, 90.0, speed=1.5),
        network(0.8, 90.0, speed=1.2),
        network(0.9, 90.0),
        network(0.95, 80.0, speed=3),
    )
    assert chosen(DENSE, *rows) == 0.5
    assert chosen(DENSE, *rows[1:]) == 0.8
    assert chosen(DENSE, network(0.5, 90.0, speed=1.04), network(0.8, 90.0)) == 0.8  # too little to be called faster


def test_speed_of_sparse_layers_counts_where_a_file_has_them() -> None:
    file = ModelFile("sparse-layers", "m", 1, 0.0, True, timings=(timing(1, 3.0, 2.5, 3.5),), sparse_layers=("fc",))
    by_sparse = replace(network(0.5, 90.0, speed=1.5), files=(file,))
    assert chosen(DENSE, by_sparse, network(0.8, 90.0, speed=2.0)) == 0.5
    assert headline(tradeoff(DENSE, by_sparse)).endswith("at least 2.50x faster here with sparse layers")
    by_chance = replace(by_sparse, files=(replace(file, sparse_layers=()),))  # the dense network, timed once more
    assert chosen(DENSE, by_chance, network(0.8, 90.0, speed=2.0)) == 0.8
    assert headline(tradeoff(DENSE, by_chance)).endswith("at least 1.48x faster here")


def test_lower_may_be_better() -> None:
    rows = network(0.0, 5.0), network(0.5, 5.1), network(0.8, 4.0), network(0.9, 5.3)
    assert chosen(*rows, **ERROR, verdict={"margin": 0.2, "gap": 0.2}) == 0.8
    found = tradeoff(*rows, **ERROR, verdict={"margin": 0.2, "gap": 0.2})
    assert headline(found).startswith("Best within 0.2 kg of dense: 80 % sparse, −1.00 kg of MAE, kg (lower is better)")
    worse = tradeoff(rows[0], network(0.9, 5.3), **ERROR, verdict={"margin": 0.2, "gap": 0.2})
    assert headline(worse) == (
        "None within 0.2 kg of dense: 90 % sparse loses least, +0.30 kg of MAE, kg (lower is better) (one seed)"
    )


def test_drops_are_of_the_same_seeds() -> None:
    dense = replace(network(0.0, 90.0, 80.0, 91.0), seeds=(0, 1, 2))
    two = replace(network(0.5, 89.8, 90.8), seeds=(0, 2))  # seed 1 diverged: by plain means it would gain 3 points
    found = tradeoff(dense, two)
    assert headline(found).startswith("Best within 0.5 points of dense: 50 % sparse, −0.20 points (mean of 2 seeds)")
    assert chosen(dense, replace(two, seeds=(3, 4))) is None


def test_held_out_examples_choose_where_there_are_any() -> None:
    dense = network(0.0, 90.0, held_out=(80.0,))
    half, most = network(0.5, 88.0, held_out=(80.1,)), network(0.9, 90.5, held_out=(79.0,))
    assert chosen(dense, half, most) == 0.5
    found = tradeoff(dense, half, most)
    assert headline(found) == (
        "Best within 0.5 points of dense on held-out examples: 50 % sparse, −2.00 points on test examples (one seed), "
        "2.0x smaller compressed, not shown to be faster here"
    )
    assert "held-out examples chose it (+0.10 points there)" in best_text(found)[0]
    assert chosen(dense, half, replace(most, held_out=())) == 0.9  # not of all: the test examples have to


def test_what_the_test_examples_chose_is_said_to_flatter() -> None:
    two = best_text(tradeoff(DENSE, network(0.5, 89.0), network(0.8, 90.1)))
    assert two[0] == (
        "Best is 80 %, the only one of 2 networks within 0.5 points of dense; "
        "the test examples chose it, so that its score there, one of 2 looked at, flatters it."
    )
    assert two[1].startswith("One seed has no interval")
    one = best_text(tradeoff(DENSE, network(0.8, 90.1)))
    assert one[0] == "Best is 80 %, which is within 0.5 points of dense; no other was tried."
    assert best_text(tradeoff(DENSE, network(0.8, 80.0))) == [
        "None of 1 network is within 0.5 points of dense, so that none is called best."
    ]


@pytest.mark.parametrize("held_out", [False, True])
def test_several_seeds_bound_the_drop_of_whichever_was_chosen(held_out: bool) -> None:
    scores = (90.0, 91.0, 92.5, 90.5), (89.9, 90.7, 92.6, 89.9)
    dense, near = (
        network(s, *own, held_out=own if held_out else ()) for s, own in zip((0.0, 0.8), scores, strict=True)
    )
    found = tradeoff(dense, replace(near, sparsity=0.5, nonzeros=99), near, verdict={"alpha": 0.1})
    differences = [one - other for one, other in zip(*scores, strict=True)]
    level = 0.1 / 2  # shared by the two: held-out examples choose for lucky seeds too, which are those of the test
    bound = float(fmean(differences) + stats.t.ppf(1 - level, 3) * stats.tstd(differences) / 2)
    said = best_text(found)[1]
    assert f"no worse than −{bound:.2f} points" in said
    assert said.startswith("With confidence 90 %")
    assert "for whichever of the 2 was chosen its mean difference from dense, over seeds," in said
    assert bound > 0.5
    assert "not within the margin" in said
    alone = best_text(tradeoff(dense, near, verdict={"alpha": 0.1}))[1]
    assert alone.startswith("With confidence 90 % its mean difference")
    assert "margin" not in alone
    even = tradeoff(network(0.0, 90.0, 91.0), network(0.5, 89.9, 90.9))
    assert best_text(even)[1] == "All seeds lose the same, so that there is no interval."


def test_the_best_is_marked_in_every_figure_of_scores() -> None:
    found = tradeoff(DENSE, network(0.5, 90.2), network(0.8, 89.7))
    drawn = {drawing.name: drawing for drawing in tradeoff_drawings(found)}
    assert drawn["tradeoff"].description.endswith("Best: 80 %.")
    texts = {text.get_text() for text in drawn["cost-size"].figure.axes[0].texts}
    assert texts == {"dense", "50 %", "80 %, best"}
