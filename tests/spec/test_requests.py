"""Wrong specs: each is refused in one line that names the field, the value and what would be right."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prunetune.errors import ConfigError
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from tests.support.study_specs import spec


def line_of(source: Any, *changes: str) -> str:
    """The one line with which a spec is refused, at reading or at planning."""
    with pytest.raises(ConfigError) as caught:
        plan(load_spec(source, changes))
    text = str(caught.value)
    assert text == text.strip()
    assert "\n" not in text
    return text


OVERRIDES = [
    # overrides themselves
    ("epochs", "--set: 'epochs'; must be field=value, such as recipe.epochs=15"),
    ("=3", "--set: '=3'; must be field=value, such as recipe.epochs=15"),
    ("recipe..epochs=3", "--set: 'recipe..epochs=3'; must be field=value, such as recipe.epochs=15"),
    ("sparsities.rounds=3", "sparsities.rounds: 'sparsities' is [0.5], not a mapping; set sparsities as a whole"),
    ("seeds={a: 1, a: 2}", "--set seeds: line 1: 'a' is given twice (first on line 1); give it once"),
    # fields that there are not
    ("arsm=[ticket]", "arsm: unknown 'arsm'; did you mean 'arms'?"),
    ("epohcs=3", "epohcs: unknown 'epohcs'; did you mean 'epochs'?"),
    ("recipe.epohcs=3", "recipe.epohcs: unknown 'epohcs'; did you mean 'epochs'?"),
    ("recipe.schedule.gama=.5", "recipe.schedule.gama: unknown 'gama'; did you mean 'gamma'?"),
    ("verdict.margn=1", "verdict.margn: unknown 'margn'; did you mean 'margin'?"),
    ("scope.exlude=[a]", "scope.exlude: unknown 'exlude'; did you mean 'exclude'?"),
    ("sparsities={per_rund: .2, rounds: 3}", "sparsities.per_rund: unknown 'per_rund'; did you mean 'per_round'?"),
    ("masks=[{kind: admm, rh: 1}]", "masks.0.rh: unknown 'rh'; did you mean 'rho'?"),
    ("masks=[{kind: one_shot, rho: 1}]", "masks.0.rho: unknown 'rho'; "),
    ("pretrained={theta_t: a}", "pretrained.theta_t: unknown 'theta_t'; did you mean 'theta_k'?"),
    # names that there are not
    ("model=resnet21", "model: unknown 'resnet21'; did you mean 'resnet"),
    ("data=cifar11", "data: unknown 'cifar11'; did you mean 'cifar10"),
    ("arms=[reinit, tikcet]", "arms.1.kind: unknown 'tikcet'; did you mean 'ticket'?"),
    ("masks=[itertive]", "masks.0.kind: unknown 'itertive'; did you mean 'iterative'?"),
    ("masks=[iterative, {kind: admm, criterion: magnitud}]", "masks.1.criterion: unknown 'magnitud'; did you mean"),
    ("masks=[{kind: admm, allocation: globl}]", "masks.0.allocation: unknown 'globl'; did you mean 'global'?"),
    ("masks=[{kind: admm, pattern: unstruct}]", "masks.0.pattern: unknown 'unstruct'; did you mean 'unstructured'?"),
    ("augment=[flp]", "recipe.augment.0: unknown 'flp'; did you mean 'flip'?"),
    ("optimizer=sdg", "recipe.optimizer: 'sdg'; must be 'sgd', 'adam' or 'adamw'"),
    ("loss=nowhere.at:all", "recipe.loss: cannot import 'nowhere.at:all': No module named 'nowhere'"),
    ("loss=cross", "recipe.loss: 'cross'; must have the form package.module:callable"),
    ("scope.include=[zzz*]", "scope.include: pattern 'zzz*' matches no parameter"),
    # values
    ("seeds=0", "seeds: 0; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    ("seeds=-3", "seeds: -3; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    ("seeds=true", "seeds: True; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    (
        "seeds=often",
        "seeds: 'often'; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}",
    ),
    ("seeds={min: 1}", "seeds.min: 1; must be greater than or equal to 2"),
    ("seeds={min: 6, max: 6}", "seeds.max: 6; must be above min, 6; a fixed number is `seeds: 6`"),
    ("seeds={min: 20, max: 5}", "seeds.max: 5; must be above min, 20; a fixed number is `seeds: 20`"),
    ("seeds={min: 2.5}", "seeds.min: 2.5; must be a whole number"),
    ("seeds={max: true}", "seeds.max: True; must be a whole number"),
    ("seeds={least: 4}", "seeds.least: unknown 'least'; known: max, min"),
    ("seeds=2.5", "seeds: 2.5; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    ("seeds='5'", "seeds: '5'; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    ("seeds=", "seeds: None; must be a whole number from 1 to 1000, auto, or a range such as {min: 5, max: 20}"),
    ("model=[small]", "model: ['small']; must be a text"),
    ("name=a/b", "name: 'a/b'; must be at most 100 letters, digits, '_', '-' and '.'"),
    ("name=..", "name: '..'; must be at most 100 letters"),
    ("epochs=0", "recipe.epochs: 0; must be greater than or equal to 1"),
    ("batch_size=0.5", "recipe.batch_size: 0.5; must be a whole number"),
    ("momentum=1", "recipe.momentum: 1; must be less than 1"),
    ("weight_decay=-1", "recipe.weight_decay: -1; must be greater than or equal to 0"),
    ("nesterov=1", "recipe.nesterov: 1; must be true or false"),
    ("recipe={nesterov: true, momentum: 0}", "recipe.nesterov: True needs a momentum; must be false where momentum is"),
    ("recipe=3", "recipe: 3; must be a mapping of epochs, batch_size"),
    ("learning_rates=[]", "learning_rates: []; must hold at least one"),
    ("learning_rates=[0]", "learning_rates.0: 0; must be greater than 0"),
    ("learning_rates=[.nan]", "learning_rates.0: nan; must be a finite number"),
    ("learning_rates=0.1", "learning_rates: 0.1; must be a list, such as [a, b]"),
    ("learning_rates=[0.1, 1e-1]", "learning_rates: [0.1, 0.1]; must be given once each"),
    ("sparsities=[0.5, 1.0]", "sparsities.1: 1.0; must be less than 1"),
    ("sparsities=[0]", "sparsities.0: 0; must be greater than 0"),
    ("sparsities=[-0.5]", "sparsities.0: -0.5; must be greater than 0"),
    ("sparsities=[50]", "sparsities.0: 50; must be less than 1"),
    ("sparsities=[]", "sparsities: []; must hold at least one"),
    ("sparsities=[0.9, 0.5]", "sparsities: [0.9, 0.5]; must grow, each once"),
    ("sparsities=[0.5, 0.5]", "sparsities: [0.5, 0.5]; must grow, each once"),
    ("sparsities=[0.5, 0.5000000000001]", "sparsities: [0.5, 0.5000000000001]; must grow, each once"),
    ("sparsities=[0.9999999999999]", "sparsities: [0.9999999999999]; must grow, each once, all above 0 and below 1"),
    ("sparsities={per_round: 2, rounds: 3}", "sparsities.per_round: 2; must be less than 1"),
    ("sparsities={per_round: .2}", "sparsities.rounds: missing; it has no default"),
    ("arms=[]", "arms: []; must hold at least one"),
    ("arms=[ticket, ticket]", "arms.1: 'ticket' is entry 0 too; must be given once each"),
    ("arms=[{kind: mixed, alpha: 0.5}, {kind: mixed, alpha: 0.5000001}]", "arms.1: 'mixed(0.5)' is entry 0 too"),
    ("arms=[mixed]", "arms.0.alpha: missing; it has no default"),
    ("arms=[ticket, {kind: mixed, alpha: 1.5}]", "arms.1.alpha: 1.5; must be less than or equal to 1"),
    ("arms=[{kind: mixed, alpha: -0.1}]", "arms.0.alpha: -0.1; must be greater than or equal to 0"),
    ("arms=[{kind: mixed, alpha: half}]", "arms.0.alpha: 'half'; must be a number"),
    ("arms=[{kind: mixed, alpha: true}]", "arms.0.alpha: True; must be a number"),
    ("arms=[{kind: mixed, alpha: .nan}]", "arms.0.alpha: nan; must be a finite number"),
    ("arms=[{kind: mixed, alhpa: 0.5}]", "arms.0.alhpa: unknown 'alhpa'; did you mean 'alpha'?"),
    ("arms=[{kind: ticket, alpha: 0.5}]", "arms.0.alpha: unknown 'alpha'"),
    ("arms=[{alpha: 0.5}]", "arms.0.kind: missing; it has no default"),
    ("arms=[3]", "arms.0: 3; must be an arm (finetune, "),
    ("masks=[]", "masks: []; must hold at least one"),
    (
        "masks=[3]",
        "masks.0: 3; must be a mask algorithm (admm, gradual, iterative, one_shot) or a mapping with its `kind`",
    ),
    ("masks=[{criterion: magnitude}]", "masks.0.kind: missing; it has no default"),
    ("masks=[one_shot, one_shot]", "masks.1: 'one_shot' is entry 0 too; give one of them another `name`"),
    ("masks=[one_shot, {kind: admm, name: one_shot}]", "masks.1: 'one_shot' is entry 0 too; give one of them another"),
    ("masks=[{kind: admm, name: a b}]", "masks.0.name: 'a b'; must be one word"),
    ("masks=[{kind: admm, learning_rate: 0}]", "masks.0.learning_rate: 0; must be greater than 0"),
    ("masks=[{kind: admm, rho: 0}]", "masks.0.rho: 0"),
    ("masks=[{kind: admm, rho: x}]", "masks.0.rho: 'x'; must be a number"),
    ("masks=[{kind: admm, epochs: 0}]", "masks.0.epochs: 0; must be at least 1"),
    ("masks=[{kind: admm, epochs: 1.5}]", "masks.0.epochs: 1.5; must be a whole number"),
    ("masks=[{kind: gradual, updates: 7}]", "updates: 7; must be at most the 6 epochs that it lasts"),
    ("masks=[{kind: gradual, updates: 0}]", "masks.0.updates: 0; must be at least 1"),
    ("masks=[{kind: gradual, initial: 1}]", "masks.0.initial: 1.0 is no sparsity to start from; it must lie in [0, 1)"),
    ("masks=[{kind: gradual, initial: .5}]", "initial: 0.5; must be less than the study's least sparsity, 0.5"),
    (
        "masks=[{kind: one_shot, pattern: 4:2}]",
        "masks.0.pattern: unknown '4:2'; known: 1:4, 2:4, channel, unstructured",
    ),
    ("verdict.alpha=0", "verdict.alpha: 0; must be greater than 0"),
    ("verdict.alpha=0.5", "verdict.alpha: 0.5; must be less than 0.5"),
    ("verdict.family=all", "verdict.family: 'all'; must be 'study' or 'cell'"),
    ("verdict.margin=0", "verdict.margin: 0; must be greater than 0"),
    ("verdict.gap=-1", "verdict.gap: -1; must be greater than or equal to 0"),
    ("verdict.nontrivial_sparsity=50", "verdict.nontrivial_sparsity: 50; must be less than 1"),
    (
        "data_args.train_limit=.nan",
        "data_args: {'train_limit': nan}; must hold only numbers, texts, lists and mappings",
    ),
    ("model_args={a: 2020-01-01}", "model_args: {'a': datetime.date(2020, 1, 1)}; must hold only numbers, texts"),
    # moments
    ("milestones=[3]", "milestones: unknown 'milestones'"),
    ("schedule.milestones=[80, 120]", "recipe.schedule.milestones.0: 80 is past the last epoch; must be at most the"),
    ("schedule.milestones=[9/8]", "recipe.schedule.milestones.0: 9/8 is past the last epoch; must be at most the"),
    ("schedule.milestones=[2, x]", "recipe.schedule.milestones.1: 'x'; must be a number of epochs or a fraction of"),
    ("schedule.milestones=[-2]", "recipe.schedule.milestones.0: -2; must be a number of epochs or a fraction of"),
    ("schedule.milestones=[1/0]", "recipe.schedule.milestones.0: '1/0'; must be a number of epochs or a fraction"),
    ("schedule.milestones=[4, 2]", "recipe.schedule.milestones: [4, 2]; must grow, each once"),
    ("schedule={kind: cosine, milestones: [2]}", "recipe.schedule.milestones: (2,) has no meaning in kind 'cosine'"),
    ("schedule={kind: constant, gamma: .1}", "recipe.schedule.gamma: 0.1 has no meaning in kind 'constant'"),
    ("schedule.warmup=9", "recipe.schedule.warmup: 9 is past the last epoch; must be at most the recipe's 6 epochs"),
    ("rewind=10", "rewind: 10; must be epochs ('10ep'), steps ('500it') or a fraction of the training ('1/15')"),
    ("rewind=3epochs", "rewind: '3epochs'; must be epochs ('10ep'), steps ('500it') or a fraction"),
    ("rewind=6ep", "rewind: '6ep'; must come before the end of a training of 6 epochs (recipe.epochs)"),
    ("rewind=7/6", "rewind: '7/6'; must come before the end of a training of 6 epochs (recipe.epochs)"),
    ("rewind=942it", "rewind: '942it'; must come before the end of a training of 942 steps (157 an epoch)"),
    # what would keep a machine busy for ever
    ("seeds=1000000000000", "seeds: 1000000000000; must be a whole number from 1 to 1000, auto, or a range"),
    ("epochs=1000000000000", "recipe.epochs: 1000000000000; must be less than or equal to 1000000"),
    ("epochs=1" + "0" * 30, "recipe.epochs: 1" + "0" * 30 + "; must be a number of at most 18 digits"),
    ("seeds=0x" + "f" * 9000, "seeds: <int too long to be shown>; must be a number of at most 18 digits"),
    (
        "sparsities={per_round: .5, rounds: 1000000000}",
        "sparsities.rounds: 1000000000; must be less than or equal to 60",
    ),
    (
        "sparsities={per_round: 1e-300, rounds: 3}",
        "sparsities.per_round: 1e-300; among 3 such rounds some would remove",
    ),
    (
        "sparsities={per_round: .9, rounds: 60}",
        "sparsities.per_round: 0.9; among 60 such rounds some would remove nothing",
    ),
    ("along_training=1000000000", "along_training: 1000000000; must be less than or equal to 1000"),
    ("masks=[{kind: gradual, updates: 1000000000}]", "masks.0.updates: 1000000000; must be at least 1 and at most 100"),
    (
        "masks=[{kind: admm, epochs: 1000000000}]",
        "masks.0.epochs: 1000000000; must be at least 1 and at most 1,000,000",
    ),
    (
        "masks=[{kind: one_shot, criterion: {name: synflow, rounds: 1000000}}]",
        "masks.0.criterion.rounds: 1000000; must be at least 1 and at most 10,000",
    ),
    ("learning_rates=" + str([i / 1000 for i in range(1, 102)]), "learning_rates: [0.001, 0.002, 0.003"),
    ("model_args.width=1000000", "model_args.width: 1000000 is not a whole number of at least 1, at most 100,000"),
    (
        "model_args.width=50000",
        "model_args: 'small' has 225,003,950,010 parameters with {'width': 50000}; at most 1,000",
    ),
    ("verdict.margin=1000", "verdict.margin: 1000; must be less than or equal to 100"),
    # names that would make files of one name, or none
    (
        "learning_rates=[0.1, 0.1000000001]",
        "learning_rates: [0.1, 0.1000000001]; must differ in their first six digits",
    ),
    (
        "masks=[{kind: one_shot, name: a.b}, {kind: one_shot, name: a@b}]",
        "masks.1: 'a@b' and entry 0, 'a.b', would have files of one name; give one of them another `name`",
    ),
    (
        "masks=[{kind: admm, name: " + "x" * 61 + "}]",
        "masks.0.name: '" + "x" * 58 + "…; must be one word of at most 60",
    ),
    ("name=" + "é" * 51, "name: '" + "é" * 51 + "'; must be at most 100"),
    # what Python, and a terminal, stumble over
    ('model="a\\nb\\e[2J"', "model: 'a\\nb\\x1b[2J'; must be a text without '\\x1b'"),
    ('data_args.root="a\\0b"', "data_args.root: 'a\\x00b'; must be a text without '\\x00'"),
    ('name="\\ud800"', "name: '\\ud800'; must be a text without '\\ud800'"),
    ("model=!!binary AA==", "model: b'\\x00'; must be a text, a number, a list or a mapping"),
    ("arms=!!set {ticket, reinit}", "arms: {'"),
    (
        "masks=[{kind: admm, rho: {2020-01-01: 3}}]",
        "masks.0.rho.datetime.date(2020, 1, 1): the name datetime.date(2020",
    ),
    ("model_args.a=" + "[" * 30 + "]" * 30, "model_args.a.0.0.0.0: more than 20 lists and mappings within one another"),
    ("model_args" + ".a" * 400 + "=1", "model_args.a.a.a.a.a: more than 20 lists and mappings within one another"),
    (
        "schedule.milestones=[1/" + "9" * 5000 + "]",
        "recipe.schedule.milestones.0: '1/" + "9" * 56 + "…; must be a number",
    ),
    (
        "schedule.milestones=[99999999999/1]",
        "recipe.schedule.milestones.0: '99999999999/1'; must be a number of epochs",
    ),
    ("rewind=1/" + "9" * 400, "rewind: '1/" + "9" * 56 + "…; must be epochs"),
    ("data_args.root=~nobody-of-this-name/x", "data_args: unknown 'root'"),
    ("x" * 5000 + "=1", "x" * 59 + "…: unknown '" + "x" * 58 + "…; "),
    # the pair of the user's
    ("pretrained={theta_0: a}", "pretrained.theta_T: missing; it has no default"),
    ("pretrained={theta_0: '{sed}', theta_T: b}", "pretrained.theta_0: '{sed}'; unknown placeholder {sed}; must be"),
]


@pytest.mark.parametrize(("change", "line"), OVERRIDES, ids=[change for change, _ in OVERRIDES])
def test_a_wrong_field_is_refused_in_one_line(change: str, line: str):
    assert line_of(spec(sparsities=[0.5]), change).startswith(line)


def test_a_recipes_field_at_the_top_of_a_spec_is_sent_to_the_recipe():
    assert line_of(spec(epochs=3)) == "epochs: not a field of a spec; did you mean 'recipe.epochs'?"


def test_a_rewind_moment_that_fewer_epochs_leave_behind_is_named_with_what_would_follow_them():
    line = "rewind: '1ep'; must come before the end of a training of 1 epoch (recipe.epochs): "
    assert line_of(spec(rewind="1ep"), "epochs=1") == f"{line}a fraction such as '1/5', or 0ep for θ0"
    assert load_spec(spec(rewind="1/5"), ["epochs=1"]).rewind == "0.2ep"


def test_several_faults_are_one_line_with_their_number():
    line = line_of(spec(seeds=0, arms=[], sparsities=[2]))
    assert line == "sparsities.0: 2; must be less than 1 (and 2 more)"


@pytest.mark.parametrize("field", ["model", "data"])
def test_what_has_no_default_must_be_given(field: str):
    fields = spec()
    del fields[field]
    assert line_of(fields) == f"{field}: missing; it has no default"


@pytest.mark.parametrize("extra", [{"seeds": 900}, {"along_training": 1000, "seeds": 60}], ids=["trainings", "moments"])
def test_a_study_that_no_plan_could_hold(extra: dict[str, Any]):
    line = line_of(spec(sparsities={"per_round": 0.1, "rounds": 60}, **extra))
    assert line.startswith(f"seeds: {extra['seeds']}; seeds, learning rates, masks, sparsities and arms multiply to ")
    assert line.endswith(" steps; must be at most 100,000: cut the study in several")


def test_a_mapping_of_pythons_that_holds_itself():
    loop: dict[str, Any] = {}
    loop["a"] = loop
    assert line_of(spec(model_args=loop)).startswith("model_args.a.a.a.a.a: more than 20 lists and mappings")


def test_a_default_name_is_no_longer_than_a_folders_may_be():
    assert line_of(spec(model="x" * 5000)).startswith("model: unknown 'xxx")
    assert load_spec(spec(model="///", data="//")).name == "study"


def test_a_long_value_is_cut_short():
    assert len(line_of(spec(model=["x" * 1000]))) < 120


PAIR = "pretrained={{theta_0: '{0}', theta_T: '{1}'{2}}}"


@pytest.mark.parametrize(
    ("paths", "changes", "line"),
    [
        (("a", "b-{seed}", ""), ["seeds=2"], "pretrained.theta_0: 'a' is one file for 2 seeds; write {seed} in it"),
        (("a-{seed}", "b", ""), ["seeds=2"], "pretrained.theta_T: 'b' is one file for 2 seeds; write {seed} in it"),
        (("a", "b", ""), [], "pretrained.theta_T: 'b' is one file for 2 learning rates; write {learning_rate} in it"),
        (
            ("a", "b-{learning_rate}", ", theta_k: c"),
            [],
            "pretrained.theta_k: 'c' is one file for 2 learning rates; write {learning_rate} in it",
        ),
        (
            ("a", "b", ""),
            ["learning_rates=[0.1]", "masks=[{kind: one_shot, learning_rate: 0.01}]"],
            "pretrained.theta_T: 'b' is one file for 2 learning rates; write {learning_rate} in it",
        ),
        (
            ("/dev/zero", "b", ""),
            ["learning_rates=[0.1]"],
            "pretrained.theta_0: '/dev/zero' is a device; must be a checkpoint's file",
        ),
        (
            ("no/such-{seed}", "b", ""),
            ["learning_rates=[0.1]"],
            "pretrained.theta_0: 'no/such-0': No such file or directory; must be a checkpoint's file",
        ),
    ],
)
def test_one_file_cannot_serve_several_runs(paths: tuple[str, str, str], changes: list[str], line: str):
    assert line_of(spec(), PAIR.format(*paths), *changes) == line


# --- sources ----------------------------------------------------------------------------------------------------

LEVELS = "abcdefghij"  # nine times nine times ...: a kilobyte that stands for 9^10 values
BOMB = "model: small\nmodel_args:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(LEVELS)
)
FILES = [
    ("", "is empty; a spec is a mapping with at least `model: …` and `data: …`"),
    ("# nothing\n", "is empty; a spec is a mapping"),
    ("- a\n- b\n", "holds a list; a spec is a mapping"),
    ("just words\n", "holds a str; a spec is a mapping"),
    ("model: small\nseeds: 3\n\nseeds: 4\n", "line 4: 'seeds' is given twice (first on line 2); give it once"),
    (
        "model: small\nrecipe:\n  epochs: 3\n  epochs: 3\n",
        "line 4: 'epochs' is given twice (first on line 3); give it once",
    ),
    ("model: small\nmasks: [\n", "line 3: not YAML: "),
    ("model: small\n\tdata: x\n", "line 2: not YAML: "),
    ("model: small\ndata: *nowhere\n", "line 2: not YAML: found undefined alias"),
    ("model: small\ndata: !!python/object:os.system x\n", "line 2: not YAML: could not determine a constructor"),
    ("model: small\n? [a]\n: b\n", "line 2: not YAML: found unhashable key"),
    ("model: small\n---\ndata: x\n", "line 2: not YAML: but found another document"),
    ("model: small\ndata: a\x00b\n", "line 2: not YAML: a character that no text holds"),
    ("model: small\ndata: 2020-99-99\n", "not YAML that can be read: ValueError"),
    ("[" * 1500, "not YAML that can be read: RecursionError"),
    ("a: &a '" + "x" * 9000 + "'\nb: [" + "*a, " * 999 + "]\n", "its aliases stand for more than 1,000,000 characters"),
    ("# " + "x" * 1_000_001, "longer than 1,000,000 characters; a spec is a page or two of YAML"),
    (BOMB, "its aliases stand for more than 1,000,000 characters; write out what is meant"),
    ("model: small\nmodel_args: &x {a: *x}\n", "its aliases stand for more than 1,000,000 characters"),
]


def test_an_alias_that_only_repeats_is_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: small\ndata: fashion-mini\nsparsities: &s [0.5, 0.75]\nlearning_rates: *s\n")
    assert load_spec(file).learning_rates == (0.5, 0.75)


@pytest.mark.parametrize(("text", "line"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_spec_is_refused_in_one_line(text: str, line: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert line_of(file).startswith(f"{file}: {line}")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"model: \xff\xfe\n")
    assert line_of(str(file)) == f"{file}: not YAML: not a text file (UTF-8)"


def test_a_missing_file_and_an_unknown_preset(tmp_path: Path):
    assert line_of(tmp_path / "no.yaml").startswith(f"{tmp_path / 'no.yaml'}: No such file or directory; give a spec's")
    (tmp_path / "folder.yaml").mkdir()
    assert line_of(tmp_path / "folder.yaml").startswith(f"{tmp_path / 'folder.yaml'}: Is a directory; give a spec's")
    assert line_of("quikc") == "spec: unknown 'quikc'; did you mean 'quick'?"
