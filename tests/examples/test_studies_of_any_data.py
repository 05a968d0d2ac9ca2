"""The worked studies at reduced size: trained, judged and pruned, and scored again by onnxruntime and numpy alone."""

import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from prunetune.api import Prepared, plan_study, preflight, run_study
from prunetune.compression.compress_models import (
    CompressionRequest,
    plan_compression,
    preflight_compression,
    run_compression,
)
from prunetune.data import load_examples
from prunetune.execution.run_step import execute
from tests.support.refusals import refused

ROOT = Path(__file__).parents[2]
EXAMPLES, PAGES = ROOT / "examples", ROOT / "docs" / "tutorials"
REDUCED = ["seeds=1", "sparsities=[0.8]", "arms=[ticket,finetune]", "data_args.validation=0.1"]


class Case(NamedTuple):
    """A study, its page, what makes it small, a library, and between which scores its pruned network then ends."""

    spec: str
    page: str
    smaller: list[str]
    needs: str | None
    low: float
    high: float


CASES = [
    Case("tables/digits.yaml", "tables", ["epochs=5", "learning_rates=[0.1]"], "sklearn", 85, 100),  # guessing: 10 %
    Case("tables/diabetes.yaml", "tables", [], "sklearn", 60, 95),  # the mean: 100 %
    Case("text/language.yaml", "text", ["epochs=4", "data_args.test=100"], "transformers", 3, 22),
    Case("text/highlight.yaml", "text", ["epochs=1"], "transformers", 40, 100),
    Case(
        "segmentation/study.yaml",
        "segmentation",
        ["epochs=2", "data_args.train=200"],
        None,
        40,
        100,
    ),
    Case("signals/study.yaml", "signals", ["epochs=4"], None, 60, 100),  # guessing: 25 %
    Case("detection/study.yaml", "detection", ["epochs=6", "data_args.train=400"], None, 5, 100),  # nothing found: 0 %
    Case("two_inputs/study.yaml", "two-inputs", ["epochs=8"], "sklearn", 20, 90),  # the mean: 100 %
]


def test_every_study_is_tried_here() -> None:
    assert sorted(case.spec for case in CASES) == sorted(
        str(p.relative_to(EXAMPLES)) for p in EXAMPLES.glob("*/*.yaml")
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_a_study_is_judged_and_its_pruned_network_runs_alike(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the examples need onnxruntime")
    if case.needs:
        pytest.importorskip(case.needs, reason=f"the example needs {case.needs}")
    spec, changes = EXAMPLES / case.spec, [*REDUCED, *case.smaller]
    monkeypatch.syspath_prepend(spec.parent)  # as the command does with the folder it is started in

    prepared = plan_study(spec, changes, store=tmp_path / "store")
    prepared.store.prepare()
    for step in prepared.plan.steps:  # here, and not in workers, which would have to import torch
        execute(step, prepared.store)
    prepared = plan_study(spec, changes, store=tmp_path / "store")
    assert prepared.remaining.trainings_left == 0
    audit = run_study(prepared, preflight(prepared, tmp_path / "audit"))
    assert [verdict.winning_property for verdict in audit.verdicts] == ["inconclusive"]  # of one seed, as ever
    assert audit.failures == ()

    pruning = plan_compression(spec, changes, CompressionRequest(), store=tmp_path / "store")
    assert pruning.remaining.trainings_left == 0  # the audit's own
    monkeypatch.chdir(tmp_path)
    graphs = ["onnx", "int8-dynamic"]
    if case.page == "detection":  # a list of boxes for each image is no graph
        with refused("--export", "onnx", "detection"):
            preflight_compression(pruning, graphs)
        graphs = []
    made = run_compression(pruning, preflight_compression(pruning, graphs), graphs)
    assert made.failures == ()
    (finetuned,) = (row for row in made.rows if row.sparsity)
    assert finetuned.density == pytest.approx(0.2, abs=0.01)
    (score,) = finetuned.scores
    assert case.low < score < case.high
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{case.page}.md").read_text(), re.DOTALL)
    for block in (block for block in blocks if f'"runs/{pruning.spec.name}-pruned/' in block):
        exec(block, {})  # what the page does with the file, or, for the detector, how it makes it
    files = {file.path: file.score for file in finetuned.files if file.format in graphs}
    for path in tmp_path.rglob("boxes.onnx"):  # the page's own
        files[str(path)] = score
    assert files
    for path, found in files.items():
        session = onnxruntime.InferenceSession(made.report.page.parent / path)
        assert scored_by(session, pruning) == pytest.approx(found, abs=0.2)
    assert files.popitem()[1] == pytest.approx(score, abs=3)  # in 8 bits, rounded


def scored_by(session: Any, prepared: Prepared) -> float:
    """The score of a session on all test examples, by the metric's definition."""
    test = load_examples(prepared.plan.data).test
    inputs, targets = (tree_map(Tensor.numpy, nest) for nest in next(test.in_order(len(test))))
    names = [given.name for given in session.get_inputs()]
    found = session.run(None, inputs if isinstance(inputs, dict) else {names[0]: inputs})[0]
    if prepared.spec.task == "detection":
        import boxes  # type: ignore[import-not-found]  # the example, whose folder is on the path

        return mean_average_precision(boxes.detections(torch.from_numpy(found)), targets)
    return float(SCORES[prepared.spec.task](found.astype(np.float64), targets))


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    counted = targets != -100
    return 100 * (logits.argmax(-1) == targets)[counted].mean()


def relative_rmse(found: np.ndarray, targets: np.ndarray) -> float:
    return 100 * np.sqrt(((found[:, 0] - targets) ** 2).mean()) / targets.std()


def mean_iou(logits: np.ndarray, targets: np.ndarray) -> float:
    chosen = logits.argmax(1)
    both = [((chosen == k) & (targets == k)).sum() / ((chosen == k) | (targets == k)).sum() for k in range(3)]
    return 100 * float(np.mean(both))


def perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    odds = np.exp(logits[:, :-1])
    likely = np.take_along_axis(odds / odds.sum(-1, keepdims=True), tokens[:, 1:, None], -1)
    return np.exp(-np.log(likely).mean())


def mean_average_precision(found: list[dict[str, Tensor]], targets: dict[str, np.ndarray]) -> float:
    """COCO's, of hits looked for one detection at a time, the surest of all images first."""
    precisions = []
    for label, least in product(np.unique(targets["labels"][targets["labels"] >= 0]), np.arange(0.5, 1, 0.05)):
        each = zip(targets["boxes"], targets["labels"], strict=True)
        free = {image: list(own[kinds == label]) for image, (own, kinds) in enumerate(each)}
        count, hits = sum(map(len, free.values())), []
        ours = [(one, i, row) for i, one in enumerate(found) for row in range(len(one["scores"]))]
        ours = [(one["scores"][row], i, one["boxes"][row]) for one, i, row in ours if one["labels"][row] == label]
        for _, image, box in sorted(ours, key=lambda detection: -float(detection[0])):
            overlaps = [intersection_over_union(box.numpy(), other) for other in free[image]]
            hits.append(max(overlaps, default=0) >= least)
            if hits[-1]:
                free[image].pop(int(np.argmax(overlaps)))
        right = np.cumsum(hits)
        recall, precision = right / count, right / np.arange(1, len(hits) + 1)
        precisions += [precision[recall >= level].max(initial=0) for level in np.linspace(0, 1, 101)]
    return 100 * float(np.mean(precisions))


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = sides.clip(0).prod()
    return both / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - both)


SCORES = {
    "classification": accuracy,
    "token_classification": accuracy,
    "regression": relative_rmse,
    "segmentation": mean_iou,
    "causal_lm": perplexity,
}
