"""Channels taken out of a CNN, so that it is smaller for any program that runs it: half a minute on one core."""

import torch
from torch import nn

import prunetune as pt
from prunetune.data import identify, load
from prunetune.deploy import count, latencies, shrink, speedup

data = load(identify("fashion-mini"))  # 10,000 images that come with the package
images, tests = data.train_images / 255, data.test_images / 255


def fit(model: nn.Module, rate: float, epochs: int = 2) -> float:
    """Train as anybody would; returns the test accuracy in percent."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for batch in (part for _ in range(epochs) for part in torch.randperm(len(images)).split(64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), data.train_labels[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return 100 * (model(tests).argmax(1) == data.test_labels).float().mean().item()


torch.manual_seed(0)
first, second = (nn.Conv2d(1, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU()), (nn.Conv2d(32, 64, 3, 2), nn.ReLU())
dense = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(2304, 10))
print(f"dense  {fit(dense, 0.05):.2f} %  {count(dense, tests[:1]).macs:,} MACs")

mask = pt.compute_mask(dense, sparsity=0.5, pattern="channel", example_inputs=tests[:2])  # half of the channels
small = shrink(dense, mask, tests[:2])  # a copy without them: an ordinary module with smaller layers
print(f"small  {fit(small, 0.02):.2f} %  {count(small, tests[:1]).macs:,} MACs after fine-tuning")

times = latencies({"dense": dense.eval(), "small": small.eval()}, tests[:64])  # side by side, round by round
print("speed-up at batch 64: {:.2f} [{:.2f}, {:.2f}]".format(*speedup(times["dense"], times["small"])))
