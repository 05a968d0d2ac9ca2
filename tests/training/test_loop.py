"""The training loop against a slow and obvious one, and what it records."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prunetune.core.references import Ref
from prunetune.core.seeding import order_digest
from prunetune.sparsity.model_state import digest_tensors
from prunetune.training.evaluate import evaluate
from prunetune.training.loop import EpochEnd
from prunetune.training.recipe import Recipe, TrainingTime
from tests.support.refusals import refused
from tests.support.train_makers import COUNT, RECIPE, dataset, network, reference, run

AUGMENTED = replace(RECIPE, augment=("crop", "flip"))
POINTS = (
    TrainingTime(0.0, "ep"),
    TrainingTime(3, "it"),
    TrainingTime(1.0, "ep"),
    TrainingTime(1.5, "ep"),
    TrainingTime(3.0, "ep"),
)


def same(first: object, second: object) -> bool:
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    return digest_tensors(first) == digest_tensors(second)


class Dropping(nn.Module):
    """A network that draws random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(self.body(images), 0.5, self.training)


class Viewing(nn.Module):
    """A network that works in row-major memory only."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.convolution(images).view(len(images), -1))


@pytest.mark.parametrize(
    "recipe", [RECIPE, AUGMENTED, replace(RECIPE, nesterov=True)], ids=["plain", "augment", "nesterov"]
)
def test_like_the_obvious_loop(recipe: Recipe) -> None:
    expected = network()
    reference(expected, recipe, 1, 2)
    state = run(recipe=recipe).state
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=2e-4, atol=2e-5)
    far = max((state[name] - tensor).abs().max() for name, tensor in network().state_dict().items())
    assert far > 0.05  # it has moved far more than the tolerance


def test_what_is_recorded() -> None:
    seen: list[EpochEnd] = []
    model = network()
    start = digest_tensors(model.state_dict())
    trained = run(model, on_epoch=seen.append)
    assert (trained.steps, trained.epochs, trained.diverged) == (12, 3, False)
    assert trained.start_digest == start
    assert trained.data_order_digest == order_digest(1, 3, COUNT)
    assert [(end.epoch, end.epochs) for end in seen] == [(1, 3), (2, 3), (3, 3)]
    assert tuple(end.train_loss for end in seen) == trained.train_loss
    assert trained.train_loss[2] < trained.train_loss[0]
    data = dataset()
    assert trained.test == evaluate(model, data.test, data, RECIPE, "cpu")
    assert (trained.validation, trained.density, trained.revived, trained.residuals) == (None, None, 0, ())
    assert trained.seconds > 0


def test_train_loss_is_the_mean_over_images() -> None:
    still = replace(RECIPE, epochs=1, learning_rate=0.0, momentum=0.0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), dataset()
    expected = evaluate(model, data.train, data, RECIPE, "cpu").loss
    assert run(model, still).train_loss == pytest.approx((expected,), rel=1e-5)


def test_validation_is_scored_when_images_are_held_out() -> None:
    data, model = dataset(held_out=20), network()
    trained = run(model, data=data)
    expected = evaluate(model, data.validation, data, RECIPE, "cpu")
    assert trained.validation == expected != trained.test


def test_two_runs_give_the_same_bytes_whatever_the_caller_does() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    first = run(Dropping(), AUGMENTED)
    torch.manual_seed(2)
    torch.set_num_threads(2)
    try:
        generator = torch.get_rng_state()
        second = run(Dropping(), AUGMENTED)
        assert torch.equal(generator, torch.get_rng_state())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert same(first.state, second.state)
    assert (first.test, first.train_loss) == (second.test, second.train_loss)


def test_one_thread_while_it_trains() -> None:
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        run(on_epoch=lambda end: seen.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 1, 1]


def test_the_order_seed_changes_the_order_and_no_draw() -> None:
    first, other = run(recipe=AUGMENTED), run(recipe=AUGMENTED, order_seed=3)
    assert first.start_digest == other.start_digest
    assert first.data_order_digest != other.data_order_digest
    assert not same(first.state, other.state)


def test_the_augment_seed_changes_draws_and_no_order() -> None:
    first, other = run(recipe=AUGMENTED), run(recipe=AUGMENTED, augment_seed=3)
    assert first.data_order_digest == other.data_order_digest
    assert not same(first.state, other.state)
    assert same(run().state, run(augment_seed=3).state)  # nothing is drawn without augmentation or dropout
    assert not same(run(Dropping()).state, run(Dropping(), augment_seed=3).state)


def test_the_order_is_the_same_for_another_start_recipe_and_length() -> None:
    other = replace(AUGMENTED, learning_rate=0.1, optimizer="adamw", batch_size=7)
    assert run().data_order_digest == run(network(seed=5), other).data_order_digest


def test_snapshots_are_the_states_of_shorter_trainings() -> None:
    trained = run(snapshots=POINTS)
    assert set(trained.snapshots) == set(POINTS)
    shorter = run(recipe=replace(RECIPE, epochs=1))
    assert same(trained.snapshots[TrainingTime(1.0, "ep")], shorter.state)
    assert same(trained.snapshots[TrainingTime(3.0, "ep")], trained.state)
    assert len({digest_tensors(state) for state in trained.snapshots.values()}) == 5
    assert same(trained.state, run().state)  # looking changes nothing


def test_a_snapshot_at_0_is_the_start() -> None:
    start = network().state_dict()
    trained = run(snapshots=POINTS)
    assert same(trained.snapshots[TrainingTime(0.0, "ep")], dict(start))
    assert digest_tensors(trained.snapshots[TrainingTime(0.0, "ep")]) == trained.start_digest


def test_snapshots_and_state_do_not_alias_the_model() -> None:
    model = network()
    trained = run(model, snapshots=POINTS)
    before = {point: digest_tensors(state) for point, state in trained.snapshots.items()}, digest_tensors(trained.state)
    run(model)  # goes on with the same module
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert before == (
        {point: digest_tensors(state) for point, state in trained.snapshots.items()},
        digest_tensors(trained.state),
    )
    assert all(tensor.is_contiguous() for tensor in trained.state.values())


@pytest.mark.parametrize("text", ["3.25ep", "13it"])
def test_a_snapshot_after_the_end(text: str) -> None:
    with refused("snapshots", text, "13", "3ep", "12"):
        run(snapshots=[TrainingTime.parse(text)])


def test_divergence_ends_the_training_and_is_recorded() -> None:
    seen: list[EpochEnd] = []
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    recipe = replace(RECIPE, learning_rate=1e6, epochs=5, schedule=replace(RECIPE.schedule, kind="constant"))
    points = [TrainingTime(1, "it"), TrainingTime(5.0, "ep")]
    trained = run(model, recipe, on_epoch=seen.append, snapshots=points)
    assert trained.diverged
    assert trained.epochs == len(seen) == len(trained.train_loss) < 5
    assert trained.steps == 4 * trained.epochs
    assert not math.isfinite(trained.train_loss[-1])
    assert 0 <= trained.test.value <= 100
    assert list(trained.snapshots) == points[:1]


def test_weights_lost_in_the_last_step_are_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.SGD.step
    count = 0

    def last_step_fails(self: torch.optim.SGD, closure: None = None) -> None:
        nonlocal count
        count += 1
        step(self, closure)
        if count == 12:
            self.param_groups[0]["params"][0].data[0] = math.nan

    monkeypatch.setattr(torch.optim.SGD, "step", last_step_fails)
    trained = run()
    assert all(map(math.isfinite, trained.train_loss))
    assert trained.diverged


def test_users_loss_and_metric() -> None:
    hinge = replace(
        RECIPE, loss=Ref.of("tests.support.train_makers:hinge"), metric=Ref.of("tests.support.train_makers:top_two")
    )
    trained, plain = run(recipe=hinge), run()
    assert not same(trained.state, plain.state)
    model, data = network(), dataset()
    model.load_state_dict(trained.state)
    model.eval()
    inputs = (data.test_images.double() / 255 - data.mean[0]) / data.std[0]
    guesses = model(inputs.float()).topk(2).indices.tolist()
    points = [
        1.0 * (a == label) + 0.5 * (b == label)
        for (a, b), label in zip(guesses, data.test_labels.tolist(), strict=True)
    ]
    assert trained.test.value == pytest.approx(100 * sum(points) / len(points))
    with refused("recipe.loss", "scalar"):
        run(recipe=replace(RECIPE, loss=Ref.of("tests.support.train_makers:vector_loss")))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_learn(optimizer: str) -> None:
    trained = run(recipe=replace(RECIPE, optimizer=optimizer, learning_rate=0.01))  # type: ignore[arg-type]
    assert trained.train_loss[-1] < 0.8 * trained.train_loss[0]


def test_bfloat16_is_near_and_not_equal() -> None:
    exact, rough = run(), run(recipe=replace(RECIPE, precision="bf16"))
    assert not same(exact.state, rough.state)
    assert all(tensor.dtype == exact.state[name].dtype for name, tensor in rough.state.items())
    assert rough.train_loss == pytest.approx(exact.train_loss, rel=0.05)


def test_a_network_that_cannot_work_channels_last() -> None:
    model = Viewing()
    trained = run(model)
    assert trained.train_loss[-1] < trained.train_loss[0]
    assert model.convolution.weight.is_contiguous()


def test_a_wrong_network_says_what_torch_says() -> None:
    with refused("model", "mat1", "mat2"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(63, 4)))
