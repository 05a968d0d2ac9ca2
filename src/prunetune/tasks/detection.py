"""Boxes with a class each, any number an image: the network's own losses, and the mean average precision of COCO."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from prunetune.core.metric import Metric
from prunetune.data.examples import Batch, Examples, target_batches
from prunetune.errors import ConfigError
from prunetune.tasks.task import IGNORED, kind, precise

OVERLAPS = tuple(0.5 + 0.05 * i for i in range(10))  # least intersection over union of a hit: COCO's ten
MOST_FOUND = 100  # detections of a class that count in an image, the surest first, as in COCO
RECALLS = 101  # at which precision is read, from 0 to 1
_TARGETS = "{boxes: floats of shape (N, most, 4), labels: int64 of shape (N, most), −100 where an image has no more}"
_FOUND = "an image: {boxes: (n, 4), labels: (n,), scores: (n,)}"


class Detection:
    """Boxes (x1, y1, x2, y2) and classes, padded to the most that an image of the batch has, −100 as their label.

    A network is called as torchvision's detectors are: in training with the images and a list of each image's {boxes,
    labels}, for which it gives a mapping of losses; in evaluation with the images, for which it gives a list of each
    image's {boxes, labels, scores}.
    """

    metric: ClassVar[Metric] = Metric("mAP", "%", "points", higher_is_better=True, margin=0.5, gap=0.5)
    mean_of_examples = False  # but whatever the network makes it
    loss_in_evaluation = False
    rows = True  # statistics of batches are put one below the other

    def outputs(self, examples: Examples) -> int:
        """One more than the highest class; ConfigError for targets of another form, and boxes without an area."""
        highest = 0
        for targets in target_batches(examples):
            boxes, labels = _boxes_of(targets)
            counted = labels != IGNORED
            if bool((boxes[counted][:, :2] >= boxes[counted][:, 2:]).any()) or bool((labels[counted] < 0).any()):
                what = "a box has no area, or a label is negative; want x1 < x2, y1 < y2, and classes from 0 on"
                raise ConfigError(f"task: detection; {what}")
            highest = max(highest, int(labels.max())) if labels.numel() else highest
        return 1 + highest

    def training_inputs(self, batch: Batch) -> tuple[Any, list[dict[str, Tensor]]]:
        """The images, and the boxes and labels of each."""
        boxes, labels = _boxes_of(batch.targets)
        each = [(own, known, known != IGNORED) for own, known in zip(boxes, labels, strict=True)]
        return batch.inputs, [{"boxes": own[real], "labels": known[real]} for own, known, real in each]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The sum of the losses that the network gives in training; NaN in evaluation, where it gives none."""
        if isinstance(outputs, Sequence):
            return batch.targets["boxes"].new_tensor(torch.nan)
        if not isinstance(outputs, Mapping) or not all(isinstance(loss, Tensor) for loss in outputs.values()):
            got = type(outputs).__name__
            raise ConfigError(f"model: gives a {got} in training; want a mapping of losses, scalar tensors")
        return torch.stack(list(outputs.values())).sum()

    def statistics(self, outputs: Any, batch: Batch) -> Tensor:
        """A row for every box and every detection: its class, its score, and at which of OVERLAPS it is a hit.

        A box itself has the score NaN. Shape (boxes + detections, 2 + overlaps), on the CPU: it is made box by box.
        """
        boxes, labels = (part.cpu() for part in _boxes_of(batch.targets))
        found = list(outputs) if isinstance(outputs, Sequence) else []
        if len(found) != len(boxes):
            raise ConfigError(f"model: gives {len(found)} detections of {len(boxes)} images; want a list with {_FOUND}")
        each = zip(found, boxes, labels, strict=True)
        return torch.cat([_rows(own, box[label != IGNORED], label[label != IGNORED]) for own, box, label in each])

    def score(self, statistics: Tensor) -> float:
        """The mean over overlaps and classes that there are of the average precision, in percent; NaN without a box.

        Average precision at an overlap: the mean of RECALLS precisions, each the best at that recall or a higher one.
        """
        classes, scores, hits = statistics[:, 0], statistics[:, 1], statistics[:, 2:]
        is_box = scores.isnan()
        found = []
        for label in classes[is_box].unique():
            own = (classes == label) & ~is_box
            order = scores[own].argsort(descending=True, stable=True)
            found.append(_average_precision(hits[own][order], int((is_box & (classes == label)).sum())))
        return 100 * float(torch.stack(found).mean()) if found else float("nan")

    def guessing(self, examples: Examples) -> float | None:
        """Nothing found."""
        return 0.0


def collate_boxes(examples: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch of (image, {boxes, labels}) pairs, the images of one size, each with as many boxes as there are."""
    images, targets = zip(*examples, strict=True)
    most = max(len(one["labels"]) for one in targets)
    boxes = [torch.as_tensor(one["boxes"], dtype=torch.float32).reshape(-1, 4) for one in targets]
    labels = [torch.as_tensor(one["labels"], dtype=torch.int64) for one in targets]
    return torch.stack([torch.as_tensor(image) for image in images]), {
        "boxes": torch.stack([F.pad(own, (0, 0, 0, most - len(own))) for own in boxes]),
        "labels": torch.stack([F.pad(own, (0, most - len(own)), value=IGNORED) for own in labels]),
    }


def _boxes_of(targets: Any) -> tuple[Tensor, Tensor]:
    """Boxes of shape (N, most, 4) and labels of shape (N, most); ConfigError for targets of another form."""
    named: Mapping[str, Any] = targets if isinstance(targets, Mapping) else {}
    boxes, labels = named.get("boxes"), named.get("labels")
    if isinstance(boxes, Tensor) and isinstance(labels, Tensor):
        of_boxes = boxes.is_floating_point() and boxes.dim() == 3 and boxes.shape[2] == 4
        if of_boxes and labels.dtype == torch.int64 and labels.shape == boxes.shape[:2]:
            return boxes, labels
    listed = ", ".join(f"{name}: {kind(value)}" for name, value in named.items())
    raise ConfigError(f"task: detection; the targets are {listed or kind(targets)}; want {_TARGETS}")


def _rows(found: Any, boxes: Tensor, labels: Tensor) -> Tensor:
    """The rows of one image."""
    ours, classes, scores = _detections(found)
    rows = [_marked(labels, torch.full_like(precise(labels), torch.nan), boxes.new_zeros(len(labels), len(OVERLAPS)))]
    for label in classes.unique():
        own = classes == label
        order = scores[own].argsort(descending=True, stable=True)[:MOST_FOUND]
        hits = _hits(precise(ours[own][order]), precise(boxes[labels == label]))
        rows.append(_marked(classes[own][order], scores[own][order], hits))
    return torch.cat(rows)


def _detections(found: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels and scores that a network gives for an image, on the CPU; ConfigError for another form."""
    named: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    boxes, labels, scores = (named.get(name) for name in ("boxes", "labels", "scores"))
    if isinstance(boxes, Tensor) and isinstance(labels, Tensor) and isinstance(scores, Tensor):
        alike = boxes.shape[1:] == (4,) and len(boxes) == len(labels) == len(scores)
        if alike and not bool(scores.isnan().any()):
            return boxes.cpu(), labels.cpu(), scores.cpu()
    raise ConfigError(f"model: gives detections of another form in evaluation; want of {_FOUND}, no score NaN")


def _marked(classes: Tensor, scores: Tensor, hits: Tensor) -> Tensor:
    return torch.cat([precise(classes)[:, None], precise(scores)[:, None], precise(hits)], 1)


def _hits(found: Tensor, boxes: Tensor) -> Tensor:
    """At which overlaps each detection, surest first, hits a box that no surer one has: shape (detections, overlaps).

    Each takes the free box that it overlaps most, the last one of equals, as pycocotools does.
    """
    overlaps = _intersection_over_union(found, boxes)
    least = overlaps.new_tensor(OVERLAPS).clamp(max=1 - 1e-10)
    taken = overlaps.new_zeros(len(OVERLAPS), len(boxes), dtype=torch.bool)
    hits = overlaps.new_zeros(len(found), len(OVERLAPS))
    if not len(boxes):
        return hits
    places = torch.arange(len(OVERLAPS))
    for i in (overlaps.amax(1) >= least[0]).nonzero().flatten().tolist():
        best, place = overlaps[i].masked_fill(taken, -1).flip(1).max(1)
        hit = best >= least
        taken[places, len(boxes) - 1 - place] |= hit
        hits[i] = hit
    return hits


def _intersection_over_union(first: Tensor, second: Tensor) -> Tensor:
    """Of every box of the one with every box of the other."""
    top, bottom = torch.max(first[:, None, :2], second[None, :, :2]), torch.min(first[:, None, 2:], second[None, :, 2:])
    both = (bottom - top).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (first, second)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp(min=torch.finfo(both.dtype).tiny)


def _average_precision(hits: Tensor, boxes: int) -> Tensor:
    """The mean over overlaps; `hits` of shape (detections, overlaps), the surest first."""
    right = hits.cumsum(0)
    precision = right / torch.arange(1, len(hits) + 1, dtype=hits.dtype)[:, None]
    best = precision.flip(0).cummax(0).values.flip(0)  # at a place or any later one
    recall = (right / boxes).T.contiguous()
    levels = torch.linspace(0, 1, RECALLS, dtype=hits.dtype).expand(len(recall), RECALLS).contiguous()
    first = torch.searchsorted(recall, levels)  # detections after which a recall is reached
    read = torch.cat([best, best.new_zeros(1, best.shape[1])]).gather(0, first.T)
    return read.mean()
