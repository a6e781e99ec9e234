"""Write the template of the rows as a Jinja chat template, which is saved with the model.

`processor.apply_chat_template` then builds prompts with the ids of the rows. Messages have text and image parts, as in
the documentation of transformers' chat templates for multimodal models; a string with `<image>` in it works too.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from preprocess.templates.chat import ChatTemplate, Pieces, Slot, Token
from preprocess.templates.llava import TEMPLATES, Template
from preprocess.templates.named import CHAT_TEMPLATES
from trainer.prompt_tokenizer import IMAGE_TOKEN


class RowTemplate(NamedTuple):
    """The template of a dataset's rows.

    Attributes:
        style: its name, `dataset.system_prompt_style`.
        system: the text that replaces the template's system text, or None.
        end_token: the token that replaces EOS at the end of an answer, or None.
    """

    style: str
    system: str | None = None
    end_token: str | None = None


_IMAGE = json.dumps(IMAGE_TOKEN)
# An image part is an image token and a newline, as in LLaVA's records.
_READ_MESSAGES = f"""\
{{%- macro text_of(message) -%}}
{{%- if message.content is string -%}}{{{{ message.content }}}}
{{%- else -%}}
{{%- for part in message.content -%}}
{{%- if part.type == "image" -%}}{{{{ {_IMAGE} ~ "\\n" }}}}
{{%- elif part.type == "text" -%}}{{{{ part.text }}}}
{{%- else -%}}{{{{ raise_exception("part of type " ~ part.type ~ ", expected image or text") }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{%- endmacro -%}}
{{%- set chat = namespace(system=SYSTEM, turns=messages, last=-1) -%}}
{{%- if messages and messages[0].role == "system" -%}}
{{%- set chat.system = OWN_SYSTEM -%}}
{{%- set chat.turns = messages[1:] -%}}
{{%- endif -%}}
"""
_NO_SYSTEM = 'raise_exception("the template does not support system messages")'
_TURNS = """\
{%- for message in chat.turns -%}
{%- if message.role != ("assistant" if loop.index0 % 2 else "user") -%}
{{ raise_exception("message of role " ~ message.role ~ ", expected user and assistant in turn") }}
{%- endif -%}
{%- set text = text_of(message) -%}
{%- if message.role == "user" -%}
USER
{%- else -%}
ASSISTANT
{%- endif -%}
{%- endfor -%}
"""


def write_chat_template(rows: RowTemplate, *, bos: str | None, eos: str | None) -> str | None:
    """Write the Jinja chat template of a style.

    Args:
        rows: the template of the rows.
        bos: text of BOS, which LLaVA's Llama-2 templates write before later rounds.
        eos: text of EOS, which LLaVA's templates write after answers.

    Returns:
        the template, for the Jinja environment of transformers; None for `plain`, which has no questions, and for
        `chat_template`, whose template belongs to the tokenizer. The templates of LLaVA 1.5 write no BOS at the
        beginning, since the saved tokenizer adds it; the others write it.
    """
    if rows.style in CHAT_TEMPLATES:
        return _write_chat(CHAT_TEMPLATES[rows.style], rows.system)
    template = TEMPLATES.get(rows.style)
    if template is None or template.drops_question:
        return None
    end = rows.end_token or eos if template.answer_ends_with_eos else ""
    return _write_llava(template, rows.system, bos or "", end or "")


def _write_chat(template: ChatTemplate, system: str | None) -> str:
    """Follow `ChatRenderer` of `preprocess/templates/chat.py`."""
    default = template.default_system if system is None else system
    own = "text_of(messages[0])"
    if not template.takes_system:
        own = _NO_SYSTEM
    elif template.strips_questions:
        own += " | trim"
        default = default and default.strip()
    jinja = _read_messages(default, own) + _put(template.opening)
    if template.system is not None:
        jinja += "{%- if chat.system is not none -%}" + _put(template.system, "chat.system") + "{%- endif -%}"
    user = "text | trim" if template.strips_questions else "text"
    answer = "text | trim" if template.strips_answers else "text"
    before = ""
    if template.system_in_last_question is not None:
        jinja += (
            '{%- for message in chat.turns if message.role == "user" -%}'
            "{%- set chat.last = chat.last + 1 -%}{%- endfor -%}"
        )
        before = (
            "{%- if chat.system is not none and loop.index0 == 2 * chat.last -%}"
            f"{{%- set text = chat.system ~ {_quoted(template.system_in_last_question)} ~ text -%}}"
            "{%- endif -%}"
        )
    return (
        jinja
        + _turns(
            before + _put(template.user, user),
            _put(template.answer_header) + _put(template.answer, answer) + _put(template.after_answer),
        )
        + f"{{%- if add_generation_prompt -%}}{_put(template.answer_header)}"
        + f"{{%- else -%}}{_put(template.closing)}{{%- endif -%}}"
    )


def _write_llava(template: Template, system: str | None, bos: str, end: str) -> str:
    """Follow `LlavaRenderer` of `preprocess/templates/llava.py`: the only image of a question goes before it."""
    own = "text_of(messages[0])" if template.takes_system else _NO_SYSTEM
    default = template.system if system is None else system
    before_image, _, after_image = template.image.partition("{image}")
    place = (
        f"{{%- if text.split({_IMAGE}) | length == 2 -%}}"
        f'{{%- set text = ({_IMAGE} ~ "\\n" ~ (text.replace({_IMAGE}, "") | trim)) | trim -%}}'
        "{%- endif -%}"
    )
    if before_image or after_image:
        place += f"{{%- set text = text.replace({_IMAGE}, {_quoted(before_image + IMAGE_TOKEN + after_image)}) -%}}"

    def prompt(text: str) -> str:
        pieces = text.replace("{question}", "\0text\0").replace("{system}", "\0chat.system\0").split("\0")
        return "".join(_show(piece if number % 2 else _quoted(piece)) for number, piece in enumerate(pieces) if piece)

    later = (_show(_quoted(bos)) if template.bos_between_rounds else "") + prompt(template.later_prompt)
    answer_head, _, answer_tail = template.answer.partition("{answer}")
    return (
        _read_messages(default, own)
        + f"{{%- if not chat.system.strip() -%}}{{%- set chat.system = {_quoted(default)} -%}}{{%- endif -%}}"
        + _turns(
            f"{place}{{%- if loop.first -%}}{prompt(template.first_prompt)}{{%- else -%}}{later}{{%- endif -%}}",
            _show(f"{_quoted(answer_head)} ~ text ~ {_quoted(answer_tail + end)}"),
        )
    )


def _read_messages(default_system: str | None, own_system: str) -> str:
    default = "none" if default_system is None else _quoted(default_system)
    return _READ_MESSAGES.replace("OWN_SYSTEM", own_system).replace("SYSTEM", default)


def _turns(user: str, assistant: str) -> str:
    return _TURNS.replace("USER\n", user).replace("ASSISTANT\n", assistant)


def _put(pieces: Pieces, text: str = "") -> str:
    """The Jinja of the pieces; `text` is the expression in place of the record's text."""
    shown = (text if piece is Slot.TEXT else _quoted(_spelling(piece)) for piece in pieces)
    return "".join(map(_show, shown))


def _spelling(piece: str | Token | Slot) -> str:
    return piece.spelling if isinstance(piece, Token) else str(piece)


def _show(expression: str) -> str:
    return "{{ " + expression + " }}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
