"""An undecided audit ends with the command that would probably decide it, where the tool projects one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prunetune.cli import audit_verb


def lines(words: list[str], start: str | None, needed: list[int | None]) -> list[str]:
    """What is printed where the start needs so many seeds, and the winning ticket at the best rate and at another."""
    choice = SimpleNamespace(start=start, seeds_needed=needed[0], learning_rate=0.1, mask="iterative")
    verdicts = [
        SimpleNamespace(learning_rate=rate, mask="iterative", seeds_needed=seeds)
        for rate, seeds in ((0.1, needed[1]), (0.01, needed[2]))
    ]
    found: Any = SimpleNamespace(choices=(choice,), verdicts=verdicts)
    member = "paper/a2-vgg16-cifar10" if "paper/a2" in words else None
    return list(audit_verb._to_decide(found, words, member, Path("out") / "a2-vgg16-cifar10"))


def test_the_command_asks_for_the_seeds() -> None:
    words = ["audit", "my study.yaml", "--seeds", "5", "--set", "epochs=3"]
    assert lines(words, None, [27, 12, 9]) == [
        "Undecided: what to train from; 27 seeds in all would probably decide it: "
        "prunetune audit 'my study.yaml' --set epochs=3 --seeds 27",
        "Undecided: the winning ticket at learning rate 0.1; 12 seeds in all would probably decide it: "
        "prunetune audit 'my study.yaml' --set epochs=3 --seeds 12",
    ]
    assert lines(["audit", "--seeds=5"], None, [27, None, 9])[0].endswith(": prunetune audit --seeds 27")


def test_nothing_is_said_without_a_projection() -> None:
    assert lines(["audit"], None, [None, None, 9]) == []
    assert lines(["audit"], "finetune", [27, None, 9]) == []


def test_a_study_of_a_group_is_named_with_its_folder() -> None:
    (line,) = lines(["audit", "paper/a2", "--out", "out", "--scale", "0.1"], "ticket", [None, 8, 9])
    assert line.endswith(": prunetune audit paper/a2-vgg16-cifar10 --scale 0.1 --out out/a2-vgg16-cifar10 --seeds 8")
