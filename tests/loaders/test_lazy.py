"""The lazy dataset: the samples of the authors' code, and the same sequences as the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the loaders need torch")

from clip_processor import clip_processor  # noqa: E402
from conftest import QUICKSTART, needs_shared, shared_folder, turn_pair, write_jsonl  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from written import IMAGES, first, records_of  # noqa: E402

from loaders import LlavaH5Dataset  # noqa: E402
from loaders.image_transform import ImageError  # noqa: E402
from loaders.lazy import (  # noqa: E402
    DataArguments,
    DataCollatorForSupervisedDataset,
    LazySupervisedDataset,
    make_supervised_data_module,
)
from preprocess.square_images import PAD_COLOUR  # noqa: E402
from preprocess.tokenize.tokenizer import load_tokenizer  # noqa: E402

TOKENIZER = QUICKSTART / "tokenizer"
GOLDENS = sorted(shared_folder("golden").glob("*.*.jsonl"))


@pytest.mark.slow
@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.stem)
def test_ids_and_labels_equal_all_goldens(golden: Path, tmp_path: Path) -> None:
    cases = [json.loads(line) for line in golden.read_text(encoding="utf-8").splitlines()]
    records = [case["record"] for case in cases]
    path = write_jsonl(tmp_path / "records.jsonl", records)
    tokenizer = _limited(str(shared_folder("tokenizers") / "llama2-sentencepiece"), 2048)
    dataset = LazySupervisedDataset(path, tokenizer, DataArguments(version=golden.suffixes[0][1:]))
    assert len(dataset) == len(cases)
    for sample, case in zip(dataset, cases, strict=True):
        assert sample["input_ids"].tolist() == case["input_ids"]
        assert sample["labels"].tolist() == case["labels"]


class _limited:
    """The attributes of a transformers tokenizer that the lazy dataset reads; a real one is tested below."""

    def __init__(self, name: str, model_max_length: int) -> None:
        loaded = load_tokenizer(name)
        self.name_or_path = name
        self.eos_token_id, self.pad_token_id = loaded.eos_id, loaded.pad_id
        self.model_max_length = model_max_length


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "records.jsonl", records_of(40, "first"))


@pytest.mark.slow
def test_a_sample_has_the_sequence_of_its_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "records.jsonl", records_of(300, "first"))
    lazy = LazySupervisedDataset(path, TOKENIZER, DataArguments())
    dataset = LlavaH5Dataset(first().root)
    start, patches = 33, 64
    for number in range(300):
        sample, row = lazy[number], dataset[number]
        ids, labels = sample["input_ids"].numpy(), sample["labels"].numpy()
        slots = np.zeros(256, dtype=bool)
        slots[start : start + patches] = True
        if row["has_image"]:
            assert ids[start] == -200
            ids, labels = (
                np.concatenate((a[:start], np.full(patches, fill), a[start + 1 :]))
                for a, fill in ((ids, -7), (labels, -100))
            )
            kept = np.ones(256, dtype=bool)
        else:
            assert (row["key_padding_mask"][slots] == 1).all()
            kept = ~slots
        used = len(ids) - 1
        got_ids = np.where(slots, -7, row["text_input_ids"])[kept] if row["has_image"] else row["text_input_ids"][kept]
        assert np.array_equal(got_ids[:used], ids[:-1])
        assert (row["key_padding_mask"][kept][:used] == 0).all()
        assert (row["key_padding_mask"][kept][used:] == 1).all()
        supervised = row["loss_mask"][kept][:used] == 1
        assert np.array_equal(supervised, labels[1:] != -100)
        assert np.array_equal(row["labels"][kept][:used][supervised], labels[1:][supervised])
        assert not row["loss_mask"][kept][used:].any()


def test_tokenizer_may_be_ours_a_folder_or_one_of_transformers(records: Path) -> None:
    transformers_tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER))
    expected = LazySupervisedDataset(records, TOKENIZER, DataArguments())[0]
    for tokenizer in (str(TOKENIZER), load_tokenizer(str(TOKENIZER)), transformers_tokenizer):
        sample = LazySupervisedDataset(records, tokenizer, DataArguments())[0]
        assert torch.equal(sample["input_ids"], expected["input_ids"])


def test_a_tokenizer_that_differs_from_its_folder_is_refused(records: Path) -> None:
    tokenizer = _limited(str(TOKENIZER), 100)
    tokenizer.eos_token_id += 1
    with pytest.raises(ValueError, match="eos_token_id"):
        LazySupervisedDataset(records, tokenizer, DataArguments())
    with pytest.raises(ValueError, match="is a object without name_or_path"):
        LazySupervisedDataset(records, object(), DataArguments())


@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
@pytest.mark.parametrize("with_processor", [True, False])
def test_pixels_equal_those_of_the_processor(records: Path, aspect_ratio: Any, with_processor: bool) -> None:
    processor = clip_processor()
    arguments = DataArguments(
        image_folder=IMAGES,
        image_aspect_ratio=aspect_ratio,
        is_multimodal=True,
        image_processor=processor if with_processor else None,
    )
    dataset = LazySupervisedDataset(records, TOKENIZER, arguments)
    image = Image.open(IMAGES / records_of(1, "first")[0]["image"]).convert("RGB")
    if aspect_ratio == "pad":
        edge = max(image.size)
        square = Image.new("RGB", (edge, edge), PAD_COLOUR)
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = square
    expected = processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(dataset[0]["image"], expected)
    text_only = dataset[5]
    assert text_only["image"].shape == (3, 336, 336)
    assert not text_only["image"].any()


def test_an_image_that_shards_reject_is_not_passed_to_the_processor(tmp_path: Path) -> None:
    record = {"image": "page.png", "conversations": turn_pair("<image>\nWhat is this?", "A page.")}
    path = write_jsonl(tmp_path / "records.jsonl", [record])
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    arguments = DataArguments(image_folder=tmp_path, image_processor=clip_processor(224))
    with pytest.raises(ImageError, match="cannot identify the format"):
        LazySupervisedDataset(path, TOKENIZER, arguments)[0]


def test_a_batch_is_padded_to_its_longest_sample(records: Path) -> None:
    module = make_supervised_data_module(
        TOKENIZER, DataArguments(data_path=records, image_folder=IMAGES, is_multimodal=True, image_size=28)
    )
    assert module["eval_dataset"] is None
    samples = [module["train_dataset"][number] for number in (0, 5, 9)]
    batch = module["data_collator"](samples)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, max(lengths))
    assert batch["images"].shape == (3, 3, 28, 28)
    for i, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        assert torch.equal(batch["input_ids"][i, :length], sample["input_ids"])
        assert torch.equal(batch["labels"][i, :length], sample["labels"])
        assert (batch["labels"][i, length:] == -100).all()
        assert (batch["input_ids"][i, length:] == load_tokenizer(str(TOKENIZER)).pad_id).all()
        assert batch["attention_mask"][i].tolist() == [True] * length + [False] * (max(lengths) - length)


def test_the_length_limit_cuts_text_in_the_sample_and_images_in_the_batch(records: Path) -> None:
    tokenizer = _limited(str(TOKENIZER), 40)
    dataset = LazySupervisedDataset(records, tokenizer, DataArguments())
    whole = LazySupervisedDataset(records, TOKENIZER, DataArguments())
    assert torch.equal(dataset[5]["input_ids"], whole[5]["input_ids"][:40])
    assert torch.equal(dataset[0]["input_ids"], whole[0]["input_ids"])
    batch = DataCollatorForSupervisedDataset(tokenizer)([dataset[0], dataset[5]])
    assert batch["input_ids"].shape == (2, 40)


def test_several_images_keep_their_order_in_the_sample_and_in_the_batch(tmp_path: Path) -> None:
    paths = ["shapes/0001.png", "shapes/0002.png"]
    records = [
        {"images": paths, "conversations": turn_pair("<image> or <image>?", "A")},
        {"image": paths[1], "conversations": turn_pair("<image>\nQ", "A")},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    lazy = LazySupervisedDataset(path, TOKENIZER, DataArguments(image_folder=IMAGES, max_images=2, image_size=28))
    two, one = lazy
    assert (two["input_ids"] == -200).sum() == 2
    assert (two["labels"][two["input_ids"] == -200] == -100).all()
    assert (two["image"].shape, one["image"].shape) == ((2, 3, 28, 28), (3, 28, 28))
    assert torch.equal(two["image"][1], one["image"])
    images = DataCollatorForSupervisedDataset(TOKENIZER)([two, one])["images"]
    assert torch.equal(images, torch.stack([*two["image"], one["image"]]))
    with pytest.raises(ValueError, match="line 1: too_many_images"):
        LazySupervisedDataset(path, TOKENIZER, DataArguments(image_folder=IMAGES))[0]


def test_records_of_messages_are_read_and_counted(tmp_path: Path) -> None:
    part = {"type": "image", "image": "shapes/0001.png"}
    question = {"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [question, {"role": "assistant", "content": "A star."}]}])
    same = write_jsonl(
        tmp_path / "b.jsonl", [{"image": part["image"], "conversations": turn_pair("<image>What is it?", "A star.")}]
    )
    found, expected = (
        LazySupervisedDataset(one, TOKENIZER, DataArguments(image_folder=IMAGES)) for one in (path, same)
    )
    for key in ("input_ids", "labels", "image"):
        assert torch.equal(found[0][key], expected[0][key])
    assert (found.lengths, found.modality_lengths) == (expected.lengths, expected.modality_lengths)


def test_lengths_equal_the_estimates_of_the_authors_code(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "records.jsonl",
        [
            {"image": "a.png", "conversations": turn_pair("<image>\nWhat is this?", "A red circle.")},
            {"conversations": turn_pair("Say two words.", "Two words.")},
            {"image": None, "conversations": turn_pair("Hi", "Ho")},
            {"image": "", "conversations": turn_pair("Hi", "Ho")},
        ],
    )
    dataset = LazySupervisedDataset(path, TOKENIZER, DataArguments())
    assert dataset.lengths == [7 + 128, 5, 2 + 128, 2 + 128]
    assert dataset.modality_lengths == [7, -5, 2, 2]


def test_json_and_jsonl_with_byte_order_mark_and_blank_lines_are_read(tmp_path: Path) -> None:
    records = records_of(3, "first")
    lines = "\r\n\r\n".join(json.dumps(record) for record in records)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(records).encode())
    of_lines, of_array = (
        LazySupervisedDataset(tmp_path / name, TOKENIZER, DataArguments()) for name in ("a.jsonl", "a.json")
    )
    assert len(of_lines) == len(of_array) == 3
    for number in range(3):
        assert torch.equal(of_lines[number]["input_ids"], of_array[number]["input_ids"])


def test_a_rejected_record_is_named_with_its_reason(tmp_path: Path) -> None:
    good = records_of(1, "first")[0]
    missing = {**good, "image": "nowhere.png"}
    path = write_jsonl(tmp_path / "records.jsonl", [good, {"conversations": []}, missing])
    dataset = LazySupervisedDataset(path, TOKENIZER, DataArguments(image_folder=IMAGES))
    dataset[0]
    with pytest.raises(ValueError, match=r"records.jsonl, line 2: no_turns"):
        dataset[1]
    with pytest.raises(ValueError, match=r"records.jsonl, line 3: image_missing"):
        dataset[2]
    path.write_text('{"conversations": 5}\n')
    with pytest.raises(ValueError, match=r"line 1: is not a conversation"):
        _ = LazySupervisedDataset(path, TOKENIZER, DataArguments()).lengths


def test_a_broken_image_and_a_text_that_is_too_long_are_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.jpg").touch()
    image = Image.effect_noise((64, 64), 50)
    image.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    Image.new("RGB", (64, 65)).save(tmp_path / "big.png")
    record = records_of(1, "first")[0]
    names = ("empty.jpg", "cut.jpg", "big.png")
    path = write_jsonl(tmp_path / "records.jsonl", [{**record, "image": name} for name in names])
    dataset = LazySupervisedDataset(path, TOKENIZER, DataArguments(image_folder=tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    for index, (name, reason) in enumerate(
        zip(names, ("cannot identify the format", "truncated", "DecompressionBombWarning"), strict=True)
    ):
        with pytest.raises(
            ImageError, match=rf"^\S+records\.jsonl, line {index + 1}: \S+{name} cannot be read \([^\n]*{reason}"
        ):
            dataset[index]
    long = {"conversations": turn_pair("a" * 1_100_000, "A.")}
    dataset = LazySupervisedDataset(write_jsonl(path, [long]), TOKENIZER, DataArguments())
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1: too_long: [0-9,]+ characters without a space"):
        dataset[0]


def test_wrong_files_and_templates_are_named(tmp_path: Path, records: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"the suffix \.jsonl"):
        LazySupervisedDataset(tmp_path / "a.json", TOKENIZER, DataArguments())
    (tmp_path / "b.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="holds a JSON dict, expected an array"):
        LazySupervisedDataset(tmp_path / "b.json", TOKENIZER, DataArguments())
    with pytest.raises(ValueError, match=r"nowhere\.jsonl: cannot be read \(No such file or directory\); give a"):
        LazySupervisedDataset(tmp_path / "nowhere.jsonl", TOKENIZER, DataArguments())
    with pytest.raises(ValueError, match="did you mean vicuna_v1"):
        LazySupervisedDataset(records, TOKENIZER, DataArguments(version="vicuna"))
    assert len(LazySupervisedDataset(records, TOKENIZER, DataArguments(version="v1"))) == 40


def test_a_batch_in_which_some_samples_have_no_image_names_the_option_to_set(records: Path) -> None:
    dataset = LazySupervisedDataset(records, TOKENIZER, DataArguments(image_folder=IMAGES, image_size=28))
    with pytest.raises(ValueError, match="1 of 2 samples have no image; set is_multimodal"):
        DataCollatorForSupervisedDataset(TOKENIZER)([dataset[0], dataset[5]])
