"""`python -m preprocess.templates` prints the example rows in docs/templates.md, one per template."""

from __future__ import annotations

from dataclasses import replace

from preprocess.config import DatasetConfig
from preprocess.conversation import Conversation
from preprocess.settings import shipped_files
from preprocess.templates import CHAT_TEMPLATES, TEMPLATES, renderer_for
from preprocess.templates.chat import Token
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import AddedToken, Tokenizer, load_tokenizer

_ROUNDS = [("What shape?", "A circle."), ("Its colour?", "Red.")]


def example_rows() -> str:
    """Markdown with the tokens of each template, supervised ones in bold, using the embedded tokenizer.

    The long system texts of LLaVA 1.5 are replaced by a short one.
    """
    [config] = shipped_files("quickstart.yaml")
    embedded = load_tokenizer(str(config.parent / "quickstart" / "tokenizer"))
    return "\n\n".join(f"**{style}**: {_row(style, embedded)}" for style in (*TEMPLATES, *CHAT_TEMPLATES))


def _row(style: str, embedded: Tokenizer) -> str:
    tokenizer = _with_tokens(embedded, style)
    takes_system = style in TEMPLATES and TEMPLATES[style].takes_system
    dataset = DatasetConfig(system_prompt_style=style, system_prompt="Be brief." if takes_system else None)
    renderer = renderer_for(dataset, tokenizer)
    token = "" if renderer.traits.image_in_front else "<image>"
    (question, answer), later = _ROUNDS
    rounds = [(f"{token}\n{question}" if token else question, answer), later]
    rounds = rounds[: 1 if renderer.traits.only_one_round else None]
    sample = Encoder(tokenizer).encode(
        renderer.render(Conversation(rounds, ("shape.png",), False, False, image_token=token))
    )
    shown = []
    for position, id_ in enumerate(sample.ids.tolist()):
        if position in sample.image_at:
            shown.append("*image*")
        supervised = any(start <= position < stop for start, stop in sample.supervised)
        shown.append(f"**`{tokenizer.tokens[id_]}`**" if supervised else f"`{tokenizer.tokens[id_]}`")
    return " ".join(shown)


def _with_tokens(tokenizer: Tokenizer, style: str) -> Tokenizer:
    """The embedded tokenizer, with the special tokens of a template added."""
    if style not in CHAT_TEMPLATES:
        return tokenizer
    template = CHAT_TEMPLATES[style]
    pieces = (
        *(template.opening + template.user + template.answer_header + template.answer + template.after_answer),
        *(*template.closing, *(template.system or ())),
    )
    spellings = dict.fromkeys(piece.spelling for piece in pieces if isinstance(piece, Token))
    new = [spelling for spelling in spellings if spelling not in tokenizer.added]
    added = {spelling: AddedToken(len(tokenizer.tokens) + number) for number, spelling in enumerate(new)}
    return replace(
        tokenizer,
        tokens=(*tokenizer.tokens, *new),
        added={**tokenizer.added, **added},
        prefix_after_special=False,
    )


if __name__ == "__main__":
    print(example_rows())
