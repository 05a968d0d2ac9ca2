"""Any argument of the command line: done, or one line and exit code 2; nothing else, and nothing is trained."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from prunetune.cli import main as cli
from prunetune.errors import LONGEST_LINE, ConfigError
from prunetune.models import building
from prunetune.spec import study as spec_module
from tests.support.fuzzing import EXAMPLES, FIELDS, HOSTILE_TEXTS, TEXTS, fuzz

STOPPED = "test: everything was right, and nothing is to be trained or timed here"


@pytest.fixture(autouse=True, scope="module")
def nothing_trains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The commands as they are up to where they begin to work, in an empty folder."""

    def stop(*arguments: object, **named: object) -> None:
        raise ConfigError(STOPPED)

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("empty")
        patch.chdir(folder)
        patch.setenv("PRUNETUNE_STORE", str(folder / "store"))
        patch.setenv("PRUNETUNE_DATA", str(folder / "data"))
        patch.setattr("sys.path", list(sys.path))
        patch.setattr("prunetune.api.run_study", stop)
        patch.setattr("prunetune.compression.compress_models.run_compression", stop)
        patch.setattr("prunetune.layer_sensitivity.measure_layers", stop)
        patch.setattr("prunetune.deploy.break_even.break_evens", stop)
        patch.setattr(spec_module, "MOST_STEPS", 1000)
        patch.setattr(building, "MOST_PARAMETERS", 300_000)
        yield


def called(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command, in this process."""
    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(error):
        patch.setattr("sys.argv", ["prunetune", *arguments])
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), error.getvalue()


def assert_done_or_refused(*arguments: str) -> None:
    code, error = called(*arguments)
    assert code in (0, 2), (arguments, error)
    if code == 2:
        *progress, line = error.rstrip("\n").split("\n")
        assert line.startswith("prunetune: ") or not line  # a verb without arguments shows its help
        assert line.isprintable()
        assert len(line) <= LONGEST_LINE + len("prunetune: ")
        assert not progress or STOPPED in line


SMALL = ["--model", "small", "--data", "fashion-mini", "--epochs", "1"]
POSSIBLE = [text for text in HOSTILE_TEXTS if text not in ("\0", "\ud800")]  # which no argument of a process can hold
WORDS = [
    "1",
    "0.5",
    "0.5,0.9",
    "quick",
    "slurm",
    "bad://x",
    "://",
    "nodes=64,gpus=8,seconds=60",
    "nodes=999999,cpus=999999",
]
values = st.one_of(
    st.sampled_from([*TEXTS, *POSSIBLE, *WORDS, "\udcff"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
COMMANDS: Any = typer.main.get_command(cli.app)
FLAGS = {
    verb: [flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")]
    for verb, command in COMMANDS.commands.items()
}


def test_flags_are_read_from_the_commands_themselves() -> None:
    assert {"--set", "--seeds", "--store", "--jobs", "--device"} <= set(FLAGS["plan"]) & set(FLAGS["prune"])


@pytest.mark.parametrize("verb", ["plan", "audit", "prune", "sensitivity"])
def test_any_value_of_any_flag(verb: str) -> None:
    @fuzz(max(12, EXAMPLES // 4))
    @given(st.lists(st.tuples(st.sampled_from(FLAGS[verb]), values), min_size=1, max_size=2))
    def attempt(chosen: list[tuple[str, str]]) -> None:
        begin = ["quick", "--seeds", "1"] if verb != "prune" else [*SMALL, "--sparsity", "0.5"]
        assert_done_or_refused(verb, *begin, *(f"{flag}={value}" for flag, value in chosen))

    attempt()


@fuzz(max(12, EXAMPLES // 4))
@given(st.sampled_from(FIELDS), values)
def test_any_override(name: str, value: str) -> None:
    assert_done_or_refused("plan", "quick", "--seeds", "1", "--set", f"{name}={value}")


@fuzz(max(12, EXAMPLES // 4))
@given(st.sampled_from(["plan", "correlate", "report", "store", "prune", "", "audit"]), st.lists(values, max_size=3))
def test_any_words(verb: str, words: list[str]) -> None:
    assert_done_or_refused(*([verb] if verb else []), *(word for word in words if word != "quick"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["plan", "quick", "--jobs", "9" * 5000], ["--jobs", "999"]),
        (["plan", "quick", "--jobs", "100000"], ["--jobs", "100000", "1024"]),
        (["plan", "quick", "--seeds", "1" + "0" * 12], ["--seeds"]),
        (["plan", "quick", "--seeds", "5000"], ["seeds", "5000", "1000"]),
        (["report", "x" * 5000], ["too long"]),
        (["plan", "quick", "--store", "x" * 5000], ["too long"]),
        (["plan", "\x1b[2J"], ["spec", "\\x1b[2J", "known"]),
    ],
    ids=lambda value: "-".join(value)[:30],
)
def test_what_was_found(arguments: list[str], parts: list[str]) -> None:
    code, error = called(*arguments)
    assert code == 2
    assert error.count("\n") == 1
    assert len(error) < LONGEST_LINE + 20
    assert all(part in error for part in parts), error
