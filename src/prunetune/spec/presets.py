"""Specs that come with prunetune, by name."""

from pathlib import Path
from typing import Any

from prunetune.spec import paper_presets as paper
from prunetune.spec import thesis_presets as thesis

TABLES = (paper, thesis)  # each with its STUDIES, GROUPS, and `fields` and `summary` of a study's name


FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """The presets' names, as `prunetune audit NAME` takes them: those of a table in its order."""
    return (*_files(), *(name for table in TABLES for name in table.STUDIES))


def members(name: str) -> tuple[str, ...]:
    """The presets that a group stands for (`paper/all`, `paper/fig6`, `thesis/all`); nothing for any other name."""
    return next((table.GROUPS[name] for table in TABLES if name in table.GROUPS), ())


def fields(name: str) -> dict[str, Any] | None:
    """The spec of a preset that stands in a table, before anything in it is checked; None for any other name."""
    return next((table.fields(name) for table in TABLES if name in table.STUDIES), None)


def path(name: str) -> Path:
    """The file of a preset that has one."""
    return FOLDER / f"{name}.yaml"


def summaries() -> dict[str, str]:
    """What each preset is, in a line, by name."""
    files = {name: path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name in _files()}
    return files | {name: table.summary(name) for table in TABLES for name in table.STUDIES}


def _files() -> tuple[str, ...]:
    return tuple(sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml")))
