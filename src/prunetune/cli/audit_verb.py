"""What `prunetune audit` does: the studies that are asked for, one after the other, each followed as it runs."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetune.cli.options import exit_code, progress_of, say

if TYPE_CHECKING:
    from prunetune.api import Prepared
    from prunetune.execution.events import Event
    from prunetune.execution.progress import Progress
    from prunetune.execution.runner import Executor as Runs
    from prunetune.execution.training_log import Curves
    from prunetune.plan.compile import Plan, Remaining
    from prunetune.report.answer import Answers


def audit_studies(
    source: str | None,
    out: Path | None,
    options: dict[str, Any],
    jobs: int | None,
    executor: "Runs",
    tensorboard: Path | None,
) -> int:
    """Audit a study, or each of a group; the exit code of the worst."""
    from prunetune.api import plan_study, preflight

    asked = _members_with_folders(source, out) or [(source, out, None)]
    for name, folder, default in asked[1:]:  # what is wrong with a later study is said now, and not after hours
        preflight(plan_study(name, **options), folder, default=default)
    codes = []
    for name, folder, default in asked:
        curves = tensorboard / str(name).rpartition("/")[2] if tensorboard and len(asked) > 1 else tensorboard
        prepared = plan_study(name, **options)
        where = preflight(prepared, folder, default=default)
        codes.append(_audit_one(prepared, where, jobs, executor, curves, name if name != source else None))
    return max(codes)


def _members_with_folders(source: str | None, out: Path | None) -> list[tuple[str | None, Path | None, Path | None]]:
    """The studies of a group, each with a folder of its own within `out`, or else within the group's by default."""
    from prunetune.spec.presets import members

    found: list[tuple[str | None, Path | None, Path | None]] = []
    for name in members(source or ""):
        short = name.rpartition("/")[2]
        default = Path("runs") / str(source).replace("/", "-") / short
        found.append((name, out / short if out else None, default))
    return found


def _audit_one(
    prepared: "Prepared",
    folder: Path,
    jobs: int | None,
    executor: "Runs",
    curves: Path | None,
    member: str | None,
) -> int:
    from prunetune.api import run_study
    from prunetune.execution.progress import duration

    began = time.monotonic()
    with _followers(prepared, jobs, curves) as (progress, drawn):
        followers = (drawn, progress) if drawn else (progress,)

        def follow(event: "Event") -> None:
            for follower in followers:
                follower(event)

        def more(plan: "Plan", remaining: "Remaining") -> None:
            for follower in followers:
                follower.more(plan, remaining)

        finished = run_study(prepared, folder, executor=executor, on_event=follow, on_more=more, command=_command())
    took = duration(time.monotonic() - began)
    say(f"\n{finished}\n\nReport: {finished.report.page} (after {took})")
    for line in _to_decide(finished.report.answers, sys.argv[1:], member, folder):
        say(line)
    return exit_code(finished.failures, progress.said)


@contextmanager
def _followers(
    prepared: "Prepared", jobs: int | None, curves: Path | None
) -> Iterator[tuple["Progress", "Curves | None"]]:
    """Who is told what happens: the progress, and what draws the trainings' curves into a folder, if one is given."""
    if curves is None:
        with progress_of(prepared, jobs) as progress:
            yield progress, None
        return
    from prunetune.execution.training_log import Curves

    with closing(Curves(prepared.plan, prepared.store, curves)) as drawn, progress_of(prepared, jobs) as progress:
        yield progress, drawn


def _to_decide(found: "Answers", words: Sequence[str], member: str | None, folder: Path) -> Iterator[str]:
    """What is undecided, and the command that would probably decide it, where the seeds that takes are known.

    `words` are those of the command that ran; for a study of a group it is named, and its own folder.
    """
    if not found.choices:
        return
    best = found.choices[0]
    needed = {} if best.start else {"what to train from": best.seeds_needed}
    needed |= {
        f"the winning ticket at learning rate {verdict.learning_rate:g}": verdict.seeds_needed
        for verdict in found.verdicts
        if (verdict.learning_rate, verdict.mask) == (best.learning_rate, best.mask)
    }
    for question, seeds in needed.items():
        if seeds is not None:
            command = shlex.join(["prunetune", *_with_seeds(words, seeds, member, folder)])
            yield f"Undecided: {question}; {seeds} seeds in all would probably decide it: {command}"


def _with_seeds(words: Sequence[str], seeds: int, member: str | None, folder: Path) -> list[str]:
    """The words of a command, asking for so many seeds; of a group's for the one study."""
    from prunetune.spec.presets import members

    kept: list[str] = []
    skip = False
    for word in words:
        option, equals, _ = word.partition("=")
        own = option == "--seeds" or (member is not None and option == "--out")
        if not (skip or own):
            kept.append(word)
        skip = own and not equals
    if member is not None:
        kept = [member if members(word) else word for word in kept] + ["--out", str(folder)]
    return [*kept, "--seeds", str(seeds)]


def _command() -> str:
    return shlex.join(["prunetune", *sys.argv[1:]])
