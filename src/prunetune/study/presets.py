"""The studies that come with prunetune: YAML files beside this module (first line: the summary), and the paper's."""

from pathlib import Path

from prunetune.study import paper

FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """The presets' names, as `prunetune audit NAME` takes them: the paper's in the order of its figures."""
    return (*_files(), *paper.STUDIES)


def members(name: str) -> tuple[str, ...]:
    """The presets that a group stands for (`paper/all`, `paper/fig6`); nothing for any other name."""
    return paper.GROUPS.get(name, ())


def path(name: str) -> Path:
    """The file of a preset that has one."""
    return FOLDER / f"{name}.yaml"


def summaries() -> dict[str, str]:
    """What each preset is, in a line, by name."""
    files = {name: path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name in _files()}
    return files | {name: paper.summary(name) for name in paper.STUDIES}


def _files() -> tuple[str, ...]:
    return tuple(sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml")))
