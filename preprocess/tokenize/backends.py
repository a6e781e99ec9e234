"""Adapters of the tokenizer libraries to one interface."""

from __future__ import annotations

from typing import Any, Protocol

# In no vocabulary, hence encoded as bytes, which merge with nothing.
_ISOLATED = "\ue000"


class Backend(Protocol):
    """Interface to a tokenizer library."""

    def encode(self, piece: str) -> list[int]:
        """Ids of a text; with the SentencePiece rule its spaces are `▁` already and no dummy prefix is added."""

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Ids and the start offset of each token, in the unit of `measure`."""

    def measure(self, text: str) -> int:
        """Length of a text in the unit of `encode_with_starts`."""

    def pieces(self) -> list[str]:
        """Pieces of the vocabulary, indexed by id, as the model spells them."""


class SentencePieceBackend:
    """A `sentencepiece.SentencePieceProcessor`."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._prefix_ids = len(processor.EncodeAsIds(_ISOLATED))
        self._prefix_pieces = len(processor.EncodeAsPieces(_ISOLATED))

    def encode(self, piece: str) -> list[int]:
        # The processor cannot omit the dummy prefix: it goes before the isolated character, whose ids are dropped.
        ids: list[int] = self._processor.EncodeAsIds(_ISOLATED + piece)
        return ids[self._prefix_ids :]

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        starts, at = [], 0
        ids = self.encode(text)
        for id_, piece in zip(
            ids, self._processor.EncodeAsPieces(_ISOLATED + text)[self._prefix_pieces :], strict=True
        ):
            starts.append(at)
            at += 1 if self._processor.IsByte(id_) else len(piece.encode())
        return ids, starts

    def measure(self, text: str) -> int:
        return len(text.encode())

    def pieces(self) -> list[str]:
        return [self._processor.IdToPiece(id_) for id_ in range(self._processor.GetPieceSize())]


class JsonModelBackend:
    """The model alone of a `tokenizers.Tokenizer`: no normaliser, no added tokens; the caller escapes spaces."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._model = tokenizer.model

    def encode(self, piece: str) -> list[int]:
        return [token.id for token in self._model.tokenize(piece)]

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        tokens = self._model.tokenize(text)
        return [token.id for token in tokens], [token.offsets[0] for token in tokens]

    def measure(self, text: str) -> int:
        return len(text.encode())

    def pieces(self) -> list[str]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        pieces = [""] * (max(vocabulary.values(), default=-1) + 1)
        for piece, id_ in vocabulary.items():
            pieces[id_] = piece
        return pieces
