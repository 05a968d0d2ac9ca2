"""The public names, and those of the last minor version, which warn."""

import pytest

import prunetune
from prunetune import errors

RENAMED = {
    "prune": "compute_mask",
    "hold": "apply_mask",
    "release": "remove_mask",
    "held_mask": "get_mask",
    "survey": "list_parameters",
}
ERRORS = {"RequestError": "ConfigError", "BreachError": "InvariantError", "DamageError": "CorruptionError"}


@pytest.mark.parametrize("name", prunetune.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(prunetune, name).__doc__


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [*((prunetune, *names) for names in RENAMED.items()), *((errors, *names) for names in ERRORS.items())],
)
def test_an_old_name_warns_and_is_the_new_one(module: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{old} is named prunetune\.(errors\.)?{new} now$"):
        found = getattr(module, old)
    assert found is getattr(module, new)


@pytest.mark.parametrize("module", [prunetune, errors])
def test_any_other_name_is_none(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing  # pyright: ignore[reportAttributeAccessIssue]
