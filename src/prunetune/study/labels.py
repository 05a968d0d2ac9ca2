"""How trainings are named to people."""

from prunetune.study.plan import Plan


def labels(plan: Plan) -> dict[str, str]:
    """Key -> `ticket iterative 50.0% lr 0.1 seed 0`, for the trainings that are trials of a plan, and their twins."""
    names = {
        t.step.key: f"{t.arm} {f'{t.mask} {t.sparsity:.1%} ' if t.mask else ''}lr {t.learning_rate:g} seed {t.seed}"
        for t in plan.trials
    }
    return names | {line.twin.key: f"twin of {names[line.step.first.step.key]}" for line in plan.connections}
