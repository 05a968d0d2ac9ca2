"""The user's own models by `package.module:callable`: what they are given, how they are hashed and refused."""

import hashlib
import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prunetune.core.references import Ref
from prunetune.errors import ConfigError
from prunetune.models import MODELS, build, draw, identify

SHAPE = (1, 4, 4)
GOOD = """
    from torch import nn
    def make(input_shape, outputs, hidden=5):
        c, h, w = input_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
"""
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module of the user's and return its name, a new one at each call."""
    monkeypatch.syspath_prepend(tmp_path)
    stem = "user_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]

    def file(source: str) -> str:
        name = f"{stem}_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return file


def refusal(name: str, **arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        identify(name, arguments, SHAPE, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(name, "USER")


def test_a_callable_gets_shape_outputs_and_its_arguments(write: Write) -> None:
    name = f"{write(GOOD)}:make"
    model = build(Ref.of(name, {"hidden": 7}), SHAPE, 3)
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 16), (7,), (3, 7), (3,)]


def test_a_callable_gets_only_what_it_accepts(write: Write) -> None:
    module = write(
        """
        from torch import nn
        def bare():
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        class Net(nn.Sequential):
            def __init__(self, *, outputs):
                super().__init__(nn.Flatten(), nn.Linear(16, outputs))
        def open_ended(**everything):
            assert everything == {"input_shape": (1, 4, 4), "outputs": 3, "note": "x"}, everything
            return bare()
        """
    )
    for attribute, arguments in (("bare", {}), ("Net", {}), ("open_ended", {"note": "x"})):
        ref = identify(f"{module}:{attribute}", arguments, SHAPE, 3)
        assert ref.kwargs == arguments
        assert build(ref, SHAPE, 3)(torch.zeros(2, *SHAPE)).shape == (2, 3)


def test_the_seed_reaches_a_callable(write: Write) -> None:
    ref = identify(f"{write(GOOD)}:make", {}, SHAPE, 3)
    before = torch.get_rng_state()
    first, again, other = (next(draw(ref, SHAPE, 3, seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_digest_is_of_the_source_and_the_parameter_shapes(write: Write, tmp_path: Path) -> None:
    module = write(GOOD)
    digests = {hidden: identify(f"{module}:make", {"hidden": hidden}, SHAPE, 3).digest for hidden in (5, 6)}
    assert len(set(digests.values())) == 2  # other shapes
    source = hashlib.sha256((tmp_path / f"{module}.py").read_bytes()).hexdigest()
    shapes = [["1.weight", [5, 16]], ["1.bias", [5]], ["3.weight", [3, 5]], ["3.bias", [3]]]
    assert digests[5] == hashlib.sha256(json.dumps([source, shapes]).encode()).hexdigest()
    assert identify(f"{module}:make", {"hidden": 5}, SHAPE, 3).digest == digests[5]
    changed = write(GOOD.replace("ReLU", "Tanh"))  # the same shapes from another source
    assert identify(f"{changed}:make", {"hidden": 5}, SHAPE, 3).digest not in digests.values()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "state = torch.Generator().manual_seed(0)\nnn.init.normal_(net[1].weight, generator=state)",
            "model: 'USER' gives '1.weight' the same values under every seed; draw it anew at each call",
        ),
        (
            "net[1].weight = nn.Parameter(torch.arange(48.0).view(3, 16))",
            "model: 'USER' gives '1.weight' the same values under every seed; draw it anew at each call",
        ),
        (
            "net = KEPT",  # one module object, handed out again and again
            "model: 'USER' gives '1.weight' the same values under every seed; draw it anew at each call",
        ),
        (
            "net[1].weight.data = torch.from_numpy(numpy.random.default_rng().normal(size=(3, 16))).float()",
            "model: 'USER' draws '1.weight' anew under the same seed; draw it from torch's global CPU generator",
        ),
        ("net = {'a': 1}", "model: 'USER' returned a dict; it must return a torch.nn.Module"),
        ("net = None", "model: 'USER' returned a NoneType; it must return a torch.nn.Module"),
        ("raise KeyError('two\\nlines')", "model: 'USER' raised KeyError: 'two\\nlines'"),
        ("raise ValueError('two\\nlines')", "model: 'USER' raised ValueError: two lines"),
        (
            "net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))",
            "model: 'USER' has lazy parameters; give its layers their sizes, which follow from `input_shape`",
        ),
        (
            "net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))",
            "model: 'USER' gives (2, 4) for 2 images; it must give logits of shape (2, 3)",
        ),
        (
            "net.forward = lambda x: [x]",
            "model: 'USER' gives list for 2 images; it must give logits of shape (2, 3)",
        ),
        (
            "net.register_buffer('graph', torch.eye(3).to_sparse())",
            "model: 'USER' keeps 'graph' in its state, a sparse_coo; a study stores dense tensors",
        ),
        (
            "class Extra(nn.Sequential):\n    def get_extra_state(self):\n        return {'version': 1}\n"
            "net = Extra(*net)",
            "model: 'USER' keeps '_extra_state' in its state, a dict; a study stores dense tensors",
        ),
        ("net = nn.Linear(5, 3)", "model: 'USER' cannot take images of shape (1, 4, 4): RuntimeError: mat1 and mat2 "),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_bad_callable_is_refused_in_one_line(write: Write, body: str, message: str) -> None:
    source = "import numpy, torch\nfrom torch import nn\nKEPT = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
    source += "def make():\n    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
    source += textwrap.indent(body, "    ") + "\n    return net\n"
    assert refusal(f"{write(source)}:make").startswith(message)


def test_arguments_of_a_callable_are_checked(write: Write) -> None:
    module = write(GOOD + "\n    def needy(width):\n        pass\n    net = nn.Linear(1, 1)\n")
    assert refusal(f"{module}:make", hiden=3) == "model_args: unknown 'hiden'; did you mean 'hidden'?"
    assert refusal(f"{module}:make", outputs=3) == "model_args: unknown 'outputs'; known: hidden"
    assert refusal(f"{module}:make", hidden={1}) == (
        "model_args: Object of type set is not JSON serializable; give numbers, texts, lists and mappings"
    )
    assert refusal(f"{module}:needy").startswith("model: 'USER' raised TypeError: needy() missing 1 required")
    assert refusal(f"{module}:net") == (
        "model: 'USER' is a network itself; it must be a callable that builds a new one each time"
    )
    assert refusal("builtins:dict").startswith("model: the parameters of 'USER' cannot be read: ")
    assert refusal(f"{module}:mke").startswith("model: cannot import 'USER': ")


def test_constant_and_frozen_weights_are_no_broken_seed(write: Write) -> None:
    module = write(
        """
        import torch
        from torch import nn
        def make():
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(8, 3))
            nn.init.zeros_(net[3].weight)
            net[1].weight = nn.Parameter(torch.arange(256.0).view(16, 16), requires_grad=False)
            return net
        """
    )
    assert identify(f"{module}:make", {}, SHAPE, 3).digest


def test_a_registered_model_of_another_package_is_hashed_like_a_callable(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = write(GOOD)
    make = getattr(__import__(module), "make")  # noqa: B009
    monkeypatch.setitem(MODELS._items, "theirs", make)
    assert identify("theirs", {}, SHAPE, 3).digest == identify(f"{module}:make", {}, SHAPE, 3).digest
