"""Recompute a `quick` study from its stored weights, knowing only docs/store.md: every mask, every R_p, every accuracy.

    python scripts/recompute.py RESULTS_DIR STORE_DIR FASHION_MINI.npz

Needs torch and numpy and nothing of prunetune. Exit code 1 when a figure differs in any digit.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

PAIRS = {  # pair of states -> how to get at both from the dense run, the mask's finetune and the mask's reinit
    "theta_0/theta_T": lambda dense, finetune, reinit: (start(dense), dense),
    "ticket_0/finetune_T": lambda dense, finetune, reinit: (start(dense), finetune),
    "reinit_0/finetune_T": lambda dense, finetune, reinit: (start(reinit), finetune),
    "finetune_T/theta_0": lambda dense, finetune, reinit: (finetune, start(dense)),
    "finetune_T/theta_T": lambda dense, finetune, reinit: (finetune, dense),
}


def read(key, name):
    """A stored file's content."""
    return (STORE / "steps" / key[:2] / key / name).read_bytes()


def step(key):
    """What a key stands for, its parents given by their keys."""
    return json.loads(read(key, "step.json"))


def start(key):
    """The step whose final state a training started from."""
    return step(key)["start"]["step"]


def tensors(content):
    """A safetensors file: the header's length in 8 bytes, a JSON header, then the tensors' bytes."""
    size = int.from_bytes(content[:8], "little")
    kinds = {"F32": np.float32, "BOOL": np.bool_, "I64": np.int64}
    found = {}
    for name, about in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in about["data_offsets"])
            found[name] = np.frombuffer(content[begin:end], kinds[about["dtype"]]).reshape(about["shape"])
    return found


def top(magnitudes, k):
    """Flat indices of the k largest, ties to the lower index."""
    return np.argsort(-magnitudes, kind="stable")[:k]


def mask_of(key):
    """Choose a Prune step's mask again: per layer, by magnitude of its source, among what its `within` keeps."""
    prune = step(key)
    source = tensors(read(prune["source"]["step"], "state.safetensors"))
    within = mask_of(prune["within"]) if prune["within"] else None
    chosen = {}
    for name in PRUNABLE:
        score = np.abs(source[name]).ravel()
        if within:
            score = np.where(within[name].ravel(), score, -np.inf)
        kept = np.zeros(score.size, bool)
        kept[top(score, round(prune["density"] * score.size))] = True
        chosen[name] = kept.reshape(source[name].shape)
    return chosen


def r_p(first, second, p, mask):
    """The share of each layer's k largest weights that both states have in common; with a mask, of the kept ones."""
    common = total = 0
    for name in PRUNABLE:
        a, b = (np.abs(state[name][mask[name]] if mask else state[name]).ravel() for state in (first, second))
        k = round(p * a.size)
        common += len(np.intersect1d(top(a, k), top(b, k)))
        total += k
    return common / total


def accuracy(state):
    """The network of `quick` on the 10,000 test images, in percent."""
    w = {name: torch.from_numpy(tensor.copy()) for name, tensor in state.items()}
    right = 0
    for images, labels in zip(IMAGES.split(500), LABELS.split(500), strict=True):
        x = images
        for conv, stride, padding in ((0, 4, 0), (3, 1, 0), (6, 2, 1)):
            norm = f"{conv + 1}."
            x = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=padding)
            mean, var, weight, bias = (w[norm + part] for part in ("running_mean", "running_var", "weight", "bias"))
            x = F.batch_norm(x, mean, var, weight, bias)
            x = F.relu(x)
        right += int((F.linear(x.mean((2, 3)), w["11.weight"], w["11.bias"]).argmax(1) == labels).sum())
    return 100 * right / len(LABELS)


def check(what, found, stored):
    """Count an equal figure, or end with what differs."""
    COUNTS[what] = COUNTS.get(what, 0) + 1
    if found != stored:
        sys.exit(f"{what}: recomputed {found}, stored {stored}")


RESULTS, STORE, DATA = map(Path, sys.argv[1:4])
COUNTS = {}
results = json.loads((RESULTS / "results.json").read_text())
PRUNABLE = [layer["name"] for layer in results["layers"] if layer["prunable"]]
with np.load(DATA) as data:
    pixels = data["train_images"][: results["study"]["data_args"].get("train_limit")].astype(np.float64)
    IMAGES = (torch.from_numpy(data["test_images"]).float() - float(pixels.mean())) / float(pixels.std())
    IMAGES = IMAGES.unsqueeze(1)
    LABELS = torch.from_numpy(data["test_labels"].astype(np.int64))
torch.set_num_threads(1)

runs = {(t["arm"], t["mask"], t["learning_rate"], t["sparsity"], t["seed"]): t for t in results["trials"]}
for trial in results["trials"]:
    state = tensors(read(trial["key"], "state.safetensors"))
    check("accuracies", accuracy(state), trial["test_accuracy"])
    if trial["mask"]:
        stored = tensors(read(step(trial["key"])["mask"], "mask.safetensors"))
        again = mask_of(step(trial["key"])["mask"])
        check("masks", {n: m.tobytes() for n, m in again.items()}, {n: m.tobytes() for n, m in stored.items()})
        check("pruned weights that are zero", all(not state[n][~m].any() for n, m in stored.items()), True)
for row in results["correlations"]:
    rate, mask, sparsity, seed = (row[field] for field in ("learning_rate", "mask", "sparsity", "seed"))
    dense = runs["dense", None, rate, 0, seed]["key"]
    finetune, reinit = (runs.get((arm, mask, rate, sparsity, seed), {}).get("key") for arm in ("finetune", "reinit"))
    first, second = (tensors(read(key, "state.safetensors")) for key in PAIRS[row["pair"]](dense, finetune, reinit))
    kept = mask_of(step(finetune)["mask"]) if row["pair"] in ("ticket_0/finetune_T", "reinit_0/finetune_T") else None
    check("correlations", r_p(first, second, row["p"], kept), row["value"])
print("recomputed and equal:", ", ".join(f"{count} {what}" for what, count in COUNTS.items()))
