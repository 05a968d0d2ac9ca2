"""The verdict and the recommendation in plain words."""

from collections.abc import Mapping, Sequence

from prunetune.analysis.comparison import Comparison, figures
from prunetune.analysis.pairing import Answer, percent
from prunetune.analysis.pretraining import explanation
from prunetune.analysis.recommend import Recommendation
from prunetune.analysis.statistics import Rule, plan_looks
from prunetune.analysis.verdict import SparsityTest, Verdict
from prunetune.core.metric import LOWER, Metric
from prunetune.report.table_format import bounds

STARTS = {
    "ticket": "the initial weights of the dense network",
    "reinit": "freshly drawn initial weights",
    "rewind": "weights from early in the training of the dense network",
    "finetune": "the weights of the trained dense network",
}


def definition_text(rule: Rule) -> str:
    """What a winning ticket is, and what the figures and their bounds mean."""
    metric = rule.metric
    return (
        "A winning ticket is a sparse network that, trained from the initial weights of the dense network, matches the "
        f"trained dense network (surely less than {metric.amount(rule.margin)} {metric.worse} it, if at all) and beats "
        f"the same sparse network trained from freshly drawn initial weights ({lead_text(rule)}). Sparsity is the "
        f"share of weights removed; it counts from {percent(rule.nontrivial_sparsity)}. Figures are differences of "
        f"test {metric.name}{metric.in_unit} between trainings of the same seed, with a lower and an upper bound of "
        f"{confidence(rule)} each; the bounds cover the choice of seeds, not of test examples."
        f"{direction_text(metric)}"
    )


def direction_text(metric: Metric) -> str:
    """How to read the sign of a difference, where lower scores are better; else nothing."""
    return "" if metric.higher_is_better else f" Of {metric.name}, {LOWER}: a negative difference is the first's lead."


def lead_text(rule: Rule) -> str:
    """What is tested of the ticket's lead over freshly drawn weights: its sign surely, its size by an estimate."""
    return f"by surely more than 0, and by an estimated {rule.metric.amount(rule.gap)} or more"


def family_text(verdicts: Sequence[Verdict], rule: Rule) -> str:
    """How many verdicts there are, and how often some `yes` among them is false."""
    asked = [verdict for verdict in verdicts if not verdict.unasked]
    if not asked:
        return ""
    error = percent(rule.family_error(len(asked)))
    if len(asked) == 1:
        return f"One verdict; a *yes* is false with a nominal probability of at most {error}."
    if rule.family == "study":
        tests = asked[0].corrected_for if not rule.looks else max(verdict.corrected_for for verdict in asked)
        how = f"Holm's correction runs over all {tests} tests of the study"
    else:
        how = f"each is corrected for its own sparsities alone, at {percent(rule.alpha)}"
    chance = f"with a nominal probability of at most {error}"
    return f"{len(asked)} verdicts; some *yes* among them is false {chance}: {how}."


def exceeds_text(verdict: Verdict, rule: Rule) -> str:
    """The warning that a dense network is no yardstick; empty where the ticket does not exceed it."""
    if not verdict.exceeds_dense:
        return ""
    margin = rule.metric.amount(rule.margin)
    exceeds = (
        f"At {_listed(verdict.exceeds_dense, 'and')} sparsity the ticket {rule.metric.exceeds} the dense network "
        f"(by surely more than {margin})"
    )
    if dense_converged(verdict):
        return (
            f"{exceeds}, although that has converged (a longer training gains less than {margin}): it "
            "is not a short training that holds it back."
        )
    return f"{exceeds}: the dense network is not converged, trained too little to be the yardstick."


def dense_converged(verdict: Verdict) -> bool:
    """Whether a longer training showed that the dense network has converged."""
    checks = verdict.dense.checks if verdict.dense else ()
    return any(check.name == "converged" and check.answer == "yes" for check in checks)


def choice_text(recommendations: Sequence[Recommendation]) -> str:
    """That the scores are of a chosen best, where they were chosen by the data that they are reported on."""
    flattered = [row for row in recommendations if row.flattered]
    if not flattered:
        return ""
    most, metric = max(row.candidates for row in flattered), flattered[0].metric
    return (
        f"Each {metric.name} is of the best of up to {most} candidates, chosen by the same test examples: it "
        f"is flattered. Hold out training examples (data_args: {{validation: 0.1}}) and the choice is made "
        "on those."
    )


def confidence(rule: Rule) -> str:
    """The level of a verdict's bounds: one, or where seeds may be added one for each look."""
    if not rule.looks:
        return f"{percent(1 - rule.alpha)} confidence"
    levels = ", ".join(
        f"{percent(1 - look.alpha)} by {look.seeds} seeds" for look in plan_looks(rule.alpha, rule.looks)
    )
    return f"a confidence that depends on the look ({levels})"


def looks_text(verdict: Verdict, rule: Rule) -> str:
    """The look that seeds were added up to, and what was spent by then; empty where their number was fixed."""
    if not verdict.looks:
        return ""
    *_, last = verdict.looks
    how = "Undecided" if verdict.winning_property == "inconclusive" else "Decided"
    return (
        f"{how} at look {len(verdict.looks)} of {len(rule.looks)}, by {last.seeds} seeds; "
        f"{last.spent:.2g} of the error rate of {rule.alpha:g} is spent."
    )


def lead(verdict: Verdict) -> str:
    """The first sentence: does a winning ticket exist for this network at this rate?"""
    where = f"at learning rate {verdict.learning_rate:g} with {verdict.mask} masks"
    if verdict.winning_property == "holds":
        found = _listed([test.sparsity for test in verdict.tests if test.answer == "yes"], "and")
        return f"Yes: {where}, this network has a winning ticket at {found} sparsity."
    if verdict.winning_property == "fails":
        tried = _listed([test.sparsity for test in verdict.tests], "or")
        return f"No: {where}, this network has no winning ticket at {tried} sparsity."
    if verdict.unasked:
        return f"Not asked: {where}, this study does not have the arms that tell a winning ticket."
    return f"Undecided: {where}, it is not known whether this network has a winning ticket."


def sufficiency(verdict: Verdict) -> str:
    """The label of pre-training as it is shown: what no check decides is `undecided`, as everywhere."""
    return "undecided" if verdict.pretraining == "inconclusive" else verdict.pretraining


def pretraining_text(verdict: Verdict) -> str:
    """Whether the dense network was trained well enough at this rate, and what the weights say beside it."""
    if verdict.dense is None:
        return ""
    rate = f"at learning rate {verdict.learning_rate:g}"
    opening = f"Pre-training (the dense training) {rate}: {sufficiency(verdict)}."
    notes = [f"{_capital(note)}." for note in verdict.dense.notes]
    return " ".join(filter(None, [opening, *verdict.dense.lines, *notes, explanation(verdict.dense)]))


def recommendation_text(recommendations: Sequence[Recommendation], rule: Rule) -> str:
    """What to train the sparse network from, a line per sparsity."""
    return "\n".join(_recommended(row, rule) for row in recommendations) or none_text(rule)


def none_text(rule: Rule) -> str:
    """What is said where nothing can be recommended."""
    level = "above chance" if rule.metric.is_accuracy else "better than guessing"
    return f"No arm finished all its seeds {level}, so none is recommended."


def _recommended(row: Recommendation, rule: Rule) -> str:
    start = STARTS.get(row.arm)
    source = f"{start} ({row.arm})" if start else f"the start weights of {row.arm}"
    return (
        f"At {percent(row.sparsity)} sparsity, train the sparse network from {source}, with {row.mask} masks "
        f"at learning rate {row.learning_rate:g}: {row.metric.text(row.score)} on average{_chosen(row)}, "
        f"{_ahead(row, rule)}.{_left_out(row)}"
    )


def _chosen(row: Recommendation) -> str:
    return f" (the best of {row.candidates}, chosen by the same test examples)" if row.flattered else ""


def _left_out(row: Recommendation) -> str:
    return f" Not considered: {'; '.join(row.left_out)}." if row.left_out else ""


def _ahead(row: Recommendation, rule: Rule) -> str:
    if row.runner_up is None or row.lead is None:
        return "with nothing to compare it with"
    metric = row.metric
    amount, side = f"{abs(row.lead):.{metric.digits}f}", metric.better if row.lead >= 0 else metric.worse
    ahead = f"{f'{amount} {metric.difference_unit}'.rstrip()} {side} {row.runner_up}"
    if row.low is None or row.high is None:
        return f"{ahead}, a tie as far as one seed can tell"
    interval = f"{percent(1 - rule.alpha)} interval {bounds(row.low, row.high, metric.digits)}"
    return f"{ahead}{standing(row)} ({interval})"


def standing(row: Recommendation) -> str:
    """What follows a difference that is no lead: `, a tie`, or that the runner-up is surely better on the test data."""
    if row.behind:
        return ", so behind it on the test examples"
    return ", a tie" if row.tie else ""


def whys(verdict: Verdict) -> list[str]:
    """Why: a sentence per sparsity, and what was left out. Without any figures the outlook says why."""
    notes = dict.fromkeys(note for test in verdict.tests for note in (*test.dense.notes, *test.reinit.notes))
    has_figures = any(half.low is not None for test in verdict.tests for half in (test.dense, test.reinit))
    sentences = [_why(test, verdict) for test in verdict.tests] if has_figures else []
    return [*sentences, *(f"{_capital(note)}." for note in notes)]


def _why(test: SparsityTest, verdict: Verdict) -> str:
    corrected = ""
    if test.answer == "undecided" and test.dense.answer == test.reinit.answer == "yes":
        corrected = (
            f"; but corrected for {verdict.corrected_for} tests, the p-value of both together, {test.p_holm:.2g}, "
            f"is not below {verdict.alpha:g}"
        )
    against_dense = _clause(test.dense, _exceeds(test) if test.exceeds else _MATCHES, "the dense network")
    against_reinit = _clause(test.reinit, _BEATS, "freshly drawn weights")
    return f"At {percent(test.sparsity)}, the ticket {against_dense}, and {against_reinit}{corrected}."


_MATCHES: dict[Answer, str] = {"yes": "matches", "no": "falls short of", "undecided": "may or may not match"}
_BEATS: dict[Answer, str] = {"yes": "beats", "no": "does not notably beat", "undecided": "may or may not notably beat"}


def _exceeds(test: SparsityTest) -> dict[Answer, str]:
    return {**_MATCHES, "yes": test.dense.metric.exceeds}


def _clause(half: Comparison, verbs: Mapping[Answer, str], other: str) -> str:
    if half.low is None:
        return f"cannot be compared with {other} ({figures(half)})"
    withheld = ", which decides nothing with what was left out" if half.withheld else ""
    return f"{verbs[half.answer]} {other}: {figures(half)}{withheld}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _listed(sparsities: Sequence[float], word: str) -> str:
    texts = [percent(sparsity) for sparsity in sparsities]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"
