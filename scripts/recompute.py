"""Recompute a study of the network `small` from its stored weights, knowing only docs/reference/store.md.

Every mask whose criterion looks at weights alone (the number of the others is named), every start, every R_p, every
accuracy; of what `measure` asks for movement and masks from the weights and barriers from the stored line. Needs torch
and numpy and nothing of prunetune. Exit code 1 when a figure differs in any digit (of sums, by more than 1e-12).
"""

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

PAIRS = {  # pair of states -> how to get at both from the dense run, the mask's finetune and the mask's reinit
    "theta_0/theta_T": lambda dense, finetune, reinit: (start(dense), final(dense)),
    "ticket_0/finetune_T": lambda dense, finetune, reinit: (start(dense), final(finetune)),
    "reinit_0/finetune_T": lambda dense, finetune, reinit: (start(reinit), final(finetune)),
    "finetune_T/theta_0": lambda dense, finetune, reinit: (final(finetune), start(dense)),
    "finetune_T/theta_T": lambda dense, finetune, reinit: (final(finetune), final(dense)),
}


def arguments():
    """The three paths of the command line; one that is not there ends the program with a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS_DIR", type=Path, help="the --out folder, with results.json")
    parser.add_argument("store", metavar="STORE_DIR", type=Path, help="the --store folder of that study")
    parser.add_argument("data", metavar="FASHION_MINI.npz", type=Path, help="train_images, test_images, test_labels")
    given = parser.parse_args()
    for path in (given.results / "results.json", given.store / "steps", given.data):
        if not path.exists():
            parser.error(f"{path}: not found")
    return given.results, given.store, given.data


def read(key, name):
    """A stored file's content."""
    return (STORE / "steps" / key[:2] / key / name).read_bytes()


def step(key):
    """What a key stands for, its parents given by their keys."""
    return json.loads(read(key, "step.json"))


def start(key):
    """The weights that a training started from."""
    return step(key)["start"]


def final(key):
    """A training's final weights."""
    return {"step": key, "at": None, "transform": None}


def state_of(weights):
    """The stored state of weights, before any transform."""
    at = weights["at"]
    moment = f"@{at['value']:g}{at['unit']}" if at else ""
    return tensors(read(weights["step"], f"state{moment}.safetensors"))


def tensors(content):
    """A safetensors file: the header's length in 8 bytes, a JSON header, then bytes; a mask is stored as bits."""
    size = int.from_bytes(content[:8], "little")
    kinds = {"F32": np.float32, "BOOL": np.bool_, "U8": np.uint8, "I64": np.int64}
    header, found = json.loads(content[8 : 8 + size]), {}
    shapes = json.loads(header.pop("__metadata__", {}).get("shapes", "{}"))
    for name, about in header.items():
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        found[name] = np.frombuffer(content[begin:end], kinds[about["dtype"]]).reshape(about["shape"])
    bits = {n: np.unpackbits(found[n], count=math.prod(shape)).view(bool) for n, shape in shapes.items()}
    return found | {name: kept.reshape(shapes[name]) for name, kept in bits.items()}


def top(magnitudes, k):
    """Flat indices of the k largest, ties to the lower index."""
    return np.argsort(-magnitudes, kind="stable")[:k]


def draws(seed):
    """Torch's generator on the CPU, as `seed` leaves it."""
    return torch.Generator().manual_seed(seed)


def magnitude(source, seed):
    """|w| of each layer."""
    return {name: np.abs(source[name]) for name in PRUNABLE}


def random(source, seed):
    """Uniform draws, through the layers in the order of their names."""
    generator = draws(seed)
    return {n: torch.rand(source[n].shape, generator=generator, dtype=torch.float64).numpy() for n in sorted(PRUNABLE)}


def uniform(scores, density):
    """The same share of every layer."""
    return {name: round(density * score.size) for name, score in scores.items()}


def globally(scores, density):
    """The largest scores of all layers, ties by name and then index."""
    names = sorted(scores)
    owners = np.repeat(names, [scores[name].size for name in names])
    kept = top(np.concatenate([scores[name].ravel() for name in names]), round(density * owners.size))
    return Counter(owners[kept].tolist())


def erk(scores, density):
    """A layer's k-th weight is given it at (k - 1/2) / S, S the sum of its dimensions: here in whole numbers."""
    common = math.lcm(*(sum(score.shape) for score in scores.values()))
    places = sorted(((2 * k + 1) * (common // sum(s.shape)), name) for name, s in scores.items() for k in range(s.size))
    return Counter(name for _, name in places[: round(density * len(places))])


def largest(score, k, pattern):
    """The k largest of a layer, or of every M neighbours along its inputs the N largest."""
    if pattern == "unstructured":
        rows, count = score.reshape(1, -1), k
    else:
        count, size = map(int, pattern.split(":"))
        rows = np.moveaxis(score, 1, -1).reshape(-1, size)
    kept = np.zeros(rows.shape, bool)
    np.put_along_axis(kept, np.argsort(-rows, axis=1, kind="stable")[:, :count], True, axis=1)
    if pattern == "unstructured":
        return kept.reshape(score.shape)
    return np.moveaxis(kept.reshape(np.moveaxis(score, 1, -1).shape), -1, 1)


HOLD_OUT_SEED = 20210211  # of the images that `validation` holds out
CRITERIA = {"magnitude": magnitude, "random": random}
ALLOCATIONS = {"uniform": uniform, "global": globally, "erk": erk}


def unknown_of(prune):
    """What of a Prune step cannot be done from weights alone: a criterion that needs gradients, channels that only the
    network itself couples, what another package brings."""
    if prune["pattern"] == "channel":
        return "pattern channel"
    known = (("criterion", CRITERIA), ("allocation", ALLOCATIONS))
    names = {"criterion": prune["criterion"]["name"], "allocation": prune["allocation"]}
    return next((f"{field} {names[field]}" for field, those in known if names[field] not in those), None)


@cache
def mask_of(key):
    """A Prune step's mask, chosen again and held against the stored one; the stored one where that cannot be done."""
    prune, stored = step(key), tensors(read(key, "mask.safetensors"))
    if unknown := unknown_of(prune):
        SKIPPED[unknown] += 1
        return stored
    scores = CRITERIA[prune["criterion"]["name"]](state_of(prune["source"]), prune["seed"])
    if prune["within"]:
        within = mask_of(prune["within"])
        scores = {name: np.where(within[name], score, -np.inf) for name, score in scores.items()}
    if "like" in prune:
        counts = {name: int(kept.sum()) for name, kept in mask_of(prune["like"]).items()}
    else:
        counts = ALLOCATIONS[prune["allocation"]](scores, prune["density"])
    again = {name: largest(score, counts[name], prune["pattern"]) for name, score in scores.items()}
    check("masks", digest(again), digest(stored), key)
    return again


@cache
def check_cubic(key):
    """The densities of a chain of gradual pruning, which ends at `key`."""
    chain, last = [], step(key)["density"]
    while key:
        prune = step(key)
        source = step(prune["source"]["step"])
        chain.append((prune["density"], source.get("recipe", {}), key))
        key = prune["within"]
    parts = [(density, recipe, key) for density, recipe, key in chain if "part" in recipe.get("schedule", {})]
    first = chain[-1][0] if len(parts) < len(chain) else 1.0  # a mask from before the first part: `initial`
    for density, recipe, key in parts:
        before, whole = recipe["schedule"]["part"]
        left = 1 - (before + recipe["epochs"]) / whole
        check("densities of gradual pruning", density, round(last + (first - last) * left**3, 12), key)


def begun(weights, mask):
    """The state that a training began with: transformed, zero where the mask prunes."""
    state, transform = dict(state_of(weights)), weights["transform"]
    if transform and transform["name"] == "shuffle":
        generator = draws(transform["seed"])
        for name in sorted(mask):
            survivors = state[name][mask[name]]
            state[name] = state[name].copy()
            state[name][mask[name]] = survivors[torch.randperm(len(survivors), generator=generator).numpy()]
    elif transform and transform["name"] == "sign_reinit":
        signs = state_of(transform["second"])
        state = {n: np.copysign(w, signs[n]) if w.dtype == np.float32 and w.ndim > 1 else w for n, w in state.items()}
    elif transform and transform["name"] == "mixed":
        alpha, other = json.loads(transform["arguments"])["alpha"], state_of(transform["second"])
        state = {name: mix(alpha, other[name], own) if own.dtype == np.float32 else own for name, own in state.items()}
    elif transform:
        SKIPPED[f"transform {transform['name']}"] += 1
        return None
    return state | {name: np.where(kept, state[name], np.float32(0)) for name, kept in mask.items()}


def mix(alpha, first, second):
    """alpha of one draw and sqrt(1 - alpha^2) of another, in float64; what they have in common stays."""
    mixed = alpha * first.astype(np.float64) + math.sqrt(1 - alpha * alpha) * second.astype(np.float64)
    return np.where(first == second, second, mixed.astype(np.float32))


def digest(arrays):
    """SHA-256 of a state, or of a mask's bits."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array, is_mask = arrays[name], arrays[name].dtype == np.bool_
        shape = ",".join(map(str, array.shape))
        total.update(f"{name}|{shape}\n".encode() if is_mask else f"{name}|{array.dtype}|{shape}\n".encode())
        total.update((np.packbits(array) if is_mask else array).tobytes())
    return total.hexdigest()


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
    for name in [name for name in w if w[name].dim() == 4]:  # as prunetune has them: the order decides the last bits
        w[name] = w[name].to(memory_format=torch.channels_last)
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


def movement(first, second, kept):
    """The figures of `movement`, from one list of weights to another: each is compared with its own partner."""
    a, b = (np.concatenate([state[name][kept[name]] for name in kept]).astype(np.float64) for state in (first, second))
    flipped = int(np.count_nonzero((np.signbit(a) != np.signbit(b)) & (a != 0) & (b != 0)))
    norm_a, norm_b = math.hypot(*a), math.hypot(*b)
    return {
        "n": a.size,
        "sign_flips": flipped / a.size if a.size else None,
        "distance": math.dist(a, b) / norm_a if norm_a else None,
        "cosine": math.fsum(a * b) / (norm_a * norm_b) if norm_a and norm_b else None,
    }


def check_movement(row):
    """A row of `movement`: from the dense run's start to its end, or an arm's within its mask, whole and by layer."""
    key = run_of("dense" if row["mask"] is None else row["of"].split("_0/")[0], row)
    mask = mask_of(step(key)["mask"]) if row["mask"] else {}
    first, second = begun(start(key), mask), state_of(final(key))
    if first is None:
        return
    kept = {name: mask.get(name, np.ones(second[name].shape, bool)) for name in PRUNABLE}
    layers = {name: movement(first, second, {name: kept[name]}) for name in PRUNABLE}
    found, stored = {"": movement(first, second, kept), **layers}, {"": row["values"], **row["by_layer"]}
    check("rows of movement", close(found, stored), stored, row)


def check_barrier(row):
    """A row of `barriers`, from the line that is stored with it."""
    first, second = (name.removesuffix("_T") for name in row["of"].removeprefix("previous ").split("/"))
    before = level_before(first, row) if row["of"].startswith("previous ") else row
    ends = run_of("dense" if first == "theta" else first, before), run_of(second, row)
    line = json.loads(read(lines()[ends], "metrics.json"))
    found = {
        "loss_barrier": barrier(line["alpha"], line["test_loss"], 1),
        "accuracy_barrier": barrier(line["alpha"], line["test_accuracy"], -1),
    }
    check("rows of barriers", close({"": found}, {"": row["values"]}), {"": row["values"]}, row)


def check_masks(row):
    """A row of `masks`: the mask at a sparsity and the one at the sparsity before, whole and by layer."""
    place = [row[field] for field in ("mask", "learning_rate", "sparsity", "seed")]
    here = (arm for arm, *where in runs if where == place and arm not in results["controls"])
    arm = next(arm for arm in here if step(run_of(arm, row))["mask"])
    before, mask = (mask_of(step(run_of(arm, at))["mask"]) for at in (level_before(arm, row), row))
    layers = {name: agreement({name: before[name]}, {name: mask[name]}) for name in mask}
    stored = {"": row["values"], **row["by_layer"]}
    check("rows of masks", close({"": agreement(before, mask), **layers}, stored), stored, row)


def agreement(a, b):
    """Of two masks: the weights that both keep as a share of those that either keeps, and what chance gives."""
    common = sum(int((a[name] & b[name]).sum()) for name in a)
    kept = sum(int(mask[name].sum()) for mask in (a, b) for name in a)
    chance = sum(int(a[name].sum()) * int(b[name].sum()) / a[name].size for name in a)
    return {
        "n": sum(mask.size for mask in a.values()),
        "jaccard": common / (kept - common) if kept else 1.0,
        "expected": chance / (kept - chance) if kept else 1.0,
    }


def level_before(arm, row):
    """The place of a row at the arm's next lower sparsity."""
    same_chain = (t for t in results["trials"] if t["arm"] == arm)
    for field in ("mask", "learning_rate", "seed"):
        same_chain = [t for t in same_chain if t[field] == row[field]]
    return max((t for t in same_chain if t["sparsity"] < row["sparsity"]), key=lambda t: t["sparsity"])


def run_of(arm, row):
    """The key of an arm's training at the place of a row; the dense run has neither mask nor sparsity."""
    mask, sparsity = (None, 0) if arm == "dense" else (row["mask"], row["sparsity"])
    return runs[arm, mask, row["learning_rate"], sparsity, row["seed"]]["key"]


@cache
def lines():
    """The key of every stored MeasureBarrier by the keys of the trainings at its ends."""
    steps = ((path.parent.name, json.loads(path.read_text())) for path in STORE.glob("steps/*/*/step.json"))
    return {(s["first"]["step"], s["second"]["step"]): key for key, s in steps if s["step"] == "MeasureBarrier"}


def barrier(alphas, values, sign):
    """The most by which a value is worse than the straight line between the ends; `sign` is -1 where more is better."""
    if any(value is None for value in values):
        return None
    chord = ((1 - alpha) * values[0] + alpha * values[-1] for alpha in alphas)
    return max(sign * (value - straight) for value, straight in zip(values, chord, strict=True))


def close(found, stored):
    """What was found, with the stored figures in place of those that are theirs up to the rounding of a long sum."""
    return {
        part: {name: same(value, stored.get(part, {}).get(name)) for name, value in figures.items()}
        for part, figures in found.items()
    }


def same(value, stored):
    """The stored figure if it is the value up to rounding, else the value."""
    known = isinstance(value, float) and isinstance(stored, float)
    return stored if known and math.isclose(value, stored, rel_tol=1e-12, abs_tol=1e-12) else value


QUANTITIES = {"movement": check_movement, "barriers": check_barrier, "masks": check_masks}


def check(what, found, stored, where=""):
    """Count an equal figure, or end with what differs."""
    COUNTS[what] += 1
    if found != stored:
        sys.exit(f"{what}: recomputed {found}, stored {stored} {where}")


RESULTS, STORE, DATA = arguments()
COUNTS, SKIPPED = Counter(), Counter()
results = json.loads((RESULTS / "results.json").read_text())
PRUNABLE = [layer["name"] for layer in results["layers"] if layer["prunable"]]
with np.load(DATA) as data:
    data_args = results["study"]["data_args"]
    pixels = data["train_images"][: data_args.get("train_limit")]
    held = round(data_args.get("validation", 0) * len(pixels))
    pixels = np.delete(pixels, np.random.RandomState(HOLD_OUT_SEED).permutation(len(pixels))[:held], axis=0)
    counts = np.bincount(pixels.ravel(), minlength=256).tolist()
    n, total, squares = (sum(count * value**power for value, count in enumerate(counts)) for power in (0, 1, 2))
    mean, std = total / (255 * n), ((n * squares - total**2) / (255 * n) ** 2) ** 0.5
    IMAGES = (torch.from_numpy(data["test_images"]).float() - 255 * mean) / (255 * std)
    IMAGES = IMAGES.unsqueeze(1)
    LABELS = torch.from_numpy(data["test_labels"].astype(np.int64))
torch.set_num_threads(1)

runs = {(t["arm"], t["mask"], t["learning_rate"], t["sparsity"], t["seed"]): t for t in results["trials"]}
for trial in results["trials"]:
    key, mask = trial["key"], {}
    if trial["mask"]:
        mask = mask_of(step(key)["mask"])
        check_cubic(step(key)["mask"])
        check("mask digests", digest(mask), trial["mask_digest"], key)
    beginning = begun(start(key), mask)
    if beginning:
        check("starts", digest(beginning), trial["start_digest"], key)
    state = state_of(final(key))
    check("pruned weights that are zero", all(not state[n][~m].any() for n, m in mask.items()), True, key)
for row in results["correlations"]:
    rate, mask, sparsity, seed = (row[field] for field in ("learning_rate", "mask", "sparsity", "seed"))
    dense = runs["dense", None, rate, 0, seed]["key"]
    finetune, reinit = (runs.get((arm, mask, rate, sparsity, seed), {}).get("key") for arm in ("finetune", "reinit"))
    first, second = map(state_of, PAIRS[row["pair"]](dense, finetune, reinit))
    kept = mask_of(step(finetune)["mask"]) if row["pair"] in ("ticket_0/finetune_T", "reinit_0/finetune_T") else None
    check("correlations", r_p(first, second, row["p"], kept), row["value"], row)
for row in results.get("quantities", []):
    if row["kind"] in QUANTITIES:
        QUANTITIES[row["kind"]](row)
    else:
        SKIPPED[f"quantity {row['kind']}"] += 1
for trial in results["trials"]:
    check("accuracies", accuracy(state_of(final(trial["key"]))), trial["test_accuracy"], trial["key"])
print("recomputed and equal:", ", ".join(f"{count} {what}" for what, count in COUNTS.items()))
for what, count in SKIPPED.items():
    print(f"not recomputed: {count} with {what}")
