"""A wrong request gets exit code 2 and one line that names the field, the value and what would be right."""

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunetune import __version__
from prunetune.cli import main as cli
from tests.support.data_makers import write_cifar10, write_cifar100, write_idx

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command in this process and in an empty folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNETUNE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("sys.path", list(sys.path))  # main puts the current folder first

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["prunetune", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return call


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("prunetune: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


SET = [
    ("model=resnte20", ["model", "resnte20", "resnet20"]),
    ("model=no_such_module:net", ["model", "no_such_module"]),
    ("data=fashion-mnii", ["data", "fashion-mnii", "fashion-mini"]),
    ("data=imagefolder:missing", ["data", "missing"]),
    ("data_args.trian_limit=5", ["data_args", "trian_limit", "train_limit"]),
    ("data_args.train_limit=0", ["train_limit", "0"]),
    ("data_args.train_limit=10001", ["train_limit", "10001", "10000"]),
    ("model_args.widht=8", ["model_args", "widht", "width"]),
    ("arms=[ticket, rewnid]", ["arms", "rewnid", "rewind"]),
    ("masks=[itertive]", ["masks", "itertive", "iterative"]),
    ("masks=[{kind: admm, criterion: magnitud}]", ["criterion", "magnitud", "magnitude"]),
    ("epohs=3", ["epohs", "epochs"]),
    ("recipe.epohs=3", ["epohs", "epochs"]),
    ("recipe.epochs=0", ["recipe.epochs", "0"]),
    ("recipe.schedule.milestones=[3, 9]", ["milestones", "9", "5 epochs"]),
    ("recipe.optimizer=sdg", ["recipe.optimizer", "sdg", "sgd"]),
    ("sparsities=[0.5, 1.0]", ["sparsities", "1.0"]),
    ("sparsities=[0]", ["sparsities", "0"]),
    ("sparsities=[-0.1, 0.5]", ["sparsities", "-0.1"]),
    ("learning_rates=[0]", ["learning_rates", "0"]),
    ("rewind=7ep", ["rewind", "7ep", "5 epochs"]),
    ("rewind=soon", ["rewind", "soon", "10ep"]),
    ("scope.exclude=[headd*]", ["scope.exclude", "headd*"]),
    ("verdict.alpha=2", ["verdict.alpha", "2"]),
    ("seeds=0", ["seeds", "0", "1"]),
    ("pretrained.theta_0=a.pt", ["pretrained", "theta_T"]),
    ("seeds", ["--set", "seeds"]),
]


@pytest.mark.parametrize("verb", ["audit", "plan"])
@pytest.mark.parametrize(("change", "parts"), SET, ids=[change for change, _ in SET])
def test_a_wrong_field(run: Run, verb: str, change: str, parts: list[str], tmp_path: Path) -> None:
    assert_refused(run(verb, "quick", "--set", change), *parts)
    assert not (tmp_path / "store").exists()


PRUNED = ["--model", "small", "--data", "fashion-mini", "--epochs", "1"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["audit", "qiuck"], ["qiuck", "quick"]),
        (["audit", "missing.yaml"], ["missing.yaml", "No such file"]),
        (["audit", "--seeds", "0"], ["seeds", "0"]),
        (["audit", "--seeds", "three"], ["--seeds", "three"]),
        (["audit", "--jobs", "0"], ["--jobs", "0"]),
        (["correlate", "a.pt", "b.pt", "-p", "much"], ["-p", "much"]),
        (["audit", "--executor", "loacl"], ["--executor", "loacl", "local"]),
        (["audit", "--address", "10.0.0.1:6379"], ["--address", "10.0.0.1:6379", "--executor ray"]),
        (["plan", "--slurm", "time=5"], ["--slurm", "time=5", "--executor slurm"]),
        (["audit", "--device", "tpu"], ["device", "tpu", "cpu"]),
        (["audit", "--stor", "x"], ["--stor", "--store"]),
        (["audti"], ["audti", "audit"]),
        (["report", "nowhere"], ["nowhere", "results.json"]),
        (["plan", "quick", "--simulate", "gpu=8"], ["--simulate", "gpu", "gpus"]),
        (["plan", "paper/all", "--simulate", "gpus=8"], ["--simulate", "paper/all", "group", "paper/"]),
        (["prune"], ["--model", "missing"]),
        (["prune", "qiuck"], ["qiuck", "quick"]),
        (["prune", "quick"], ["--learning-rate", "0.01, 0.1"]),
        (["prune", "quick", "--learning-rate", "much"], ["--learning-rate", "much"]),
        (["prune", *PRUNED, "--sparsity", "0.5,x"], ["--sparsity", "x"]),
        (["prune", *PRUNED, "--sparsity", "1.5"], ["sparsities", "1.5"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--export", "onxx"], ["--export", "onxx", "onnx"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--export", "onnx,"], ["--export", "onnx,", "empty entry"]),
        (["prune", *PRUNED, "--sparsity", "0.5,,0.9"], ["--sparsity", "0.5,,0.9", "empty entry"]),
        (["bench-kernels", "--batch", "1,,2"], ["--batch", "1,,2", "empty entry"]),
        (["correlate", "a.pt", "b.pt", "-p", ",0.1"], ["-p", ",0.1", "empty entry"]),
        (["plan", "quick", "--set", "arms=ticket,,reinit"], ["--set arms", "ticket,,reinit", "empty entry"]),
        (["plan", "quick", "--set", "scope.exclude=*.bias"], ["--set scope.exclude", "begins with *", "quotes"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--mask", "admn"], ["--mask", "admn", "admm"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--pattern", "chanel"], ["pattern", "chanel", "channel"]),
        (["prune", *PRUNED, "--sparsity", "0.8", "--pattern", "2:4"], ["2:4", "0.8", "0.5"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--device", "tpu"], ["device", "tpu", "cpu"]),
        (["prune", *PRUNED, "--sparsity", "0.5", "--weights", "no.pt"], ["--weights", "no.pt", "No such file"]),
        (["correlate", "a.pt"], ["B"]),
        (["correlate", "a.pt", "b.pt"], ["A", "a.pt", "No such file"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command(run: Run, arguments: list[str], parts: list[str]) -> None:
    assert_refused(run(*arguments), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: small\ndata: fashion-mini\nmodel: small\n", ["line 3", "model", "twice"]),
        ("recipe: {epochs: 2, epochs: 3}\n", ["epochs", "twice"]),
        ("a: [1, 2\nb: 3", ["not YAML", "line"]),
        ("\tmodel: small", ["not YAML"]),
        ("", ["is empty"]),
        ("- model\n", ["list", "mapping"]),
        ("data: fashion-mini\n", ["model", "missing"]),
        ("model: small\ndata: fashion-mini\nmodle_args: {}\n", ["modle_args", "model_args"]),
        ("model: small\ndata: fashion-mini\nseeds: [1]\n", ["seeds", "[1]"]),
        ("model: !!python/object/apply:os.system ['touch pwned']\ndata: x\n", ["not YAML"]),
    ],
)
def test_a_wrong_spec_file(run: Run, text: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert_refused(run("plan", "study.yaml"), "study.yaml" if "study.yaml" in parts else "", *parts)
    assert not (tmp_path / "pwned").exists()


def test_a_spec_that_is_no_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert_refused(run("plan", "study.yaml"), "study.yaml", "not YAML")


def test_a_store_or_a_report_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tiny = ["--set", "epochs=1", "--set", "sparsities=[0.5]", "--seeds", "1"]
    assert_refused(run("audit", "quick", *tiny, "--store", "file"), "store", "file")
    assert_refused(run("audit", "quick", *tiny, "--store", "file/below"), "store", "file")
    assert_refused(run("audit", "quick", *tiny, "--out", "file/below"), "out", "file")
    assert_refused(run("store", "ls", "--store", "file"), "store", "file")


@pytest.mark.parametrize("verb", ["ls", "verify", "gc"])
@pytest.mark.parametrize("there", [True, False])
def test_a_named_folder_that_holds_no_store(run: Run, tmp_path: Path, verb: str, there: bool) -> None:
    if there:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mine.txt").write_text("mine")
    why = "is no store" if there else "is not there"
    assert_refused(run("store", verb, "--store", "other"), f"store: '{tmp_path / 'other'}' {why}")
    assert (tmp_path / "other").exists() == there


def test_a_url_that_leads_nowhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tiny = ["--set", "epochs=1", "--set", "sparsities=[0.5]", "--seeds", "1"]
    nowhere, below = "nowhere://bucket/a", f"file://{tmp_path}/file/below"
    assert_refused(run("plan", *tiny, "--store", nowhere), nowhere, "Protocol not known", "s3://bucket/folder")
    assert_refused(run("audit", *tiny, "--store", below), below, "cannot be used: Not a directory")
    assert_refused(run("store", "ls", "--store", nowhere), nowhere)


def test_a_folder_that_is_no_store_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    tiny = ["--set", "epochs=1", "--set", "sparsities=[0.5]", "--seeds", "1"]
    code, out, err = run("audit", "quick", *tiny, "--store", "thesis")
    assert code == 2, out
    assert "chapter1.tex" in err
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


class _Hostile:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch pwned",)


HOSTILE = pickle.dumps({b"data": _Hostile()}, 2)
ARCHIVE10, ARCHIVE100 = "cifar-10-python.tar.gz", "cifar-100-python.tar.gz"
BATCH, TRAIN = "cifar-10-batches-py/data_batch_1", "cifar-100-python/train"
IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _label(content: bytes) -> bytes:
    """A batch file with one label that its set does not have."""
    batch = pickle.loads(content)
    batch[b"fine_labels" if b"fine_labels" in batch else b"labels"][3] = 100
    return pickle.dumps(batch, 2)


@pytest.mark.parametrize(
    ("data", "file", "damage", "parts"),
    [
        ("cifar10", ARCHIVE10, lambda _: b"not the archive", [ARCHIVE10, "MD5", "c58f30108f718f92721af3b95e74349a"]),
        ("cifar10", BATCH, lambda content: content[:-999], ["data_batch_1", "damaged"]),
        ("cifar10", BATCH, lambda _: HOSTILE, ["data_batch_1", "system", "not admitted"]),
        ("cifar10", BATCH, None, ["data_args.root", "data_batch_1", "cifar-10-batches-py/"]),
        ("cifar10", BATCH, _label, ["data_batch_1", "label 100", "0 to 9"]),
        ("cifar100", ARCHIVE100, lambda _: b"not it", [ARCHIVE100, "MD5", "eb9058c3a382ffc7106e4002c42a8d85"]),
        ("cifar100", TRAIN, lambda content: content[:-999], ["train", "damaged"]),
        ("cifar100", TRAIN, lambda _: HOSTILE, ["train", "system", "not admitted"]),
        ("cifar100", TRAIN, None, ["data_args.root", "holds no train;", "cifar-100-python/"]),
        ("cifar100", TRAIN, _label, ["train", "label 100", "0 to 99"]),
        ("fashion_mnist", f"{IMAGES}.gz", lambda _: gzip.compress(b"x")[:-1] + b"x", [IMAGES, "damaged"]),
        ("fashion_mnist", IMAGES, lambda content: content[:-999], [IMAGES, "14681", "15680"]),
        ("fashion_mnist", IMAGES, lambda _: HOSTILE, [IMAGES, "IDX", "0x00000803"]),
        ("fashion_mnist", LABELS, None, ["data_args.root", LABELS]),
        ("fashion_mnist", LABELS, lambda content: content[:-1] + b"\x0a", [LABELS, "10", "0 to 9"]),
    ],
)
def test_data_that_are_damaged(
    run: Run, data: str, file: str, damage: Callable[[bytes], bytes] | None, parts: list[str], tmp_path: Path
) -> None:
    """An archive, or a .gz, lies alone in the folder that is named; other files lie in a sound copy of the set."""
    if not file.endswith(".gz"):
        {"cifar10": write_cifar10, "cifar100": write_cifar100, "fashion_mnist": write_idx}[data](tmp_path / "data")
    path = tmp_path / "data" / file
    path.parent.mkdir(exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if damage is not None:
        path.write_bytes(damage(content))
    spec = f"model: small\ndata: {data}\ndata_args: {{root: data}}\nrecipe: {{epochs: 1}}\nsparsities: [0.5]\n"
    (tmp_path / "study.yaml").write_text(spec)
    assert_refused(run("audit", "study.yaml"), *parts)
    assert not (tmp_path / "pwned").exists()


def test_results_that_are_damaged(run: Run, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema_version": 1, "study"')
    assert_refused(run("report", "."), "results.json")
    (tmp_path / "results.json").write_text(json.dumps({"schema_version": 99}))
    assert_refused(run("report", "."), "results.json", "99")


@pytest.fixture
def checkpoints(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(10, 10, generator=generator)
    save_file({"w": weights}, tmp_path / "dense.safetensors")
    save_file({"w": torch.randn(10, 10, generator=generator)}, tmp_path / "other.safetensors")
    save_file({"w": weights.T.reshape(5, 20).contiguous()}, tmp_path / "shape.safetensors")
    save_file({"w": weights.where(weights > weights.median(), 0)}, tmp_path / "half.safetensors")
    save_file({"w": weights * 2}, tmp_path / "not_a_mask.safetensors")
    content = (tmp_path / "dense.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-10])


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("name", ["dense", "cut", "hostile"])
def test_weights_that_are_not_the_models(run: Run, name: str, tmp_path: Path) -> None:
    """Of another model, truncated, or a pickle that would run code: said before anything is trained."""
    (tmp_path / "hostile.safetensors").write_bytes(HOSTILE)
    file = f"{name}.safetensors"
    assert_refused(run("prune", *PRUNED, "--sparsity", "0.5", "--weights", file), "--weights", file)
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["shape.safetensors"], ["w", "(10, 10)", "(5, 20)"]),
        (["cut.safetensors"], ["B", "cut.safetensors"]),
        (["half.safetensors", "-p", "0.5"], ["0.5", "w"]),
        (["half.safetensors", "-p", "0.7"], ["0.7", "w", "0.5"]),
        (["other.safetensors", "-p", "0"], ["p", "0"]),
        (["other.safetensors", "-p", "1.5"], ["p", "1.5"]),
        (["other.safetensors", "--mask", "nowhere"], ["mask", "nowhere"]),
        (["other.safetensors", "--mask", "not_a_mask.safetensors"], ["mask", "w", "0 and 1"]),
        (["other.safetensors", "--include", "v*"], ["--include", "v*", "w"]),
    ],
    ids=" ".join,
)
def test_correlate_refuses(run: Run, arguments: list[str], parts: list[str]) -> None:
    assert_refused(run("correlate", "dense.safetensors", *arguments), *parts)


@pytest.mark.usefixtures("checkpoints")
def test_correlate_answers(run: Run) -> None:
    code, out, err = run("correlate", "dense.safetensors", "half.safetensors", "-p", "0.2")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["tensor", "shape", "R_0.2"]
    _, listed, _ = run("correlate", "dense.safetensors", "half.safetensors", "-p", "0.2,0.4", "-p", "0.3")
    assert listed.splitlines()[0].split() == ["tensor", "shape", "R_0.2", "R_0.4", "R_0.3"]
    code, out, _ = run("correlate", "dense.safetensors", "dense.safetensors", "--json")
    assert code == 0
    assert [row["value"] for row in json.loads(out)["correlations"]] == [1.0] * 5


def test_help_version_presets_and_an_empty_store(run: Run) -> None:
    assert run("--version") == (0, f"prunetune {__version__}\n", "")
    code, out, _ = run("presets")
    assert code == 0
    assert out.startswith("quick")
    code, out, _ = run("store", "verify")
    assert (code, out) == (0, "0 steps read, 0 damaged\n")
    for verb in ("audit", "plan", "prune", "correlate", "report", "store", "presets"):
        code, out, _ = run(verb, "--help")
        assert code == 0
        assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--version"], ["torch", "scipy", "matplotlib", "numpy"]),
        (["plan", "paper/a1", "--store", "store"], ["matplotlib", "sympy"]),  # a group, of which nothing is timed
    ],
)
def test_it_is_quick_because_heavy_imports_are_lazy(arguments: list[str], heavy: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from prunetune.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
print([name for name in {heavy} if name in sys.modules])
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
