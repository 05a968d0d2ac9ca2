"""What the command line prints where the output is not UTF-8, and of what other people's files hold."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from prunetune.cli import main as cli
from prunetune.cli import reading
from prunetune.errors import printable
from prunetune.execution.events import Waiting
from prunetune.execution.progress import Progress

VERDICT = "θ_0 is a ticket, R_p ≥ .2, kept ✓"
ESCAPE = "\x1b]0;title\x07"


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *lines: str) -> bytes:
    """What `store ls` writes to a stream of that encoding for steps of these descriptions."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["prunetune", "store", "ls"])
    monkeypatch.setattr(reading, "_open", lambda store: SimpleNamespace(ls=lambda: lines))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sys.stdout.flush()
    assert ended.value.code == 0
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_no_encoding_ends_the_program(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    found = printed(monkeypatch, encoding, VERDICT, "a name that is not UTF-8: caf\udce9").decode(encoding)
    shown = VERDICT if encoding == "utf-8" else "\\u03b8_0 is a ticket, R_p \\u2265 .2, kept \\u2713"
    assert found.splitlines() == [shown, "a name that is not UTF-8: caf\\udce9"]


def test_escape_sequences_of_files_are_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, "utf-8", f"Train {ESCAPE} key") == b"Train \\x1b]0;title\\x07 key\n"


def test_lines_and_spaces_are_left_as_they_are() -> None:
    assert printable("a\n\tb\u00a0%") == "a\n\tb\u00a0%"
    assert printable("\u202eback\r") == "\\u202eback\\r"


def test_another_machines_name_is_one_line_without_escapes() -> None:
    raw = io.StringIO()
    progress = SimpleNamespace(
        console=Console(file=raw), epochs={}, labels={}, _name=lambda key: key, _show=lambda: None
    )
    progress._tell = lambda event: Progress._tell(progress, event)  # type: ignore[arg-type]
    progress._say = lambda text: Progress._say(progress, text)  # type: ignore[arg-type]
    Progress.__call__(progress, Waiting("key", f"host{ESCAPE}\ndone", "soon"))  # type: ignore[arg-type]
    assert raw.getvalue() == "waiting for another process (host\\x1b]0;title\\x07 done): key; done here soon\n"


def test_a_working_directory_that_was_deleted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "prunetune: working directory: it was deleted; change to a folder that is there\n"
    )
