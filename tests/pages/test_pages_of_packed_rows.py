"""Rows of several samples and images, and rows of chat templates, as the viewer shows them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART, ConfigMaker, create, needs_shared, shared_folder, turn_pair, write_jsonl

from hdf5_writer.inspect_hdf5 import main
from hdf5_writer.verify import verify_dataset
from hdf5_writer.viewer.chat import Picture, SampleView, sample_view, side_of
from hdf5_writer.viewer.compare import compare_samples
from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.decoding import load_decoder
from hdf5_writer.viewer.page import rows_page
from hdf5_writer.viewer.runs import padding_run, sample_runs
from hdf5_writer.viewer.terminal import terminal_row

PATHS = [f"shapes/{number:04}.png" for number in range(1, 10)]
SYSTEM = {"from": "system", "value": "Answer in one word."}
RECORDS: list[dict[str, Any]] = [
    {"image": PATHS[:2], "conversations": turn_pair("<image>\n<image>\nWhat differs?", "The shapes.")},
    {"image": PATHS[2:6], "conversations": turn_pair("<image><image><image><image>\nOdd one?", "The third.")},
    {"image": PATHS[6:8], "conversations": turn_pair("Look at <image> first, then at <image> too.", "Done.")},
    {"conversations": [*turn_pair("USER: says what?", "Nothing."), *turn_pair("user\nWhy <|im_end|>?", "No.")]},
    {"image": PATHS[8], "conversations": turn_pair("<image>\nWhat?", "A shape.")},
    {"conversations": [SYSTEM, *turn_pair("Capital of France?", "Paris.")]},
]
FREE = {"dataset__max_images": 4, "processor__max_sequence_length": 700, "setup__shuffle": False}


@pytest.fixture
def packed(tmp_path: Path, make_config: ConfigMaker) -> InspectedDataset:
    write_jsonl(tmp_path / "in" / "a.jsonl", RECORDS)
    create(make_config(**FREE, processor__packing="best_fit"))
    return InspectedDataset(tmp_path / "out")


def views(dataset: InspectedDataset) -> dict[int, SampleView]:
    """Line of the source → its sample."""
    side = side_of(dataset)
    rows = [dataset.read(number) for number in range(len(dataset))]
    return {sample.line: sample_view(side, row, sample) for row in rows for sample in row.samples}


def chat(view: SampleView) -> list[tuple[str, str]]:
    """(style, text) of all items; for an image, the text is its path."""
    items = itertools.chain.from_iterable(itertools.chain.from_iterable(turn.items for turn in view.turns))
    return [("picture", i.image.path) if isinstance(i, Picture) else (i.style, i.text) for i in items]


def test_the_samples_of_a_row_cover_it(packed: InspectedDataset) -> None:
    assert len(packed) < len(RECORDS)
    for number in range(len(packed)):
        row = packed.read(number)
        assert row.problems == ()
        end = 0
        for sample in row.samples:
            covered = [p for run in sample_runs(row, sample) for p in range(run.start, run.start + run.count)]
            assert covered == list(range(end, end + sample.length + 1)), "and the last label"
            end += sample.length
        padding = padding_run(row)
        assert end == row.used == (len(row.labels) if padding is None else padding.start)


def test_each_sample_has_its_source_and_images(packed: InspectedDataset) -> None:
    found = views(packed)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    head = [("template", " USER: ")]
    tail = ("template", " ASSISTANT:")
    assert chat(found[1])[:-2] == [
        *head,
        ("picture", PATHS[0]),
        ("text", "\n"),
        ("picture", PATHS[1]),
        ("text", "\nWhat differs?"),
        tail,
    ]
    assert chat(found[2])[:-2] == [*head, *(("picture", path) for path in PATHS[2:6]), ("text", "\nOdd one?"), tail]
    assert chat(found[3])[:-2] == [
        *head,
        ("text", "Look at "),
        ("picture", PATHS[6]),
        ("text", " first, then at "),
        ("picture", PATHS[7]),
        ("text", " too."),
        tail,
    ]
    assert chat(found[5])[:-2] == [*head, ("picture", PATHS[8]), ("template", "\n"), ("text", "What?"), tail]
    assert chat(found[6]) == [
        ("special", "<s>"),
        ("system", "Answer in one word."),
        ("template", " USER: "),
        ("text", "Capital of France?"),
        tail,
        ("text", "Paris."),
        ("special", "</s>"),
    ]
    bubbles = [[type(item).__name__ for item in items] for items in found[3].turns[0].items]
    assert ["StyledText", "Picture", "StyledText", "Picture", "StyledText"] in bubbles, "one bubble for one question"


@pytest.mark.slow
def test_a_packed_and_an_unpacked_dataset_compare_equal(
    packed: InspectedDataset, tmp_path: Path, make_config: ConfigMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    create(make_config(**FREE, setup__seed=5, setup__output_dir=str(tmp_path / "single"), setup__samples_per_shard=4))
    single = InspectedDataset(tmp_path / "single")
    decoders = (load_decoder(packed.params, str(QUICKSTART / "tokenizer")),) * 2
    for mine, other in ((packed, single), (single, packed)):
        found = compare_samples(mine, other, range(len(mine)), decoders, 20)
        assert (found.compared, found.differing, found.only_here) == (6, 0, 0)
        assert [key for key, _, _ in found.settings] == ["processor.packing"]
    assert main([str(tmp_path / "out"), "--compare", str(tmp_path / "single"), "--terminal"]) == 0
    assert "6 records compared, 0 differ" in capsys.readouterr().out


def test_packed_and_fixed_rows_compare_equal_without_truncation(tmp_path: Path, make_config: ConfigMaker) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", RECORDS[3:5])
    create(make_config())
    create(make_config(processor__packing="best_fit", setup__output_dir=str(tmp_path / "packed")))
    fixed, packed = (InspectedDataset(tmp_path / name) for name in ("out", "packed"))
    assert (fixed.params.image_start_idx, packed.params.image_start_idx) == (33, None)
    decoders = (load_decoder(fixed.params, str(QUICKSTART / "tokenizer")),) * 2
    for mine, other in ((fixed, packed), (packed, fixed)):
        found = compare_samples(mine, other, range(len(mine)), decoders, 20)
        assert (found.compared, found.differing, found.only_here) == (2, 0, 0)


@pytest.mark.slow
def test_a_difference_is_marked_in_its_own_sample(
    packed: InspectedDataset, tmp_path: Path, make_config: ConfigMaker
) -> None:
    length = views(packed)[4].sample.length - 2
    # Rows this short have no space for an image, so the image folder must not be set.
    changes = {"processor__max_sequence_length": length, "dataset__image_dir": None, "dataset__check_images": "none"}
    create(make_config(**{**FREE, **changes}, setup__output_dir=str(tmp_path / "short")))
    decoders = (load_decoder(packed.params, str(QUICKSTART / "tokenizer")),) * 2
    found = compare_samples(packed, InspectedDataset(tmp_path / "short"), range(len(packed)), decoders, 20)
    assert (found.compared, found.differing, found.only_here) == (2, 1, 4), (
        "samples without space for the image are absent"
    )
    (pair,) = found.pairs
    assert pair.mine.sample.source == pair.other.sample.source == "a.jsonl:4"
    (span,) = pair.mine.changed
    assert pair.mine.sample.start < span[0] < span[1] == pair.mine.sample.start + pair.mine.sample.length + 1


@pytest.mark.slow
def test_a_selected_sample_is_expanded_and_the_others_are_collapsed(
    packed: InspectedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, lines in (
        (["--source", "a.jsonl:3"], [3]),
        (["--image", PATHS[3]], [2]),
        (["--text-only"], [4, 6]),
        ([], [1, 2, 3, 4, 5, 6]),
    ):
        assert main([str(tmp_path / "out"), "--terminal", *arguments]) == 0
        page = (tmp_path / "out" / "rows.html").read_text(encoding="utf-8")
        samples = re.findall(r'<details class="sample"( open)?>.*?<code>a\.jsonl:(\d)</code>', page)
        assert sorted(int(line) for is_open, line in samples if is_open) == lines
        printed = capsys.readouterr().out
        assert printed.count("answer   │") == sum(len(RECORDS[line - 1]["conversations"]) // 2 for line in lines)


def test_the_terminal_prints_one_heading_for_each_sample(packed: InspectedDataset) -> None:
    decoder = load_decoder(packed.params, str(QUICKSTART / "tokenizer"))
    number = next(iter(packed.find_source("a.jsonl", 2, 1)))
    row = packed.read(number)
    text = terminal_row(row, decoder, coloured=False)
    assert text.startswith(f"row {number} · {len(row.samples)} samples · {row.images} images · {row.used} positions\n")
    (place,) = packed.find_source("a.jsonl", 2, 1)[number]
    heading = f"sample {place + 1} of {len(row.samples)} · a.jsonl:2 · images {', '.join(PATHS[2:5])} and 1 more · "
    assert heading in text
    assert f"[64 image slots of {PATHS[2]}, from position {row.samples[place].images[0].start}]" in text


CHATS = {
    "chatml_qwen": ("qwen2_5", "<|im_start|>", ["user\n"]),
    "llama_3": ("llama3", "<|start_header_id|>", ["user", "\n\n"]),
    "phi_3": ("phi3", "<|user|>", []),
    "gemma": ("gemma", "<start_of_turn>", ["user\n"]),
    "mistral_v3": ("mistral_v3", "[INST]", []),
}


@pytest.mark.slow
@needs_shared("tokenizers")
@pytest.mark.parametrize(
    "style",
    # Large vocabularies take seconds to load.
    [pytest.param(style, marks=pytest.mark.long) if style in ("gemma", "llama_3") else style for style in CHATS],
)
def test_text_of_chat_templates_is_separated_from_text_of_records(
    tmp_path: Path, make_config: ConfigMaker, style: str
) -> None:
    folder, first_token, header = CHATS[style]
    records = RECORDS if style != "gemma" else RECORDS[:5]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    config = make_config(
        **FREE,
        processor__packing="best_fit",
        processor__tokenizer_type=str(shared_folder("tokenizers") / folder),
        dataset__system_prompt_style=style,
    )
    create(config)
    assert verify_dataset(tmp_path / "out").problems == []
    dataset = InspectedDataset(tmp_path / "out")
    found = views(dataset)
    turns = [
        [text for text_style, text in chat(view) if text_style == "text" and text.strip()] for view in found.values()
    ]
    expected = {
        1: ["\nWhat differs?", "The shapes."],
        2: ["\nOdd one?", "The third."],
        3: ["Look at ", " first, then at ", " too.", "Done."],
        4: ["USER: says what?", "Nothing.", "user\nWhy <|im_end|>?", "No."],
        5: ["\nWhat?", "A shape."],
        6: ["Capital of France?", "Paris."],
    }
    if style == "mistral_v3":
        expected[6] = ["Answer in one word.\n\nCapital of France?", "Paris."]
    assert dict(zip(found, turns, strict=True)) == {line: expected[line] for line in found}
    system = [text for text_style, text in chat(found.get(6, found[5])) if text_style == "system"]
    assert system == (["Answer in one word."] if style not in ("gemma", "mistral_v3") else [])
    at = chat(found[4]).index(("special", first_token))
    assert [text for _, text in chat(found[4])[at + 1 :] if text not in ("<|end_header_id|>", " ")][
        : len(header)
    ] == header
    assert found[1].turns[0].blocks[0].is_opening == (style == "chatml_qwen")


def test_images_above_the_limit_per_row_are_counted(packed: InspectedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    row = max((packed.read(number) for number in range(len(packed))), key=lambda row: row.images)
    numbers = [image.number for sample in row.samples for image in sample.images]
    assert numbers == list(range(row.images))
    assert row.images > 1
    monkeypatch.setattr("hdf5_writer.viewer.chat.MAX_PICTURES", 1)
    side = side_of(packed)
    shown = [sample_view(side, row, sample) for sample in row.samples]
    assert sum(style == "picture" for view in shown for style, _ in chat(view)) == 1
    assert sum(turn.pictures_left_out for view in shown for turn in view.turns) == row.images - 1
    page = rows_page(side, [row], "a row").decode()
    counts = re.findall(r"and (\d+) more images?, not shown here", page)
    assert sum(map(int, counts)) == row.images - 1


@pytest.mark.slow
@needs_shared("tokenizers")
def test_the_newline_between_turns_of_a_chat_template_is_no_bubble(tmp_path: Path, make_config: ConfigMaker) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", RECORDS[3:4])
    tokenizer = shared_folder("tokenizers") / "qwen2_5"
    style = {"processor__tokenizer_type": str(tokenizer), "dataset__system_prompt_style": "chat_template"}
    create(make_config(**FREE, **style))
    (view,) = views(InspectedDataset(tmp_path / "out")).values()
    bubbles = [bubble for turn in view.turns for bubble in turn.items]
    assert len(view.turns) == 4
    assert all(any(isinstance(item, Picture) or item.text.strip() for item in bubble) for bubble in bubbles)
