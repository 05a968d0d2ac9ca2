"""An audit from Python: what should this network be trained from once it is sparse? Two minutes on two cores."""

import prunetune as pt

# Only `model` and `data` must be given: a name that prunetune knows, or "module:callable" of a file of yours.
study = {
    "name": "first-audit",
    "model": "small",
    "data": "fashion-mini",
    "data_args": {"train_limit": 4000},
    "recipe": {"epochs": 2},
    "learning_rates": [0.1],
    "masks": ["one_shot"],
    "sparsities": [0.5, 0.8],
    "arms": ["ticket", "reinit", "finetune"],  # from the initial weights, fresh ones, the trained ones
    "seeds": 2,  # enough to try it; five are the usual number
}

# Every training is stored, so that a second call, or one after Ctrl-C, trains only what is missing.
found = pt.audit(study)
print(found)  # the answer in words; in a notebook `found` alone shows cards and figures

for row in found.report.recommendation:
    print(f"at {row.sparsity:.0%} sparsity the best mean is that of {row.arm}: {row.accuracy:.2f} %")
print(f"every figure: {found.report.page.with_name('results.json')}")
