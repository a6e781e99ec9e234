"""Train the example's tokenizer and write it in the two common formats of Llama tokenizers."""

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

VOCABULARY_SIZE = 1800
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
METASPACE = "▁"

# As in the tokenizer folders of Llama and LLaVA: padding has no piece of its own and uses <unk>.
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<unk>",
    "legacy": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 2048,
}
SPECIAL_TOKENS_MAP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}

# Latin letters only: Chinese, Japanese and emoji have no pieces, so the example also exercises byte fallback.
_NOT_LATIN = re.compile(r"[^\u0000-\u024f]")


def train(texts: Iterable[str]) -> bytes:
    """Train a SentencePiece model with Llama's settings and return the bytes of `tokenizer.model`.

    Trained from memory on one thread, so that the result depends only on the texts, not on a path or on the
    order in which threads finish.
    """
    # Each line once, since the example repeats the same questions for many images.
    lines = dict.fromkeys(line for text in texts for line in text.split("\n") if not _NOT_LATIN.search(line))
    lines.pop("", None)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def to_tokenizers(model: bytes) -> Tokenizer:
    """Build the equivalent of a SentencePiece BPE model for the `tokenizers` library.

    SentencePiece joins the two neighbours whose joined piece has the best score. `tokenizers` wants a ranked list of
    such pairs, so every way to cut a piece into two pieces is listed, best joined piece first.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    vocabulary = {processor.id_to_piece(i): i for i in range(size)}
    mergeable = {
        piece: i
        for piece, i in vocabulary.items()
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    merges = []
    for piece in sorted(mergeable, key=lambda p: (-processor.get_score(mergeable[p]), mergeable[p])):
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(left, right) for left, right in cuts if left in mergeable and right in mergeable]
        merges.extend(sorted(pairs, key=lambda pair: (mergeable[pair[0]], mergeable[pair[1]])))

    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(model: bytes, json_folder: Path, sentencepiece_folder: Path) -> None:
    """Write both formats of the tokenizer, each with the configuration that `transformers` reads."""
    json_folder.mkdir(parents=True, exist_ok=True)
    sentencepiece_folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(to_tokenizers(model).to_str())
    # Newer releases of tokenizers write merges as lists, which 0.19 cannot read; "left right" is read by all of them.
    content["model"]["merges"] = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]
    ]
    _write_json(json_folder / "tokenizer.json", content)
    _write_json(json_folder / "special_tokens_map.json", SPECIAL_TOKENS_MAP)
    (sentencepiece_folder / "tokenizer.model").write_bytes(model)
    for folder in (json_folder, sentencepiece_folder):
        _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
