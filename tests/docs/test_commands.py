"""Every `prunetune` command that a page shows is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from prunetune.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "studies" / "README.md"])
# Where each verb runs for real. Commands that need a cluster, a bucket, CIFAR-10 or files of a reader's own are parsed
# alone; the tests of those parts run them against what stands in for it.
RUN_IN = {
    "audit": "tests/cli/test_audit.py",
    "plan": "tests/cli/test_plan_summary.py",
    "prune": "tests/cli/test_prune_verb.py",
    "sensitivity": "tests/test_layer_sensitivity.py",
    "bench-kernels": "tests/deploy/test_break_even.py",
    "correlate": "tests/cli/test_audit.py",
    "report": "tests/cli/test_audit.py",
    "compare": "tests/report/test_comparison.py",
    "runs": "tests/cli/test_audit.py",
    "presets": "tests/cli/test_paper_group.py",
    "store": "tests/cli/test_audit.py",
}


def _commands(text: str) -> Iterator[str]:
    """The commands of a page: lines of code that begin with `prunetune`, joined where they go on."""
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        fenced ^= line.startswith("```")
        code = line if fenced else line.removeprefix("    ") * line.startswith("    ")
        if re.match(r"(?:srun )?prunetune(?:$| )", code):
            yield code


def _arguments(line: str) -> list[str]:
    """The words after `prunetune`, without comments; what a synopsis leaves open (`RUN…`, `[--out DIR]`) is filled."""
    words = shlex.split(re.sub(r"…|\[(?=--)|(?<=[A-Z])\]|(?<=out)\]", "", re.sub(r"\s#.*", "", line)))
    return [{"S": "0.5", "N": "2"}.get(word, word.rstrip("]")) for word in words[words.index("prunetune") + 1 :]]


SHOWN = sorted({(page.name, line) for page in PAGES for line in _commands(page.read_text())})


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=lambda value: str(value)[:60])
def test_a_command_of_a_page_is_taken(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = _arguments(line)
    if words == ["--help"]:
        return
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("prunetune", words)  # raises for an unknown option, a wrong type and a missing argument


def test_every_verb_that_is_shown_runs_somewhere() -> None:
    verbs = {_arguments(line)[0] for _, line in SHOWN} - {"--help"}
    assert verbs <= RUN_IN.keys()
    for verb, path in RUN_IN.items():
        assert f'"{verb}"' in (ROOT / path).read_text(), f"{path} runs no {verb}"
