"""The lines that users meet most, word by word. Elsewhere tests ask for the field and the values that a line names."""

import shlex
import sys
from pathlib import Path

import pytest

from prunetune.cli import main as cli

GOLDEN = Path(__file__).parents[1] / "golden" / "refusals.txt"
PAIRS = [text.splitlines() for text in GOLDEN.read_text(encoding="utf-8").split("\n\n")[1:]]


@pytest.mark.parametrize(("command", "line"), PAIRS, ids=[command for command, _ in PAIRS])
def test_a_refusal_word_by_word(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNETUNE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("sys.path", list(sys.path))  # main puts the current folder first
    monkeypatch.setattr("sys.argv", shlex.split(command.removeprefix("$ ")))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert capsys.readouterr() == ("", f"{line}\n")
    assert ended.value.code == 2
