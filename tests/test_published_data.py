"""Published dataset → converter → create_hdf5_dataset → loader, with images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ConfigMaker, create, needs_shared, shared_folder
from PIL import Image

from preprocess.preprocess_dataset import main as preprocess_dataset
from preprocess.tokenize.tokenizer import load_tokenizer

pytest.importorskip("torch", reason="torch is not installed: pip install 'llava-hdf5[torch]'")
import loaders


def draw(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), color).save(path)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def ai2d(data: Path) -> tuple[list[str], Path]:
    for image, correct in (("7", 0), ("12", 1)):
        draw(data / "ai2d" / "images" / f"{image}.png", (200, 10 * correct, 0))
        answers = {"abcLabel": False, "answerTexts": ["a root", "a leaf"], "correctAnswer": correct}
        question = {f"What is shown in {image}?": {**answers, "questionId": f"{image}.png-0"}}
        write_json(
            data / "ai2d" / "questions" / f"{image}.png.json", {"imageName": f"{image}.png", "questions": question}
        )
    out = data / "jsonl"
    return ["ai2d", "--question_dir", str(data / "ai2d" / "questions"), "--output_jsonl_dir", str(out)], out


def chartqa(data: Path) -> tuple[list[str], Path]:
    folder = data / "ChartQA_Dataset"
    draw(folder / "train" / "png" / "8.png", (0, 90, 0))
    entry = {"imgname": "8.png", "query": "Which bar is tallest?", "label": "2019"}
    write_json(folder / "train" / "train_human.json", [entry])
    return ["chartqa", "--dataset_folder", str(folder)], folder / "llava_jsonl" / "train"


def coco(data: Path) -> tuple[list[str], Path]:
    draw(data / "coco" / "train2017" / "000000000009.jpg", (0, 0, 120))
    captions = {
        "images": [{"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [{"image_id": 9, "id": 1, "caption": "A blue field."}],
    }
    source = write_json(data / "annotations" / "captions_train2017.json", captions)
    command = ["captions", "--input", str(source), "--format", "coco", "--image_prefix", "coco/train2017"]
    return [*command, "--output_jsonl_dir", str(data / "jsonl")], data / "jsonl"


CASES = {
    "ai2d": (ai2d, "vicuna_v1", ["A", "B"], 2),
    "chartqa": (chartqa, "vicuna_v1", ["2019"], 1),
    "coco captions": (coco, "plain", ["A blue field."], 1),
}


def supervised_texts(batch: Any, folder: str) -> list[str]:
    tokens = load_tokenizer(folder).tokens
    texts = []
    for labels, mask in zip(batch["labels"].numpy(), batch["loss_mask"].numpy(), strict=True):
        pieces = "".join(tokens[i] for i in labels[mask == 1])
        texts.append(pieces.replace("▁", " ").replace("</s>", "").replace("<0x0A>", "").strip())
    return texts


@pytest.mark.parametrize("case", CASES)
def test_a_published_dataset_becomes_batches(make_config: ConfigMaker, tmp_path: Path, case: str) -> None:
    prepare, style, answers, rows = CASES[case]
    data = tmp_path / "data"
    command, jsonl = prepare(data)
    assert preprocess_dataset(command) == 0
    config = make_config(
        setup__input_dir=str(jsonl),
        dataset__image_dir=str(data),
        dataset__system_prompt_style=style,
        dataset__check_images="decode",
    )
    counts = create(config).params["counts"]
    assert (counts["written"], counts["with_image"], counts["rejected"]) == (rows, rows, 0)
    loader = loaders.create_dataloader(
        data_dir=str(tmp_path / "out"),
        img_data_dir=str(data),
        batch_size=rows,
        image_aspect_ratio="square",
        num_workers=0,
    )
    (batch,) = list(loader)
    assert sorted(supervised_texts(batch, config.processor.tokenizer_type)) == answers
    assert batch["has_image"].all()
    images = batch["image_data"].float().numpy()
    assert images.shape == (rows, 3, 112, 112)
    assert np.ptp(images, axis=(2, 3)).max() < 0.2, "each image has one colour"


@pytest.mark.slow
@needs_shared("images")
def test_real_captions_of_real_images_become_batches(make_config: ConfigMaker, tmp_path: Path) -> None:
    source = shared_folder("images") / "coco" / "annotations" / "captions_val2017.json"
    command = ["captions", "--input", str(source), "--format", "coco", "--image_prefix", "coco/val2017"]
    assert preprocess_dataset([*command, "--output_jsonl_dir", str(tmp_path / "in")]) == 0
    images = str(shared_folder("images"))
    config = make_config(
        dataset__image_dir=images,
        dataset__system_prompt_style="plain",
        setup__max_reject_fraction=1,
    )
    counts = create(config).params["counts"]
    assert counts["read"] == counts["written"] + counts["rejected"]
    assert counts["written"] > 50
    loader = loaders.create_dataloader(data_dir=str(tmp_path / "out"), img_data_dir=images, batch_size=8, num_workers=0)
    batch = next(iter(loader))
    assert batch["has_image"].all()
    assert (batch["loss_mask"].sum(1) > 0).all()
