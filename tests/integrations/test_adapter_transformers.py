"""The callback for Hugging Face's Trainer in real trainings of a tiny BERT: what `hold` alone gives, and what not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunetune as pt
from prunetune.errors import InvariantError
from tests.support.adapter_optimizers import OPTIMIZERS, Make

pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from prunetune.integrations.transformers import PruneCallback
from prunetune.sparsity.enforce import masks_gradients
from tests.support.refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory. argument is set as true:UserWarning")  # without a GPU
SCOPE = pt.Scope(exclude=("classifier.*",))
LINEAR = (".key.weight", ".value.weight", ".dense.weight")


def bert(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(
        BertConfig.from_dict({"vocab_size": 30, "max_position_embeddings": 8, "num_labels": 2, **shape})
    )


class Watch(TrainerCallback):
    """Density of the encoder's linear weights after every step."""

    def __init__(self) -> None:
        self.densities: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.densities.append(round(density(kwargs["model"]), 4))


def density(model: nn.Module) -> float:
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith((".query.weight", *LINEAR))]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def data() -> list[dict[str, Any]]:
    words = torch.randint(1, 30, (24, 6), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": int(row[0] > 15)} for row in words]


def trainer(
    model: nn.Module,
    folder: Path,
    epochs: int,
    *callbacks: TrainerCallback,
    make: Make = OPTIMIZERS["adamw"],
    **settings: Any,
) -> Trainer:
    args = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        lr_scheduler_type="constant",
        save_strategy="epoch",
        logging_steps=3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    optimizers = make(model.parameters()), None
    return Trainer(
        model,
        args,
        train_dataset=data(),  # pyright: ignore[reportArgumentType]
        eval_dataset=data(),  # pyright: ignore[reportArgumentType]
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def test_hold_alone_keeps_zeros_and_leaves_no_mask_in_the_checkpoint(tmp_path: Path) -> None:
    model, watch = bert(), Watch()
    pt.apply_mask(model, pt.compute_mask(model, 0.75, scope=SCOPE))
    trainer(model, tmp_path, 1, watch).train()
    assert watch.densities == [0.25] * 3
    fresh, again = bert(1), Watch()
    trainer(fresh, tmp_path, 2, again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(again.densities) == 3
    assert min(again.densities) > 0.9


def test_prunes_at_the_start_and_logs_the_density(tmp_path: Path) -> None:
    model, watch = bert(), Watch()
    expected = pt.compute_mask(model, 0.75, scope=SCOPE)
    head = model.classifier.weight.detach().clone()
    run = trainer(model, tmp_path, 2, watch, PruneCallback(0.75, scope=SCOPE))
    run.train()
    assert watch.densities == [0.25] * 6
    assert pt.get_mask(model) == expected
    assert [entry["density"] for entry in run.state.log_history if "loss" in entry] == [0.25, 0.25]
    assert model.classifier.weight.count_nonzero() == head.numel()
    assert not torch.equal(model.classifier.weight, head)


def test_prunes_at_a_later_epoch_by_the_weights_of_then(tmp_path: Path) -> None:
    model, watch = bert(), Watch()
    trainer(model, tmp_path, 2, watch, PruneCallback(0.5, allocation="global", scope=SCOPE, epoch=1)).train()
    assert watch.densities == [1.0] * 3 + [0.5] * 3
    dense = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-3")
    assert pt.get_mask(model) == pt.compute_mask(dense, 0.5, allocation="global", scope=SCOPE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_gives_the_weights_of_a_training_that_was_never_cut(optimizer: str, tmp_path: Path) -> None:
    whole, resumed, watch, make = bert(), bert(5), Watch(), OPTIMIZERS[optimizer]
    trainer(whole, tmp_path / "whole", 3, PruneCallback(0.75, scope=SCOPE), make=make).train()
    trainer(bert(), tmp_path, 1, PruneCallback(0.75, scope=SCOPE), make=make).train()
    moved = (tmp_path / "checkpoint-3").rename(tmp_path / "elsewhere")
    run = trainer(resumed, tmp_path, 3, watch, PruneCallback(0.75, scope=SCOPE), make=make)
    run.train(resume_from_checkpoint=str(moved))
    assert watch.densities == [0.25] * 6
    assert pt.get_mask(resumed) == pt.get_mask(whole)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_the_mask_costs_a_bit_per_weight_and_stays_through_a_chain_of_checkpoints(tmp_path: Path) -> None:
    model = bert()
    trainer(model, tmp_path, 1, PruneCallback(0.75, scope=SCOPE)).train()
    again = trainer(bert(1), tmp_path, 2, PruneCallback(0.75, scope=SCOPE))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    first, second = (
        json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())["stateful_callbacks"]
        for step in (3, 6)
    )
    assert first["prunetune_mask"] == second["prunetune_mask"]
    bits = sum(len(text) for _, text in first["prunetune_mask"].values()) * 6
    assert pt.get_mask(model).total <= bits < 1.1 * pt.get_mask(model).total


@pytest.mark.slow
def test_resuming_in_a_fresh_process_holds_the_same_mask(tmp_path: Path) -> None:
    model = bert()
    trainer(model, tmp_path, 1, PruneCallback(0.75, scope=SCOPE)).train()
    code = f"""
from pathlib import Path
import prunetune as pt
from tests.integrations.test_adapter_transformers import SCOPE, PruneCallback, bert, density, trainer
model = bert(7)
run = trainer(model, Path({str(tmp_path)!r}), 2, PruneCallback(0.75, scope=SCOPE))
run.train(resume_from_checkpoint=True)
print(pt.get_mask(model).digest, density(model))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{pt.get_mask(model).digest} 0.25"


def test_the_saved_model_is_plain_and_sparse(tmp_path: Path) -> None:
    model = bert()
    run = trainer(model, tmp_path, 1, PruneCallback(0.75, scope=SCOPE))
    run.train()
    run.save_model(str(tmp_path / "final"))
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "final")
    assert density(loaded) == 0.25
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_lost_zeros_fail_the_training(tmp_path: Path) -> None:
    class Revive(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pt.remove_mask(kwargs["model"])
            kwargs["model"].bert.pooler.dense.weight.data.add_(1)

    with pytest.raises(InvariantError, match=r"bert.pooler.dense.weight: 192 pruned weights are no longer zero"):
        trainer(bert(), tmp_path, 1, PruneCallback(0.75, scope=SCOPE), Revive()).train()


def test_wrong_requests_are_refused_in_one_line(tmp_path: Path) -> None:
    with refused("epoch", "5", "ended"):
        trainer(bert(), tmp_path, 1, PruneCallback(0.5, epoch=5)).train()
    run = trainer(bert(), tmp_path, 2, PruneCallback(0.5, epoch=1), eval_strategy="epoch", load_best_model_at_end=True)
    with refused("load_best_model_at_end", "1", "best"):
        run.train()


def test_clipping_counts_kept_weights_alone(tmp_path: Path) -> None:
    """The Trainer clips to 1.0 where it is told nothing; the norm that it logs is that of the masked gradient."""
    model = bert()
    run = trainer(model, tmp_path, 1, PruneCallback(0.75, scope=SCOPE))
    assert run.args.max_grad_norm == 1.0
    run.train()
    assert masks_gradients(model)
    model.zero_grad()
    model(input_ids=data()[0]["input_ids"][None], labels=torch.tensor([1])).loss.backward()
    for name, keep in pt.get_mask(model).items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert not gradient[~keep].count_nonzero()


def test_a_model_that_is_held_already_gets_masked_gradients(tmp_path: Path) -> None:
    model = bert()
    pt.apply_mask(model, pt.compute_mask(model, 0.75, scope=SCOPE))
    assert not masks_gradients(model)
    trainer(model, tmp_path, 1, PruneCallback(0.9, scope=SCOPE)).train()
    assert masks_gradients(model)
