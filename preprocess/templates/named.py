"""The chat templates for `dataset.system_prompt_style`, one entry each.

Sources of the texts: huggingface/trl, trl/chat_templates/ (qwen2_5, llama3, llama3_1, phi3, gemma, mistral) and
axolotl-ai-cloud/axolotl, src/axolotl/utils/chat_templates/templates/ (chatml, phi_3, mistral_v3_tekken). Mistral's
system text goes before the last question, as in mistral-common; the templates above drop it.
"""

from __future__ import annotations

from preprocess.templates.chat import ChatTemplate, Slot, Token

_TEXT = Slot.TEXT
_IM_START, _IM_END = Token("<|im_start|>"), Token("<|im_end|>")
_HEADER, _END_OF_HEADER, _END_OF_TURN = Token("<|start_header_id|>"), Token("<|end_header_id|>"), Token("<|eot_id|>")
_PHI_END = Token("<|end|>")
_GEMMA_START, _GEMMA_END = Token("<start_of_turn>"), Token("<end_of_turn>")
_INST, _END_OF_INST = Token("[INST]"), Token("[/INST]")


def _chatml(default_system: str | None = None) -> ChatTemplate:
    return ChatTemplate(
        system=(_IM_START, "system\n", _TEXT, _IM_END, "\n"),
        user=(_IM_START, "user\n", _TEXT, _IM_END, "\n"),
        answer_header=(_IM_START, "assistant\n"),
        answer=(_TEXT, _IM_END),
        after_answer=("\n",),
        default_system=default_system,
    )


def _llama_3(before_system: str = "", default_system: str | None = None) -> ChatTemplate:
    return ChatTemplate(
        opening=(Token("<|begin_of_text|>"),),
        system=(_HEADER, "system", _END_OF_HEADER, f"\n\n{before_system}", _TEXT, _END_OF_TURN),
        user=(_HEADER, "user", _END_OF_HEADER, "\n\n", _TEXT, _END_OF_TURN),
        answer_header=(_HEADER, "assistant", _END_OF_HEADER, "\n\n"),
        answer=(_TEXT, _END_OF_TURN),
        default_system=default_system,
        strips_questions=True,
        strips_answers=True,
    )


CHAT_TEMPLATES: dict[str, ChatTemplate] = {
    "chatml": _chatml(),
    "chatml_qwen": _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "llama_3": _llama_3(),
    "llama_3.1": _llama_3("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", ""),
    "phi_3": ChatTemplate(
        system=(Token("<|system|>"), "\n", _TEXT, _PHI_END, "\n"),
        user=(Token("<|user|>"), "\n", _TEXT, _PHI_END, "\n"),
        answer_header=(Token("<|assistant|>"), "\n"),
        answer=(_TEXT, _PHI_END),
        after_answer=("\n",),
        closing=(Token("<|endoftext|>"),),
    ),
    "phi_3_bos": ChatTemplate(
        opening=(Token("<s>"),),
        system=(Token("<|system|>"), "\n", _TEXT, _PHI_END, "\n"),
        user=(Token("<|user|>"), "\n", _TEXT, _PHI_END, "\n"),
        answer_header=(Token("<|assistant|>"), "\n"),
        answer=(_TEXT, _PHI_END),
        after_answer=("\n",),
    ),
    "gemma": ChatTemplate(
        opening=(Token("<bos>"),),
        user=(_GEMMA_START, "user\n", _TEXT, _GEMMA_END, "\n"),
        answer_header=(_GEMMA_START, "model\n"),
        answer=(_TEXT, _GEMMA_END),
        after_answer=("\n",),
        strips_questions=True,
        strips_answers=True,
    ),
    "mistral_v3": ChatTemplate(
        opening=(Token("<s>"),),
        user=(_INST, " ", _TEXT, _END_OF_INST),
        answer=(" ", _TEXT, Token("</s>")),
        system_in_last_question="\n\n",
        strips_answers=True,
    ),
    "mistral_tekken": ChatTemplate(
        opening=(Token("<s>"),),
        user=(_INST, _TEXT, _END_OF_INST),
        answer=(_TEXT, Token("</s>")),
        system_in_last_question="\n\n",
    ),
}
