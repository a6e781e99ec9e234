"""A batch of records has the ids of each separate record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import BYTES, FOLDERS, SLOW, TEXTS, bpe, saved

from preprocess.conversation import Conversation
from preprocess.rejects import Reason, Rejected
from preprocess.samples import SampleBatch, batch_of, join_batches
from preprocess.segments import Mark, Segment, Text
from preprocess.templates import TEMPLATES, LlavaRenderer
from preprocess.tokenize import word_table
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(load_tokenizer(str(request.param)))


@pytest.fixture(scope="module")
def batches(encoder: Encoder) -> BatchEncoder:
    return BatchEncoder(encoder)


def assert_equal(found: SampleBatch, expected: SampleBatch) -> None:
    for name, one, other in zip(SampleBatch._fields, found, expected, strict=True):
        assert one.dtype == other.dtype, name
        assert np.array_equal(one, other), name


_ROUNDS = st.lists(st.tuples(TEXTS, TEXTS.filter(lambda text: text != "")), min_size=1, max_size=3)


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_a_batch_of_conversations_equals_separate_records(
    encoder: Encoder, batches: BatchEncoder, data: st.DataObject
) -> None:
    renderer = LlavaRenderer(TEMPLATES[data.draw(st.sampled_from(sorted(TEMPLATES)))])
    drawn = data.draw(st.lists(st.tuples(_ROUNDS, st.booleans()), max_size=5))
    conversations = [
        Conversation(rounds[: 1 if renderer.traits.only_one_round else None], ("a.png",), False, False)
        if with_image or renderer.traits.only_one_round
        else Conversation(rounds, (), False, False)
        for rounds, with_image in drawn
    ]
    records = [renderer.render(conversation) for conversation in conversations]
    found, failed = batches.encode(records)
    assert failed == {}
    assert_equal(found, join_batches([batch_of(encoder.encode(record)) for record in records]))


_SEGMENTS = st.lists(
    st.one_of(
        st.builds(Text, TEXTS, st.booleans(), st.booleans()),
        st.builds(Text, TEXTS.map(lambda text: " " + text), st.booleans(), st.booleans()),
        st.sampled_from([Mark.BOS, Mark.EOS]),
    ),
    max_size=8,
)


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_a_batch_of_any_segments_equals_separate_records(
    encoder: Encoder, batches: BatchEncoder, data: st.DataObject
) -> None:
    records: list[list[Segment]] = []
    for segments in data.draw(st.lists(_SEGMENTS, max_size=5)):
        for _ in range(data.draw(st.integers(0, 3))):
            segments.insert(data.draw(st.integers(0, len(segments))), Mark.IMAGE)
        records.append(segments)
    found, failed = batches.encode(records)
    assert failed == {}
    assert_equal(found, join_batches([batch_of(encoder.encode(record)) for record in records]))


@pytest.mark.parametrize("slot_bits", [2, 6])
def test_ids_stay_the_same_with_hash_collisions_and_a_cleared_word_table(
    monkeypatch: pytest.MonkeyPatch, slot_bits: int
) -> None:
    monkeypatch.setattr(word_table, "_SLOT_BITS", slot_bits)
    monkeypatch.setattr(word_table, "_SLOT_MASK", np.uint64((1 << slot_bits) - 1))
    monkeypatch.setattr(word_table, "_MAX_WORDS", 40)
    encoder = Encoder(load_tokenizer(str(FOLDERS[0])))
    batches = BatchEncoder(encoder)
    most = 0
    for start in range(60):
        words = [f"{letter}{start * step % 41}" for step in range(1, 5) for letter in "abcdefgh"]
        records: list[list[Segment]] = [[Mark.BOS, Text(" ".join(words[i:]), False), Mark.EOS] for i in (0, 7, 20)]
        found, failed = batches.encode(records)
        assert failed == {}
        assert_equal(found, join_batches([batch_of(encoder.encode(record)) for record in records]))
        most = max(most, batches._table._words)
    assert most <= 40 + 3 * 32
    assert batches._table._pool_used < 1000


def test_words_are_distinguished_by_length_kind_and_every_byte(encoder: Encoder, batches: BatchEncoder) -> None:
    """A word and the same word with NULs after it have the same key bytes; constants are numbers, like words."""
    words = ["a", "a\0", "a\0\0", "\0", "0", "1", "2", "abcdefgh", "abcdefghi", "abcdefghijklmno", "abcdefghijklmnop"]
    words += [word[:-1] + "z" for word in words if len(word) > 7] + ["abcdefghijklmnopq" * 5]
    texts = [*words, *(" " + word for word in words), " ".join(words), " ", "", " a ", "a  b", "▁a b", "a▁ b"]
    records: list[list[Segment]] = [[Mark.BOS, Mark.EOS, Text(text, False), Mark.EOS] for text in texts]
    records += [[Mark.BOS, Text(text, True), Mark.IMAGE, Text(text, False)] for text in texts]
    records += [[Mark.IMAGE, Text(text, False, constant=True)] for text in texts]
    for part in (records, records[::-1], [record for record in records for _ in range(2)]):
        found, failed = batches.encode(part)
        assert failed == {}
        assert_equal(found, join_batches([batch_of(encoder.encode(record)) for record in part]))


def test_a_failed_record_does_not_change_the_others(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.tokenize.encoder._LONGEST_WORD", 1000)
    long = "x" * 1001
    good: list[Segment] = [Mark.BOS, Text("good  words", False), Text(" yes", True), Mark.EOS]
    for bad_text in (long, f"a {long}", f"a  {long}", f"{long} a"):
        bad: list[Segment] = [Mark.BOS, Text(bad_text, False), Text(" yes", True), Mark.EOS]
        found, failed = BatchEncoder(encoder).encode([good, bad, good, bad])
        assert sorted(failed) == [1, 3]
        for error in failed.values():
            assert isinstance(error, Rejected)
            assert error.reason is Reason.TOO_LONG
        assert_equal(found.without([1, 3]), join_batches([batch_of(encoder.encode(good))] * 2))
        assert np.diff(found.offsets)[[1, 3]].tolist() == [0, 0]


def test_a_vocabulary_that_merges_across_spaces_is_encoded_as_separate_records(tmp_path: Any) -> None:
    from tokenizers import normalizers

    tokenizer = bpe(
        [*BYTES, "▁", "a", "b", ":", ":▁", ":▁a"], [(":", "▁"), (":▁", "a")], byte_fallback=True, fuse_unk=True
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    encoder = Encoder(load_tokenizer(saved(tmp_path, tokenizer, "<s>")))
    records: list[list[Segment]] = [[Mark.BOS, Text("b:", False), Text(" a b", True), Mark.EOS], [Mark.BOS]]
    found, failed = BatchEncoder(encoder).encode(records)
    assert failed == {}
    assert_equal(found, join_batches([batch_of(encoder.encode(record)) for record in records]))


def test_batches_can_be_split_joined_and_filtered() -> None:
    batch = SampleBatch(
        np.arange(6, dtype=np.int32),
        np.arange(6) % 2 == 1,
        np.array([0, 1, 3, 6]),
        np.array([1, 1, 2]),
        np.array([0, 0, 1, 3]),
    )
    assert_equal(join_batches([batch.part(0, 1), batch.part(1, 3)]), batch)
    assert batch.without([1]).ids.tolist() == [0, 3, 4, 5]
    assert batch.without([1]).image_offsets.tolist() == [0, 0, 2]
    assert batch.without([0, 1, 2]).offsets.tolist() == [0]
