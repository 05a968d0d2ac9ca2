"""Tasks: what networks are trained for. A task says its loss, its metric and how a network's outputs are read."""

from prunetune.core.metric import Metric
from prunetune.tasks.classification import Classification
from prunetune.tasks.detection import Detection, collate_boxes
from prunetune.tasks.multilabel import Multilabel
from prunetune.tasks.regression import Regression
from prunetune.tasks.segmentation import Segmentation
from prunetune.tasks.task import TASKS, Task, predictions, task_of
from prunetune.tasks.tokens import CausalLM, TokenClassification

TASKS.register("classification")(Classification())
TASKS.register("multilabel")(Multilabel())
TASKS.register("regression")(Regression())
TASKS.register("segmentation")(Segmentation())
TASKS.register("token_classification")(TokenClassification())
TASKS.register("causal_lm")(CausalLM())
TASKS.register("detection")(Detection())

__all__ = ["TASKS", "Metric", "Task", "collate_boxes", "predictions", "task_of"]
