"""`csv:FILE`: columns to inputs and a target, cut and standardised as a loop over rows does it."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.data import ExampleSets, identify, load_examples
from tests.support.refusals import refused


def table(folder: Path, rows: int = 40, colour: str = "{c}") -> Path:
    """Columns: an id, a number, a constant, one of three colours, and a price of which a number decides."""
    lines = ["id,size,flat,colour,price"]
    for i in range(rows):
        name = colour.format(c=["red", "blue", "green"][i % 3])
        lines.append(f"{i},{(7 * i) % 11 + 0.5},3,{name},{100 + 2 * ((7 * i) % 11)}")
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path, **arguments: Any) -> ExampleSets:
    data = load_examples(identify(f"csv:{path}", arguments))
    assert isinstance(data, ExampleSets)
    return data


def test_numbers_are_standardised_by_the_rows_that_are_trained_on(tmp_path: Path) -> None:
    data = read(table(tmp_path), exclude=["colour"])
    x, y = data.train.gather(torch.arange(len(data.train)))
    ids = [round(float(v)) for v in x[:, 0] * 1]
    assert (len(data.train), len(data.test), len(data.validation), data.input_shape) == (32, 8, 0, (3,))
    assert len(ids) == 32
    for column in (x[:, 0], x[:, 1], y):
        assert statistics.fmean(column.tolist()) == pytest.approx(0, abs=1e-5)
        assert statistics.pstdev(column.tolist()) == pytest.approx(1, abs=1e-5)
    assert not x[:, 2].any()
    assert torch.allclose(x[:, 1], y, atol=1e-5)  # the price is a straight line in the size


def test_every_row_is_in_one_part(tmp_path: Path) -> None:
    data = read(table(tmp_path), exclude=["colour", "flat"], target="id", classes=True)
    found = [part.gather(torch.arange(len(part))).targets.tolist() for part in (data.train, data.test)]
    assert sorted(found[0] + found[1]) == list(range(40))
    assert found == [sorted(part) for part in found]


def test_texts_are_classes_in_sorted_order(tmp_path: Path) -> None:
    data = read(table(tmp_path), target="colour", exclude=["id"])
    sizes = data.train.gather(torch.arange(3))
    assert sizes.targets.dtype == torch.int64
    everything = torch.cat([part.gather(torch.arange(len(part))).targets for part in (data.train, data.test)])
    assert torch.bincount(everything).tolist() == [13, 13, 14]  # blue, green, red


def test_the_file_is_the_identity(tmp_path: Path) -> None:
    path = table(tmp_path)
    first = identify(f"csv:{path}", {"exclude": ["colour"]})
    assert first == identify(f"csv:{path}", {"exclude": ["colour"]})
    path.write_text(path.read_text().replace("3,red", "4,red", 1))
    assert identify(f"csv:{path}", {"exclude": ["colour"]}).digest != first.digest
    with refused("data", "not what it was"):
        load_examples(first)


@pytest.mark.parametrize(
    ("text", "arguments", "field", "mentions"),
    [
        ("a,b\n1,2\n3,x\n5,6\n", {"target": "a"}, "data", ["row 3", "b", "x", "exclude"]),
        ("a,b\n1,2\n3\n5,6\n", {}, "data", ["row 3", 2]),
        ("a,b\n1,2\n", {}, "data", ["1 row"]),
        ("a,a\n1,2\n3,4\n5,6\n", {}, "data", ["each once"]),
        ("", {}, "data", ["[]"]),
        ("a,b\n1,2\n3,4\n5,6\n", {"target": "c"}, "data_args.target", ["c"]),
        ("a,b\n1,2\n3,4\n5,6\n", {"exclude": ["a"]}, "data", ["beside the target", "b"]),
        ("a,b\n1,inf\n3,4\n5,6\n", {"target": "a"}, "data", ["inf"]),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(
    text: str, arguments: dict[str, Any], field: str, mentions: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with refused(field, *mentions):
        load_examples(identify(f"csv:{path}", arguments))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with refused("data", "csv:FILE"):
        identify(f"csv:{tmp_path / 'no.csv'}")
    with refused("data", "csv:FILE"):
        identify("csv:")
