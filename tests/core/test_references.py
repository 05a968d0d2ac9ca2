"""Refs, and the user's code by `package.module:callable`: names, imports that fail, source digests."""

import hashlib
import importlib
import math
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.core.references import Ref, is_callable_name, load_callable, source_digest
from prunetune.errors import ConfigError
from tests.support.refusals import refused

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's, with good and bad things to name."""
    name = "references_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    source = """
        import functools
        LIMIT = 3
        def make(): return "made"
        @functools.wraps(math_sqrt := __import__("textwrap").dedent)
        def wrapped(text): return text
        class Net:
            @staticmethod
            def tiny(): return "tiny"
            def __call__(self): return "called"
        instance = Net()
        part = functools.partial(make)
    """
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    return name


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_arguments_have_one_spelling_and_come_back(arguments: dict) -> None:
    ref = Ref.of("model", arguments)
    backwards = Ref.of("model", dict(reversed(arguments.items())))
    assert ref == backwards
    assert hash(ref) == hash(backwards)
    assert ref.kwargs == arguments


def test_refs_differ_by_each_of_name_arguments_and_digest() -> None:
    refs = {Ref.of("a"), Ref.of("b"), Ref.of("a", {"x": 1}), Ref.of("a", {"x": 2}), Ref.of("a", digest="d")}
    assert len(refs) == 5
    assert Ref.of("a") == Ref("a") == Ref.of("a", {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:callable", True),
        ("module:callable", True),
        ("module:Class.method", True),
        ("_m1:f", True),
        ("resnet20", False),
        ("imagefolder:", False),
        (":f", False),
        ("", False),
        (":", False),
        ("imagefolder:/some/folder", False),
        ("imagefolder:some-folder", False),
        ("a..b:f", False),
        ("a.b:f.", False),
        ("a:b:c", False),
        ("a b:c", False),
        ("1a:b", False),
    ],
)
def test_the_form_of_a_callable_s_name(name: str, expected: bool) -> None:
    assert is_callable_name(name) is expected


identifiers = st.text().filter(str.isidentifier)


@given(st.lists(identifiers, min_size=1, max_size=3), st.lists(identifiers, min_size=1, max_size=2))
def test_every_dotted_name_with_one_colon_is_a_callable_s(module_path: list[str], attributes: list[str]) -> None:
    left, right = ".".join(module_path), ".".join(attributes)
    assert is_callable_name(f"{left}:{right}")
    assert not is_callable_name(f"{left}.{right}")


def test_callables_are_imported(module: str) -> None:
    assert load_callable("math:sqrt", "loss") is math.sqrt
    assert load_callable("importlib.metadata:version", "loss") is importlib.import_module("importlib.metadata").version
    assert load_callable(f"{module}:make", "model")() == "made"
    assert load_callable(f"{module}:Net.tiny", "model")() == "tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_xyz:f", "loss: cannot import 'no_such_module_xyz:f': No module named 'no_such_module_xyz'"),
        ("math.sub:f", "loss: cannot import 'math.sub:f': No module named 'math.sub'; 'math' is not a package"),
        ("math:sqroot", "loss: cannot import 'math:sqroot': module 'math' has no attribute 'sqroot'"),
        ("math:pi", "loss: 'math:pi' is a float; it must be callable"),
    ],
)
def test_a_bad_callable_is_one_line_that_names_the_field(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_callable(name, "loss")
    assert str(caught.value) == message


def test_something_that_is_no_callable_is_refused(module: str) -> None:
    with refused("metric", f"{module}:LIMIT", "int", "callable"):
        load_callable(f"{module}:LIMIT", "metric")
    with refused("metric", f"{module}:Net.big", "'big'", "attribute"):
        load_callable(f"{module}:Net.big", "metric")


@pytest.mark.parametrize("source", ["def f(:\n", "import no_such_module_xyz\n", "1 / 0\n", "raise SystemExit(3)\n"])
def test_a_module_that_does_not_import_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "broken_" + hashlib.sha256((str(tmp_path) + source).encode()).hexdigest()[:12]
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with refused("model", f"{name}:f", "import"):
        load_callable(f"{name}:f", "model")


def test_the_digest_is_that_of_the_file_that_defines_the_callable(module: str, tmp_path: Path) -> None:
    expected = hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()
    assert source_digest(load_callable(f"{module}:make", "model")) == expected
    assert source_digest(load_callable(f"{module}:Net", "model")) == expected
    assert source_digest(load_callable(f"{module}:Net.tiny", "model")) == expected


def test_the_digest_follows_an_import_to_the_definition(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{module}_again.py").write_text(f"from {module} import make\n")
    again = load_callable(f"{module}_again:make", "model")
    assert source_digest(again) == hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()


def test_a_decorated_function_counts_as_what_it_wraps(module: str) -> None:
    wrapped = load_callable(f"{module}:wrapped", "model")
    assert source_digest(wrapped) == hashlib.sha256(Path(textwrap.__file__).read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "shown"), [("instance", "Net"), ("part", "partial")])
def test_an_object_that_no_one_source_defines_is_refused(module: str, name: str, shown: str) -> None:
    with refused("", shown, "source", "function"):
        source_digest(load_callable(f"{module}:{name}", "model"))


def test_compiled_code_is_refused() -> None:
    with refused("", "sqrt", "identify"):
        source_digest(math.sqrt)
