"""What is released is what is here: one version, every data file, and hooks that run what `make check` runs."""

import re
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml

import prunetune

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_that_of_the_newest_section_of_the_changelog() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == prunetune.__version__


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    package = ROOT / "src" / "prunetune"
    listed = subprocess.run(["git", "ls-files"], cwd=package, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("which files are the package's is asked from git, and here is no checkout")
    data = PROJECT["tool"]["setuptools"]["package-data"]
    names = [name for name in listed.stdout.splitlines() if not name.endswith(".py") and (package / name).exists()]
    assert "py.typed" in names
    assert [name for name in names if not is_packaged(PurePosixPath(name), data)] == []


def is_packaged(path: PurePosixPath, data: dict[str, list[str]]) -> bool:
    """By a pattern of the package, from its root, or by one of all packages, from any folder."""
    own = any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in data["prunetune"])
    return own or any(path.match(pattern) for pattern in data["*"])


def test_the_hooks_run_what_make_check_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in repository["hooks"]] == commands
