"""Generate records like LLaVA's, so that benchmarks need no download and use the same data everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from preprocess.tokenize.splitters import METASPACE
from preprocess.tokenize.tokenizer import Tokenizer

_WORDS_PER_ROUND = 46
_ROUNDS = 4
IMAGE = "shapes/0001.png"  # embedded in the package


def words_of(tokenizer: Tokenizer) -> list[str]:
    """Return the words among the tokenizer's pieces, most frequent first, then compounds of them."""
    # Byte-level vocabularies represent the space as "Ġ".
    pieces = [piece[1:] for piece in tokenizer.tokens if piece[:1] in (METASPACE, "Ġ") and piece[1:].isalpha()]
    words = [piece for piece in pieces if piece.isascii() and len(piece) > 1]
    return words + [a + b for a, b in zip(words[::3], words[1::3], strict=False)]


def phase_1_records(tokenizer: Tokenizer, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield captions of 6 to 30 words, each with an image."""
    draw = _Words(tokenizer, seed)
    for number in range(count):
        words = draw(int(draw.random.integers(6, 31)))
        turns = [
            {"from": "human", "value": "<image>\nRender a clear and concise summary of the photo."},
            {"from": "gpt", "value": " ".join(words).capitalize() + "."},
        ]
        yield {"id": f"{seed}-{number}", "image": IMAGE, "conversations": turns}


def phase_2_records(tokenizer: Tokenizer, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield multi-round conversations of about 290 text tokens, half of them with an image; words follow Zipf's law.

    With a Llama-2 vocabulary, the 1,000 most frequent words make up about 80 % of the text, as in English. Rounds are
    drawn from 20,000 pre-generated ones, which is fast, and no two records are equal.
    """
    draw = _Words(tokenizer, seed)
    rounds = [_round(draw) for _ in range(20_000)]
    for number in range(count):
        yield _conversation(number, seed, [rounds[i] for i in draw.random.integers(0, len(rounds), _ROUNDS)])


def write_records(path: Path, records: Iterator[Any]) -> Path:
    """Write one JSON value per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            file.write(orjson.dumps(record) + b"\n")
    return path


class _Words:
    """Draws many words at a time by Zipf's law."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._words = words_of(tokenizer)
        weights = np.arange(2, len(self._words) + 2) ** -1.2
        self._bounds = np.cumsum(weights / weights.sum())
        self._left: list[str] = []

    def __call__(self, count: int) -> list[str]:
        if len(self._left) < count:
            drawn = np.searchsorted(self._bounds[:-1], self.random.random(100_000))
            self._left = [self._words[i] for i in drawn]
        taken = self._left[-count:]
        del self._left[-count:]
        return taken


def _round(draw: _Words) -> tuple[str, str]:
    words = draw(_WORDS_PER_ROUND)
    cut = int(draw.random.integers(6, 14))
    return " ".join(words[:cut]) + "?", _sentences(words[cut:], draw.random)


def _conversation(number: int, seed: int, rounds: list[tuple[str, str]]) -> dict[str, Any]:
    turns = []
    for place, (question, answer) in enumerate(rounds):
        if place == 0 and number % 2 == 0:
            question = f"<image>\n{question}"
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    image = {"image": IMAGE} if number % 2 == 0 else {}
    return {"id": f"{seed}-{number}", **image, "conversations": turns}


def _sentences(words: list[str], random: np.random.Generator) -> str:
    parts, at = [], 0
    while at < len(words):
        length = int(random.integers(5, 12))
        sentence = " ".join(words[at : at + length]).capitalize()
        parts.append(sentence + ("." if random.random() < 0.9 else f" {int(random.integers(0, 2000))},"))
        at += length
    return ("\n" if random.random() < 0.1 else " ").join(parts)
