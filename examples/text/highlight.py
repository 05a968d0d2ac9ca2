"""A token classifier: which characters of a Python program are a keyword, a name, a number, a string, a comment?"""

import inspect
import io
import keyword
import tokenize
from importlib import import_module

import torch
from torch import Tensor
from transformers import BertConfig, BertForTokenClassification

LENGTH = 64  # characters of a text
KINDS = ("space", "keyword", "name", "number", "string", "comment", "operator")
TRAIN, TEST = ("csv", "cmd"), ("textwrap",)  # modules that come with Python


def data():
    """Lines of the modules' source, each cut or filled up with zeros to LENGTH, and every character's kind."""
    return {"train": lines_of(TRAIN), "test": lines_of(TEST)}


def lines_of(modules: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    tokens, kinds = [], []
    for name in modules:
        source = inspect.getsource(import_module(name))
        for line, marked in zip(source.splitlines(), kinds_of(source), strict=True):
            if line.strip() and line.isascii():
                tokens.append(list(line.encode().ljust(LENGTH, b"\0")[:LENGTH]))
                kinds.append((marked + [-100] * LENGTH)[:LENGTH])  # a target of -100 counts nowhere
    inputs = torch.tensor(tokens)
    return {"input_ids": inputs, "attention_mask": (inputs > 0).long()}, torch.tensor(kinds)


def kinds_of(source: str) -> list[list[int]]:
    """The kind of every character of every line, as Python's own tokenizer has it."""
    lines = source.splitlines()
    kinds = [[0] * len(line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type].lower()
        kind = KINDS.index({"op": "operator"}.get(name, name)) if name in (*KINDS, "op") else 0
        if keyword.iskeyword(token.string):
            kind = KINDS.index("keyword")
        (first, start), (last, end) = token.start, token.end
        for row in range(first, last + 1) if kind else ():
            at = slice(start if row == first else 0, end if row == last else len(lines[row - 1]))
            kinds[row - 1][at] = [kind] * len(lines[row - 1][at])
    return kinds


def network(outputs: int, width: int = 64, layers: int = 1):
    """A small BERT with weights drawn anew: nothing is downloaded."""
    config = BertConfig(
        vocab_size=128,  # ASCII: a character's number is its token
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
    config.num_labels = outputs
    return BertForTokenClassification(config)
