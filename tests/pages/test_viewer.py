"""Parts of the viewer: runs, decoding, turns, images, comparison."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import QUICKSTART, ConfigMaker, create, turn_pair, write_jsonl
from PIL import Image

from hdf5_writer.viewer.chat import Picture, Turn, sample_view, side_of
from hdf5_writer.viewer.compare import RecordIndex, compare_samples
from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.decoding import TokenDecoder, load_decoder
from hdf5_writer.viewer.page import rows_values
from hdf5_writer.viewer.row import Row
from hdf5_writer.viewer.runs import Run, padding_run, sample_runs
from hdf5_writer.viewer.terminal import terminal_row, visible, wants_colour
from hdf5_writer.viewer.thumbnails import Thumbnails
from preprocess.templates import TEMPLATES
from preprocess.tokenize.tokenizer import load_tokenizer

TEXTS = ["Déjà vu — “quoted”\n\n  two blanks", "日本語 and 🎈 emoji", "<script>alert(1)</script>\x1b[31mred\x07"]


@pytest.fixture
def dataset(tmp_path: Path, make_config: ConfigMaker) -> InspectedDataset:
    records: list[Any] = [{"conversations": turn_pair(f"Say this: {text}", f"{text}.")} for text in TEXTS]
    rounds = [*turn_pair("<image>\nWhat?", "A shape."), *turn_pair("And?", "No more.")]
    records.append({"image": "shapes/0001.png", "conversations": rounds})
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    create(make_config(setup__shuffle=False, setup__samples_per_shard=3))
    return InspectedDataset(tmp_path / "out")


def runs_of(row: Row) -> list[Run]:
    (sample,) = row.samples
    padding = padding_run(row)
    return [*sample_runs(row, sample), *([] if padding is None else [padding])]


def test_runs_cover_every_position_once(dataset: InspectedDataset) -> None:
    for number in range(len(dataset)):
        row = dataset.read(number)
        runs = runs_of(row)
        covered = [p for run in runs if run.kind != "padding" for p in range(run.start, run.start + run.count)]
        assert covered == list(range(row.used + 1))
        assert runs[-1].start + runs[-1].count == len(row.labels)
        assert sum(run.count for run in runs if run.kind == "supervised") == row.loss_mask.sum()
        slots = [run.kind for run in runs if run.kind in ("image", "masked")]
        assert slots == ["image" if row.images else "masked"]


def test_a_full_row_ends_with_the_label_that_follows_it(tmp_path: Path, make_config: ConfigMaker) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q?", "word " * 300)}])
    create(make_config())
    row = InspectedDataset(tmp_path / "out").read(0)
    last = runs_of(row)[-1]
    assert row.used == 256
    assert (last.kind, last.start + last.count) == ("supervised", 257)
    assert last.ids[-1] == row.labels[-1]


def test_decoded_text_equals_the_text_of_the_record(dataset: InspectedDataset) -> None:
    decoder = load_decoder(dataset.params, str(QUICKSTART / "tokenizer"))
    for number, text in enumerate(TEXTS):
        (answer,) = [run for run in runs_of(dataset.read(number)) if run.kind == "supervised"]
        parts = decoder.parts(answer.ids, starts_text=False)
        assert [part.text for part in parts] == [f" {text}.", "</s>"]
        assert [part.is_special for part in parts] == [False, True]


def test_byte_level_pieces_are_decoded() -> None:
    tokenizer = load_tokenizer(str(QUICKSTART / "tokenizer"))
    pieces = list(tokenizer.tokens)
    pieces[300:304] = ["Ġcaf", "Ã©", "Ċ", "Ã"]
    byte_level = dataclasses.replace(tokenizer, sentencepiece_rule=False, dummy_prefix=False, tokens=tuple(pieces))
    decoder = TokenDecoder(byte_level, None)
    assert decoder.parts((300, 301, 302), starts_text=True)[0].text == " café\n"
    assert [decoder.piece(id_) for id_ in (300, 301, 302, 303)] == ["▁caf", "é", "\n", "Ã"]


@pytest.mark.slow
def test_another_tokenizer_is_not_used_for_decoding(dataset: InspectedDataset) -> None:
    other = load_decoder(dataset.params, str(QUICKSTART / "tokenizer_sentencepiece"))
    gone = load_decoder(dataset.params, "/no/such/folder")
    for decoder, why in ((other, "is not the tokenizer of this dataset"), (gone, "no such folder")):
        assert not decoder.has_tokenizer
        assert why in str(decoder.note)
        assert decoder.piece(17) == "[17]"
        assert decoder.parts((17,), True) == []


def test_control_characters_do_not_reach_the_terminal(dataset: InspectedDataset) -> None:
    decoder = load_decoder(dataset.params, str(QUICKSTART / "tokenizer"))
    rows = [dataset.read(number) for number in range(len(dataset))]
    coloured = "\n".join(terminal_row(row, decoder, coloured=True) for row in rows)
    assert "\x1b[30;42m" in coloured
    assert "\\x1b[31mred\\x07" in coloured
    assert "\x1b" not in "\n".join(terminal_row(row, decoder, coloured=False) for row in rows)
    assert visible("a\u202eb\n") == "a\\u202eb\\n"


def test_the_terminal_labels_prompts_and_answers(dataset: InspectedDataset) -> None:
    decoder = load_decoder(dataset.params, str(QUICKSTART / "tokenizer"))
    text = terminal_row(dataset.read(3), decoder, coloured=False)
    lines = text.splitlines()
    assert lines[2].startswith("image    │ [64 image slots")
    assert lines[3:8] == [
        "prompt   │ ",
        "         │ What? ASSISTANT:",
        "answer   │  A shape.</s>",
        "prompt   │ USER: And? ASSISTANT:",
        "answer   │  No more.</s>",
    ]
    several = terminal_row(dataset.read(0), decoder, coloured=False)
    assert "answer   │  Déjà vu — “quoted”\n         │ \n         │   two blanks.</s>\n" in several


def test_colours_need_a_terminal_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def texts_of(turn: Turn, style: str) -> list[str]:
    items = itertools.chain.from_iterable(turn.items)
    return [item.text for item in items if not isinstance(item, Picture) and item.style == style]


def test_chat_bubbles_contain_no_template_text_or_slots(dataset: InspectedDataset) -> None:
    """A text-only question split by dummy slots is one bubble, and so is a question after an image."""
    side = side_of(dataset)
    template = TEMPLATES["vicuna_v1"]
    for number, questions in ((2, [f"Say this: {TEXTS[2]}"]), (3, ["What?", "And?"])):
        (row,) = rows_values(side, [dataset.read(number)])["rows"]
        (view,) = row.samples
        contexts = [turn for turn in view.turns if turn.kind == "context"]
        assert [texts_of(turn, "text") for turn in contexts] == [[question] for question in questions]
        assert all(texts_of(turn, "template")[-1] == " ASSISTANT:" for turn in contexts)
        assert template.system not in "".join(text for turn in contexts for text in texts_of(turn, "template"))
        opening = contexts[0].blocks[0]
        ids = tuple(map(int, opening.ids.split()))
        assert opening.is_opening
        assert side.decoder.parts(ids, True)[-1].text == template.system
        covered = [(block.start, block.start + block.count) for turn in view.turns for block in turn.blocks]
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(covered[:-1]))


@pytest.mark.parametrize("style", TEMPLATES)
def test_template_text_is_separated_from_the_question_in_every_template(
    tmp_path: Path, make_config: ConfigMaker, style: str
) -> None:
    asked = ["Why?", "And USER: or [INST] then?"]
    rounds = [*turn_pair("<image>\nWhy?", "A."), *turn_pair(asked[1], "B.")]
    if style == "plain":
        asked, rounds = [], turn_pair("<image>\n", "A.")
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"image": "shapes/0001.png", "conversations": rounds}])
    create(make_config(dataset__system_prompt_style=style, processor__max_sequence_length=512))
    side = side_of(InspectedDataset(tmp_path / "out"))
    row = side.dataset.read(0)
    view = sample_view(side, row, row.samples[0])
    assert view.turns[0].blocks[0].is_opening == bool(TEMPLATES[style].system)
    assert [text for turn in view.turns if turn.kind == "context" for text in texts_of(turn, "text")] == asked
    assert all(len(text) <= 20 for turn in view.turns for text in texts_of(turn, "template"))


def test_invalid_rows_are_reported(dataset: InspectedDataset) -> None:
    with h5py.File(dataset.layout.shards()[0], "r+") as file:
        mask = file["loss_mask"][:]
        mask[1, -1] = 1
        del file["loss_mask"]
        file["loss_mask"] = mask
    assert [dataset.read(number).problems for number in range(4)] == [(), ("padding is supervised",), (), ()]


def picture(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def test_thumbnails_show_what_the_model_sees(tmp_path: Path) -> None:
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (150, 0, 250, 100))
    wide.save(tmp_path / "wide.png")
    square = picture(Thumbnails(tmp_path, "square").of("wide.png").uri)
    padded = picture(Thumbnails(tmp_path, "pad").of("wide.png").uri)
    assert square.size == padded.size == (168, 168)
    corner, middle = (2, 2), (84, 84)
    assert np.allclose(square.getpixel(corner), (0, 0, 255), atol=24), "the centre square is blue"
    assert np.allclose(padded.getpixel(corner), (122, 116, 104), atol=24), "CLIP's mean colour"
    assert np.allclose(padded.getpixel((4, 84)), (255, 0, 0), atol=24), "the image is not cropped"
    assert np.allclose(padded.getpixel(middle), (0, 0, 255), atol=24)


def test_thumbnails_are_never_read_outside_the_image_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "device.png").symlink_to("/dev/zero")
    (images / "broken.png").write_bytes(b"GIF89a")
    thumbnails = Thumbnails(images, "square")
    for path, why in (
        ("../secret.png", "image_outside"),
        (str(tmp_path / "secret.png"), "image_outside"),
        ("device.png", "image_missing"),
        ("gone.png", "image_missing"),
        ("broken.png", "cannot be decoded"),
    ):
        thumbnail = thumbnails.of(path)
        assert thumbnail.uri is None
        assert why in str(thumbnail.problem)
    assert thumbnails.of("link.png").uri, "links inside the folder are trusted"
    assert "--image-dir" in str(Thumbnails(None, "square").of("a.png").problem)


@pytest.mark.slow
def test_a_comparison_finds_the_same_record_in_another_order(tmp_path: Path, make_config: ConfigMaker) -> None:
    lines = (QUICKSTART / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    create(make_config(setup__seed=1))
    create(make_config(setup__seed=2, setup__output_dir=str(tmp_path / "shuffled"), setup__samples_per_shard=9))
    create(make_config(setup__output_dir=str(tmp_path / "short"), processor__max_sequence_length=150))
    mine, shuffled, short = (InspectedDataset(tmp_path / name) for name in ("out", "shuffled", "short"))
    decoders = (load_decoder(mine.params, str(QUICKSTART / "tokenizer")),) * 2
    same = compare_samples(mine, shuffled, range(55), decoders, 20)
    assert (same.compared, same.differing, same.only_here, same.settings) == (55, 0, 0, [])
    cut = compare_samples(mine, short, range(55), decoders, 100)
    expected = sum(mine.read(number).used > 150 for number in range(55))
    assert cut.differing == expected > 3
    assert cut.settings == [("processor.max_sequence_length", 256, 150)]
    for pair in cut.pairs:
        assert pair.mine.sample.source == pair.other.sample.source
        assert pair.other.changed == ()
        assert pair.mine.changed == ((151, pair.mine.row.used + 1),)
    first = compare_samples(mine, short, range(55), decoders, 2)
    assert (len(first.pairs), first.is_complete) == (2, False)
    create(make_config(setup__output_dir=str(tmp_path / "some")), limit=30)
    some = compare_samples(mine, InspectedDataset(tmp_path / "some"), range(55), decoders, 20)
    assert (some.compared, some.differing, some.only_here) == (30, 0, 25)
    assert RecordIndex(short, mine.files).find("a.jsonl", 9999) is None
