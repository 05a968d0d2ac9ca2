"""Texts of `hf:REPO`, on local parquet files and a tokenizer of whole words, against splitting by hand."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.data import TensorExamples, identify, load_examples
from prunetune.data.examples import Examples
from prunetune.tasks import TASKS
from tests.support.refusals import refused

REPO = "hf:somebody/texts"
WORDS = ["[PAD]", "[UNK]", "[END]", "a", "cat", "sat", "on", "the", "mat", "dog"]
TEXTS = {
    "train": ["a cat sat", "the dog sat on the mat", "a dog", "a bird sat"],
    "test": ["the cat", "the mat sat on a"],
}
pytest.importorskip("datasets", reason="needs the extra prunetune[hf]")
pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder, with the tokenizer's beside it."""
    folder = tmp_path_factory.mktemp("hub")
    datasets: Any = importlib.import_module("datasets")
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    (folder / "copy" / "data").mkdir(parents=True)
    for split, texts in TEXTS.items():
        words = [text.split() for text in texts]
        rows = {
            "text": texts,
            "words": words,
            "tags": [[len(word) for word in own] for own in words],
            "numbers": [[len(word) for word in own] for own in words],
            "kind": [len(own) % 2 for own in words],
        }
        kinds = datasets.ClassLabel(names=["even", "odd"])
        whole = datasets.Dataset.from_dict(rows).cast_column("kind", kinds)
        whole.to_parquet(str(folder / "copy" / "data" / f"{split}-00000-of-00001.parquet"))
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    rule = tokenizers.Tokenizer(model)
    rule.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=rule, **special).save_pretrained(folder / "tokenizer")
    return folder


def arguments(copy: Path, **more: Any) -> dict[str, Any]:
    return {"root": str(copy / "copy"), "tokenizer": str(copy / "tokenizer"), "text": "text", **more}


def ids(text: str) -> list[int]:
    return [WORDS.index(word) if word in WORDS else 1 for word in text.split()]


def whole(examples: Examples) -> TensorExamples:
    assert isinstance(examples, TensorExamples)
    return examples


def test_texts_with_a_class(copy: Path) -> None:
    data = load_examples(identify(REPO, arguments(copy, length=5)))
    for split, part in (("train", whole(data.train)), ("test", whole(data.test))):
        rows = [ids(text)[:5] for text in TEXTS[split]]
        assert part.inputs["input_ids"].tolist() == [row + [0] * (5 - len(row)) for row in rows]
        assert part.inputs["attention_mask"].tolist() == [[1] * len(row) + [0] * (5 - len(row)) for row in rows]
        assert part.targets.tolist() == [len(text.split()) % 2 for text in TEXTS[split]]
    assert TASKS["classification"].outputs(data.train) == 2


def test_words_with_a_class_each(copy: Path) -> None:
    data = load_examples(identify(REPO, arguments(copy, text="words", label="tags", length=7)))
    wanted = [[len(word) for word in text.split()] for text in TEXTS["train"]]
    part = whole(data.train)
    assert part.targets.tolist() == [row + [-100] * (7 - len(row)) for row in wanted]
    assert part.inputs["input_ids"].tolist() == [ids(t) + [0] * (7 - len(ids(t))) for t in TEXTS["train"]]
    assert TASKS["token_classification"].outputs(data.train) == 5


def test_a_language_models_blocks(copy: Path) -> None:
    part = whole(load_examples(identify(REPO, arguments(copy, label="text", length=4))).train)
    stream = [token for text in TEXTS["train"] for token in [*ids(text), 2]]
    assert part.inputs["input_ids"].flatten().tolist() == stream[: len(stream) // 4 * 4]
    assert torch.equal(part.targets, part.inputs["input_ids"])


def test_the_content_is_the_identity(copy: Path) -> None:
    digests = {
        identify(REPO, arguments(copy, **more)).digest for more in ({}, {"length": 3}, {"label": "text", "length": 4})
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("more", "field", "mentions"),
    [
        ({"text": "texts"}, "data_args.text", ["texts", "text"]),
        ({"label": "lable"}, "data_args.label", ["lable"]),
        ({"label": "words"}, "data_args.label", ["words"]),
        ({"text": "kind"}, "data_args.text", ["kind"]),
        ({"label": "tags"}, "data_args.label", ["tags", "text"]),
        ({"text": "words"}, "data_args.label", ["kind", "words"]),
        ({"text": "numbers", "label": "tags"}, "data_args.text", ["numbers"]),
        ({"tokenizer": ""}, "data_args.tokenizer", []),
        ({"tokenizer": "/nowhere/at/all"}, "data_args.tokenizer", ["/nowhere/at/all"]),
        ({"length": 1}, "data_args.length", [1]),
        ({"text": ""}, "data_args.tokenizer", ["data_args.text"]),
        ({"text": "", "tokenizer": "", "length": 9}, "data_args.length", [9, "data_args.text"]),
        ({"label": "text", "length": 99}, "data", ["99", "data_args.length"]),
    ],
)
def test_what_is_wrong_gets_one_line(more: dict[str, Any], field: str, mentions: list[object], copy: Path) -> None:
    with refused(field, *mentions):
        identify(REPO, arguments(copy, **more))


def test_a_tokenizer_without_a_padding_token_is_refused(copy: Path, tmp_path: Path) -> None:
    transformers: Any = importlib.import_module("transformers")
    bare = transformers.PreTrainedTokenizerFast(tokenizer_file=str(copy / "tokenizer" / "tokenizer.json"))
    bare.save_pretrained(tmp_path / "bare")
    with refused("data_args.tokenizer", "pad_token"):
        identify(REPO, arguments(copy, tokenizer=str(tmp_path / "bare")))
