"""`python -O` removes every `assert`: nothing of prunetune rests on one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunetune

ROOT = Path(prunetune.__file__).parent
PLANTED = [
    "test_sparse_arms_that_are_dense", "test_a_start_with_one_other_bit", "test_callbacks_that_never_reset_the_weights",
]  # fmt: skip


def test_there_is_none() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__")
    ]
    assert found == []


@pytest.mark.slow
def test_planted_bugs_are_caught_without_assertions() -> None:
    """Those tests fail by `pytest.raises`, which is no `assert`."""
    tests = [f"{Path(__file__).parent / 'execution' / 'test_invariants.py'}::{name}" for name in PLANTED]
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestConfigWarning"]
    command = [sys.executable, "-O", "-m", "pytest", *quiet, *tests]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
