"""Your own CNN in your own loop, pruned & fine-tuned: a minute or two on one core."""

import copy

import torch
from torch import nn

import prunetune as pt
from prunetune.data import identify, load
from prunetune.deploy import file_sizes, latencies, speedup

data = load(identify("fashion-mini"))  # 10,000 images that come with the package
images, tests = data.train_images / 255, data.test_images / 255


def fit(model: nn.Module, rate: float) -> float:
    optimizer = torch.optim.SGD(model.train().parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    for batch in (b for _ in range(3) for b in torch.randperm(len(images)).split(64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), data.train_labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():  # to score it, no gradient is needed
        return 100 * (model.eval()(tests).argmax(1) == data.test_labels).float().mean().item()


torch.manual_seed(0)
layers = [nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 10)]
models = {"dense": nn.Sequential(*layers)}
dense = fit(models["dense"], 0.05)
models["sparse"] = sparse = copy.deepcopy(models["dense"])
pt.apply_mask(sparse, pt.compute_mask(sparse, 0.8))  # from here on zeros stay zero, whatever the loop does
reached = {"dense": dense, "sparse": fit(sparse, 0.02)}
print(pt.sparsity_report(sparse), pt.export(sparse, None, "own_cnn.onnx", example_inputs=tests[:8]), sep="\n")
pt.remove_mask(sparse)  # the zeros stay
times = latencies(models, tests[:1])
for name, model in models.items():
    size, time = file_sizes(model.state_dict()).compressed / 1e3, 1e3 * times[name].median
    print(f"{name:7} {reached[name]:.2f} %  {size:.1f} KB compressed  {time:.3f} ms")
print("speed-up {:.2f} [{:.2f}, {:.2f}]".format(*speedup(times["dense"], times["sparse"])))
