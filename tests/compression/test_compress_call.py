"""`pt.compress`: the pipeline of `prunetune prune` in one call, with a table in a notebook."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prunetune as pt
from prunetune.report.tradeoff.budget_page import BudgetReport
from prunetune.report.tradeoff.tradeoff_page import TradeoffReport
from prunetune.report.tradeoff.tradeoff_rows import TRADEOFF, Tradeoff, read_tradeoff
from tests.report.test_budget import candidate, search

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "prune.md"
FEW = 'overrides=["data_args.train_limit=640"], epochs=1'


@pytest.mark.slow
def test_the_snippet_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNETUNE_STORE", str(tmp_path / "store"))
    (snippet,) = re.findall(r"```python\n(import prunetune.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet.replace("epochs=1", FEW), names)
    found: pt.Shipped = names["found"]
    assert [row.label for row in found.rows] == ["dense", "50 %", "90 %"]
    assert found.failures == ()
    assert {path.suffix for path, _ in found.files} == {".onnx", ".safetensors"}
    assert all(path.is_file() for path, _ in found.files)
    folder = Path("runs") / "small-fashion-mini-pruned"
    assert read_tradeoff(folder / TRADEOFF).rows == found.rows
    printed = capsys.readouterr()
    assert printed.out.startswith(str(found))
    assert printed.err == ""  # no terminal looks on
    assert repr(found) == f"<Shipped small-fashion-mini: {repr(found).split(': ', 1)[1]}"
    assert "\n" not in repr(found)
    html = found._repr_html_()
    assert html.count("<tr>") == 7
    for row in found.rows:
        assert f"<td>{row.label}</td>" in html
        assert f"<td>{row.label} onnx</td>" in html


@pytest.mark.slow
def test_the_snippet_of_the_page_with_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense network and the returned one, with its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNETUNE_STORE", str(tmp_path / "store"))
    (snippet,) = re.findall(r"```python\n(found = pt\.compress.*?)```", PAGE.read_text(), re.DOTALL)
    few = (
        FEW.replace("=640", '=640", "data_args.validation=0.3')
        + ', seeds=2, mask="one_shot", pattern="channel", sparsities=[0.5]'
    )
    names: dict[str, Any] = {"pt": pt}
    exec(snippet.replace("epochs=1", few).replace("max_drop=2", "max_drop=90"), names)
    found: pt.Shipped = names["found"]
    assert [row.sparsity for row in found.rows] == [0.0, 0.5]
    assert found.failures == ()
    assert {path.suffix for path in found.best_files} == {".safetensors"}
    assert all(path.is_file() for path in found.best_files)
    assert found.report.page.is_file()
    assert "50 %" in repr(found)
    assert "50 % (returned)" in found._repr_html_()


def test_of_a_budget_that_no_network_keeps_there_is_the_dense_one() -> None:
    found = search(candidate("gentle", 0.5, 0.9, 2.0, within=False))
    shipped = pt.Shipped(BudgetReport(found, "words", Path("runs") / "report.html"), ())
    assert (shipped.rows, shipped.files, shipped.best_files) == ((found.dense,), (), ())
    assert "No network tried keeps the budget" in repr(shipped)
    assert "<td>gentle 50 %</td>" in shipped._repr_html_()
    nothing = replace(found, dense=None, candidates=())
    assert pt.Shipped(BudgetReport(nothing, "", Path("report.html")), ()).rows == ()


def test_a_path_that_is_markup_is_shown_as_text() -> None:
    empty = Tradeoff("a", "m", "d", "one_shot", "unstructured", 0.1, 1, (), (), {}, {})
    shipped = pt.Shipped(TradeoffReport(empty, "", Path("<b>") / "report.html"), ())
    assert "<b>" not in shipped._repr_html_()
    assert "&lt;b&gt;" in shipped._repr_html_()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"model": "small", "data": "fashion-mini"}, "sparsities: missing"),
        ({"model": 3, "data": "fashion-mini"}, "model: 3 is a int; must be a name"),
        ({"sparsities": 0.5}, "sparsities: 0.5 is a float; must be a list"),
        ({"sparsities": [1.5]}, "sparsities: 1.5 is not a share of weights"),
        ({"formats": "onnx"}, "formats: 'onnx' is a str; must be a list"),
        ({"source": "quick", "learning_rate": 0.1, "formats": ["onxn"]}, "formats: unknown 'onxn'"),
        ({"overrides": "seeds=1"}, "overrides: 'seeds=1' is a str"),
        ({"overrides": [1]}, "overrides: 1 is a int; must be a list of texts"),
        ({"source": torch.nn.Linear(2, 2)}, "is a Linear; must be a preset's name, a YAML file, a mapping or a Spec"),
        ({"weights": 3, "model": "small", "data": "fashion-mini"}, "weights: 3 is a int; must be a path"),
        ({"on_event": 3}, "on_event: 3 is a int"),
        ({"epochs": "1"}, "epochs: '1' is a str; must be a whole number of at least 1"),
        ({"epochs": True}, "epochs: True is a bool; must be a whole number of at least 1"),
        ({"epochs": -1}, "epochs: -1; must be a whole number of at least 1"),
        ({"seeds": "2"}, "seeds: '2' is a str; must be a whole number of at least 1"),
        ({"jobs": 1.5}, "jobs: 1.5 is a float; must be a whole number of at least 1"),
        ({"learning_rate": "0.1"}, "learning_rate: '0.1' is a str; must be a number"),
        ({"learning_rate": -1}, "learning_rate: -1; must be above 0"),
        ({"weights_key": 3}, "weights_key: 3 is a int; must be a name"),
        ({"mask": 1}, "mask: 1 is a int; must be a name, such as 'one_shot'"),
        ({"pattern": 3}, "pattern: 3 is a int; must be a name, such as 'unstructured'"),
        ({"formats": [3]}, "formats: 3 is a int; must be the name of a format"),
        ({"max_drop": "0.5"}, "max_drop: '0.5' is a str; must be a number"),
        ({"max_drop": -1}, "max_drop: -1; must be a number of at least 0"),
        ({"speedup": 2}, "speedup: '2', and no max_drop; say what may be lost"),
        ({"max_drop": 0.5, "speedup": True}, "speedup: True is a bool; must be a number, or a text"),
        ({"max_drop": 0.5, "size": 1000}, "size: '1000'; its unit must be one of B"),
        ({"max_drop": 0.5, "speedup": 2, "macs": 0.5}, "speedup: speedup and macs are given; give one of them"),
        ({"max_drop": 0.5, "source": "quick", "learning_rate": 0.1, "seeds": 1}, "seeds: 1; one seed has no spread"),
        ({"progress": "yes"}, "progress: 'yes' is a str; must be True, False or None"),
    ],
)
def test_a_wrong_request_is_one_line(asked: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(pt.ConfigError, match=re.escape(line)) as caught:
        pt.compress(**asked, store=tmp_path / "store", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("asked", "field", "others"),
    [
        ({}, "model", []),
        ({"model": "small"}, "data", []),
        ({"model": "small", "data": "fashion-mini", "weights_key": "ema"}, "weights_key", ["by weights"]),
        ({"model": "small", "data": "fashion-mini", "weights": "w.pt", "seeds": 2}, "seeds", ["weights is one"]),
        ({"source": "quick", "model": "small"}, "model", ["by overrides model="]),
        ({"source": "paper/fig2-resnet20-cifar10", "sparsities": [0.5]}, "learning_rate", []),
        ({"model": "small", "data": "fashion-mini", "mask": "one_shot,admm"}, "mask", ["max_drop"]),
        ({"model": "small", "data": "fashion-mini", "mask": "--mask"}, "mask", ["'--mask'"]),
        ({"source": "quick", "overrides": ["x"]}, "overrides", []),
    ],
)
def test_an_error_names_the_argument_and_no_option(asked: dict[str, Any], field: str, others: list[str]) -> None:
    with pytest.raises(pt.ConfigError) as caught:
        pt.compress(**asked)
    assert caught.value.field == field
    assert "--" not in str(caught.value).replace("'--mask'", "")
    assert all(words in str(caught.value) for words in others)
