"""`dataset.system_prompt_style` → what turns a conversation into segments.

A template is data, an entry in `llava.py` (the seven of LLaVA 1.5) or in `named.py` (those of today's language models).
"""

from __future__ import annotations

from preprocess.config import ConfigError, DatasetConfig
from preprocess.segments import Special
from preprocess.settings import did_you_mean
from preprocess.templates.chat import ChatRenderer
from preprocess.templates.llava import TEMPLATES, LlavaRenderer, Template
from preprocess.templates.named import CHAT_TEMPLATES
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import Tokenizer

__all__ = ["CHAT_TEMPLATES", "STYLES", "TEMPLATES", "ChatRenderer", "LlavaRenderer", "Renderer", "renderer_for"]

STYLES = (*TEMPLATES, *CHAT_TEMPLATES)


def renderer_for(dataset: DatasetConfig, tokenizer: Tokenizer) -> Renderer:
    """The renderer that a config asks for.

    Raises:
        ConfigError: no template of that name, a key that the template has no use for, or a token that the tokenizer
            lacks.
    """
    style = dataset.system_prompt_style
    if style in TEMPLATES:
        return _llava_renderer(TEMPLATES[style], dataset, tokenizer)
    if style not in CHAT_TEMPLATES:
        raise ConfigError(
            f"dataset.system_prompt_style is {style!r}{did_you_mean(style, STYLES)}; "
            f"the templates are {', '.join(STYLES)}"
        )
    template = CHAT_TEMPLATES[style]
    for key, is_given in (("append_eos", dataset.append_eos), ("end_token", dataset.end_token is not None)):
        if is_given:
            raise ConfigError(
                f"dataset.{key} is set, but the template {style!r} has an end-of-turn token of its own; remove it"
            )
    _check_system(dataset, template.takes_system)
    return ChatRenderer(template, tokenizer, dataset.system_prompt, f"dataset.system_prompt_style {style}")


def _llava_renderer(template: Template, dataset: DatasetConfig, tokenizer: Tokenizer) -> LlavaRenderer:
    style = dataset.system_prompt_style
    if dataset.append_eos and template.answer_ends_with_eos:
        raise ConfigError(
            f"dataset.append_eos is true, but the answers of {style!r} end with EOS already; "
            "it is for system_prompt_style plain: remove it"
        )
    end = None
    if dataset.end_token is not None:
        if not (template.answer_ends_with_eos or dataset.append_eos):
            raise ConfigError(
                f"dataset.end_token is {dataset.end_token!r}, but the answers of {style!r} end with a newline; "
                "remove it, or set dataset.append_eos"
            )
        end = Special(tokenizer.require_token(dataset.end_token, "dataset.end_token").id, supervised=True)
    _check_system(dataset, template.takes_system)
    return LlavaRenderer(template, append_eos=dataset.append_eos, system=dataset.system_prompt, end_token=end)


def _check_system(dataset: DatasetConfig, takes_system: bool) -> None:
    if dataset.system_prompt is not None and not takes_system:
        raise ConfigError(
            f"dataset.system_prompt is set, but the template {dataset.system_prompt_style!r} has no place for a system "
            "text; remove it"
        )
