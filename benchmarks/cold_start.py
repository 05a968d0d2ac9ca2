"""What somebody waits for before anything is trained: help, import, a plan, and an audit that is done already."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.commands import PRUNETUNE, PYTHON, run_command
from benchmarks.findings import Findings, Goal, spread
from benchmarks.rounds import Options, Variant, compare

ROUNDS = 7
MOST_HELP = 0.5
QUICK = ("--set", "sparsities=[0.5]", "--set", "learning_rates=[0.1]", "--set", "data_args.train_limit=64")


def run(options: Options) -> Findings:
    """Whole commands; the finished study is `quick` with one epoch a training: as many steps to look up as with six."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        study = ("quick", "--store", folder / "store", "--set", "recipe.epochs=1")
        study = (*study, *QUICK, "--seeds", "1") if options.quick else study
        run_command(*PRUNETUNE, "audit", *study, cwd=folder)
        commands = {
            "python -c pass": (*PYTHON, "-c", "pass"),
            'python -c "import prunetune"': (*PYTHON, "-c", "import prunetune"),
            "prunetune --help": (*PRUNETUNE, "--help"),
            'python -c "import torch"': (*PYTHON, "-c", "import torch"),
            "prunetune plan quick": (*PRUNETUNE, "plan", "quick", "--store", folder / "none"),
            "prunetune audit quick, all stored": (*PRUNETUNE, "audit", *study),
        }
        variants = [Variant(text, _waiting(command, folder)) for text, command in commands.items()]
        found = compare("Cold start, by the clock", "s", variants, options.rounds)
    help_takes = spread(found["prunetune --help"].samples).median
    return Findings((found,), goals=(Goal("seconds of `prunetune --help`", help_takes, most=MOST_HELP),))


def _waiting(command: Sequence[str | Path], folder: Path) -> Callable[[], float]:
    return lambda: run_command(*command, cwd=folder).wall
