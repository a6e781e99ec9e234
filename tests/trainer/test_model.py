"""The wrapper compared with transformers' own forward, a text model and a cross-entropy computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from small import FREEZE_PHASE_1, FREEZE_PHASE_2, IMAGES, PATCHES, dataset, values  # noqa: E402

from loaders import create_dataloader  # noqa: E402
from trainer.build import build_model, freeze  # noqa: E402
from trainer.data import read_row_shape  # noqa: E402
from trainer.params import Params  # noqa: E402


def make_model(attention: str = "sdpa", style: str = "vicuna_v1") -> Any:
    data = str(dataset(style=style))
    params = Params.model_validate(values(train_input__data_dir=data, model__attention=attention))
    torch.manual_seed(0)
    return build_model(params.model, read_row_shape(params, [data]), image_token_id=1800).eval()


def make_batch(rows: int = 9, style: str = "vicuna_v1") -> Any:
    loader = create_dataloader(dataset(style=style), IMAGES, rows, shuffle=False, image_dtype=torch.float32)
    return dict(next(iter(loader)))


def inputs_of(batch: Any) -> Any:
    return {name: batch[name] for name in ("text_input_ids", "key_padding_mask", "image_data", "has_image")}


def rows_of(batch: Any, chosen: Any) -> Any:
    return {name: tensor[chosen] for name, tensor in batch.items()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("style", ["vicuna_v1", "plain"])
def test_logits_of_image_rows_equal_those_of_transformers_with_expanded_image_tokens(
    attention: str, style: str
) -> None:
    model, batch = make_model(attention, style), make_batch(style=style)
    rows = rows_of(batch, batch["has_image"])
    assert len(rows["labels"]) >= 5
    start = model.image_start_idx
    prompt = rows["text_input_ids"].long()
    prompt[:, start : start + PATCHES] = model.config.image_token_index
    attended = rows["key_padding_mask"] == 0
    parent = type(model).__mro__[1]
    with torch.no_grad():
        ours = model(**inputs_of(rows)).logits
        theirs = parent.forward(
            model, input_ids=prompt, pixel_values=rows["image_data"], attention_mask=attended.long()
        ).logits
    assert torch.isfinite(ours).all()
    difference = (ours - theirs)[attended].abs().max().item()
    assert difference < 1e-4
    assert theirs[attended].abs().max().item() > 0.01, "otherwise the comparison would show nothing"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_text_only_rows_equal_those_of_the_text_without_the_dummy_image(attention: str) -> None:
    model, batch = make_model(attention), make_batch()
    rows = rows_of(batch, ~batch["has_image"])
    assert len(rows["labels"]) >= 3
    with torch.no_grad():
        ours = model(**inputs_of(rows)).logits
        for row, mask, logits in zip(rows["text_input_ids"], rows["key_padding_mask"], ours, strict=True):
            text = row[mask == 0].long()[None]
            alone = model.lm_head(model.model.language_model(input_ids=text).last_hidden_state)[0]
            assert (logits[mask == 0] - alone).abs().max().item() < 1e-4


def test_pixels_of_a_text_only_row_have_no_effect() -> None:
    model, batch = make_model(), make_batch()
    other = {**batch, "image_data": batch["image_data"].clone()}
    other["image_data"][~batch["has_image"]] = 7.0
    with torch.no_grad():
        assert torch.equal(model(**inputs_of(batch)).logits, model(**inputs_of(other)).logits)


def test_a_row_gives_the_same_logits_alone_and_in_a_mixed_batch() -> None:
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        together = model(**inputs_of(batch)).logits
        for row in range(4):
            alone = model(**inputs_of(rows_of(batch, [row]))).logits[0]
            attended = batch["key_padding_mask"][row] == 0
            assert (together[row] - alone)[attended].abs().max().item() < 1e-4


def cross_entropy_by_hand(logits: Any, labels: Any, loss_mask: Any) -> float:
    """The mean of -log softmax at the supervised labels, in float64, position by position."""
    losses = []
    for row, position in zip(*np.nonzero(loss_mask.numpy()), strict=True):
        scores = logits[row, position].double().numpy()
        shifted = scores - scores.max()
        losses.append(np.log(np.exp(shifted).sum()) - shifted[int(labels[row, position])])
    return float(np.mean(losses))


def test_the_loss_is_the_cross_entropy_over_the_supervised_labels_without_another_shift() -> None:
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        logits = model(**inputs_of(batch)).logits
        loss = model(**batch).loss.item()
    expected = cross_entropy_by_hand(logits, batch["labels"], batch["loss_mask"])
    assert loss == pytest.approx(expected, abs=1e-5)
    shifted_again = cross_entropy_by_hand(logits[:, :-1], batch["labels"][:, 1:], batch["loss_mask"][:, 1:])
    assert abs(shifted_again - expected) > 1e-4, "otherwise a second shift would not be detected"


def test_losses_of_micro_batches_divided_by_the_labels_of_the_batch_add_up_to_its_loss() -> None:
    model, batch = make_model(), make_batch()
    items = batch["loss_mask"].sum()
    with torch.no_grad():
        parts = [
            model(**rows_of(batch, part), num_items_in_batch=items).loss for part in ([0], [1, 2, 3, 4], range(5, 9))
        ]
        assert sum(parts).item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)


def test_a_batch_without_supervised_labels_has_a_loss_and_gradients_of_zero() -> None:
    model, batch = make_model(), make_batch()
    loss = model(**{**batch, "loss_mask": torch.zeros_like(batch["loss_mask"])}).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad.abs().max() == 0 for p in model.model.multi_modal_projector.parameters())


@pytest.mark.parametrize(
    ("patterns", "trained"), [(FREEZE_PHASE_1, "projector"), (FREEZE_PHASE_2, "projector and text")]
)
def test_frozen_parts_have_no_gradients(patterns: list[str], trained: str) -> None:
    model, batch = make_model(), make_batch()
    freeze(model, patterns)
    model(**batch).loss.backward()
    prefixes = {"projector": ("model.multi_modal_projector.",)}
    expected = prefixes.get(trained, ("model.multi_modal_projector.", "model.language_model.", "lm_head."))
    for name, parameter in model.named_parameters():
        if name.startswith(expected):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_a_batch_of_text_only_rows_gives_the_projector_gradients_of_zero_instead_of_none() -> None:
    """DDP waits for the gradient of every parameter."""
    model, batch = make_model(), make_batch()
    freeze(model, FREEZE_PHASE_1)
    model(**rows_of(batch, ~batch["has_image"])).loss.backward()
    for parameter in model.model.multi_modal_projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() == 0


def test_a_text_only_row_that_begins_with_dummy_slots_has_a_finite_loss() -> None:
    """With a template without BOS there is nothing to attend to before the dummy slots."""
    model, batch = make_model(), make_batch()
    model.image_start_idx = 0
    row = rows_of(batch, ~batch["has_image"])
    row["key_padding_mask"][:, :PATCHES] = 1
    loss = model(**row).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_image_features_are_those_of_the_selected_layer_without_the_class_token() -> None:
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        states = model.model.vision_tower(batch["image_data"], output_hidden_states=True).hidden_states
        expected = model.model.multi_modal_projector(states[1][:, 1:])
        assert torch.equal(model._image_features(batch["image_data"]), expected)
    assert len(states) == 3, "the embeddings and two layers: -2 is the first layer's"


def test_a_saved_model_has_the_same_tensors_as_one_saved_by_transformers(tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import LlavaForConditionalGeneration

    model = make_model()
    model.save_pretrained(tmp_path / "ours")
    loaded, found = LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(found.values()), "no tensor is missing, unexpected or of another shape"
    assert type(loaded) is LlavaForConditionalGeneration
    assert loaded.config.architectures == ["LlavaForConditionalGeneration"]
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded.save_pretrained(tmp_path / "theirs")
    names = [set(safe_open(tmp_path / who / "model.safetensors", "pt").keys()) for who in ("ours", "theirs")]
    assert names[0] == names[1]
    assert "language_model.model.embed_tokens.weight" in names[0]
