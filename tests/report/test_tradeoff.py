"""What a trade-off says and shows, from planted rows."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from prunetune.report.tradeoff.best_network import headline
from prunetune.report.tradeoff.tradeoff_figures import layers_figure
from prunetune.report.tradeoff.tradeoff_page import render_tradeoff_again, tradeoff_text, write_tradeoff
from prunetune.report.tradeoff.tradeoff_rows import (
    SPARSE,
    TRADEOFF,
    ModelFile,
    ModelRow,
    ParameterDensity,
    Timing,
    Tradeoff,
    read_tradeoff,
    tradeoff_summary,
)
from tests.support.pages import without_script
from tests.support.refusals import refused

HOSTILE = "<script>alert('x')</script>"


LEVEL = Timing(64, 0.001, 0.001, 0.001, 30, 1.0, 1.0, 1.0)


def timing(batch: int, speedup: float, low: float, high: float) -> Timing:
    return Timing(batch, 0.001 / speedup, 0.0009 / speedup, 0.0012 / speedup, 30, speedup, low, high)


def row(sparsity: float, accuracies: tuple[float, ...], compressed: int, *timings: Timing, raw: int = 1000) -> ModelRow:
    kept = round(200 * (1 - sparsity))
    layers = (
        ParameterDensity("a.weight", "Conv2d", 50, 50, "first convolution" if sparsity else ""),
        ParameterDensity("b.weight", "Linear", 200, kept, ""),
    )
    file = ModelFile("safetensors", f"models/m-{100 * sparsity:g}.safetensors", raw + 30, 0.0, True)
    counts = 250, 50 + kept, 1000, 200 + 4 * kept
    files = (file,) if sparsity else ()
    return ModelRow(sparsity, 1 - sparsity, 0, accuracies, *counts, raw, compressed, False, timings, layers, files)


@pytest.fixture
def found() -> Tradeoff:
    dense = row(0.0, (90.0, 91.0), 900, timing(1, 1.0, 1.0, 1.0), timing(64, 1.0, 1.0, 1.0))
    half = row(0.5, (90.5, 91.5), 600, timing(1, 1.01, 0.98, 1.04), timing(64, 1.0, 0.97, 1.02))
    most = row(0.9, (88.0, 89.0), 200, timing(1, 1.02, 0.98, 1.05), timing(64, 1.5, 1.4, 1.6))
    rows = dense, half, most
    return Tradeoff("n", "m", "d", "one_shot", "unstructured", 0.1, 3, rows, (), {"model": "m"}, {"cpu": "c"})


def test_the_words_are_the_numbers(found: Tradeoff) -> None:
    assert tradeoff_summary(found) == [
        "Accuracy against the dense network's 90.50 %, after 3 more epochs of training: "
        "+0.50 points at 50 %, −2.00 points at 90 %.",
        "Unstructured zeros do not make this network faster here: 1.02x [0.98, 1.05] at 90 % sparsity, batch 1.",
        "Faster here: 1.50x [1.40, 1.60] at 90 % sparsity, batch 64.",
        "At 90 % sparsity the weights' file is no smaller, as a zero takes the room of any number; "
        "compressed it is 4.5x smaller.",
    ]


def with_sparse_layers(network: ModelRow, names: tuple[str, ...], *timings: Timing) -> ModelRow:
    file = ModelFile(SPARSE, "models/m.sparse.bitmask.safetensors", 300, 1e-6, True, timings=timings)
    return replace(network, files=(*network.files, replace(file, sparse_layers=names, score=network.score)))


def test_layers_that_run_sparse_count_as_its_speed(found: Tradeoff) -> None:
    dense, half, _ = found.rows
    quick = with_sparse_layers(half, ("a", "b"), timing(1, 1.9, 1.8, 2.0), timing(64, 0.9, 0.8, 1.0))
    words = tradeoff_summary(replace(found, rows=(dense, quick)))
    assert words[1].startswith("Unstructured zeros do not make this network faster here with dense kernels: 1.01x")
    assert words[3] == (
        "With 2 layers run sparse, chosen at batch 1, 50 % against dense in torch: "
        "1.90x [1.80, 2.00] at batch 1, 0.90x [0.80, 1.00] at batch 64."
    )
    assert headline(replace(found, rows=(dense, quick))).endswith("at least 1.80x faster here with sparse layers")
    assert headline(replace(found, rows=(dense, half))).endswith("not shown to be faster here")
    text = tradeoff_text(replace(found, rows=(dense, quick)))
    assert re.search(r"^50 % sparse-layers +91\.00 +300 B .* 0\.526 ", text, re.M)


def test_a_network_that_no_sparse_layer_makes_faster(found: Tradeoff) -> None:
    dense, half, _ = found.rows
    same = with_sparse_layers(half, (), timing(1, 1.5, 1.4, 1.6))  # by chance: it is the dense network
    assert headline(replace(found, rows=(dense, same))).endswith("not shown to be faster here")
    words = tradeoff_summary(replace(found, rows=(dense, same)))
    assert any("make the 50 % network surely faster here; its file has none" in line for line in words)


def test_a_gain_within_the_spread_or_too_small_is_none(found: Tradeoff) -> None:
    dense, _, most = found.rows
    for times, said in ((timing(1, 1.4, 0.99, 1.9), "are not shown to"), (timing(1, 1.03, 1.01, 1.05), "do not")):
        near = replace(most, timings=(times,), scores=dense.scores)
        slow = replace(found, rows=(replace(dense, timings=dense.timings[:1]), near))
        assert tradeoff_summary(slow)[1].startswith(f"Unstructured zeros {said} make this network faster here: ")
        assert headline(slow).endswith("not shown to be faster here")


def test_a_smaller_network(found: Tradeoff) -> None:
    dense, _, most = found.rows
    small = replace(most, shrunk=True, raw_bytes=500)
    words = tradeoff_summary(replace(found, rows=(dense, small), pattern="channel"))
    assert words[1].startswith("The smaller network is no faster here: 1.02x")
    wide = replace(small, timings=(timing(1, 1.0, 0.34, 2.94),))
    words_of_wide = tradeoff_summary(replace(found, rows=(dense, wide), pattern="channel"))
    assert words_of_wide[1].startswith("The smaller network is not shown to be faster here: 1.00x [0.34, 2.94]")
    assert words[3] == "At 90 % sparsity the weights' file is 2.0x smaller; compressed it is 4.5x smaller."


def test_a_slow_network_s_times_are_whole_milliseconds(found: Tradeoff) -> None:
    slow = Timing(64, 1.0234, 0.6789, 123.4, 30, 1.0, 1.0, 1.0)
    dense = replace(found.rows[0], timings=(slow,))
    assert "1,023 [679, 123,400]" in tradeoff_text(replace(found, rows=(dense,)))


def test_one_seed_is_said_to_be_one(found: Tradeoff) -> None:
    single = replace(found, rows=tuple(replace(row, scores=row.scores[:1]) for row in found.rows))
    assert "one seed, so differences of a few tenths mean little" in tradeoff_summary(single)[0]


def test_the_terminal_shows_a_row_each_and_what_was_not_pruned(found: Tradeoff) -> None:
    lines = tradeoff_text(replace(found, missing=("95 %, seed 0: diverged",))).splitlines()
    assert lines[1].split()[:2] == ["dense", "90.50"]
    assert lines[3].split()[:2] == ["90", "%"]
    assert "1 [0.9, 1.2]" in lines[1]
    assert "88.50 (88.00 to 89.00)" in lines[3]
    assert "  first convolution (50 weights): a.weight" in lines
    assert lines[-1] == "missing: 95 %, seed 0: diverged"


@pytest.mark.parametrize("layers", [1, 12, 40])
def test_the_legend_of_densities_lies_below_the_axes_however_many_layers(found: Tradeoff, layers: int) -> None:
    densities = [ParameterDensity(f"{i}.weight", "Linear", 9, 3, "" if i else "excluded") for i in range(layers + 1)]
    figure = layers_figure(replace(found.pruned[-1], layers=tuple(densities))).figure
    assert figure.legends[0].get_window_extent().y1 < figure.axes[0].get_window_extent().y0


def test_a_file_that_onnxruntime_runs_has_a_row_below_its_network(found: Tradeoff, tmp_path: Path) -> None:
    dense, half, most = found.rows
    files = [
        ModelFile(name, f"models/m-{row.label}{name}", 400, 0.02, True, 300, score, (timing(1, speed, 0.9, 1.1), LEVEL))
        for row, name, score, speed in (
            (dense, "onnx", 90.0, 1.0),
            (dense, "int8-static", 89.8, 2.0),
            (most, "onnx", 88.0, 1.0),
            (most, "int8-static", 87.5, 1.9),
        )
    ]
    files[3] = replace(files[3], int8_weights=250, int8_zeros=190)
    rows = replace(dense, files=tuple(files[:2])), half, replace(most, files=(*most.files, *files[2:]))
    lines = tradeoff_text(replace(found, rows=rows)).splitlines()
    shown = ["dense", "dense onnx", "dense int8-static", "50 %", "90 %", "90 % onnx", "90 % int8-static"]
    assert [line.split("  ")[0] for line in lines[1:8]] == shown
    assert lines[7].split()[3:11] == ["87.50", "400", "B", "300", "B", "0.526", "[0.474,", "0.632]"]
    speed = "1.90x [0.90, 1.10] at batch 1, 1.00x [1.00, 1.00] at batch 64"
    (said,) = (line for line in lines if "90 % int8-static against" in line)
    assert (
        said
        == f"In onnxruntime 90 % int8-static against dense onnx: {speed}; 8 bits change its accuracy by −0.50 points."
    )
    page = write_tradeoff(
        replace(found, rows=rows, best=0.5, best_files=("models/best.onnx",)), tmp_path
    ).page.read_text()
    for part in ("90 % int8-static", '<td class="number">190</td>', "<code>models/best.onnx</code>", "of seed 0"):
        assert part in page
    assert read_tradeoff(tmp_path / TRADEOFF).rows == rows


def test_files_can_be_read_and_rendered_again(found: Tradeoff, tmp_path: Path) -> None:
    page = write_tradeoff(found, tmp_path).page
    assert read_tradeoff(tmp_path / "tradeoff.json") == found
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    page.unlink()
    render_tradeoff_again(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert names == {"tradeoff", "cost-size", "cost-time-1", "cost-time-64", "layers-50", "layers-90"}


def test_the_page_loads_nothing_and_names_are_text(found: Tradeoff, tmp_path: Path) -> None:
    layers = (ParameterDensity(f"{HOSTILE}.weight", HOSTILE, 9, 9, f"excluded by {HOSTILE}"),)
    rows = (*found.rows[:-1], replace(found.rows[-1], layers=layers))
    hostile = {"command": f"prunetune prune {HOSTILE}", "cpu": HOSTILE}
    page = write_tradeoff(
        replace(found, name=HOSTILE, model=HOSTILE, rows=rows, missing=(HOSTILE,), environment=hostile), tmp_path
    ).page
    text = without_script(page.read_text(encoding="utf-8"))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:| on\w+=", text, re.IGNORECASE)
    for part in ("50 % sparse", "Times as fast as dense", "Not pruned because", 'id="figure-tradeoff"', "models/m-90"):
        assert part in text


def test_a_study_without_a_network_is_shown_as_that(found: Tradeoff, tmp_path: Path) -> None:
    page = write_tradeoff(replace(found, rows=(), missing=("dense, seed 0: diverged",)), tmp_path).page
    assert "No pruned network" in page.read_text(encoding="utf-8")
    assert "dense, seed 0: diverged" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_damaged_file_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "tradeoff.json").write_text(content)
    with refused(str(tmp_path / "tradeoff.json")):
        read_tradeoff(tmp_path / "tradeoff.json")


def test_scores_are_those_of_any_metric_and_of_older_files_their_accuracies(found: Tradeoff, tmp_path: Path) -> None:
    write_tradeoff(found, tmp_path)
    path = tmp_path / TRADEOFF
    written = json.loads(path.read_text())
    assert all(one["scores"] == one["accuracies"] for one in written["rows"])
    del written["best"], written["best_files"]  # as files had it
    for one in written["rows"]:
        del one["scores"], one["seeds"], one["held_out"]
        for file in one["files"]:
            for later in ("compressed_bytes", "score", "timings", "int8_weights", "int8_zeros"):
                del file[later]
    path.write_text(json.dumps(written))
    assert read_tradeoff(path) == found
    assert tradeoff_text(read_tradeoff(path)) == tradeoff_text(found)
    render_tradeoff_again(tmp_path)
    for one in written["rows"]:
        one["accuracies"], one["scores"] = None, [120.5]
    path.write_text(json.dumps(written))
    assert {(one.accuracies, one.score) for one in read_tradeoff(path).rows} == {(None, 120.5)}
