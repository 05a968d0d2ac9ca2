"""How trainings and looks are named to people."""

from prunetune.plan.compile import Plan


def labels(plan: Plan) -> dict[str, str]:
    """Key -> `ticket iterative 50.0% lr 0.1 seed 0`, for the trainings that are trials of a plan, and their twins."""
    names = {
        t.step.key: f"{t.arm} {f'{t.mask} {t.sparsity:.1%} ' if t.mask else ''}lr {t.learning_rate:g} seed {t.seed}"
        for t in plan.trials
    }
    return names | {line.twin.key: f"twin of {names[line.step.first.step.key]}" for line in plan.connections}


def look_words(plan: Plan) -> str:
    """`look 2 of 4: 10 seeds for iterative masks at learning rate 0.1, not decided by 5`; empty for a fixed number."""
    looks = plan.spec.looks
    if len(looks) == 1:
        return ""
    reached = max(trial.seed for trial in plan.trials) + 1
    number = looks.index(reached)
    look = f"look {number + 1} of {len(looks)}: {reached} seeds"
    if number == 0:
        return f"{look}, and up to {looks[-1]} where they do not decide"
    grown = sorted({(t.learning_rate, t.mask) for t in plan.trials if t.mask and t.seed == reached - 1})
    named = ", ".join(f"{mask} masks at learning rate {rate:g}" for rate, mask in grown)
    return f"{look} for {named}, not decided by {looks[number - 1]}"
