"""Boxes: the mean average precision against pycocotools, a slow loop and by hand; and a detector's whole study."""

import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from operator import itemgetter
from typing import Any

import pytest
import torch
from torch import Tensor

from prunetune.data import Batch, identify, load_examples
from prunetune.execution.run_step import execute
from prunetune.models import build
from prunetune.plan.compile import Plan, plan
from prunetune.spec.load import load_spec
from prunetune.steps.steps import Prune, Train
from prunetune.store.store import Store
from prunetune.tasks import collate_boxes
from prunetune.tasks.detection import Detection
from prunetune.training.evaluate import score_blocks
from tests.support.refusals import refused
from tests.support.task_makers import HERE, draws, tiny

TASK = Detection()
Image = dict[str, Tensor]  # boxes and labels, with scores where they were found
SCORE = itemgetter(0)  # of equal ones the first stays the first
OVERLAPS = [0.5 + 0.05 * i for i in range(10)]


def drawn(count: int, seed: int, most: int = 6) -> tuple[list[Image], list[Image]]:
    """Images with boxes, and detections: jittered boxes, some of another class, and some of nothing."""
    source, wanted, found = draws(seed), [], []

    def boxes(n: int) -> Tensor:
        corner, size = torch.rand(n, 2, generator=source) * 50, torch.rand(n, 2, generator=source) * 30 + 2
        return torch.cat([corner, corner + size], 1)

    for _ in range(count):
        n, more = (int(torch.randint(0, most, (1,), generator=source)) for _ in range(2))
        own, labels = boxes(n), torch.randint(0, 3, (n,), generator=source)
        shifted = own + 2.5 * torch.randn(n, 4, generator=source)
        shifted[:, 2:] = torch.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        said = torch.where(torch.rand(n, generator=source) < 0.8, labels, labels + 1)
        wanted.append({"boxes": own, "labels": labels})
        found.append(
            {
                "boxes": torch.cat([shifted, boxes(more)]),
                "labels": torch.cat([said, torch.randint(0, 4, (more,), generator=source)]),
                "scores": torch.rand(n + more, generator=source),
            }
        )
    return wanted, found


def ours(wanted: Sequence[Image], found: Sequence[Image], cuts: Sequence[int] = ()) -> float:
    """In batches, one after the other."""
    rows, ends = [], [0, *cuts, len(wanted)]
    for first, last in pairwise(ends):
        images = [(torch.zeros(1, 2, 2), one) for one in wanted[first:last]]
        rows.append(TASK.statistics(list(found[first:last]), Batch(*collate_boxes(images))))
    return TASK.score(torch.cat(rows).double())


def by_coco(wanted: Sequence[Image], found: Sequence[Image]) -> float:
    """pycocotools' first figure, AP at IoU 0.50:0.95 of all areas; its boxes are x, y, width, height."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truth, seen = [], []
    for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
        for box, label in zip(one["boxes"].double().tolist(), one["labels"].tolist(), strict=True):
            sides = [box[2] - box[0], box[3] - box[1]]
            about = {"area": sides[0] * sides[1], "iscrowd": 0, "id": len(truth) + 1}
            truth.append({"image_id": i, "category_id": label, "bbox": [*box[:2], *sides], **about})
        columns = (other["boxes"].double().tolist(), other["labels"].tolist(), other["scores"].double().tolist())
        for box, label, score in zip(*columns, strict=True):
            sides = [box[2] - box[0], box[3] - box[1]]
            seen.append({"image_id": i, "category_id": label, "bbox": [*box[:2], *sides], "score": score})
    with redirect_stdout(StringIO()):
        known = coco.COCO()
        categories = [{"id": label} for label in range(5)]
        known.dataset = {"images": [{"id": i} for i in range(len(wanted))], "annotations": truth, "info": {}}
        known.dataset["categories"] = categories
        known.createIndex()
        judged = evaluation.COCOeval(known, known.loadRes(seen), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return 100 * float(judged.stats[0])


def overlap(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def by_loop(wanted: Sequence[Image], found: Sequence[Image]) -> float:
    """One class, one overlap, one detection after the other; no two overlaps of a box are equal here."""
    values = []
    for label in sorted({int(one) for image in wanted for one in image["labels"]}):
        for least in OVERLAPS:
            seen, boxes = [], 0
            for image, other in zip(wanted, found, strict=True):
                free = image["boxes"][image["labels"] == label].double().tolist()
                boxes += len(free)
                own = other["labels"] == label
                pairs = zip(other["scores"][own].tolist(), other["boxes"][own].double().tolist(), strict=True)
                for score, box in sorted(pairs, key=SCORE, reverse=True)[:100]:
                    best = max(free, key=lambda one, box=box: overlap(box, one), default=None)
                    hit = best is not None and overlap(box, best) >= least
                    if hit:
                        free.remove(best)
                    seen.append((score, hit))
            hits, points = 0, []
            for place, (_, hit) in enumerate(sorted(seen, key=SCORE, reverse=True), start=1):
                hits += hit
                points.append((hits / boxes, hits / place))
            reads = [max((p for r, p in points if r >= i / 100 - 1e-12), default=0.0) for i in range(101)]
            values.append(math.fsum(reads) / 101)
    return 100 * math.fsum(values) / len(values)


CASES = {
    "few": drawn(12, 1),
    "many": drawn(20, 2),
    "crowded": drawn(1, 5, most=800),  # more than 100 of a class in an image
}


@pytest.mark.parametrize("case", CASES)
def test_average_precision_is_that_of_pycocotools(case: str) -> None:
    assert case != "crowded" or CASES[case][1][0]["labels"].bincount().max() > 100
    assert ours(*CASES[case], cuts=[1] if case == "few" else []) == pytest.approx(by_coco(*CASES[case]), rel=1e-9)


@pytest.mark.parametrize("case", ["few", "many"])
def test_average_precision_is_that_of_a_loop(case: str) -> None:
    assert 1 < ours(*CASES[case]) < 99
    assert ours(*CASES[case], cuts=[5, 6]) == pytest.approx(by_loop(*CASES[case]), rel=1e-9)


def image(boxes: list[list[float]], labels: list[int], scores: list[float] | None = None) -> Image:
    made: Image = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return made if scores is None else made | {"scores": torch.tensor(scores)}


BOX, HALF, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 20.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("boxes", "found", "score"),
    [
        (image([BOX], [0]), image([BOX], [0], [0.9]), 100),
        (image([BOX], [0]), image([], [], []), 0),
        (image([BOX], [0]), image([BOX], [1], [0.9]), 0),  # class 1 is nowhere, and counts for nothing
        (image([BOX], [0]), image([HALF], [0], [0.9]), 10),  # overlaps by half: a hit at one overlap of ten
        (image([BOX], [0]), image([FAR, BOX], [0, 0], [0.9, 0.8]), 50),  # precision 1/2 wherever it is read
        (image([BOX, FAR], [0, 0]), image([BOX, BOX], [0, 0], [0.9, 0.8]), 100 * 51 / 101),  # a box is hit once
        (image([BOX, FAR], [0, 1]), image([BOX], [0], [0.9]), 50),  # the mean of two classes
    ],
)
def test_average_precision_by_hand(boxes: Image, found: Image, score: float) -> None:
    assert ours([boxes], [found]) == pytest.approx(score)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    store = Store(tmp_path_factory.mktemp("detection"))
    store.prepare()
    masks = [{"kind": "one_shot", "criterion": "taylor", "probe": 20}]
    fields = tiny("detection", "Detector", "padded_squares", arms=["ticket"], masks=masks)
    fields["recipe"] |= {"epochs": 20, "batch_size": 16}
    made = plan(load_spec(fields))
    for step in made.steps:
        execute(step, store)
    return made, store


def test_the_stored_score_is_that_of_single_images(study: tuple[Plan, Store]) -> None:
    made, store = study
    assert made.outputs == 2
    test = load_examples(made.data).test
    examples = [test.gather(torch.tensor([i])) for i in range(len(test))]
    pairs = [TASK.training_inputs(batch) for batch in examples]
    wanted = [targets[0] for _, targets in pairs]
    for trial in made.trials:
        stored = store.metrics(trial.step.key)
        model = build(made.model, made.input_shape, made.outputs)
        model.load_state_dict(store.state(trial.step.key))
        with torch.no_grad():
            found = [model.eval()(inputs)[0] for inputs, _ in pairs]
        assert stored["score"] == pytest.approx(by_loop(wanted, found), rel=1e-4)
        assert stored["test_accuracy"] is stored["test_loss"] is None
        assert stored["train_loss"][-1] < stored["train_loss"][0]
    assert store.metrics(made.trials[0].step.key)["score"] > 5  # it learns: finding nothing scores 0


def test_without_each_block_of_images_the_others_are_scored(study: tuple[Plan, Store]) -> None:
    made, store = study
    step, data = made.trials[0].step, load_examples(made.data)
    assert isinstance(step, Train)
    model = build(made.model, made.input_shape, made.outputs)
    model.load_state_dict(store.state(step.key))
    pairs = [TASK.training_inputs(data.test.gather(torch.tensor([i]))) for i in range(len(data.test))]
    wanted = [targets[0] for _, targets in pairs]
    with torch.no_grad():
        found = [model.eval()(inputs)[0] for inputs, _ in pairs]
    whole, others = score_blocks(model, data.test, data, step.recipe, "cpu", blocks=3)
    assert whole == pytest.approx(by_loop(wanted, found), rel=1e-4)
    size = math.ceil(len(pairs) / 3)
    for place, score in enumerate(others):
        rest = [i for i in range(len(pairs)) if i // size != place]
        assert score == pytest.approx(by_loop([wanted[i] for i in rest], [found[i] for i in rest]), rel=1e-4)
    assert len(others) == 3
    assert len({round(score, 6) for score in others}) > 1


def test_pruned_weights_stay_zero_and_a_repetition_has_the_same_bytes(study: tuple[Plan, Store], store: Store) -> None:
    made, done = study
    for step in made.steps:
        execute(step, store)
        assert (store.root / "steps" / step.key[:2] / step.key / "metrics.json").read_bytes() == (
            done.root / "steps" / step.key[:2] / step.key / "metrics.json"
        ).read_bytes()
        if isinstance(step, Train) and isinstance(step.mask, Prune):
            state, mask = store.state(step.key), store.mask(step.mask.key)
            assert all(not state[name][~kept].any() for name, kept in mask.items())


def test_padded_tensors_are_the_same_data() -> None:
    one, two = (load_examples(identify(f"{HERE}:{name}")) for name in ("squares", "padded_squares"))
    for part in ("train", "test"):
        streamed, padded = getattr(one, part), getattr(two, part)
        for i in range(5):
            first, second = (TASK.training_inputs(data.gather(torch.tensor([i]))) for data in (streamed, padded))
            assert torch.equal(first[0], second[0])
            assert all(torch.equal(first[1][0][name], second[1][0][name]) for name in ("boxes", "labels"))


def wrong(**changes: Any) -> dict[str, Any]:
    parts = {part: collate_boxes([(torch.zeros(1, 24, 24), image([BOX], [0]))] * 4) for part in ("train", "test")}
    return {part: (x, targets | changes) for part, (x, targets) in parts.items()}


def flat() -> dict[str, Any]:
    return wrong(boxes=torch.zeros(4, 1, 4))


def unlike() -> dict[str, Any]:
    return wrong(labels=torch.zeros(4, 2, dtype=torch.int64))


def negative() -> dict[str, Any]:
    return wrong(labels=torch.full((4, 1), -1))


THERE = {"task": "detection", "model": f"{HERE}:Detector", "data": f"{HERE}:squares"}
REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    *(({"data": f"{__name__}:{name}"}, "task", ["detection"]) for name in ("flat", "unlike", "negative")),
    ({"data": "fashion-mini"}, "task", ["detection", "boxes"]),
    ({"model": f"{HERE}:pixel_net"}, "model", ["two examples"]),
    ({"recipe": {"accumulate": 2}}, "recipe.accumulate", ["detection"]),
    ({"connectivity": ["dense"]}, "connectivity", ["dense", "detection"]),
    ({"measure": ["curvature"]}, "measure", ["curvature", "detection"]),
    ({"devices": 2}, "devices", ["2", "detection"]),
]


@pytest.mark.parametrize(("fields", "field", "mentions"), REFUSED)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], field: str, mentions: list[str]) -> None:
    with refused(field, *mentions):
        plan(load_spec(THERE | fields))
