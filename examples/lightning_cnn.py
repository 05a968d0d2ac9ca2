"""A CNN trained, pruned & fine-tuned by Lightning: half a minute on one core."""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunetune as pt
from prunetune.data import identify, load
from prunetune.deploy import file_sizes, latencies
from prunetune.integrations.lightning import PruneCallback

data = load(identify("fashion-mini"))
tests = data.test_images / 255
batches = DataLoader(TensorDataset(data.train_images / 255, data.train_labels), 64, shuffle=True)


class Cnn(LightningModule):
    net: nn.Module

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)


seed_everything(0, verbose=False)
model = Cnn()
model.net = nn.Sequential(nn.Conv2d(1, 32, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4608, 10))
for name, callbacks in {"dense": [], "sparse": [PruneCallback(0.8)]}.items():
    Trainer(max_epochs=2, logger=False, enable_checkpointing=False, callbacks=callbacks).fit(model, batches)
    print(pt.sparsity_report(model) if callbacks else "")
    pt.remove_mask(model)  # the zeros, proved at the end of the fit, stay
    model.eval()
    with torch.no_grad():  # to score it, no gradient is needed
        accuracy = 100 * (model.net(tests).argmax(1) == data.test_labels).float().mean()
    time, size = latencies({name: model.net}, tests[:1])[name].median, file_sizes(model.state_dict()).compressed / 1e3
    print(f"{name:7} {accuracy:.2f} %  {size:.1f} KB compressed  {1e3 * time:.3f} ms")
