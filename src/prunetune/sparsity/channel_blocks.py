"""Attention heads, and the feed-forward blocks of GPT-2: channels that are known by what a transformer's module is.

Torch-Pruning follows neither the change of places of heads and positions nor the `Conv1D` of GPT-2. Of the modules of
transformers it is known which rows and columns are one head's: those of its query, key and value, and those by which
the output projection reads it. With grouped queries (GQA) a channel is a key and value head with all its query heads.
"""

# torch leaves some of its methods without types; what they give is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from prunetune.sparsity.scope import is_conv1d

_PROJECTIONS = (  # queries, keys and values of an attention, and what reads the heads, here or beside the module
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q", "k", "v", "o"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("query", "key", "value", "../output.dense"),
)
# Others look alike, but their positions, windows or caches may know how many heads there are.
FAMILIES = ("bart", "bert", "distilbert", "gpt2", "llama", "opt", "t5", "vit")  # all in the sweep of tests
_HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim")
_COUNTED = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "num_key_value_heads",
    "all_head_size",
    "inner_dim",
    "split_size",
)


class Rows(NamedTuple):
    """Where a parameter has the channels of a block: `width` neighbours along `dim` each, from each of `starts` on."""

    parameter: str
    dim: int
    width: int
    starts: tuple[int, ...] = (0,)


class Block(NamedTuple):
    """Channels of a module of transformers, the first of `rows` being their own weight."""

    module: str
    channels: int
    rows: tuple[Rows, ...]
    whole: str | None  # why all stay, if they must

    @property
    def layer(self) -> str:
        """The layer of which they are outputs."""
        return self.rows[0].parameter.rpartition(".")[0]

    @property
    def covered(self) -> frozenset[str]:
        """The layers all of whose outputs are in the block: all but the last, which reads them."""
        return frozenset(rows.parameter.rpartition(".")[0] for rows in self.rows[:-1])


def blocks_of(model: nn.Module) -> tuple[Block, ...]:
    """The attention heads and GPT-2 feed-forward blocks of `model`, in the order of its modules."""
    modules = dict(cast(Iterable[tuple[str, nn.Module]], model.named_modules()))
    return tuple(
        block
        for name, module in modules.items()
        if _family(module) in FAMILIES
        for block in _found(name, module, modules)
    )


def take_out(model: nn.Module, block: Block, gone: Tensor) -> None:
    """Remove the channels `gone`, (channels,) of bool and not all, from the parameters and sizes of a block."""
    channels = cast(list[int], gone.nonzero().flatten().tolist())
    for rows in block.rows:
        name, _, leaf = rows.parameter.rpartition(".")
        owner = cast(Any, model.get_submodule(name))
        old = cast(nn.Parameter, getattr(owner, leaf))
        kept = torch.ones(old.shape[rows.dim], dtype=torch.bool)
        kept[places_of(rows, channels)] = False
        new = old.detach().index_select(rows.dim, kept.nonzero().flatten().to(old.device)).contiguous()
        setattr(owner, leaf, nn.Parameter(new, old.requires_grad))
        if leaf == "weight":
            sides = ("in_features", "out_features") if isinstance(owner, nn.Linear) else ("nf", "nx")
            for attribute, size in zip(sides, reversed(new.shape), strict=True):
                setattr(owner, attribute, size)
    module = model.get_submodule(block.module)
    left = block.channels - int(gone.sum())
    for attribute in _COUNTED:
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            setattr(module, attribute, value * left // block.channels)


def places_of(rows: Rows, channels: Sequence[int]) -> list[int]:
    """The positions along `rows.dim` of these channels, channel by channel."""
    return [
        start + channel * rows.width + offset
        for channel in channels
        for start in rows.starts
        for offset in range(rows.width)
    ]


def _family(module: nn.Module) -> str | None:
    """Of `transformers.models.bert.modeling_bert` it is `bert`."""
    library, *path = type(module).__module__.split(".")
    return path[1] if library == "transformers" and len(path) > 1 and path[0] == "models" else None


def _found(name: str, module: nn.Module, modules: dict[str, nn.Module]) -> Iterator[Block]:
    for *inputs, output in _PROJECTIONS:
        parent = name.rpartition(".")[0]
        reader = f"{parent}.{output[3:]}".removeprefix(".") if output.startswith("../") else f"{name}.{output}"
        layers = [modules.get(f"{name}.{leaf}") for leaf in inputs] + [modules.get(reader)]
        if all(isinstance(layer, nn.Linear) for layer in layers):
            names = [f"{name}.{leaf}" for leaf in inputs] + [reader]
            yield from _heads(name, module, dict(zip(names, cast(list[nn.Linear], layers), strict=True)))
            return
    first, second = (modules.get(f"{name}.{leaf}") for leaf in ("c_attn", "c_proj"))
    if first is not None and second is not None and is_conv1d(first) and is_conv1d(second):
        yield from _packed_heads(name, module, first)
    wide = modules.get(f"{name}.c_fc")
    if wide is not None and second is not None and is_conv1d(wide) and is_conv1d(second):
        width = cast(Tensor, wide.weight).shape[1]
        own = (Rows(f"{name}.c_fc.weight", 1, 1), Rows(f"{name}.c_fc.bias", 0, 1))
        yield Block(name, width, (*own, Rows(f"{name}.c_proj.weight", 0, 1)), None)


def _heads(name: str, module: nn.Module, layers: dict[str, nn.Linear]) -> Iterator[Block]:
    """Of an attention with a layer each for queries, keys and values, whose numbers of heads agree."""
    size = next((value for key in _HEAD_SIZES if isinstance(value := getattr(module, key, None), int)), 0)
    query, key, value, output = layers.values()
    groups = key.out_features // size if size else 0
    if not groups or not key.out_features == value.out_features == groups * size:
        return
    if query.out_features != output.in_features or query.out_features % key.out_features:
        return
    widths = (query.out_features // groups, size, size)
    *names, reader = layers
    own = tuple(
        Rows(f"{layer}.{leaf}", 0, width)
        for layer, width in zip(names, widths, strict=True)
        for leaf in ("weight", "bias")
        if getattr(layers[layer], leaf) is not None
    )
    yield Block(name, groups, (*own, Rows(f"{reader}.weight", 1, widths[0])), _obstacle(name, module, layers, size))


def _packed_heads(name: str, module: nn.Module, packed: nn.Module) -> Iterator[Block]:
    """Of GPT-2: queries, keys and values side by side in one weight."""
    size, heads = (getattr(module, key, None) for key in ("head_dim", "num_heads"))
    inputs = cast(Tensor, packed.weight).shape[1] // 3
    if isinstance(size, int) and isinstance(heads, int) and 3 * size * heads == cast(Tensor, packed.weight).shape[1]:
        starts = (0, inputs, 2 * inputs)
        own = (Rows(f"{name}.c_attn.weight", 1, size, starts), Rows(f"{name}.c_attn.bias", 0, size, starts))
        yield Block(name, heads, (*own, Rows(f"{name}.c_proj.weight", 0, size)), None)


def _obstacle(name: str, module: nn.Module, layers: dict[str, nn.Linear], size: int) -> str | None:
    """Why the heads of an attention must stay, if they must."""
    if hasattr(module, "has_relative_attention_bias") and not name.endswith("EncDecAttention"):
        return "its heads share a position bias with those of other layers"
    own = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
    others = [(leaf, parameter) for leaf, parameter in module.named_parameters() if id(parameter) not in own]
    more = [leaf for leaf, parameter in others if parameter.numel() != size]  # not the same for every head
    return f"its heads have '{more[0]}' beside query, key, value and output" if more else None
