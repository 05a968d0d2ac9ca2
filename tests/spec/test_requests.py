"""Wrong specs: each is refused in one line that names the field, the value and what would be right."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prunetune.errors import ConfigError
from prunetune.plan.compile import plan
from prunetune.spec.load import load_spec
from tests.support.refusals import assert_refusal
from tests.support.study_specs import spec


def refusal_of(source: Any, *changes: str) -> ConfigError:
    """What a spec is refused with, at reading or at planning."""
    with pytest.raises(ConfigError) as caught:
        plan(load_spec(source, changes))
    return caught.value


def assert_wrong(source: Any, field: str, *mentions: object, changes: Sequence[str] = ()) -> None:
    assert_refusal(refusal_of(source, *changes), field, *mentions)


OVERRIDES = [
    # overrides themselves
    ("epochs", ("--set", "epochs", "field=value", "recipe.epochs=15")),
    ("=3", ("--set", "'=3'", "field=value", "recipe.epochs=15")),
    ("recipe..epochs=3", ("--set", "recipe..epochs=3", "field=value", "recipe.epochs=15")),
    ("sparsities.rounds=3", ("sparsities.rounds", "sparsities", "[0.5]", "mapping")),
    ("seeds={a: 1, a: 2}", ("--set", "'a'", "1", "twice")),
    # fields that there are not
    ("arsm=[ticket]", ("arsm", "arsm", "arms")),
    ("epohcs=3", ("epohcs", "epohcs", "epochs")),
    ("recipe.epohcs=3", ("recipe.epohcs", "epohcs", "epochs")),
    ("recipe.schedule.gama=.5", ("recipe.schedule.gama", "gama", "gamma")),
    ("verdict.margn=1", ("verdict.margn", "margn", "margin")),
    ("scope.exlude=[a]", ("scope.exlude", "exlude", "exclude")),
    ("sparsities={per_rund: .2, rounds: 3}", ("sparsities.per_rund", "per_rund", "per_round")),
    ("masks=[{kind: admm, rh: 1}]", ("masks.0.rh", "rho")),
    ("masks=[{kind: one_shot, rho: 1}]", ("masks.0.rho", "rho")),
    ("pretrained={theta_t: a}", ("pretrained.theta_t", "theta_t", "theta_k")),
    # names that there are not
    ("model=resnet21", ("model", "resnet21")),
    ("data=cifar11", ("data", "cifar11")),
    ("arms=[reinit, tikcet]", ("arms.1.kind", "tikcet", "ticket")),
    ("masks=[itertive]", ("masks.0.kind", "itertive", "iterative")),
    ("masks=[iterative, {kind: admm, criterion: magnitud}]", ("masks.1.criterion", "magnitud")),
    ("masks=[{kind: admm, allocation: globl}]", ("masks.0.allocation", "globl", "global")),
    ("masks=[{kind: admm, pattern: unstruct}]", ("masks.0.pattern", "unstruct", "unstructured")),
    ("augment=[flp]", ("recipe.augment.0", "flp", "flip")),
    ("optimizer=sdg", ("recipe.optimizer", "sdg", "sgd", "adamw")),
    ("loss=nowhere.at:all", ("recipe.loss", "nowhere.at:all", "nowhere", "import")),
    ("loss=cross", ("recipe.loss", "cross", "package.module", "callable")),
    ("scope.include=[zzz*]", ("scope.include", "zzz*", "matches")),
    # values
    ("seeds=0", ("seeds", "1000", "5", "range")),
    ("seeds=-3", ("seeds", "-3", "1000", "5", "range")),
    ("seeds=true", ("seeds", "True", "1000", "5", "range")),
    (
        "seeds=often",
        ("seeds", "often", "1000", "5", "range"),
    ),
    ("seeds={min: 1}", ("seeds.min", "1", "2", "equal")),
    ("seeds={min: 6, max: 6}", ("seeds.max", "6", "seeds", "min")),
    ("seeds={min: 20, max: 5}", ("seeds.max", "5", "20", "seeds", "min")),
    ("seeds={min: 2.5}", ("seeds.min", "2.5", "number")),
    ("seeds={max: true}", ("seeds.max", "True", "whole")),
    ("seeds={least: 4}", ("seeds.least", "least")),
    ("seeds=2.5", ("seeds", "2.5", "1000", "range")),
    ("seeds='5'", ("seeds", "'5'", "1000", "range")),
    ("seeds=", ("seeds", "None", "1000", "5", "range")),
    ("model=[small]", ("model", "['small']", "small", "text")),
    ("name=a/b", ("name", "a/b", "'_'", "'-'", "'.'", "100", "letters")),
    ("name=..", ("name", "'..'", "100", "letters")),
    ("epochs=0", ("recipe.epochs", "0", "1", "equal")),
    ("batch_size=0.5", ("recipe.batch_size", "0.5", "number")),
    ("momentum=1", ("recipe.momentum", "1", "less")),
    ("weight_decay=-1", ("recipe.weight_decay", "-1", "0", "equal")),
    ("nesterov=1", ("recipe.nesterov", "1", "true")),
    ("recipe={nesterov: true, momentum: 0}", ("recipe.nesterov", "True", "momentum")),
    ("recipe=3", ("recipe", "3", "batch_size", "mapping")),
    ("learning_rates=[]", ("learning_rates", "[]", "least")),
    ("learning_rates=[0]", ("learning_rates.0", "0", "greater")),
    ("learning_rates=[.nan]", ("learning_rates.0", "nan")),
    ("arms=ticket,tikcet", ("arms.1.kind", "tikcet", "ticket")),
    ("arms=ticket,,reinit", ("--set", "arms", "ticket,,reinit", "empty entry")),
    ("arms=[ticket, ,reinit]", ("--set", "arms", "ticket, ,reinit", "empty entry")),
    ("arms=,ticket", ("--set", "arms", ",ticket", "empty entry")),
    ("sparsities=0.5,", ("--set", "sparsities", "0.5,", "empty entry")),
    ("data_args.columns=[a,,b]", ("--set", "data_args.columns", "[a,,b]", "empty entry")),
    ("masks={kind: admm", ("--set", "masks", "YAML")),
    ("sparsities={kind: admm}", ("sparsities.kind", "kind")),
    ("learning_rates=[0.1, 1e-1]", ("learning_rates", "[0.1, 0.1]", "given")),
    ("sparsities=[0.5, 1.0]", ("sparsities.1", "1.0", "less")),
    ("sparsities=[0]", ("sparsities.0", "0", "greater")),
    ("sparsities=[-0.5]", ("sparsities.0", "-0.5", "greater")),
    ("sparsities=[50]", ("sparsities.0", "50", "1", "less")),
    ("sparsities=[]", ("sparsities", "[]", "least")),
    ("sparsities=[0.9, 0.5]", ("sparsities", "[0.9, 0.5]", "grow")),
    ("sparsities=[0.5, 0.5]", ("sparsities", "[0.5, 0.5]", "grow")),
    ("sparsities=[0.5, 0.5000000000001]", ("sparsities", "[0.5, 0.5000000000001]", "grow")),
    ("sparsities=[0.9999999999999]", ("sparsities", "[0.9999999999999]", "1", "grow")),
    ("sparsities={per_round: 2, rounds: 3}", ("sparsities.per_round", "2", "1", "less")),
    ("sparsities={per_round: .2}", ("sparsities.rounds", "missing", "default")),
    ("arms=[]", ("arms", "[]", "least")),
    ("arms=[ticket, ticket]", ("arms.1", "ticket", "0", "entry")),
    ("arms=[{kind: mixed, alpha: 0.5}, {kind: mixed, alpha: 0.5000001}]", ("arms.1", "mixed(0.5)", "entry")),
    ("arms=[mixed]", ("arms.0.alpha", "missing", "default")),
    ("arms=[ticket, {kind: mixed, alpha: 1.5}]", ("arms.1.alpha", "1.5", "equal")),
    ("arms=[{kind: mixed, alpha: -0.1}]", ("arms.0.alpha", "-0.1", "equal")),
    ("arms=[{kind: mixed, alpha: half}]", ("arms.0.alpha", "half", "number")),
    ("arms=[{kind: mixed, alpha: true}]", ("arms.0.alpha", "True", "number")),
    ("arms=[{kind: mixed, alpha: .nan}]", ("arms.0.alpha", "nan")),
    ("arms=[{kind: mixed, alhpa: 0.5}]", ("arms.0.alhpa", "alhpa", "alpha")),
    ("arms=[{kind: ticket, alpha: 0.5}]", ("arms.0.alpha", "alpha")),
    ("arms=[{alpha: 0.5}]", ("arms.0.kind", "missing", "default")),
    ("arms=[3]", ("arms.0", "3", "finetune")),
    ("masks=[]", ("masks", "[]", "least")),
    (
        "masks=[3]",
        ("masks.0", "3", "one_shot", "kind", "gradual"),
    ),
    ("masks=[{criterion: magnitude}]", ("masks.0.kind", "missing", "default")),
    ("masks=[one_shot, one_shot]", ("masks.1", "one_shot", "0", "name", "entry")),
    ("masks=[one_shot, {kind: admm, name: one_shot}]", ("masks.1", "one_shot", "0", "entry")),
    ("masks=[{kind: admm, name: a b}]", ("masks.0.name", "a b", "word")),
    ("masks=[{kind: admm, learning_rate: 0}]", ("masks.0.learning_rate", "0", "greater")),
    ("masks=[{kind: admm, rho: 0}]", ("masks.0.rho", "0")),
    ("masks=[{kind: admm, rho: x}]", ("masks.0.rho", "'x'", "number")),
    ("masks=[{kind: admm, epochs: 0}]", ("masks.0.epochs", "0", "1", "least")),
    ("masks=[{kind: admm, epochs: 1.5}]", ("masks.0.epochs", "1.5", "number")),
    ("masks=[{kind: gradual, updates: 7}]", ("updates", "7", "6", "lasts")),
    ("masks=[{kind: gradual, updates: 0}]", ("masks.0.updates", "0", "1", "least")),
    ("masks=[{kind: gradual, initial: 1}]", ("masks.0.initial", "1.0", "[0, 1)")),
    ("masks=[{kind: gradual, initial: .5}]", ("initial", "0.5", "least", "less")),
    (
        "masks=[{kind: one_shot, pattern: 4:2}]",
        ("masks.0.pattern", "4:2"),
    ),
    ("verdict.alpha=0", ("verdict.alpha", "0", "greater")),
    ("verdict.alpha=0.5", ("verdict.alpha", "0.5", "less")),
    ("verdict.family=all", ("verdict.family", "all", "study", "cell")),
    ("verdict.margin=0", ("verdict.margin", "0", "greater")),
    ("verdict.gap=-1", ("verdict.gap", "-1", "0", "equal")),
    ("verdict.nontrivial_sparsity=50", ("verdict.nontrivial_sparsity", "50", "1", "less")),
    (
        "data_args.train_limit=.nan",
        ("data_args", "{'train_limit': nan}", "mappings"),
    ),
    ("model_args={a: 2020-01-01}", ("model_args", "'a'", "datetime.date", "texts")),
    # moments
    ("milestones=[3]", ("milestones", "milestones")),
    ("schedule.milestones=[80, 120]", ("recipe.schedule.milestones.0", "80", "past")),
    ("schedule.milestones=[9/8]", ("recipe.schedule.milestones.0", "9/8", "past")),
    ("schedule.milestones=[2, x]", ("recipe.schedule.milestones.1", "'x'", "fraction")),
    ("schedule.milestones=[-2]", ("recipe.schedule.milestones.0", "-2", "fraction")),
    ("schedule.milestones=[1/0]", ("recipe.schedule.milestones.0", "1/0", "fraction")),
    ("schedule.milestones=[4, 2]", ("recipe.schedule.milestones", "[4, 2]", "grow")),
    ("schedule={kind: cosine, milestones: [2]}", ("recipe.schedule.milestones", "cosine", "(2,)", "meaning")),
    ("schedule={kind: constant, gamma: .1}", ("recipe.schedule.gamma", "constant", "0.1", "meaning")),
    ("schedule.warmup=9", ("recipe.schedule.warmup", "9", "6", "past")),
    ("rewind=10", ("rewind", "10ep", "500it", "1/15", "fraction")),
    ("rewind=3epochs", ("rewind", "3epochs", "10ep", "500it", "fraction")),
    ("rewind=6ep", ("rewind", "6ep", "6", "come")),
    ("rewind=7/6", ("rewind", "7/6", "6", "come")),
    ("rewind=942it", ("rewind", "942it", "942", "157")),  # 6 epochs of 157
    # what would keep a machine busy for ever
    ("seeds=1000000000000", ("seeds", "1000000000000", "range")),
    ("epochs=1000000000000", ("recipe.epochs", "1000000000000", "equal")),
    ("epochs=1" + "0" * 30, ("recipe.epochs", "1000000000000000000000000000000", "18", "digits")),
    ("seeds=0x" + "f" * 9000, ("seeds", "18", "int")),
    (
        "sparsities={per_round: .5, rounds: 1000000000}",
        ("sparsities.rounds", "1000000000", "60", "equal"),
    ),
    (
        "sparsities={per_round: 1e-300, rounds: 3}",
        ("sparsities.per_round", "1e-300", "rounds"),
    ),
    (
        "sparsities={per_round: .9, rounds: 60}",
        ("sparsities.per_round", "0.9", "60", "rounds"),
    ),
    ("along_training=1000000000", ("along_training", "1000000000", "equal")),
    ("masks=[{kind: gradual, updates: 1000000000}]", ("masks.0.updates", "1000000000", "least")),
    (
        "masks=[{kind: admm, epochs: 1000000000}]",
        ("masks.0.epochs", "1,000,000", "1000000000", "least"),
    ),
    (
        "masks=[{kind: one_shot, criterion: {name: synflow, rounds: 1000000}}]",
        ("masks.0.criterion.rounds", "10,000", "1000000", "least"),
    ),
    ("learning_rates=" + str([i / 1000 for i in range(1, 102)]), ("learning_rates", "[0.001, 0.002, 0.003")),
    ("model_args.width=1000000", ("model_args.width", "100,000", "1000000", "least")),
    (
        "model_args.width=50000",
        ("model_args", "small", "width", "225,003,950,010", "1,000,000,000"),
    ),
    ("verdict.margin=1000", ("verdict.margin", "1000", "equal")),
    # names that would make files of one name, or none
    (
        "learning_rates=[0.1, 0.1000000001]",
        ("learning_rates", "[0.1, 0.1000000001]", "six"),
    ),
    (
        "masks=[{kind: one_shot, name: a.b}, {kind: one_shot, name: a@b}]",
        ("masks.1", "a@b", "a.b", "0", "name", "entry"),
    ),
    (
        "masks=[{kind: admm, name: " + "x" * 61 + "}]",
        ("masks.0.name", "60", "word"),
    ),
    ("name=" + "é" * 51, ("name", "100", "most")),
    # what Python, and a terminal, stumble over
    ('model="a\\nb\\e[2J"', ("model", "a\\nb\\x1b[2J", "text")),
    ('data_args.root="a\\0b"', ("data_args.root", "a\\x00b", "text")),
    ('name="\\ud800"', ("name", "\\ud800", "text")),
    ("model=!!binary AA==", ("model", "b'\\x00", "text")),
    ("arms=!!set {ticket, reinit}", ("arms.0", "mapping")),
    (
        "masks=[{kind: admm, rho: {2020-01-01: 3}}]",
        ("", "masks.0.rho", "datetime.date(2020, 1, 1)", "text"),
    ),
    ("model_args.a=" + "[" * 30 + "]" * 30, ("model_args.a.0.0.0.0", "20", "mappings")),
    ("model_args" + ".a" * 400 + "=1", ("model_args.a.a.a.a.a", "20", "mappings")),
    (
        "schedule.milestones=[1/" + "9" * 5000 + "]",
        ("recipe.schedule.milestones.0", "number"),
    ),
    (
        "schedule.milestones=[99999999999/1]",
        ("recipe.schedule.milestones.0", "99999999999/1", "epochs"),
    ),
    ("rewind=1/" + "9" * 400, ("rewind", "epochs")),
    ("data_args.root=~nobody-of-this-name/x", ("data_args", "root")),
    ("x" * 5000 + "=1", ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",)),
    # the pair of the user's
    ("pretrained={theta_0: a}", ("pretrained.theta_T", "missing", "default")),
    ("pretrained={theta_0: '{sed}', theta_T: b}", ("pretrained.theta_0", "{sed}", "placeholder")),
]


@pytest.mark.parametrize(("change", "refusal"), OVERRIDES, ids=[change for change, _ in OVERRIDES])
def test_a_wrong_field_is_refused_in_one_line(change: str, refusal: tuple[str, ...]):
    assert_wrong(spec(sparsities=[0.5]), *refusal, changes=[change])


def test_a_recipes_field_at_the_top_of_a_spec_is_sent_to_the_recipe():
    assert_wrong(spec(epochs=3), "epochs", "recipe.epochs")


def test_a_rewind_moment_that_fewer_epochs_leave_behind_is_named_with_what_would_follow_them():
    assert_wrong(spec(rewind="1ep"), "rewind", "1ep", "1 epoch", "1/5", "0ep", changes=["epochs=1"])
    assert load_spec(spec(rewind="1/5"), ["epochs=1"]).rewind == "0.2ep"


def test_several_faults_are_one_line_with_their_number():
    assert_wrong(spec(seeds=0, arms=[], sparsities=[2]), "sparsities.0", "2", "(and 2 more)")


@pytest.mark.parametrize("field", ["model", "data"])
def test_what_has_no_default_must_be_given(field: str):
    fields = spec()
    del fields[field]
    assert_wrong(fields, field, "missing")


@pytest.mark.parametrize("extra", [{"seeds": 900}, {"along_training": 1000, "seeds": 60}], ids=["trainings", "moments"])
def test_a_study_that_no_plan_could_hold(extra: dict[str, Any]):
    study = spec(sparsities={"per_round": 0.1, "rounds": 60}, **extra)
    assert_wrong(study, "seeds", extra["seeds"], "multiply", "100,000")


def test_a_mapping_of_pythons_that_holds_itself():
    loop: dict[str, Any] = {}
    loop["a"] = loop
    assert_wrong(spec(model_args=loop), "model_args.a.a.a.a.a", "20", "mappings")


def test_a_default_name_is_no_longer_than_a_folders_may_be():
    assert_wrong(spec(model="x" * 5000), "model", "unknown")
    assert load_spec(spec(model="///", data="//")).name == "study"


def test_a_long_value_is_cut_short():
    assert len(str(refusal_of(spec(model=["x" * 1000])))) < 120


PAIR = "pretrained={{theta_0: '{0}', theta_T: '{1}'{2}}}"


@pytest.mark.parametrize(
    ("paths", "changes", "refusal"),
    [
        (("a", "b-{seed}", ""), ["seeds=2"], ("pretrained.theta_0", "'a'", "2", "{seed}")),
        (("a-{seed}", "b", ""), ["seeds=2"], ("pretrained.theta_T", "'b'", "2", "{seed}")),
        (("a", "b", ""), [], ("pretrained.theta_T", "'b'", "2", "{learning_rate}")),
        (
            ("a", "b-{learning_rate}", ", theta_k: c"),
            [],
            ("pretrained.theta_k", "'c'", "2", "{learning_rate}"),
        ),
        (
            ("a", "b", ""),
            ["learning_rates=[0.1]", "masks=[{kind: one_shot, learning_rate: 0.01}]"],
            ("pretrained.theta_T", "'b'", "2", "{learning_rate}"),
        ),
        (
            ("/dev/zero", "b", ""),
            ["learning_rates=[0.1]"],
            ("pretrained.theta_0", "/dev/zero", "device"),
        ),
        (
            ("no/such-{seed}", "b", ""),
            ["learning_rates=[0.1]"],
            ("pretrained.theta_0", "no/such-0", "No such file"),
        ),
    ],
)
def test_one_file_cannot_serve_several_runs(paths: tuple[str, str, str], changes: list[str], refusal: tuple[str, ...]):
    assert_wrong(spec(), *refusal, changes=[PAIR.format(*paths), *changes])


# --- sources ----------------------------------------------------------------------------------------------------

LEVELS = "abcdefghij"  # nine times nine times ...: a kilobyte that stands for 9^10 values
BOMB = "model: small\nmodel_args:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(LEVELS)
)
FILES = [
    ("", ("empty", "model", "data")),
    ("# nothing\n", ("empty",)),
    ("- a\n- b\n", ("mapping",)),
    ("just words\n", ("str",)),
    ("model: small\nseeds: 3\n\nseeds: 4\n", ("4", "seeds", "2", "twice")),
    (
        "model: small\nrecipe:\n  epochs: 3\n  epochs: 3\n",
        ("4", "epochs", "3", "twice"),
    ),
    ("model: small\nmasks: [\n", ("3", "YAML")),
    ("model: small\n\tdata: x\n", ("2", "YAML")),
    ("model: small\ndata: *nowhere\n", ("2", "YAML", "alias")),
    ("model: small\ndata: !!python/object:os.system x\n", ("2", "YAML", "determine")),
    ("model: small\n? [a]\n: b\n", ("2", "YAML", "found")),
    ("model: small\n---\ndata: x\n", ("2", "YAML", "found")),
    ("model: small\ndata: a\x00b\n", ("2", "YAML", "character")),
    ("model: small\ndata: 2020-99-99\n", ("YAML", "ValueError", "read")),
    ("[" * 1500, ("YAML", "RecursionError", "read")),
    ("a: &a '" + "x" * 9000 + "'\nb: [" + "*a, " * 999 + "]\n", ("1,000,000", "aliases")),
    ("# " + "x" * 1_000_001, ("1,000,000", "YAML", "characters")),
    (BOMB, ("1,000,000", "aliases")),
    ("model: small\nmodel_args: &x {a: *x}\n", ("1,000,000", "aliases")),
]


def test_an_alias_that_only_repeats_is_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: small\ndata: fashion-mini\nsparsities: &s [0.5, 0.75]\nlearning_rates: *s\n")
    assert load_spec(file).learning_rates == (0.5, 0.75)


@pytest.mark.parametrize(("text", "mentions"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_spec_is_refused_in_one_line(text: str, mentions: tuple[str, ...], tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert_wrong(file, str(file), *mentions)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"model: \xff\xfe\n")
    assert_wrong(str(file), str(file), "YAML", "UTF-8")


def test_a_missing_file_and_an_unknown_preset(tmp_path: Path):
    assert_wrong(tmp_path / "no.yaml", str(tmp_path / "no.yaml"), "No such file")
    (tmp_path / "folder.yaml").mkdir()
    assert_wrong(tmp_path / "folder.yaml", str(tmp_path / "folder.yaml"), "Is a directory")
    assert_wrong("quikc", "spec", "quikc", "quick")
