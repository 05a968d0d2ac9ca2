"""The registry: registration, look-up with hints, and things that other packages bring through entry points."""

import doctest
import hashlib
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import prunetune.core.registry
from prunetune.core.registry import Registry
from prunetune.errors import ConfigError
from tests.support.cli_runs import PRUNETUNE
from tests.support.refusals import refused


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
    result = doctest.testmod(prunetune.core.registry)
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
    with pytest.raises(ConfigError) as caught:
        colours[name]
    assert str(caught.value) == message


def test_another_package_adds_its_things(
    colours: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points = "[prunetune.test_colour]\nblue = MODULE:BLUE\n[prunetune.test_shape]\nround = MODULE:ROUND\n"
    install(tmp_path, entry_points, "BLUE = '#00f'\n", monkeypatch)  # ROUND is missing, and of no concern here
    assert list(colours) == ["blue", "green", "red"]
    assert colours["blue"] == "#00f"
    with refused("test_colour", "blue"):
        colours["blau"]


def test_a_package_that_takes_our_name_is_named_where_the_name_is_used(
    colours: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points = "[prunetune.test_colour]\nred = MODULE:RED\nblue = MODULE:BLUE\n"
    install(tmp_path, entry_points, "RED = '#e00'\nBLUE = '#00f'\n", monkeypatch)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            colours["red"]
        assert re.fullmatch(
            r"test_colour: 'red' is registered already, and the package 'plugin_(\w+)' brings another "
            r"\(plugin_\1:RED\); uninstall the package, or have it use another name",
            str(caught.value),
        )
    assert (colours["green"], colours["blue"]) == ("#0f0", "#00f")
    assert list(colours) == ["blue", "green", "red"]


def test_two_packages_with_one_name_are_told_apart_by_neither(
    colours: Registry[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for blue in ("#00e", "#00f"):
        (tmp_path / blue).mkdir()
        install(tmp_path / blue, "[prunetune.test_colour]\nblue = MODULE:BLUE\n", f"BLUE = {blue!r}\n", monkeypatch)
    with refused("test_colour", "blue", "registered"):
        colours["blue"]
    assert colours["red"] == "#f00"


def test_an_entry_point_for_the_very_thing_is_no_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[object] = Registry("test_colour")
    registry.register("counter")(Counter)
    install(tmp_path, "[prunetune.test_colour]\ncounter = collections:Counter\n", "", monkeypatch)
    assert registry["counter"] is Counter


@pytest.mark.slow
def test_a_study_that_uses_such_a_name_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, because the registries of this one are read already."""
    source = "def crop(images, generator):\n    return images\n"
    install(tmp_path, "[prunetune.augment]\ncrop = MODULE:crop\n", source, monkeypatch)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    codes = []
    for augment in ("crop", "flip"):
        arguments = ["plan", "quick", "--set", f"augment=[{augment}]", "--store", str(tmp_path / "store")]
        done = subprocess.run([*PRUNETUNE, *arguments], env=environment, capture_output=True, text=True, check=False)
        codes.append((done.returncode, done.stderr.count("\n"), "'crop' is registered already" in done.stderr))
    assert codes == [(2, 1, True), (0, 0, False)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "arm"])
def test_defaults_that_another_package_claims_or_fails_at_are_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own. Importing the specs reads no registry: only a study that uses the name is refused."""
    ours, other = {
        "mask": ("iterative", "masks=[one_shot]"),
        "arm": ("finetune", "arms=[ticket, reinit]"),
    }[kind]
    claims = f"[prunetune.{kind}]\n{ours} = MODULE:claimed\nbroken = MODULE:nothing\n"
    install(tmp_path, claims, "claimed = object()\n", monkeypatch)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    codes = []
    for given in ([], ["--set", other]):
        arguments = ["plan", "quick", *given, "--store", str(tmp_path / "store")]
        done = subprocess.run([*PRUNETUNE, *arguments], env=environment, capture_output=True, text=True, check=False)
        codes.append((done.returncode, done.stderr.count("\n"), f"'{ours}' is registered already" in done.stderr))
    assert codes == [(2, 1, True), (0, 0, False)]


@pytest.mark.parametrize(
    ("source", "why"),
    [("", "AttributeError"), ("1 / 0\n", "ZeroDivisionError"), ("import no_xyz\n", "ModuleNotFoundError")],
)
def test_a_package_that_fails_is_named_where_its_name_is_used(
    colours: Registry[str], source: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    install(tmp_path, "[prunetune.test_colour]\nblue = MODULE:BLUE\n", source, monkeypatch)
    install(tmp_path / "whole", "[prunetune.test_colour]\nviolet = MODULE:VIOLET\n", "VIOLET = '#80f'\n", monkeypatch)
    with refused("test_colour", "blue", "BLUE", "loaded", why):
        colours["blue"]
    assert (colours["green"], colours["violet"]) == ("#0f0", "#80f")
    assert list(colours) == ["blue", "green", "red", "violet"]


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
