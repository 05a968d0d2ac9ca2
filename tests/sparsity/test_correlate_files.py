"""`correlate` on files of models that nobody here has seen."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunetune.sparsity.correlate_files import correlate_files, correlation_table
from tests.support.refusals import refused


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two layers of ten and four weights whose largest ones can be counted by hand."""
    save_file(
        {
            "body.weight": torch.tensor([[9.0, 8, 7, 6, 5], [4, 3, 2, 1, 0.5]]),
            "head.weight": torch.tensor([[4.0, 3], [2, 1]]),
            "head.bias": torch.tensor([100.0, 100]),
            "steps": torch.tensor([[1, 2], [3, 4]]),
        },
        tmp_path / "a.safetensors",
    )
    save_file(
        {
            "body.weight": torch.tensor([[9.0, -8, 0.1, 0.2, 0.3], [5, 6, 7, 0.4, 0.5]]),
            "head.weight": torch.tensor([[1.0, 2], [-3, 4]]),
            "head.bias": torch.tensor([1.0, 2]),
            "steps": torch.tensor([[1, 2], [3, 4]]),
        },
        tmp_path / "b.safetensors",
    )
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_counts_by_hand(files: tuple[Path, Path]) -> None:
    # p = .5: body takes 5 of 10: {0,1,2,3,4} and {0,1,5,6,7}: 2 shared; head takes 2 of 4: {0,1} and {2,3}: none.
    found = correlate_files(*files, None, [0.5], [], [])
    assert list(found["tensors"]) == ["body.weight", "head.weight"]  # no bias, no integers
    (row,) = found["correlations"]
    assert row["value"] == 2 / 7
    assert row["per_layer"] == {"body.weight": 2 / 5, "head.weight": 0.0}
    assert row["expected"] == pytest.approx((25 / 10 + 4 / 4) / 7)


def test_include_exclude_and_mask(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert correlate_files(*files, None, [0.5], ["body*"], [])["correlations"][0]["value"] == 2 / 5
    assert correlate_files(*files, None, [0.5], [], ["body*"])["correlations"][0]["value"] == 0.0
    # The mask keeps weights 0, 1, 2 and 5 of the body: of these, the largest two are {0, 1} on both sides.
    kept = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    save_file({"body.weight": kept}, tmp_path / "mask.safetensors")
    (row,) = correlate_files(*files, tmp_path / "mask.safetensors", [0.5], [], [])["correlations"]
    assert row["per_layer"] == {"body.weight": 1.0, "head.weight": 0.0}  # the head is not masked: it counts whole
    assert row["value"] == 2 / 4


def test_layers_come_in_their_natural_order_and_tiny_ones_have_no_figure(tmp_path: Path) -> None:
    tensors = {f"layers.{i}.weight": torch.ones(1, 2 + i) for i in (10, 2, 0)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = correlate_files(tmp_path / "a.safetensors", tmp_path / "a.safetensors", None, [0.1], [], [])
    assert list(found["tensors"]) == ["layers.0.weight", "layers.2.weight", "layers.10.weight"]
    assert found["correlations"][0]["per_layer"] == {  # round(.2), round(.4), round(1.2) of 2, 4, 12 weights
        "layers.0.weight": None,
        "layers.2.weight": None,
        "layers.10.weight": 1.0,
    }
    assert correlation_table(found).splitlines()[2].endswith("–")


def test_table_shows_every_tensor_the_total_and_the_chance_level(files: tuple[Path, Path]) -> None:
    lines = correlation_table(correlate_files(*files, None, [0.2, 0.5], [], [])).splitlines()
    assert lines[0].split() == ["tensor", "shape", "R_0.2", "R_0.5"]
    assert lines[2].split() == ["body.weight", "2×5", "1.0000", "0.4000"]
    assert lines[-2].split()[0] == "all"
    assert lines[-1].startswith("if independent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": ["bdoy*"]}, ("--include", "body.weight", "head.weight", "matches")),
        ({"exclude": ["*"]}, ("--exclude", "left")),
        ({"p": [1.0]}, ("p", "1.0")),
        ({"p": [0.0]}, ("p", "0.0")),
    ],
)
def test_bad_arguments(files: tuple[Path, Path], arguments: dict[str, list[str]], message: tuple[str, ...]) -> None:
    call = {"p": [0.2], "include": [], "exclude": [], **arguments}
    with refused(*message) as caught:
        correlate_files(*files, None, **call)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_nothing_shared_and_shapes_that_disagree(files: tuple[Path, Path], tmp_path: Path) -> None:
    save_file({"other.weight": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    with refused("", "floating"):
        correlate_files(files[0], tmp_path / "c.safetensors", None, [0.2], [], [])
    save_file({"body.weight": torch.ones(5, 2)}, tmp_path / "d.safetensors")
    with refused("", "body.weight"):
        correlate_files(files[0], tmp_path / "d.safetensors", None, [0.2], [], [])


def test_a_sparse_side_needs_p_below_its_density(files: tuple[Path, Path], tmp_path: Path) -> None:
    weights = torch.zeros(10)
    weights[:3] = torch.tensor([3.0, 2, 1])
    save_file({"body.weight": weights.reshape(2, 5)}, tmp_path / "sparse.safetensors")
    correlate_files(files[0], tmp_path / "sparse.safetensors", None, [0.2], ["body*"], [])
    with refused("p", "body.weight", "0.3"):
        correlate_files(files[0], tmp_path / "sparse.safetensors", None, [0.3], ["body*"], [])


def test_the_mask_may_be_a_checkpoint_as_torch_prunes_it(files: tuple[Path, Path], tmp_path: Path) -> None:
    kept = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0, 0, 0]).reshape(2, 5)
    save_file({"body.weight": kept}, tmp_path / "mask.safetensors")
    in_form = {"body.weight_orig": torch.randn(2, 5), "body.weight_mask": kept.float(), "head.weight": torch.ones(1)}
    torch.save({"state_dict": in_form}, tmp_path / "pruned.pt")
    plain, pruned = (
        correlate_files(*files, tmp_path / name, [0.5], [], [])["correlations"]
        for name in ("mask.safetensors", "pruned.pt")
    )
    assert plain == pruned


def test_constants_and_equal_layers_are_told(tmp_path: Path) -> None:
    drawn = torch.arange(1.0, 13).reshape(3, 4)
    first = {"body": drawn, "frozen": drawn + 1, "head": torch.zeros(3, 4), "log": torch.ones(3, 4)}
    save_file(first, tmp_path / "a.safetensors")
    save_file(first | {"body": drawn.flip(0).contiguous(), "head": drawn.clone()}, tmp_path / "b.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    found = correlate_files(*files, None, [0.25], [], [])
    assert found["left_out"] == {"head": "is zero throughout", "log": "has one magnitude alone"}
    assert found["equal"] == ["frozen"]
    assert found["correlations"][0]["per_layer"] == {"body": 0.0, "frozen": 1.0}
    assert correlation_table(found).splitlines()[-5:] == [
        "Left out, for they are constants (--include NAME compares them):",
        "  head is zero throughout",
        "  log has one magnitude alone",
        "The same on both sides, and counted (--exclude NAME leaves them out):",
        "  frozen",
    ]
    named = correlate_files(*files, None, [0.25], ["log", "b*"], [])
    assert (list(named["tensors"]), named["left_out"]) == (["body", "log"], {})
    itself = correlate_files(files[1], files[1], None, [0.25], [], [])
    assert (itself["correlations"][0]["value"], itself["equal"]) == (1.0, [])
