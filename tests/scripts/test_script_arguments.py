"""What the scripts say of themselves, and of arguments that they cannot use: a line, never a traceback."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def call(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("name", ["recompute.py", "soak.py"])
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} ")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("recompute.py", []),
        ("recompute.py", ["none", "none", "none"]),
        ("soak.py", ["two"]),
        ("soak.py", ["2", "0", "1"]),
    ],
)
def test_arguments_it_cannot_use(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{name}: error: ")
