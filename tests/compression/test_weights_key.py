"""`--weights-key`: which state of a file is meant, as a part of the step's key where it is said."""

from dataclasses import replace
from pathlib import Path

from prunetune.core.references import Ref
from prunetune.spec.compression import CompressionRequest, _pretrained
from prunetune.spec.load import load_spec
from prunetune.spec.study_fields import PretrainedSpec
from prunetune.steps.steps import Import, describe
from prunetune.training.recipe import Recipe
from tests.support.refusals import refused


def test_what_is_asked_for_becomes_the_specs() -> None:
    file = Path("trained.pt")
    assert _pretrained(CompressionRequest()) == {}
    assert _pretrained(CompressionRequest(weights=file)) == {"pretrained": {"theta_T": "trained.pt"}}
    assert _pretrained(CompressionRequest(weights=file, weights_key="ema"))["pretrained"]["key"] == "ema"
    with refused("--weights-key", "ema", "file"):
        _pretrained(CompressionRequest(weights_key="ema"))


def test_a_key_is_in_the_steps_key_where_it_is_given() -> None:
    step = Import(Ref.of("small"), (1, 28, 28), 10, Ref.of("fashion-mini"), "0" * 64, Recipe(0, 8, 0.0), "trained.pt")
    keyed = replace(step, weights_key="ema")
    assert "weights_key" not in str(describe(step))
    assert keyed.key != step.key == replace(keyed, weights_key=None).key


def test_a_resolved_spec_names_a_key_only_where_it_is_given() -> None:
    fields = {"model": "small", "data": "fashion-mini", "seeds": 1, "learning_rates": [0.1]}
    for given in ({"theta_0": "a", "theta_T": "b"}, {"theta_0": "a", "theta_T": "b", "key": "ema"}):
        spec = load_spec({**fields, "pretrained": given})
        assert spec.pretrained == PretrainedSpec.model_validate(given)
        assert ("key" in spec.resolved()["pretrained"]) == ("key" in given)
        assert load_spec(spec.resolved()).resolved() == spec.resolved()
