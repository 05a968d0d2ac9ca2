"""What every registered model keeps: shapes, seeds, gradients, batch independence. A new one is tested unasked."""

import math

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.errors import ConfigError
from prunetune.models import MODELS, build, draw, identify
from tests.support.refusals import refused

SHAPE = (3, 32, 32)
DEEPER = ("vgg13", "vgg16", "vgg19", "resnet32", "resnet44", "resnet56", "resnet110")  # than another of their family
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEPER else name for name in MODELS]
)


def drawn(name: str, seed: int = 0, input_shape: tuple[int, ...] = SHAPE, outputs: int = 10) -> nn.Module:
    return draw(Ref.of(name), input_shape, outputs, seed)


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def images(n: int, input_shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(n, *input_shape, generator=torch.Generator().manual_seed(9))


def test_the_issue_s_models_are_there() -> None:
    asked = "small resnet resnet20 vgg11 vgg13 vgg16 vgg19 mobilenetv2 lenet_300_100 conv2 conv4 conv6"
    assert set(asked.split()) <= set(MODELS)


@every_model
@pytest.mark.parametrize(("input_shape", "outputs"), [((3, 32, 32), 10), ((1, 36, 44), 3)])
def test_logits_have_shape_n_by_outputs(name: str, input_shape: tuple[int, ...], outputs: int) -> None:
    model = drawn(name, input_shape=input_shape, outputs=outputs)
    for training in (True, False):
        logits = model.train(training)(images(2, input_shape))
        assert logits.shape == (2, outputs)
        assert logits.isfinite().all()


@every_model
def test_28_pixels_work_or_are_refused_in_one_line(name: str) -> None:
    if name.startswith("vgg"):
        with refused("model", name, "32x32", "28x28"):
            identify(name, {}, (1, 28, 28), 10)
    else:
        assert drawn(name, input_shape=(1, 28, 28))(images(2, (1, 28, 28))).shape == (2, 10)


@every_model
def test_the_seed_decides_every_byte(name: str) -> None:
    torch.manual_seed(1)
    first = drawn(name, seed=5).state_dict()
    torch.manual_seed(2)
    again = drawn(name, seed=5).state_dict()
    assert list(first) == list(again)
    assert all(raw(first[key]) == raw(again[key]) for key in first)


@every_model
def test_another_seed_changes_every_weight(name: str) -> None:
    first, other = dict(drawn(name, seed=0).named_parameters()), dict(drawn(name, seed=1).named_parameters())
    weights = [key for key, parameter in first.items() if parameter.dim() >= 2]
    assert weights
    for key in weights:
        # Continuous draws: hardly an element is equal by chance.
        assert (first[key] == other[key]).float().mean() < 0.01, key


@every_model
def test_drawing_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    drawn(name)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_weights_are_kaiming_normal_and_the_rest_constant(name: str) -> None:
    model = drawn(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            n, fan_in = module.weight.numel(), module.weight[0].numel()
            deviation = math.sqrt(2 / fan_in)
            # Five standard errors: of a mean, and of a standard deviation of normal draws.
            assert abs(module.weight.mean().item()) < 5 * deviation / math.sqrt(n)
            assert abs(module.weight.std().item() - deviation) < 5 * deviation / math.sqrt(2 * n)
            assert module.bias is None or (module.bias == 0).all()


@every_model
def test_gradients_reach_every_parameter(name: str) -> None:
    # In evaluation mode, because batch norm on batch statistics makes the gradient of a bias before it zero.
    model = drawn(name).eval()
    logits = model(images(4))
    (logits * torch.arange(1.0, 41.0).view(4, 10)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@every_model
def test_evaluation_does_not_depend_on_the_companions(name: str) -> None:
    model = drawn(name)
    model(images(8))  # moves the running statistics away from 0 and 1
    model.eval()
    batch = images(4)
    others = torch.cat([batch[:1], 3 * batch[1:].flip(0) + 1])
    torch.testing.assert_close(model(batch)[0], model(others)[0])


@every_model
def test_a_state_survives_the_round_trip(name: str) -> None:
    model, other = drawn(name, seed=0), build(Ref.of(name), SHAPE, 10)
    model(images(4))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images(2)), other.eval()(images(2)))


@every_model
def test_an_identified_model_builds_the_same_network(name: str) -> None:
    before = torch.get_rng_state()
    ref = identify(name, {}, SHAPE, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert (ref.name, ref.digest) == (name, "")
    assert raw(next(draw(ref, SHAPE, 10, 3).parameters())) == raw(next(drawn(name, seed=3).parameters()))


@every_model
def test_an_unknown_argument_is_refused(name: str) -> None:
    with refused("model_args", "widht"):
        identify(name, {"widht": 8}, SHAPE, 10)


@every_model
def test_what_the_data_decide_is_no_argument(name: str) -> None:
    with refused("model_args", "outputs"):
        identify(name, {"outputs": 8}, SHAPE, 10)


def test_defaults_are_written_out() -> None:
    assert identify("resnet20", {}, SHAPE, 10) == Ref.of("resnet20", {"width": 16})
    assert identify("resnet", {"width": 8}, SHAPE, 10) == Ref.of("resnet", {"depth": 20, "width": 8})


@pytest.mark.parametrize(("name", "default", "other"), [("vgg11", 64, 4), ("vgg19", 64, 4), ("mobilenetv2", 1, 0.5)])
def test_a_width_that_came_later_is_written_out_only_where_it_is_another(name: str, default: float, other: float):
    assert identify(name, {}, SHAPE, 10) == identify(name, {"width": default}, SHAPE, 10) == Ref.of(name)
    assert identify(name, {"width": other}, SHAPE, 10) == Ref.of(name, {"width": other})


@pytest.mark.parametrize(
    ("name", "arguments", "input_shape", "message"),
    [
        ("resnet21", {}, SHAPE, "model: unknown 'resnet21'; did you mean 'resnet"),
        ("a-b:c", {}, SHAPE, "model: unknown 'a-b:c'; known: conv2, "),
        ("resnet20", {"widht": 8}, SHAPE, "model_args: unknown 'widht'; did you mean 'width'?"),
        ("resnet20", {"depth": 32}, SHAPE, "model_args: unknown 'depth'; did you mean 'width'?"),
        ("lenet_300_100", {"width": 32}, SHAPE, "model_args: unknown 'width'; 'lenet_300_100' takes no arguments"),
        ("resnet", {"depth": 21}, SHAPE, "model_args.depth: 21 is not 6n + 2; the nearest is 20"),
        ("resnet", {"depth": 2}, SHAPE, "model_args.depth: 2 is not 6n + 2; the nearest is 8"),
        ("resnet", {"depth": "20"}, SHAPE, "model_args.depth: '20' is not a whole number of at least 1"),
        ("resnet", {"depth": True}, SHAPE, "model_args.depth: True is not a whole number of at least 1"),
        ("small", {"width": 0}, SHAPE, "model_args.width: 0 is not a whole number of at least 1"),
        ("vgg16", {"width": 1.5}, SHAPE, "model_args.width: 1.5 is not a whole number of at least 1"),
        ("mobilenetv2", {"width": 0}, SHAPE, "model_args.width: 0 is not a number above 0"),
        ("mobilenetv2", {"width": "1"}, SHAPE, "model_args.width: '1' is not a number above 0"),
        ("mobilenetv2", {"width": math.inf}, SHAPE, "model_args.width: inf is not a number above 0"),
        ("small", {"width": 1.5}, SHAPE, "model_args.width: 1.5 is not a whole number of at least 1"),
        ("small", {}, (1, 28, 7), "model: small needs images of at least 13x13 pixels; got 28x7"),
        ("resnet20", {}, (3, 3, 9), "model: resnet20 needs images of at least 4x4 pixels; got 3x9"),
        ("mobilenetv2", {}, (3, 7, 7), "model: mobilenetv2 needs images of at least 8x8 pixels; got 7x7"),
        ("conv2", {}, (3, 1, 1), "model: conv2 needs images of at least 2x2 pixels; got 1x1"),
        ("conv4", {}, (3, 3, 3), "model: conv4 needs images of at least 4x4 pixels; got 3x3"),
        ("conv6", {}, (3, 7, 8), "model: conv6 needs images of at least 8x8 pixels; got 7x8"),
        ("vgg11", {}, (784,), "model: vgg11 takes images of shape (channels, height, width); got (784,)"),
    ],
)
def test_a_wrong_request_is_one_clear_line(
    name: str, arguments: dict, input_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        identify(name, arguments, input_shape, 10)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "side"), [("small", 13), ("resnet", 4), ("mobilenetv2", 8), ("conv2", 2), ("conv6", 8), ("vgg11", 32)]
)
def test_the_least_side_works(name: str, side: int) -> None:
    shape = (3, side, side)
    assert drawn(name, input_shape=shape)(images(2, shape)).shape == (2, 10)
