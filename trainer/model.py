"""A wrapper of `LlavaForConditionalGeneration` that computes logits or the loss from batches of rows."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast

from trainer.segment_attention import is_flattened, segment_attention


class LlavaForRows(LlavaForConditionalGeneration):  # type: ignore[no-untyped-call]
    """LLaVA that takes batches of `loaders` instead of prompts with image tokens.

    Fixed batches have `has_image`; free batches (packed rows, several images) have `segment_ids`, `position_ids` and
    the positions of their images.

    Modules, parameters and saved files are those of the parent class, so a saved folder can be loaded with
    `LlavaForConditionalGeneration.from_pretrained`, which also has `generate`.

    Attributes:
        image_start_idx: position of the first image slot of fixed rows; the number of slots is the number of patches
            of the vision model. Not used by free batches.
    """

    # Tells the Hugging Face Trainer that `forward` divides by the given number of labels, so that the gradients of
    # micro-batches and processes add up to those of the whole batch.
    accepts_loss_kwargs = True
    image_start_idx: int | None = 0

    def forward(
        self,
        text_input_ids: Tensor,
        key_padding_mask: Tensor,
        image_data: Tensor,
        has_image: Tensor | None = None,
        labels: Tensor | None = None,
        loss_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        image_rows: Tensor | None = None,
        image_starts: Tensor | None = None,
        image_slots: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Compute the logits, or the loss if `labels` and `loss_mask` are given.

        Args:
            text_input_ids: (B, T) integers.
            key_padding_mask: (B, T), 1 where not to attend.
            image_data: floats; fixed batch: (B, 3, image_size, image_size), ignored for rows without an image; free
                batch: (N, 3, image_size, image_size), the images of all rows, N may be 0.
            has_image: (B,) bool; fixed batch only.
            labels: (B, T) integers, the next token of each position (already shifted).
            loss_mask: (B, T), 1 where the label is supervised.
            num_items_in_batch: divisor of the sum of the losses; None divides by the number of supervised labels.
            position_ids: (B, T) integers, from 0 in each sample; free batch only.
            segment_ids: (B, T) integers, 1, 2, … for the samples of a row and 0 for padding; free batch only.
                Attention is restricted to the same segment.
            image_rows, image_starts, image_slots: (N,) integers, row, first position and number of slots of each
                image; free batch only.

        Returns:
            without labels, `logits` (B, T, vocabulary) in the dtype of the computation; with labels, only `loss`, a
            float32 scalar. Its logits are computed only at supervised positions, in phase 1 a few dozen of 2048.

        Raises:
            ValueError: the arguments match neither kind of batch.
        """
        if has_image is not None:
            hidden = self._hidden_states(text_input_ids, key_padding_mask, image_data, has_image)
        elif (
            position_ids is None
            or segment_ids is None
            or image_rows is None
            or image_starts is None
            or image_slots is None
        ):
            raise ValueError(
                "a fixed batch has has_image; a free one position_ids, segment_ids, image_rows, image_starts and "
                "image_slots; neither set is complete"
            )
        else:
            embeds = self._embed_free(text_input_ids, image_data, image_rows, image_starts, image_slots)
            hidden = self._hidden_states_of_segments(embeds, key_padding_mask, position_ids, segment_ids)
        if labels is None or loss_mask is None:
            return CausalLMOutputWithPast(logits=self.lm_head(hidden))
        counts = loss_mask.bool()
        logits = self.lm_head(hidden[counts]).float()
        total = functional.cross_entropy(logits, labels[counts].long(), reduction="sum")
        items = counts.sum() if num_items_in_batch is None else num_items_in_batch
        # A batch may have no supervised label, if all of its images failed: its loss is 0, not 0 / 0.
        loss = total / torch.as_tensor(items, device=total.device).clamp(min=1)
        return CausalLMOutputWithPast(loss=loss)

    def _hidden_states(
        self, text_input_ids: Tensor, key_padding_mask: Tensor, image_data: Tensor, has_image: Tensor
    ) -> Tensor:
        """Return the last hidden states of the language model, (B, T, hidden size)."""
        embeds = self.get_input_embeddings()(text_input_ids.long())
        features = self._image_features(image_data).to(embeds.dtype)
        start = self.image_start_idx
        if start is None:
            raise ValueError(
                "image_start_idx is None, but fixed rows need it: set it to the value in their data_params.json"
            )
        stop = start + features.shape[1]
        # The vision tower runs on text-only rows too: DDP waits for gradients of the projector even in a step in which
        # a process has no image. `where` discards these features, and their gradients are 0.
        slots = torch.where(has_image[:, None, None], features, embeds[:, start:stop])
        attended = key_padding_mask == 0
        return self.model.language_model(  # type: ignore[no-any-return]
            inputs_embeds=torch.cat([embeds[:, :start], slots, embeds[:, stop:]], dim=1),
            attention_mask=attended.long(),
            # Positions count attended positions only, so that a text-only row is trained like its text without slots.
            position_ids=(attended.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state

    def _embed_free(
        self,
        text_input_ids: Tensor,
        image_data: Tensor,
        image_rows: Tensor,
        image_starts: Tensor,
        image_slots: Tensor,
    ) -> Tensor:
        """Return the embeddings of a free batch with image features in their slots, (B, T, hidden size)."""
        embeds = self.get_input_embeddings()(text_input_ids.long())
        images = len(image_data)
        # DDP waits for gradients of the projector even in a batch without images; a dummy image makes them 0.
        pixels = image_data if images else image_data.new_zeros((1, *image_data.shape[1:]))
        features = self._image_features(pixels)[:images].to(embeds.dtype)
        slots = torch.arange(features.shape[1], device=embeds.device)
        places = (image_rows.long() * embeds.shape[1] + image_starts.long())[:, None] + slots
        filled = slots < image_slots[:, None]
        return embeds.flatten(0, 1).index_put((places[filled],), features[filled]).view_as(embeds)  # type: ignore[no-any-return]

    def _hidden_states_of_segments(
        self, embeds: Tensor, key_padding_mask: Tensor, position_ids: Tensor, segment_ids: Tensor
    ) -> Tensor:
        """Return the last hidden states of the language model, (B, T, hidden size), with attention inside samples."""
        text_model: Any = self.model.language_model
        implementation: str = text_model.config._attn_implementation
        attention = segment_attention(implementation, segment_ids, key_padding_mask, embeds.dtype)
        positions = position_ids.long()
        shape = embeds.shape
        if is_flattened(implementation):
            embeds, positions = embeds.flatten(0, 1)[None], positions.flatten()[None]
        states = text_model(inputs_embeds=embeds, position_ids=positions, use_cache=False, **attention)
        return states.last_hidden_state.view(shape)  # type: ignore[no-any-return]

    def _image_features(self, image_data: Tensor) -> Tensor:
        """Return projected patch features without the class token, (B, patches, hidden size of the language model)."""
        tower = self.model.vision_tower
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        with contextlib.nullcontext() if trained else torch.no_grad():
            states = tower(image_data.to(tower.dtype), output_hidden_states=True).hidden_states
        return self.model.multi_modal_projector(states[self.config.vision_feature_layer][:, 1:])  # type: ignore[no-any-return]

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False, so that transformers maps the tensor names in files as for its own classes."""
        return False


# `save_pretrained` records the class name in config.json.
LlavaForRows.__name__ = LlavaForConditionalGeneration.__name__
