"""The code of docs/packing.md isolates samples."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from conftest import CHECKOUT

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from torch.nn.attention.flex_attention import create_mask  # noqa: E402
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM  # noqa: E402

PAGE = (CHECKOUT / "docs" / "packing.md").read_text(encoding="utf-8")
LENGTHS = [[5, 9, 3], [12, 7]]
ROW = 24


def code_under(heading: str) -> str:
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


def attention_by_lengths(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, None]:
    parts = []
    for start, stop in itertools.pairwise(options["cu_seq_lens_q"].tolist()):
        assert 0 < stop - start <= options["max_length_q"]
        q, k, v = (tensor[:, :, start:stop] for tensor in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register("plain_lengths", attention_by_lengths)


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(0)
    made = {name: torch.zeros(len(LENGTHS), ROW, dtype=torch.int32) for name in ("position_ids", "segment_ids")}
    bounds, flat = [0], 0
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for segment, length in enumerate([*lengths, ROW - sum(lengths)], start=1):
            made["position_ids"][row, start : start + length] = torch.arange(length)
            made["segment_ids"][row, start : start + length] = segment if segment <= len(lengths) else 0
            start, flat = start + length, flat + length
            bounds.append(flat)
    made["key_padding_mask"] = (made["segment_ids"] == 0).int()
    made["loss_mask"] = 1 - made["key_padding_mask"]
    made["text_input_ids"] = torch.randint(1, 50, (len(LENGTHS), ROW)).int()
    made["labels"] = torch.randint(1, 50, (len(LENGTHS), ROW)).int()
    made["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32)
    made["max_seqlen"] = made["cu_seqlens"].diff().max()
    return made


@pytest.mark.parametrize(
    ("heading", "attention"),
    [
        ("`sdpa` and `eager`", "sdpa"),
        ("`sdpa` and `eager`", "eager"),
        ("`flash_attention_2`", "plain_lengths"),
    ],
)
def test_logits_of_packed_samples_equal_those_of_the_samples_alone(
    batch: dict[str, Any], heading: str, attention: str
) -> None:
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    model.config._attn_implementation = attention
    names: dict[str, Any] = {
        "model": model,
        "batch": batch,
        "torch": torch,
        "embed": lambda batch: model.model.embed_tokens(batch["text_input_ids"].long()),
        "labels_that_count": lambda batch: batch["labels"][batch["loss_mask"] == 1].long(),
    }
    with torch.no_grad():
        exec(compile(code_under(heading), f"docs/packing.md, {heading}", "exec"), names)
        packed = names["logits"].view(len(LENGTHS), ROW, -1)
        model.config._attn_implementation = "sdpa"
        for row, lengths in enumerate(LENGTHS):
            for start, length in zip(itertools.accumulate([0, *lengths]), lengths, strict=False):
                ids = batch["text_input_ids"][row : row + 1, start : start + length].long()
                difference = (packed[row, start : start + length] - model(input_ids=ids).logits[0]).abs().max()
                assert difference < 1e-5
    assert packed.abs().max() > 0.5


def test_the_mask_for_flex_attention_allows_what_the_additive_mask_allows(batch: dict[str, Any]) -> None:
    names: dict[str, Any] = {"batch": batch}
    exec(compile(code_under("`flex_attention`"), "docs/packing.md, flex_attention", "exec"), names)
    found = create_mask(names["same_sample"], len(LENGTHS), None, ROW, ROW, device="cpu")
    segments = batch["segment_ids"]
    for row, query, key in itertools.product(range(len(LENGTHS)), range(ROW), range(ROW)):
        assert found[row, 0, query, key] == (key <= query and segments[row, query] == segments[row, key])
    assert names["blocks"].shape == (len(LENGTHS), 1, ROW, ROW)
