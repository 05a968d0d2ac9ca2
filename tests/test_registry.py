"""The registry: registration, look-up with hints, and things that other packages bring through entry points."""

import doctest
import hashlib
from pathlib import Path

import pytest

import prunetune.registry
from prunetune.errors import RequestError
from prunetune.registry import Registry


@pytest.fixture
def colours() -> Registry[str]:
    registry: Registry[str] = Registry("test_colour")
    registry.register("red")("#f00")
    registry.register("green")("#0f0")
    return registry


def install(folder: Path, entry_points: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a distribution on the path as an installer would; MODULE in `entry_points` is its one module."""
    module = "plugin_" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points.replace("MODULE", module))
    monkeypatch.syspath_prepend(folder)


def test_the_example_of_the_docstring_runs() -> None:
    result = doctest.testmod(prunetune.registry)
    assert result.attempted > 0
    assert result.failed == 0


def test_what_is_registered_is_found_and_listed_in_order(colours: Registry[str]) -> None:
    assert (colours["red"], colours["green"]) == ("#f00", "#0f0")
    assert list(colours) == ["green", "red"]
    assert "red" in colours
    assert "blue" not in colours
    assert 7 not in colours


def test_register_returns_the_very_thing() -> None:
    registry: Registry[object] = Registry("test_colour")
    thing = object()
    assert registry.register("thing")(thing) is thing
    assert registry["thing"] is thing


def test_a_taken_name_is_refused_and_keeps_its_thing(colours: Registry[str]) -> None:
    with pytest.raises(ValueError, match=r"^test_colour 'red' is registered already$"):
        colours.register("red")("#e00")
    assert colours["red"] == "#f00"


def test_the_same_thing_may_be_registered_twice(colours: Registry[str]) -> None:
    colours.register("red")(colours["red"])
    assert list(colours) == ["green", "red"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gren", "test_colour: unknown 'gren'; did you mean 'green'?"),
        ("xyz", "test_colour: unknown 'xyz'; known: green, red"),
        ("", "test_colour: unknown ''; known: green, red"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(colours: Registry[str], name: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        colours[name]
    assert str(caught.value) == message


def test_another_package_adds_its_things(
    colours: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points = "[prunetune.test_colour]\nblue = MODULE:BLUE\n[prunetune.test_shape]\nround = MODULE:ROUND\n"
    install(tmp_path, entry_points, "BLUE = '#00f'\n", monkeypatch)  # ROUND is missing, and of no concern here
    assert list(colours) == ["blue", "green", "red"]
    assert colours["blue"] == "#00f"
    with pytest.raises(RequestError, match="did you mean 'blue'"):
        colours["blau"]


def test_another_package_cannot_replace_ours(
    colours: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[prunetune.test_colour]\nred = MODULE:RED\n", "RED = '#e00'\n", monkeypatch)
    assert colours["red"] == "#f00"
    assert list(colours) == ["green", "red"]


@pytest.mark.parametrize(
    ("source", "why"),
    [("", "AttributeError: "), ("1 / 0\n", "ZeroDivisionError: "), ("import no_xyz\n", "ModuleNotFound")],
)
def test_a_package_that_fails_is_named(
    colours: Registry[str], source: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "[prunetune.test_colour]\nblue = MODULE:BLUE\n", source, monkeypatch)
    with pytest.raises(RequestError, match=rf"^test_colour: 'blue' \(plugin_\w+:BLUE\) cannot be loaded: {why}"):
        colours["red"]


def test_other_packages_are_not_imported_before_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = tmp_path / "imported"
    source = f"from pathlib import Path\nPath({str(imported)!r}).touch()\nBLUE = '#00f'\n"
    install(tmp_path, "[prunetune.test_colour]\nblue = MODULE:BLUE\n", source, monkeypatch)
    registry: Registry[str] = Registry("test_colour")
    registry.register("red")("#f00")
    assert not imported.exists()
    assert "blue" in registry
    assert imported.exists()
