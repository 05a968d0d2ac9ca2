"""In what arithmetic a training runs: what makes two runs equal (threads, algorithms, the random numbers that a model
draws itself), its precision, and the memory order of its images.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from prunetune.errors import ConfigError
from prunetune.training.recipe import Recipe

# torch has a class of its own for accelerators alone; its CPU allocator and the libraries below raise RuntimeError
_SHORT = re.compile(r"can't allocate memory|out of memory|bad_alloc|ALLOC_FAILED")
_ASKED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """ConfigError `WHAT take more memory than there is …; ADVICE` in the place of any error that says so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        asked = _ASKED.search(str(error))
        amount = f" ({asked[1]} at once)" if asked else ""
        raise ConfigError(f"{what} take more memory than there is{amount}; {advice}") from error


def is_short(error: Exception) -> bool:
    """Whether an exception says that memory is short."""
    return isinstance(error, MemoryError) or bool(isinstance(error, RuntimeError) and _SHORT.search(str(error)))


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """One intra-op thread on the CPU (their number changes float sums), fixed algorithms in cuDNN; then as before."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = deterministic


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators that dropout draws from; the caller's generators are as before afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=True):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that would reseed GPUs that are not forked
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).manual_seed(seed)
        yield


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA a stream of its own, as recording a graph needs, in order with what comes before and after."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """bfloat16 where the recipe asks for it; float32 weights, optimizer and loss all the same."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")


@contextmanager
def strided_depthwise_in_float32(model: nn.Module, recipe: Recipe, device: torch.device) -> Iterator[None]:
    """On a CPU, take depthwise convolutions with a stride out of a bf16 training's bf16, and give their outputs in it.

    oneDNN has no fast backward pass for them in bf16 (docs/evidence/performance.md, `models`). A module whose `forward`
    somebody has replaced is left as it is.
    """
    slow = [module for module in model.modules() if _strided_depthwise(module) and "forward" not in vars(module)]
    if recipe.precision != "bf16" or device.type != "cpu":
        slow = []
    for module in slow:
        module.forward = partial(_in_float32, module.forward)
    try:
        yield
    finally:
        for module in slow:
            del module.forward


def _strided_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and max(module.stride) > 1


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(images.float()).bfloat16()


def choose_layout(model: nn.Module, example: Any) -> torch.memory_format:
    """Give the weights of `model` the memory order in which it convolves fastest, and return it for its images.

    On a CPU channels-last takes 12 % off a step of the small network and of resnet20; tensor cores of a GPU work in it.
    A model that cannot work so (it may call `view` on an image tensor) is found by running `example`, normalised
    images, and stays as it is; so does one whose inputs are no tensor of shape (N, C, H, W).
    """
    if not isinstance(example, torch.Tensor) or example.device.type not in ("cpu", "cuda") or example.dim() != 4:
        return torch.contiguous_format
    training = model.training
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad():
            model(example.contiguous(memory_format=torch.channels_last))
        return torch.channels_last
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return torch.contiguous_format
    finally:
        model.train(training)
