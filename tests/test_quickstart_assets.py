"""The embedded example equals the output of its generator, its texts match its images, and its tokenizers agree."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import yaml
from make_quickstart.canvas import COLORS
from make_quickstart.example import DEFAULT_OUT, make_quickstart
from PIL import Image
from tokenizers import Tokenizer

ASSETS = DEFAULT_OUT
CONFIGS = ASSETS.parent

# Difficult texts for tokenizers: spaces everywhere, newlines, bytes, special tokens as text, digits, mixed scripts.
HARD_TEXTS = [
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "  leading and trailing  ",
    "one  two   three    four     five         nine",
    "tab\there\r\nand a line\n\n\nthree lines on",
    "    def f(x):\n        return x  # ok\n",
    "</s> <s> <unk> <0x0A> <image>",
    "a▁b ▁ ▁▁c",
    "0123456789 3.14159 1e-5 12:30 2024-02-29",
    "Ünïcödé ÀÉÎÕÜ ß ﬁ ½ ² Å",
    "早上好，世界！ こんにちは 안녕하세요 שלום مرحبا",
    "👩‍🚀👨‍👩‍👧‍👦🏳️‍🌈 🎂🎂🎂",
    "\u00a0\u2003\u200b\ufeff",
    "aaaaaaaaaaaaaaaaaaaaaaaa eeeeeeee ssssssss",
    "TheTheTheThe picturepicturepicture redredred",
    "......---===+++***///\\\\||{{[[((<<>>))]]}}",
]


def read_records(name: str, root: Path = ASSETS) -> list[dict]:
    return [json.loads(line) for line in (root / name).read_text(encoding="utf-8").splitlines()]


PHASE_1 = read_records("phase_1/captions.jsonl")
PHASE_2 = read_records("phase_2/conversations.jsonl")
TEXTS = [turn["value"] for record in PHASE_1 + PHASE_2 for turn in record["conversations"]]


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    make_quickstart(out)
    return out


@pytest.fixture(scope="module")
def sp() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(
        model_file=str(ASSETS / "tokenizer_sentencepiece" / "tokenizer.model"),
    )


@pytest.fixture(scope="module")
def fast() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "tokenizer" / "tokenizer.json"))


def pieces(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


# --- the committed files equal the output of the generator


@pytest.mark.slow
def test_the_generator_writes_exactly_the_committed_files(regenerated: Path):
    def names(root: Path) -> set[str]:
        return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}

    assert names(ASSETS) == names(regenerated)


def test_every_image_has_the_pixels_that_the_generator_draws(regenerated: Path):
    # Pixels, not bytes: the PNG encoder may change with Pillow.
    for made in sorted(regenerated.rglob("*.png")):
        name = made.relative_to(regenerated)
        with Image.open(made) as new, Image.open(ASSETS / name) as committed:
            assert (new.mode, new.size) == (committed.mode, committed.size), name
            assert new.tobytes() == committed.tobytes(), name


@pytest.mark.parametrize("name", ["phase_1/captions.jsonl", "phase_2/conversations.jsonl"])
def test_the_records_equal_those_of_the_generator(regenerated: Path, name: str):
    assert (regenerated / name).read_bytes() == (ASSETS / name).read_bytes()


def test_training_the_tokenizer_is_reproducible(regenerated: Path, sp: sentencepiece.SentencePieceProcessor):
    again = sentencepiece.SentencePieceProcessor(
        model_file=str(regenerated / "tokenizer_sentencepiece" / "tokenizer.model"),
    )
    assert pieces(again) == pieces(sp)
    assert [again.encode(t) for t in TEXTS] == [sp.encode(t) for t in TEXTS]


# --- images


def test_images_are_small_opaque_pngs_of_different_sizes():
    paths = sorted((ASSETS / "images").rglob("*.png"))
    assert sum(p.stat().st_size for p in paths) < 300_000
    sizes = set()
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode) == ("PNG", "RGB"), path
            assert 160 <= image.width <= 320, path
            assert 120 <= image.height <= 256, path
            sizes.add(image.size)
    assert len(sizes) > 10


def test_all_images_are_distinct():
    pixels = Counter(Image.open(p).tobytes() for p in (ASSETS / "images").rglob("*.png"))
    assert max(pixels.values()) == 1


# --- records


def test_phase_1_has_every_image_once():
    on_disk = sorted(p.relative_to(ASSETS / "images").as_posix() for p in (ASSETS / "images").rglob("*.png"))
    assert sorted(r["image"] for r in PHASE_1) == on_disk
    assert len(on_disk) == 40


def test_phase_1_records_have_one_question_and_one_caption():
    for record in PHASE_1:
        assert [t["from"] for t in record["conversations"]] == ["human", "gpt"], record["id"]


def test_phase_2_has_one_to_four_rounds_and_some_text_only_records():
    rounds = {len(r["conversations"]) // 2 for r in PHASE_2}
    assert rounds == {1, 2, 3, 4}
    assert sum("image" not in r for r in PHASE_2) == 15
    assert len(PHASE_2) == 55


@pytest.mark.parametrize("record", PHASE_1 + PHASE_2, ids=lambda r: r["id"])
def test_turns_alternate_and_the_image_token_is_in_the_first(record: dict):
    turns = record["conversations"]
    assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
    assert all(t["value"].strip() for t in turns)
    first, *others = [t["value"] for t in turns]
    assert first.count("<image>") == ("image" in record)
    assert not any("<image>" in value for value in others)
    if "image" in record:
        assert first.startswith("<image>\n") or first.endswith("\n<image>")


@pytest.mark.parametrize("records", [PHASE_1, PHASE_2], ids=["phase_1", "phase_2"])
def test_ids_are_unique_and_image_tokens_occur_before_and_after_the_text(records: list[dict]):
    assert len({r["id"] for r in records}) == len(records)
    firsts = [r["conversations"][0]["value"] for r in records if "image" in r]
    assert {value.startswith("<image>") for value in firsts} == {True, False}


# --- texts match images: measured on pixels and parsed from texts, independently of the generator


def areas(path: str, color: str) -> list[np.ndarray]:
    """Connected areas of exactly this colour: for each, (n, 2) rows and columns of its pixels.

    Smoothing can separate a pixel or two from the point of a star; such fragments are ignored.
    """
    with Image.open(ASSETS / "images" / path) as image:
        left = set(zip(*np.nonzero((np.asarray(image) == COLORS[color]).all(axis=2)), strict=True))
    found = []
    while left:
        area = [left.pop()]
        for row, column in area:  # grows while it is walked through
            around = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & left
            left -= around
            area.extend(around)
        if len(area) > 10:
            found.append(np.array(area))
    return found


def captions(folder: str) -> list[tuple[str, str]]:
    return [(r["image"], r["conversations"][1]["value"]) for r in PHASE_1 if r["image"].startswith(folder)]


COUNTS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}


@pytest.mark.parametrize(("path", "caption"), captions("shapes/"))
def test_shape_images_have_as_many_areas_of_a_colour_as_their_captions_say(path: str, caption: str):
    stated: Counter[str] = Counter()
    for count, color in re.findall(r"(\w+) (\w+) (?:circle|square|triangle|diamond|cross|star)", caption):
        stated[color] += COUNTS[count.lower()]
    assert stated
    seen = {color: len(areas(path, color)) for color in COLORS if " " not in color and color != "white"}
    assert {color: count for color, count in seen.items() if count} == stated


@pytest.mark.parametrize(("path", "caption"), captions("charts/"))
def test_bar_lengths_of_charts_match_their_captions(path: str, caption: str):
    stated = sorted((int(n) for n in re.findall(r" at (\d+)", caption)), reverse=True)
    axis = 1 if "horizontal bars" in caption else 0
    bars = [area for color in COLORS if color not in ("white", "black") for area in areas(path, color)]
    lengths = sorted((int(np.ptp(bar[:, axis])) + 1 for bar in bars), reverse=True)
    unit = lengths[0] / stated[0]
    assert lengths == pytest.approx([value * unit for value in stated], abs=1.5)  # pixels


@pytest.mark.parametrize(
    ("path", "color", "question", "answer"),
    [
        ("scenes/0001.png", "red", "What color is the roof?", "The roof is red."),
        ("scenes/0004.png", "green", "How many trees are there?", "There are three trees."),
        ("scenes/0007.png", "orange", "List the things on the water from left to right.", "with an orange sail"),
        ("scenes/0013.png", "green", "List the things on the ground from left to right.", "- a green car"),
    ],
)
def test_answers_about_a_scene_match_its_image(path: str, color: str, question: str, answer: str):
    (record,) = [r for r in PHASE_2 if r.get("image") == path]
    values = [t["value"] for t in record["conversations"]]
    asked = next(i for i, value in enumerate(values) if question in value)
    assert answer in values[asked + 1]
    assert len(areas(path, color)) == (3 if "three" in answer else 1)


def test_arithmetic_in_answers_is_correct():
    sums = re.findall(r"((?:\d+(?:\.\d+)?)(?: [+×/-] \d+(?:\.\d+)?)+) = (\d+(?:\.\d+)?)", "\n".join(TEXTS))
    assert len(sums) > 10
    for left, right in sums:
        assert eval(left.replace("×", "*")) == pytest.approx(float(right)), left


# --- tokenizer


def test_the_vocabulary_has_the_layout_of_llama(sp: sentencepiece.SentencePieceProcessor):
    assert pieces(sp)[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert pieces(sp)[258] == "<0xFF>"
    assert (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()) == (0, 1, 2, -1)
    assert 1500 <= sp.get_piece_size() <= 2000


def test_no_piece_crosses_a_word_boundary_or_contains_a_newline_or_two_digits(
    sp: sentencepiece.SentencePieceProcessor,
):
    words = [p for i, p in enumerate(pieces(sp)) if not (sp.is_byte(i) or sp.is_control(i) or sp.is_unknown(i))]
    assert not [p for p in words if re.search("[^▁]▁", p)]
    assert not [p for p in words if re.search(r"\s", p)]
    assert not [p for p in words if re.search(r"\d", p) and len(p) > 1]


def test_encoding_and_decoding_round_trips(sp: sentencepiece.SentencePieceProcessor):
    for text in TEXTS:
        assert sp.decode(sp.encode(text)) == text


def test_the_example_exercises_byte_fallback_and_runs_of_spaces(sp: sentencepiece.SentencePieceProcessor):
    met = {sp.id_to_piece(i) for text in TEXTS for i in sp.encode(text)}
    assert {"▁▁", "▁▁▁▁", "<0x0A>", "<0xF0>", "<0xE3>"} <= met
    assert "<unk>" not in met


def test_common_english_takes_fewer_than_two_tokens_per_word(sp: sentencepiece.SentencePieceProcessor):
    text = "The dog sleeps in front of the house, and two children play with a ball on the grass behind it."
    assert len(sp.encode(text)) < 2 * len(text.split())


@pytest.mark.parametrize("text", TEXTS + HARD_TEXTS)
def test_both_tokenizer_formats_give_the_same_ids(sp: sentencepiece.SentencePieceProcessor, fast: Tokenizer, text: str):
    assert [t.id for t in fast.model.tokenize("▁" + text.replace(" ", "▁"))] == sp.encode(text)


def test_tokenizer_json_has_the_vocabulary_of_the_model(sp: sentencepiece.SentencePieceProcessor, fast: Tokenizer):
    assert fast.get_vocab() == {piece: i for i, piece in enumerate(pieces(sp))}


def test_tokenizer_json_adds_bos_and_decodes_back(sp: sentencepiece.SentencePieceProcessor, fast: Tokenizer):
    text = "A red circle, 早上好."
    encoded = fast.encode(text)
    assert encoded.ids == [1, *sp.encode(text)]
    assert fast.decode(encoded.ids) == text


@pytest.mark.parametrize("folder", ["tokenizer", "tokenizer_sentencepiece"])
def test_tokenizer_configuration_equals_that_of_llava(folder: str):
    config = json.loads((ASSETS / folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    expected = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "legacy": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "model_max_length": 2048,
    }
    assert {key: config.get(key) for key in expected} == expected


def test_the_model_file_contains_no_local_path():
    model = (ASSETS / "tokenizer_sentencepiece" / "tokenizer.model").read_bytes()
    assert not re.search(rb"/(home|tmp|work|root|usr|Users)/", model)


# --- configurations


KEYS = {
    "setup": {
        "input_dir",
        "output_dir",
        "processes",
        "samples_per_shard",
        "shuffle",
        "seed",
        "max_reject_fraction",
    },
    "processor": {"tokenizer_type", "max_sequence_length", "overflow"},
    "dataset": {
        "image_dir",
        "check_images",
        "image_size",
        "patch_size",
        "num_patches",
        "system_prompt_style",
        "image_key",
        "image_token",
        "multi_turn_key",
        "multi_turn_content_key",
        "role_key",
        "append_eos",
        "use_ftfy",
    },
}


@pytest.mark.parametrize("name", ["llava_phase_1_preproc.yaml", "llava_phase_2_preproc.yaml"])
def test_the_config_lists_every_key_and_is_valid_with_all_uncommented(name: str):
    text = (CONFIGS / name).read_text(encoding="utf-8")
    uncommented = re.sub(r"^  # (?=[a-z_]+: \S+$)", "  ", text, flags=re.MULTILINE)
    shown = yaml.safe_load(io.StringIO(uncommented))
    assert {section: set(keys) for section, keys in shown.items()} == KEYS


def test_quickstart_config_points_into_the_example():
    config = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text(encoding="utf-8"))
    inside = [config["setup"]["input_dir"], config["processor"]["tokenizer_type"], config["dataset"]["image_dir"]]
    for path in inside:
        assert path.startswith("${config_dir}/")
        assert Path(path.replace("${config_dir}", str(CONFIGS))).is_dir()
    for section, values in config.items():
        assert set(values) <= KEYS[section]
