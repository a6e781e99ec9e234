"""Records like LLaVA's, made up: so that a benchmark needs no download and is the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.tokenizer import BLANK, Tokenizer

_WORDS_PER_ROUND = 46
_ROUNDS = 4


def words_of(tokenizer: Tokenizer) -> list[str]:
    """The words among the tokenizer's own pieces, the frequent ones first, then compounds of them."""
    pieces = [piece[1:] for piece in tokenizer.tokens if piece.startswith(BLANK) and piece[1:].isalpha()]
    words = [piece for piece in pieces if piece.isascii() and len(piece) > 1]
    return words + [a + b for a, b in zip(words[::3], words[1::3], strict=False)]


def phase_2_records(tokenizer: Tokenizer, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Multi-round conversations of about 290 text tokens, half of them with an image; words follow Zipf's law.

    With a Llama-2 vocabulary the 1,000 most frequent words are about four fifths of the text, as in English.
    """
    words, random = words_of(tokenizer), np.random.default_rng(seed)
    weights = np.arange(2, len(words) + 2) ** -1.2
    weights /= weights.sum()
    for number in range(count):
        turns = []
        for round_ in range(_ROUNDS):
            drawn = [words[i] for i in random.choice(len(words), size=_WORDS_PER_ROUND, p=weights)]
            cut = int(random.integers(6, 14))
            question, answer = " ".join(drawn[:cut]) + "?", _sentences(drawn[cut:], random)
            if round_ == 0 and number % 2 == 0:
                question = f"<image>\n{question}"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        image = {"image": "shapes/0001.png"} if number % 2 == 0 else {}
        yield {"id": f"{seed}-{number}", **image, "conversations": turns}


def write_records(path: Path, records: Iterator[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    return path


def _sentences(words: list[str], random: np.random.Generator) -> str:
    parts, at = [], 0
    while at < len(words):
        length = int(random.integers(5, 12))
        sentence = " ".join(words[at : at + length]).capitalize()
        parts.append(sentence + ("." if random.random() < 0.9 else f" {int(random.integers(0, 2000))},"))
        at += length
    return ("\n" if random.random() < 0.1 else " ").join(parts)
