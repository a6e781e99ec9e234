"""Find the template that `dataset.system_prompt_style` names.

A template is an entry in `llava.py` (the seven of LLaVA 1.5) or in `named.py` (those of current language models), or a
Jinja chat template (`jinja/`).
"""

from __future__ import annotations

import datetime

from preprocess.config import ConfigError, DatasetConfig
from preprocess.segments import Special
from preprocess.settings import did_you_mean
from preprocess.templates.chat import ChatRenderer
from preprocess.templates.jinja.check import check_in_child
from preprocess.templates.jinja.renderer import JinjaRenderer
from preprocess.templates.jinja.sandbox import TemplateFault
from preprocess.templates.jinja.source import CHAT_TEMPLATE_STYLE, TemplateSource, read_chat_template
from preprocess.templates.llava import TEMPLATES, LlavaRenderer, Template
from preprocess.templates.named import CHAT_TEMPLATES
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import Tokenizer

__all__ = [
    "CHAT_TEMPLATES",
    "STYLES",
    "TEMPLATES",
    "ChatRenderer",
    "LlavaRenderer",
    "Renderer",
    "begins_with_bos",
    "check_template",
    "renderer_for",
]

STYLES = (*TEMPLATES, *CHAT_TEMPLATES, CHAT_TEMPLATE_STYLE)
# The default date of Meta's templates.
_DATE = datetime.date(2024, 7, 26)


def renderer_for(dataset: DatasetConfig, tokenizer: Tokenizer) -> Renderer:
    """The renderer for a config.

    Raises:
        ConfigError: unknown template, a key that the template does not use, or a token that the tokenizer lacks.
    """
    style = dataset.system_prompt_style
    if style == CHAT_TEMPLATE_STYLE:
        return _jinja_renderer(dataset, tokenizer)
    for key in ("chat_template", "chat_template_date"):
        if getattr(dataset, key) is not None:
            raise ConfigError(
                f"dataset.{key} is only used by system_prompt_style chat_template, not {style!r}; remove it"
            )
    if style in TEMPLATES:
        return _llava_renderer(TEMPLATES[style], dataset, tokenizer)
    if style not in CHAT_TEMPLATES:
        raise ConfigError(
            f"dataset.system_prompt_style is {style!r}{did_you_mean(style, STYLES)}; "
            f"the templates are {', '.join(STYLES)}"
        )
    template = CHAT_TEMPLATES[style]
    _check_end(dataset)
    _check_system(dataset, template.takes_system)
    return ChatRenderer(template, tokenizer, dataset.system_prompt, f"dataset.system_prompt_style {style}")


def check_template(dataset: DatasetConfig, tokenizer: Tokenizer) -> None:
    """Test a Jinja template in a separate process, before `renderer_for` sets it up in this one.

    Raises:
        ConfigError: the template cannot be used, or `image_token` is BOS or EOS.
    """
    token = tokenizer.added.get(dataset.image_token)
    if token is not None and token.id in (tokenizer.bos_id, tokenizer.eos_id):
        raise ConfigError(
            f"dataset.image_token is {dataset.image_token!r}, the BOS or EOS token of {tokenizer.name}; "
            "give the text that stands for an image in the records, such as '<image>'"
        )
    if dataset.system_prompt_style == CHAT_TEMPLATE_STYLE:
        source = read_chat_template(dataset, tokenizer.name)
        try:
            check_in_child(source, tokenizer.added, dataset.chat_template_date or _DATE)
        except TemplateFault as fault:
            raise _unusable(source, fault) from None


def _jinja_renderer(dataset: DatasetConfig, tokenizer: Tokenizer) -> JinjaRenderer:
    _check_end(dataset)
    source = read_chat_template(dataset, tokenizer.name)
    try:
        renderer = JinjaRenderer(source, tokenizer, dataset.system_prompt, dataset.chat_template_date or _DATE)
    except TemplateFault as fault:
        raise _unusable(source, fault) from None
    _check_system(dataset, renderer.traits.takes_system)
    return renderer


def _unusable(source: TemplateSource, fault: TemplateFault) -> ConfigError:
    return ConfigError(
        f"dataset.system_prompt_style chat_template: the template of {source.where} cannot be used: {fault}; "
        "correct it, or name another in dataset.chat_template or system_prompt_style"
    )


def _check_end(dataset: DatasetConfig) -> None:
    for key, is_given in (("append_eos", dataset.append_eos), ("end_token", dataset.end_token is not None)):
        if is_given:
            raise ConfigError(
                f"dataset.{key} is set, but the template {dataset.system_prompt_style!r} has its own end-of-turn "
                "token; remove it"
            )


def begins_with_bos(style: str) -> bool:
    """Whether every sample of a template begins with BOS, if the tokenizer has one."""
    return style in TEMPLATES or (style in CHAT_TEMPLATES and bool(CHAT_TEMPLATES[style].opening))


def _llava_renderer(template: Template, dataset: DatasetConfig, tokenizer: Tokenizer) -> LlavaRenderer:
    style = dataset.system_prompt_style
    if dataset.append_eos and template.answer_ends_with_eos:
        raise ConfigError(
            f"dataset.append_eos is true, but the answers of {style!r} already end with EOS; "
            "remove it (it is for system_prompt_style plain only)"
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
            f"dataset.system_prompt is set, but the template {dataset.system_prompt_style!r} does not support "
            "system texts; remove it"
        )
