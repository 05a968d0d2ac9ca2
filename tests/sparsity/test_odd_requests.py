"""What people hand to `prune`, `correlation` and `Scope`: read where it is clear, else refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import prunetune as pt
from prunetune.errors import ConfigError
from prunetune.sparsity.correlate_files import correlate_files
from prunetune.sparsity.model_files import read_state


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("sparsity", ["0.5", b"0.5", True, None, [0.5], torch.ones(2)])
def test_a_sparsity_that_is_no_number(sparsity: Any) -> None:
    assert refusal(lambda: pt.compute_mask(mlp(), sparsity)).startswith("sparsity: ")


def test_a_sparsity_of_one_element() -> None:
    assert pt.compute_mask(mlp(), torch.tensor(0.5)).density == 0.5  # type: ignore[arg-type]


def test_a_text_is_one_pattern() -> None:
    assert pt.Scope(exclude="0.*") == pt.Scope(exclude=("0.*",))  # type: ignore[arg-type]
    assert list(pt.compute_mask(mlp(), 0.5, scope=pt.Scope(exclude="0.*"))) == ["2.weight"]  # type: ignore[arg-type]
    assert refusal(lambda: pt.Scope(include=(3,))).startswith("scope.include: 3 is no text")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [mlp().to("meta"), nn.LazyLinear(3)], ids=["meta", "lazy"])
def test_a_model_without_numbers(model: nn.Module, tmp_path: Path) -> None:
    for call in (
        lambda: pt.compute_mask(model, 0.5),
        lambda: pt.sparsity_report(model),
        lambda: pt.export(model, None, tmp_path / "m.safetensors"),
    ):
        assert refusal(call).startswith("model: '")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(2, 8))])
def test_a_torchscript_program(make: Callable[[nn.Module], Any]) -> None:
    assert "TorchScript" in refusal(lambda: pt.compute_mask(make(mlp()), 0.5))
    assert refusal(lambda: pt.compute_mask(nn.Sequential(make(mlp())), 0.5)).startswith(
        "model: '0' is a TorchScript program"
    )


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits(kind: torch.dtype, tmp_path: Path) -> None:
    model = nn.Linear(8, 8, bias=False)
    model.weight = nn.Parameter(model.weight.detach().to(kind), requires_grad=False)
    assert "before it is quantised" in refusal(lambda: pt.compute_mask(model, 0.5))
    assert pt.sparsity_report(model).nonzeros == int(model.weight.float().count_nonzero())
    for name in "ab":
        save_file(
            {"w": torch.randn(8, 8, generator=torch.Generator().manual_seed(ord(name))).to(kind)}, tmp_path / name
        )
    a, b = ({"w": read_state(tmp_path / name)["w"].float()} for name in "ab")
    found = correlate_files(tmp_path / "a", tmp_path / "b", None, [0.25], [], [])
    assert found["correlations"][0]["value"] == float(pt.correlation(a, b, 0.25))


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantised_tensors_in_a_file(tmp_path: Path) -> None:
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, tmp_path / "q.pt")
    assert "quantised" in refusal(lambda: read_state(tmp_path / "q.pt"))


def test_a_mask_is_saved_into_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mask = pt.compute_mask(mlp(), 0.5)
    mask.save("~/out/mask.safetensors")
    assert pt.Mask.load(tmp_path / "out" / "mask.safetensors") == mask == pt.Mask.load("~/out/mask.safetensors")
    (tmp_path / "file").touch()
    assert refusal(lambda: mask.save(tmp_path / "file" / "m")).startswith("mask: cannot write")
    pt.export(mlp(), None, "~/made/m.safetensors")
    assert read_state("~/made/m.safetensors").keys() == mlp().state_dict().keys()
    assert (tmp_path / "made" / "m.safetensors").exists()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(11, 8)
        self.a = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.a(self.e(ids).mean(1))


class Named(nn.Linear):
    def forward(self, input: Tensor) -> Any:  # noqa: A002 - torch's name
        return {"logits": super().forward(input)}


X, Y, IDS = torch.randn(4, 8), torch.arange(4), torch.arange(20).reshape(4, 5) % 11
GRADIENTS = ["snip", "taylor", "grasp"]


def of(model: nn.Module, criterion: str, batches: Any, **options: Any) -> pt.Mask:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return pt.compute_mask(model, 0.5, criterion=criterion, batches=batches, **options)


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_inputs_by_name_and_one_pair_are_what_they_are_by_place(criterion: str) -> None:
    wanted = of(Words(), criterion, [(IDS, Y)])
    assert of(Words(), criterion, [({"ids": IDS}, Y)]) == wanted
    assert of(Words(), criterion, [((IDS,), Y)]) == wanted
    assert of(Words(), criterion, (IDS, Y)) == wanted
    with torch.inference_mode():
        batch = (IDS.clone(), Y.clone())
        assert pt.compute_mask(Words(), 0.5, criterion=criterion, batches=[batch]).density == 0.5


@pytest.mark.parametrize("criterion", [*GRADIENTS, "synflow"])
@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([{"ids": X, "labels": Y}], "batches: one is a dict; each must be a pair"),
        ([(X, Y, Y)], "batches: one is 3 things; each must be a pair"),
        ([X, Y, X], "batches: one is a Tensor"),
        ([("text", Y)], "batches: inputs must be a tensor"),
        ([(X[:, :5], Y)], "batches: the network cannot take them: it raised RuntimeError"),
    ],
)
def test_batches_that_are_no_pairs(criterion: str, batches: Any, words: str) -> None:
    assert refusal(lambda: of(mlp(), criterion, batches)).startswith(words)


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_a_loss_that_raises(criterion: str) -> None:
    assert refusal(lambda: of(mlp(), criterion, [(X, Y + 9)])).startswith("loss: it raised IndexError")


def test_outputs_that_are_a_dict() -> None:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs["logits"], targets)

    wanted = of(nn.Linear(8, 4), "snip", [(X, Y)])
    assert of(Named(8, 4), "snip", [(X, Y)], loss=loss) == wanted
    assert of(Named(8, 4), "synflow", [(X, Y)]) == of(nn.Linear(8, 4), "synflow", [(X, Y)])
    assert "temperature=1" in refusal(lambda: of(Named(8, 4), "grasp", [(X, Y)], loss=loss))


def test_synflow_feeds_ones_and_no_words() -> None:
    assert "inputs are int64" in refusal(lambda: of(Words(), "synflow", [(IDS, Y)]))


class Keeping(nn.Module):
    """Keeps an activation with its history, as for Grad-CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.b = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = [self.a(x)]
        return self.b(self.kept[0].relu())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        Keeping,
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4)),
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4)),
    ],
    ids=["kept activation", "spectral norm", "weight norm"],
)
def test_a_model_that_keeps_tensors_with_a_history(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    model(X).sum().backward()
    assert pt.compute_mask(model, 0.5, criterion="snip", batches=[(X, Y)]).density == 0.5
    pt.export(model, None, tmp_path / "m.safetensors")
    assert read_state(tmp_path / "m.safetensors").keys() == model.state_dict().keys()


def test_a_model_that_cannot_be_copied(tmp_path: Path) -> None:
    model = mlp()
    model.source = (i for i in range(3))  # type: ignore[assignment]
    words = refusal(lambda: pt.export(model, None, tmp_path / "m.safetensors"))
    assert words.startswith("model: cannot be copied: TypeError: cannot pickle 'generator'")
