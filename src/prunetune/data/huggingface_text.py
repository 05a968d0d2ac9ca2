"""Texts of a `hf:REPO` as token ids: with a class each, with a class a word, or as a language model reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prunetune.data.dataset import ExampleSets
from prunetune.data.examples import IGNORED, TensorExamples
from prunetune.errors import ConfigError, shown, unknown
from prunetune.sparsity.model_state import digest_tensors

LENGTH = 128  # tokens of an example, where nothing else is said


class TextColumns(NamedTuple):
    """What `data_args` says of texts."""

    text: str  # a column of texts, or of lists of words
    label: str  # of whole numbers, or of a list of them for each word; the text's own name for a language model
    tokenizer: str  # a name of the hub, or a folder
    length: int


def read_texts(splits: Mapping[str, Any], repo: str, asked: TextColumns) -> tuple[ExampleSets, str]:
    """The splits `train` and `test` and their digest.

    ConfigError when the tokenizer cannot be had, or a column is not as it must be.
    """
    for argument, column in (("text", asked.text), ("label", asked.label)):
        if column not in splits["train"].features:
            raise unknown(f"data_args.{argument}", column, splits["train"].features)
    if asked.length < 2:
        raise ConfigError(f"data_args.length: {asked.length}; want 2 tokens or more")
    tokenizer = _tokenizer(asked.tokenizer)
    parts = {split: _examples(splits[split], tokenizer, asked, repo) for split in ("train", "test")}
    tensors = {f"{split} {name}": tensor for split, part in parts.items() for name, tensor in part.inputs.items()}
    labels = {f"{split} labels": part.targets for split, part in parts.items()}
    sets = ExampleSets(f"hf:{repo}", parts["train"], parts["test"], parts["train"].subset(torch.arange(0)))
    return sets, digest_tensors(tensors | labels)


def _tokenizer(name: str) -> Any:
    if not name:
        raise ConfigError("data_args.tokenizer: missing, and texts are read by one; name it, or the folder it lies in")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        what = "a tokenizer is read by transformers; install it: pip install 'prunetune[hf,transformers]'"
        raise ConfigError(f"data_args.tokenizer: '{name}'; {what}") from error
    try:
        found: Any = AutoTokenizer.from_pretrained(name, use_fast=True)
    except Exception as error:  # hub, network, files: whatever it is goes into one line, the cause chained
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"data_args.tokenizer: {shown(name)} cannot be read: {why}") from error
    if found.pad_token is None:
        found.pad_token = found.eos_token  # what GPT-2 and others have; padding is masked, or counts nowhere
    if found.pad_token is None:
        what = "has neither a padding token nor an end of text, with which texts are filled up; set its pad_token"
        raise ConfigError(f"data_args.tokenizer: {shown(name)} {what}")
    return found


def _examples(split: Any, tokenizer: Any, asked: TextColumns, repo: str) -> TensorExamples:
    texts = list(split[asked.text])
    if asked.label == asked.text:
        return _blocks(_require_texts(texts, asked.text), tokenizer, asked.length, repo)
    labels = list(split[asked.label])
    words = all(isinstance(text, list) for text in texts)
    _require_texts([word for text in texts for word in text] if words else texts, asked.text)
    if words and not all(isinstance(own, list) for own in labels):
        what = f"holds no lists, but '{asked.text}' holds lists of words; want a list of a whole number a word"
        raise ConfigError(f"data_args.label: column '{asked.label}' {what}")
    if not words and any(isinstance(own, list) for own in labels):
        what = f"holds lists, but '{asked.text}' holds whole texts; want one whole number a text"
        raise ConfigError(f"data_args.label: column '{asked.label}' {what}")
    encoded = tokenizer(
        texts,
        is_split_into_words=words,
        truncation=True,
        max_length=asked.length,
        padding="max_length",
    )
    inputs = {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}
    if not words:
        return TensorExamples(inputs, _whole_numbers(labels, asked.label))
    if any(len(text) != len(own) for text, own in zip(texts, labels, strict=True)):
        raise ConfigError(f"data_args.label: column '{asked.label}' has other numbers of labels than of words")
    places = [encoded.word_ids(i) for i in range(len(texts))]
    rows = [_of_first_tokens(own, place) for own, place in zip(labels, places, strict=True)]
    return TensorExamples(inputs, _whole_numbers(rows, asked.label))


def _of_first_tokens(labels: Sequence[int], words: Sequence[int | None]) -> list[int]:
    """A word's label at the first of its tokens, and IGNORED at its others and where there is no word."""
    before = [None, *words]
    return [
        labels[word] if word is not None and word != last else IGNORED
        for word, last in zip(words, before, strict=False)
    ]


def _blocks(texts: Sequence[str], tokenizer: Any, length: int, repo: str) -> TensorExamples:
    """All texts one after the other, an end-of-text token after each where there is one, cut in blocks of `length`."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    each = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    whole = torch.tensor([token for one in each for token in [*one, *end]])
    count = len(whole) // length
    if not count:
        what = f"has {len(whole)} tokens in a split; want {length} or more, or a smaller data_args.length"
        raise ConfigError(f"data: 'hf:{repo}' {what}")
    tokens = whole[: count * length].view(count, length)
    return TensorExamples({"input_ids": tokens}, tokens.clone())


def _require_texts(texts: list[Any], column: str) -> list[str]:
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"data_args.text: column '{column}' holds other things than texts; name another")
    return texts


def _whole_numbers(values: list[Any], column: str) -> Tensor:
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    if not all(type(one) is int for one in flat):
        raise ConfigError(f"data_args.label: column '{column}' holds other things than whole numbers; name another")
    return torch.tensor(values, dtype=torch.int64)
