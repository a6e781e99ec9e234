"""Samples in one row are trained as if each were alone: logits, gradients and loss, including images."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    AttentionInterface,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    Qwen2Config,
)

from trainer.model import LlavaForRows  # noqa: E402

VOCABULARY, PATCHES, SIZE, LENGTH = 97, 4, 28, 64
ATTENTIONS = ["sdpa", "eager", "sdpa_by_sample", "flash_reference"]
TEXT_MODELS = {"llama": LlamaConfig, "qwen2": Qwen2Config}


def attention_of_given_lengths(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, None]:
    """FlashAttention's variable-length function in plain torch: each sample of the flattened batch separately."""
    assert attention_mask is None
    assert len(query) == 1, "one row, all samples one after another"
    bounds = options["cu_seq_lens_q"].tolist()
    assert bounds == options["cu_seq_lens_k"].tolist()
    assert bounds[-1] == query.shape[2], "every position belongs to one of them"
    lengths = [stop - start for start, stop in itertools.pairwise(bounds)]
    assert min(lengths) > 0
    assert max(lengths) == options["max_length_q"] == options["max_length_k"]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts = []
    for start, stop in itertools.pairwise(bounds):
        q, k, v = (tensor[:, :, start:stop] for tensor in (query, key, value))
        scores = q @ k.transpose(2, 3) * options["scaling"]
        later = torch.ones(stop - start, stop - start, dtype=torch.bool).triu(1)
        parts.append(scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ v)
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register("flash_reference", attention_of_given_lengths)


@dataclass(frozen=True)
class Made:
    """A sample: ids with `PATCHES` zeros for each image, labels, flags, and where its images begin."""

    ids: Any
    labels: Any
    flags: Any
    starts: tuple[int, ...]
    images: Any


def make_sample(length: int, *starts: int) -> Made:
    ids = torch.randint(1, VOCABULARY, (length,))
    for start in starts:
        ids[start : start + PATCHES] = 0
    flags = (torch.arange(length) >= length // 2).int()
    for start in starts:
        flags[max(0, start - 1) : start + PATCHES - 1] = 0
    labels = torch.randint(1, VOCABULARY, (length,))
    return Made(ids, labels, flags, starts, torch.randn(len(starts), 3, SIZE, SIZE))


def make_samples() -> list[list[Made]]:
    """Three rows: text, one image, two images, an image at position 0, and a row of text only."""
    torch.manual_seed(1)
    return [
        [make_sample(17), make_sample(20, 3), make_sample(24, 2, 11)],
        [make_sample(30, 0, 9, 20), make_sample(1), make_sample(14, 0)],
        [make_sample(9), make_sample(40)],
    ]


def make_batch(rows: list[list[Made]], length: int = LENGTH) -> dict[str, Any]:
    """The batch of those rows, built position by position."""
    shape = (len(rows), length)
    names = ("text_input_ids", "labels", "loss_mask", "position_ids", "segment_ids")
    batch: dict[str, Any] = {name: torch.zeros(shape, dtype=torch.int32) for name in names}
    batch["key_padding_mask"] = torch.ones(shape, dtype=torch.int32)
    images: list[Any] = [torch.zeros(0, 3, SIZE, SIZE)]
    places: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        start = 0
        for segment, sample in enumerate(row, start=1):
            here = (number, slice(start, start + len(sample.ids)))
            batch["text_input_ids"][here] = sample.ids.int()
            batch["labels"][here] = sample.labels.int()
            batch["loss_mask"][here] = sample.flags
            batch["position_ids"][here] = torch.arange(len(sample.ids), dtype=torch.int32)
            batch["segment_ids"][here] = segment
            batch["key_padding_mask"][here] = 0
            images.append(sample.images)
            places += [(number, start + at, PATCHES) for at in sample.starts]
            start += len(sample.ids)
    batch["image_data"] = torch.cat(images)
    table = torch.tensor(places, dtype=torch.int32).reshape(-1, 3)
    batch["image_rows"], batch["image_starts"], batch["image_slots"] = table.unbind(dim=1)
    return batch


def make_model(text_model: str, attention: str) -> LlavaForRows:
    """A model with weights large enough that a position depends on those before it."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    }
    text = TEXT_MODELS[text_model](**sizes, vocab_size=VOCABULARY, num_key_value_heads=2)
    vision = CLIPVisionConfig(**sizes, image_size=SIZE, patch_size=SIZE // 2)
    torch.manual_seed(0)
    model = LlavaForRows(LlavaConfig(vision_config=vision, text_config=text, image_token_index=VOCABULARY - 1))
    model.model.language_model.config._attn_implementation = attention
    return model.eval()


def logits_of(model: Any, batch: dict[str, Any]) -> Any:
    return model(**{name: values for name, values in batch.items() if name not in ("labels", "loss_mask")}).logits


def spans(rows: list[list[Made]]) -> list[tuple[int, slice, Made]]:
    """The row and the positions of every sample."""
    found = []
    for number, row in enumerate(rows):
        start = 0
        for sample in row:
            found.append((number, slice(start, start + len(sample.ids)), sample))
            start += len(sample.ids)
    return found


def largest_difference(model: Any, batch: dict[str, Any], rows: list[list[Made]]) -> float:
    """The largest difference between the logits of a sample in its row and in a separate batch without padding."""
    with torch.no_grad():
        packed = logits_of(model, batch)
        differences = [
            (packed[number, span] - logits_of(model, make_batch([[sample]], len(sample.ids)))[0]).abs().max()
            for number, span, sample in spans(rows)
        ]
    assert packed.abs().max() > 1, "otherwise the comparison would show nothing"
    return float(torch.stack(differences).max())


def gradients_at_inputs(model: Any, batch: dict[str, Any], number: int, span: slice) -> tuple[Any, Any]:
    """Gradients of the loss of one sample with respect to every input embedding (B, T, hidden) and every image."""
    seen: list[Any] = []

    def keep(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        options["inputs_embeds"].retain_grad()
        seen.append(options["inputs_embeds"])

    hook = model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    images = batch["image_data"].clone().requires_grad_()
    only = torch.zeros_like(batch["loss_mask"])
    only[number, span] = batch["loss_mask"][number, span]
    model(**{**batch, "image_data": images, "loss_mask": only}).loss.backward()
    hook.remove()
    return seen[0].grad.view(*only.shape, -1), images.grad


every_model = pytest.mark.parametrize("text_model", list(TEXT_MODELS))
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


@every_model
@every_attention
def test_logits_of_a_sample_in_a_packed_row_equal_those_of_the_sample_alone(text_model: str, attention: str) -> None:
    rows = make_samples()
    assert largest_difference(make_model(text_model, attention), make_batch(rows), rows) < 1e-5


@pytest.mark.slow
@every_model
@every_attention
def test_the_loss_of_one_sample_has_no_gradient_at_all_in_the_others(text_model: str, attention: str) -> None:
    rows, model = make_samples(), make_model(text_model, attention)
    batch = make_batch(rows)
    owners = [(row, start) for row, start in zip(batch["image_rows"].tolist(), batch["image_starts"], strict=True)]
    for number, span, sample in spans(rows):
        if not sample.flags.any():
            continue
        inputs, images = gradients_at_inputs(model, batch, number, span)
        assert (inputs[number, span].abs().amax(dim=-1) > 0).any()
        inputs[number, span] = 0
        assert inputs.abs().max() == 0
        for gradient, (row, start) in zip(images, owners, strict=True):
            mine = row == number and span.start <= start < span.stop
            assert (gradient.abs().max() > 0) == mine


@every_model
@every_attention
def test_the_loss_of_a_packed_batch_is_the_mean_over_the_labels_of_its_separate_samples(
    text_model: str, attention: str
) -> None:
    rows, model = make_samples(), make_model(text_model, attention)
    with torch.no_grad():
        packed = model(**make_batch(rows)).loss.item()
        alone = [
            model(**make_batch([[sample]], len(sample.ids)), num_items_in_batch=1).loss.item()
            for _, _, sample in spans(rows)
        ]
    labels = sum(int(sample.flags.sum()) for _, _, sample in spans(rows))
    assert packed == pytest.approx(sum(alone) / labels, rel=1e-5)


@every_model
@pytest.mark.parametrize("ignored", ["segment_ids", "segment_ids and position_ids"])
@every_attention
def test_samples_attend_to_each_other_if_segment_ids_are_ignored(text_model: str, attention: str, ignored: str) -> None:
    """Shows that the tests above can fail: positions that restart do not isolate samples."""
    rows, model = make_samples(), make_model(text_model, attention)
    batch = make_batch(rows)
    batch["segment_ids"] = batch["segment_ids"].clamp(max=1)
    if ignored != "segment_ids":
        batch["position_ids"] = torch.arange(LENGTH).expand(len(rows), -1)
    assert largest_difference(model, batch, rows) > 0.1
    inputs, _ = gradients_at_inputs(model, batch, 0, slice(17, 37))
    assert inputs[0, :17].abs().max() > 0


@every_attention
def test_an_unreadable_image_changes_nothing_in_the_other_samples(attention: str) -> None:
    """As with `on_image_error="blank"`: its slots are masked, and its sample has no loss."""
    rows, model = make_samples(), make_model("llama", attention)
    batch = make_batch(rows)
    blank = {name: values.clone() for name, values in batch.items()}
    failed, span = 1, slice(17, 37)
    blank["image_data"][failed - 1] = 0
    blank["key_padding_mask"][0, 20 : 20 + PATCHES] = 1
    blank["loss_mask"][0, span] = 0
    with torch.no_grad():
        whole, without = logits_of(model, batch), logits_of(model, blank)
    assert torch.isfinite(without).all()
    for number, other, _ in spans(rows):
        if (number, other) != (0, span):
            assert torch.equal(whole[number, other], without[number, other])


@every_attention
def test_a_batch_without_images_gives_the_projector_gradients_of_zero_instead_of_none(attention: str) -> None:
    """DDP waits for the gradient of every parameter."""
    model = make_model("llama", attention)
    batch = make_batch([[make_sample(20), make_sample(11)], [make_sample(40)]])
    assert len(batch["image_data"]) == 0
    loss = model(**batch).loss
    loss.backward()
    assert loss > 0
    for parameter in model.model.multi_modal_projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0
    assert model.lm_head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_samples_are_isolated_in_bfloat16_too(attention: str) -> None:
    rows, model = make_samples(), make_model("llama", attention)
    batch = make_batch(rows)
    other = {name: values.clone() for name, values in batch.items()}
    other["text_input_ids"][0, :17] = 5
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = logits_of(model, batch), logits_of(model, other)
    assert torch.isfinite(first).all()
    assert not torch.equal(first[0, :17], second[0, :17])
    assert torch.equal(first[0, 17:], second[0, 17:])


def test_a_batch_that_is_neither_fixed_nor_free_is_refused() -> None:
    batch = make_batch(make_samples())
    del batch["segment_ids"]
    with pytest.raises(ValueError, match="neither set is complete"):
        make_model("llama", "sdpa")(**batch)
