"""The studies that come with prunetune: YAML files beside this module, the first line of each its summary."""

from pathlib import Path

FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """The presets' names, as `prunetune audit NAME` takes them."""
    return tuple(sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")))


def path(name: str) -> Path:
    """The file of a preset."""
    return FOLDER / f"{name}.yaml"


def summaries() -> dict[str, str]:
    """What each preset is, in a line, by name."""
    return {name: path(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name in names()}
