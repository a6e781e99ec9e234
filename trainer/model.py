"""The wrapper: rows of the shards → logits or loss, on an ordinary `LlavaForConditionalGeneration`."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast


class LlavaForRows(LlavaForConditionalGeneration):  # type: ignore[no-untyped-call]
    """LLaVA that takes batches of `loaders` instead of prompts with image tokens.

    Modules, parameters and what `save_pretrained` writes are those of the parent class, so a saved folder is loaded
    with `LlavaForConditionalGeneration.from_pretrained`, which also has `generate`.

    Attributes:
        image_start_idx: position of the first image slot; there are as many slots as the vision model makes patches.
    """

    # For the Hugging Face Trainer: `forward` divides by the number of labels it is told, so that the gradients of
    # micro-batches and processes add up to those of the whole batch.
    accepts_loss_kwargs = True
    image_start_idx = 0

    def forward(
        self,
        text_input_ids: Tensor,
        key_padding_mask: Tensor,
        image_data: Tensor,
        has_image: Tensor,
        labels: Tensor | None = None,
        loss_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits, or with `labels` and `loss_mask` the loss.

        Args:
            text_input_ids: (B, T) integers.
            key_padding_mask: (B, T), 1 where not to attend.
            image_data: (B, 3, image_size, image_size) floats; what stands there for a row without image has no effect.
            has_image: (B,) bool.
            labels: (B, T) integers: the next token of each position. They are shifted already.
            loss_mask: (B, T), 1 where the label counts.
            num_items_in_batch: what the sum of the losses is divided by; None divides by the labels that count, here.

        Returns:
            Without labels `logits` (B, T, vocabulary) in the dtype of the computation; with labels `loss`, a float32
            scalar, and no logits: they are computed where a label counts only, in phase 1 a few dozen positions
            of 2048.
        """
        hidden = self._hidden_states(text_input_ids, key_padding_mask, image_data, has_image)
        if labels is None or loss_mask is None:
            return CausalLMOutputWithPast(logits=self.lm_head(hidden))
        counts = loss_mask.bool()
        logits = self.lm_head(hidden[counts]).float()
        total = functional.cross_entropy(logits, labels[counts].long(), reduction="sum")
        items = counts.sum() if num_items_in_batch is None else num_items_in_batch
        # A batch whose images all failed has no label; its loss is 0, not 0 / 0.
        loss = total / torch.as_tensor(items, device=total.device).clamp(min=1)
        return CausalLMOutputWithPast(loss=loss)

    def _hidden_states(
        self, text_input_ids: Tensor, key_padding_mask: Tensor, image_data: Tensor, has_image: Tensor
    ) -> Tensor:
        """Last hidden states of the language model: (B, T, hidden size)."""
        embeds = self.get_input_embeddings()(text_input_ids.long())
        features = self._image_features(image_data).to(embeds.dtype)
        start, stop = self.image_start_idx, self.image_start_idx + features.shape[1]
        # The tower runs on text-only rows too: a step in which a process has no image must still use the projector,
        # or DDP waits for its gradients. `where` keeps what it makes of them out, and gives back gradients of 0.
        slots = torch.where(has_image[:, None, None], features, embeds[:, start:stop])
        attended = key_padding_mask == 0
        return self.model.language_model(  # type: ignore[no-any-return]
            inputs_embeds=torch.cat([embeds[:, :start], slots, embeds[:, stop:]], dim=1),
            attention_mask=attended.long(),
            # A running count of attended positions, so that a text-only row trains like its text alone.
            position_ids=(attended.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state

    def _image_features(self, image_data: Tensor) -> Tensor:
        """Projected patch features, without the class token's: (B, patches, hidden size of the language model)."""
        tower = self.model.vision_tower
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        with contextlib.nullcontext() if trained else torch.no_grad():
            states = tower(image_data.to(tower.dtype), output_hidden_states=True).hidden_states
        return self.model.multi_modal_projector(states[self.config.vision_feature_layer][:, 1:])  # type: ignore[no-any-return]

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: modules and parameters are those of transformers, and so are the names of tensors in files.

        transformers keeps its translation of names from models that it takes for somebody's own.
        """
        return False


# What `save_pretrained` notes in config.json as the class to load.
LlavaForRows.__name__ = LlavaForConditionalGeneration.__name__
